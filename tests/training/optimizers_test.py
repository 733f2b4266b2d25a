"""Tests for optimizers."""

import math

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.training.optimizers import FusedAdam, learning_rate


def run(optimizer, gradients):
    """Returns the weights after each step, two variables in one vector."""
    variables = [keras.Variable([1.0, -2.0, 3.0]), keras.Variable([[0.5]])]
    optimizer.build(variables)
    path = []
    for gradient in gradients:
        optimizer.apply(
            [tf.constant(gradient[:3]), tf.constant(gradient[3:, None])],
            variables,
        )
        path.append(np.concatenate([v.numpy().ravel() for v in variables]))
    return np.array(path)


class FusedAdamTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        1e-3, 0.1, lambda: learning_rate(0.1, 9, 3, "cosine")
    )
    def test_same_as_keras(self, rate):
        rng = np.random.default_rng(0)
        # Of very different sizes, and with steps that have none.
        scales = np.float32([1e-6, 1.0, 1e4, 0.0])
        gradients = np.float32(rng.normal(size=(10, 4)) * scales)
        gradients[3] = 0.0
        first, second = (
            cls(rate() if callable(rate) else rate)
            for cls in (keras.optimizers.Adam, FusedAdam)
        )
        expected, result = run(first, gradients), run(second, gradients)
        self.assertAllClose(result, expected, rtol=1e-6, atol=1e-6)
        self.assertNotAllClose(result[0], result[-1])
        self.assertEqual(int(second.iterations.numpy()), 10)


class LearningRateTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ((1e-3, 100), {0: 1e-3, 1: 1e-3, 50: 1e-3, 1000: 1e-3}),
        # Warmup, then constant.
        ((1e-3, 100, 4), {0: 2e-4, 1: 4e-4, 3: 8e-4, 4: 1e-3, 99: 1e-3}),
        (
            (1e-3, 104, 4, "cosine"),
            {
                **{0: 2e-4, 4: 1e-3, 29: 0.5e-3 * (1 + math.sqrt(0.5))},
                **{54: 0.5e-3, 104: 0.0, 999: 0.0},
            },
        ),
        # Shorter than the warmup.
        ((1e-3, 2, 9, "cosine"), {0: 1e-4, 1: 2e-4}),
    )
    def test_rates(self, arguments, expected):
        schedule = learning_rate(*arguments)
        for step, rate in expected.items():
            self.assertAllClose(schedule(step), rate, rtol=1e-6, atol=1e-9)
