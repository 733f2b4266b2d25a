"""Tests for optimizers."""

import math

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from small_models import SmallModel, random_images, values

from tf_realnvp.training.optimizers import FusedAdam, learning_rate
from tf_realnvp.training.trainer import Trainer


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
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        # Of very different sizes, and with steps that have none.
        scales = np.float32([1e-6, 1.0, 1e4, 0.0])
        self.gradients = np.float32(rng.normal(size=(10, 4)) * scales)
        self.gradients[3] = 0.0

    @parameterized.parameters(1e-3, 0.1)
    def test_same_as_keras(self, rate):
        expected = run(keras.optimizers.Adam(rate), self.gradients)
        result = run(FusedAdam(rate), self.gradients)
        self.assertAllClose(result, expected, rtol=1e-6, atol=1e-6)
        self.assertNotAllClose(result[0], result[-1])

    def test_counts_steps_and_takes_new_rates(self):
        optimizer = FusedAdam(0.1)
        variable = keras.Variable([1.0])
        optimizer.build([variable])
        for rate, expected in ((0.1, 0.9), (0.01, 0.89)):
            optimizer.learning_rate = rate
            optimizer.apply([tf.constant([2.0])], [variable])
            self.assertAllClose(variable.numpy(), [expected], atol=1e-6)
        self.assertEqual(int(optimizer.iterations.numpy()), 2)

    def test_average_is_warmed_up(self):
        optimizer = FusedAdam(0.1, ema=0.3)
        variable = keras.Variable([5.0])
        optimizer.build([variable])
        expected = 0.0
        for kept in (0 / 9, 1 / 10, 2 / 11, 3 / 12, 0.3, 0.3):
            optimizer.apply([tf.constant([2.0])], [variable])
            expected = kept * expected + (1 - kept) * variable.numpy()
        optimizer.finalize_variable_values([variable])
        self.assertAllClose(variable.numpy(), expected, rtol=1e-6)


class LearningRateTest(tf.test.TestCase, parameterized.TestCase):
    def rates(self, *args, steps):
        schedule = learning_rate(*args)
        return [float(schedule(step)) for step in steps]

    def test_constant(self):
        rates = self.rates(1e-3, 100, steps=(0, 1, 50, 99, 1000))
        self.assertAllEqual(rates, [np.float32(1e-3)] * 5)

    def test_warmup_then_constant(self):
        rates = self.rates(1e-3, 100, 4, steps=(0, 1, 2, 3, 4, 5, 99))
        expected = [0.2e-3, 0.4e-3, 0.6e-3, 0.8e-3, 1e-3, 1e-3, 1e-3]
        self.assertAllClose(rates, expected)

    def test_cosine(self):
        rates = self.rates(
            1e-3, 104, 4, "cosine", steps=(0, 4, 29, 54, 104, 999)
        )
        expected = [0.2e-3, 1e-3, 0.5e-3 * (1 + math.sqrt(0.5)), 0.5e-3, 0, 0]
        self.assertAllClose(rates, expected, atol=1e-9)

    def test_shorter_than_the_warmup(self):
        rates = self.rates(1e-3, 2, 9, "cosine", steps=(0, 1))
        self.assertAllClose(rates, [1e-4, 2e-4])

    @parameterized.product(
        [
            {"name": name, "value": value}
            for name, values in (
                ("peak", (0.0, -1e-3, math.nan, math.inf, "1e-3", None)),
                ("num_steps", (0, -1, 1.5, math.nan, "9", None)),
                ("warmup_steps", (-1, 1.5, math.nan, "9", None)),
                ("schedule", ("linear", "Cosine", "", None, ["cosine"])),
            )
            for value in values
        ]
    )
    def test_out_of_range(self, name, value):
        arguments = {"peak": 1e-3, "num_steps": 9, name: value}
        with self.assertRaisesRegex(ValueError, f"`{name}` must be") as caught:
            learning_rate(**arguments)
        if name == "schedule":
            self.assertRegex(str(caught.exception), "'constant', 'cosine'")

    def test_numbers_of_numpy(self):
        schedule = learning_rate(np.float64(0.1), np.int64(9), np.int32(0))
        self.assertAllEqual(schedule(0), np.float32(0.1))

    def test_what_the_trainer_uses(self):
        trainer = Trainer(
            SmallModel(), learning_rate(0.1, 3, 0, "cosine"), ema=0.5
        )
        self.assertAllClose(trainer.optimizer.learning_rate, 0.1)
        for _ in range(3):
            trainer.train_step(random_images(4, seed=0))
        self.assertAllClose(trainer.optimizer.learning_rate, 0.0)
        before = values(trainer.model.variables)
        trainer.train_step(random_images(4, seed=1))
        self.assertAllClose(before, values(trainer.model.variables))


if __name__ == "__main__":
    tf.test.main()
