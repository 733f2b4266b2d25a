"""Tests for optimizers."""

import math

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.config import TrainingConfig
from tf_realnvp.training import optimizers


def schedule_of(num_steps, **settings):
    config = TrainingConfig(dataset="random", **settings)
    decay_steps = tf.Variable(max(1.0, num_steps - config.warmup_steps))
    return optimizers.learning_rate(config, decay_steps)


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
        *(1e-3, 0.1),
        lambda: schedule_of(9, lr=0.1, warmup_steps=3, lr_schedule="cosine"),
    )
    def test_same_as_keras(self, rate):
        rng = np.random.default_rng(0)
        # Of very different sizes, and with steps that have none.
        scales = np.float32([1e-6, 1.0, 1e4, 0.0])
        gradients = np.float32(rng.normal(size=(10, 4)) * scales)
        gradients[3] = 0.0
        first, second = (
            cls(rate() if callable(rate) else rate)
            for cls in (keras.optimizers.Adam, optimizers.FusedAdam)
        )
        expected, result = run(first, gradients), run(second, gradients)
        self.assertAllClose(result, expected, rtol=1e-6, atol=1e-6)
        self.assertNotAllClose(result[0], result[-1])
        self.assertEqual(int(second.iterations.numpy()), 10)


def of_values(matrix, change):
    """Changes the singular values of a matrix, relative to its norm."""
    norm = np.linalg.norm(matrix) or 1.0
    left, values, right = np.linalg.svd(matrix / norm, full_matrices=False)
    return (left * change(values)) @ right


def to_one(values):
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


class MuonTest(tf.test.TestCase, parameterized.TestCase):
    def test_against_numpy(self):
        """Other variables than kernels are updated as by Adam."""
        rng = np.random.default_rng(0)
        shapes = [(3, 3, 2, 5), (3, 1, 1, 4, 6), (1, 1, 4, 6), (5,), ()]
        starts = [np.float32(rng.normal(size=shape)) for shape in shapes]
        muon, adam = optimizers.Muon(0.1), optimizers.FusedAdam(0.1)
        variables, others = (
            [keras.Variable(start) for start in starts] for _ in range(2)
        )
        muon.build(variables)
        adam.build(others)
        expected = [*starts]
        sums = [np.zeros(shape) for shape in shapes]
        for step, decay in {0: 0.85, 180: 0.91, 300: 0.95, 999: 0.95}.items():
            gradients = [np.float32(rng.normal(size=s)) for s in shapes]
            if not step:
                gradients[0] *= 0.0  # As of a gain that is zero.
            for optimizer, weights in ((muon, variables), (adam, others)):
                optimizer.iterations.assign(step)
                optimizer.apply([*map(tf.constant, gradients)], weights)
            for i, shape in enumerate(shapes[:3]):
                sums[i] = decay * sums[i] + gradients[i]
                direction = gradients[i] + decay * sums[i]
                matrices = [
                    of_values(matrix, to_one)
                    for matrix in direction.reshape(
                        -1, math.prod(shape[-4:-1]), shape[-1]
                    )
                ]
                size = 0.2 * math.sqrt(max(matrices[0].shape))
                update = 0.1 * size * np.reshape(matrices, shape)
                expected[i] = expected[i] - update
        expected[3:] = others[3:]
        for variable, value in zip(variables, expected, strict=True):
            self.assertAllClose(variable, value, rtol=1e-4, atol=1e-4)

    @parameterized.parameters(1e-17, 1e-18, 1e-19)
    def test_of_a_dead_network(self, scale):
        """Momenta that decay to zero give no update."""
        matrices = np.random.default_rng(0).normal(size=(1, 64, 32))
        found = optimizers.orthogonalize(
            tf.constant(scale * matrices, tf.float32)
        )
        self.assertAllInRange(found, -1e-6, 1e-6)


class LearningRateTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (100, 0, "constant", {0: 1e-3, 1: 1e-3, 50: 1e-3, 1000: 1e-3}),
        # Warmup, then constant.
        (100, 4, "constant", {0: 2e-4, 1: 4e-4, 3: 8e-4, 4: 1e-3, 99: 1e-3}),
        (
            *(104, 4, "cosine"),
            {
                **{0: 2e-4, 4: 1e-3, 29: 0.5e-3 * (1 + math.sqrt(0.5))},
                **{54: 0.5e-3, 104: 0.0, 999: 0.0},
            },
        ),
        # Shorter than the warmup.
        (2, 9, "cosine", {0: 1e-4, 1: 2e-4}),
    )
    def test_rates(self, num_steps, warmup_steps, lr_schedule, expected):
        schedule = schedule_of(
            num_steps,
            lr=1e-3,
            warmup_steps=warmup_steps,
            lr_schedule=lr_schedule,
        )
        for step, rate in expected.items():
            self.assertAllClose(schedule(step), rate, rtol=1e-6, atol=1e-9)
