"""Log-determinants of Jacobians by automatic differentiation."""

import math

import numpy as np
import tensorflow as tf


def log_abs_det(function, point):
    """The log-det of a function at one event.

    A batch of copies of the event gives all rows of the Jacobian in one pass,
    row `i` from copy `i`.
    """
    size = math.prod(point.shape)
    copies = tf.stack([point] * size)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        values = function(copies)
    rows = tf.reshape(tf.eye(size, dtype=values.dtype), values.shape)
    jacobian = np.reshape(tape.gradient(values, copies, rows), [size, size])
    return np.linalg.slogdet(jacobian.astype(np.float64))[1]
