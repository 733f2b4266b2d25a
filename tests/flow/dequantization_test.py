"""Tests for variational_dequantization."""

import functools

import keras
import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import networks
from tf_realnvp.flow.dequantization import VariationalDequantization

SHAPE = (4, 6, 2)
NUM_COLORS = 5


@functools.cache
def make_bijector():
    """With weights off their first values; and they."""
    small_models.set_seed(0)
    rng = np.random.default_rng(0)
    functions = [
        networks.CouplingNetwork(4, 8, 1, channels_out=4) for _ in range(3)
    ]
    scalars = [(keras.Variable(1.0), keras.Variable(0.0)) for _ in range(3)]
    weights = [w for network in functions for w in network.weights]
    weights += [scalar for pair in scalars for scalar in pair]
    for weight in weights:
        weight.assign_add(0.3 * rng.normal(size=weight.shape))
    bijector = VariationalDequantization(SHAPE, NUM_COLORS, functions, scalars)
    return bijector, functions, scalars


def some_levels(n):
    rng = np.random.default_rng(1)
    return rng.integers(NUM_COLORS, size=(n, *SHAPE)).astype(np.float32)


def some_noise(n):
    rng = np.random.default_rng(2)
    return rng.uniform(0.02, 0.98, (n, *SHAPE)).astype(np.float32)


def some_points(n):
    return tf.constant(some_levels(n) + some_noise(n))


class VariationalDequantizationTest(
    untraced.UntracedTestCase, parameterized.TestCase
):
    def test_against_reference(self):
        bijector, functions, scalars = make_bijector()
        levels, noise = some_levels(2), some_noise(2).astype(np.float64)
        seen = 4 * levels / (NUM_COLORS - 1) - 2
        z = np.log(noise / (1 - noise))
        expected = -np.log(noise * (1 - noise))
        for index, network in enumerate(functions):
            weights = network.get_weights()
            z, log_scale = reference.coupling_inverse(
                z,
                reference.checkerboard_mask(SHAPE, (index + 1) % 2),
                lambda kept, weights=weights: reference.coupling_network(
                    np.concatenate([kept, seen], axis=-1), weights
                ),
                *(scalar.numpy() for scalar in scalars[index]),
            )
            expected += log_scale
        u = 1 / (1 + np.exp(-z))
        expected += np.log(u * (1 - u))
        points = some_points(2)
        self.assertAllClose(bijector.inverse(points), levels + u, atol=1e-4)
        _, log_scale = bijector.inverse_and_log_scale(points)
        self.assertAllClose(log_scale, expected, rtol=1e-4, atol=1e-4)
        log_det, expected = (
            bijector.inverse_log_det_jacobian(points, 3),
            expected.sum(axis=(1, 2, 3)),
        )
        self.assertAllClose(log_det, expected, rtol=1e-4)
        self.assertGreater(np.abs(expected).min(), 1.0)

    def test_forward_undoes_it(self):
        bijector, *_ = make_bijector()
        points = bijector.inverse(some_points(3))
        self.assertAllEqual(tf.floor(points), some_levels(3))
        again = bijector.forward(tf.identity(points))
        self.assertAllClose(again, some_points(3), atol=1e-3)
        self.assertAllClose(
            bijector.forward_log_det_jacobian(tf.identity(points), 3),
            -bijector.inverse_log_det_jacobian(tf.identity(again), 3),
            rtol=1e-3,
        )

    def test_ends_of_cells(self):
        bijector, *_ = make_bijector()
        identity = VariationalDequantization(
            SHAPE, 256, [tf.zeros_like], [(1.0, 0.0)]
        )
        for noise in np.float32([0, 2**-16, 1 - 2**-16]):
            points = tf.constant(some_levels(1) + noise)
            self.assertAllInRange(
                bijector.inverse(points) - some_levels(1), 0.0, 1.0
            )
            log_det = bijector.inverse_log_det_jacobian(points, 3)
            self.assertTrue(np.isfinite(log_det).all())
            # Up to 255, where float32 tells no others apart, none is changed.
            points += 251.0
            found = identity.inverse(points)
            self.assertAllClose(found, points, rtol=0, atol=2**-16)
