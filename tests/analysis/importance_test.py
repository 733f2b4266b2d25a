"""Tests for importance: weights, log Z and Metropolis chains."""

import numpy as np
import tensorflow as tf
import untraced
from absl.testing import parameterized
from small_models import displaced

from tf_realnvp import importance

SHAPE = (4, 4, 1)


def gaussian(points):
    """The log-density of a Gaussian of standard deviation 2, times e^3."""
    values = tf.reshape(points, [-1, 16])
    return 3.0 - 0.5 * tf.reduce_sum(tf.square((values - 0.5) / 2.0), axis=1)


LOG_Z = 3.0 + 8.0 * np.log(2.0 * np.pi) + 16.0 * np.log(2.0)


def make_model(scale=0.1, **config):
    model = displaced(scale, SHAPE, None, filters=4, **config)
    model.standardize(0.5, 2.0)
    return model


class DrawTest(untraced.UntracedTestCase):
    def test_weights(self):
        """They are of the points, and the same for the same seed."""
        model = make_model()
        drawn = importance.draw(model, gaussian, 520, seed=1)
        self.assertEqual(drawn.points.shape, (520, *SHAPE))
        expected = gaussian(drawn.points) - model.log_prob(drawn.points)
        self.assertAllClose(drawn.log_weights, expected, atol=1e-4)
        again = importance.draw(model, gaussian, 520, seed=1)
        self.assertAllEqual(again.points, drawn.points)
        other = importance.draw(model, gaussian, 520, seed=2)
        self.assertNotAllClose(other.points, drawn.points)
        self.assertGreater(np.ptp(np.sort(drawn.points[:, 0, 0, 0])), 1.0)
        self.assertLen(np.unique(drawn.points[:, 0, 0, 0]), 520)

    def test_log_z(self):
        """It is right for a flow that is wrong, and exact for one that is."""
        log_z, error = importance.draw(make_model(), gaussian, 4000).log_z
        self.assertBetween(error, 0.001, 0.1)
        self.assertLess(abs(log_z - LOG_Z), 4.0 * error)
        drawn = importance.draw(make_model(0.0), gaussian, 10)
        self.assertAllClose(drawn.log_z, (LOG_Z, 0.0), atol=1e-3)
        self.assertAllClose(drawn.effective_share, (1.0, 0.0), atol=1e-3)

    def test_symmetries(self):
        """Draws have the mean density, and are moved."""
        model = make_model()
        group = [tf.identity, lambda points: points[:, ::-1]]
        drawn = importance.draw(model, gaussian, 500, symmetries=group)
        both = [model.log_prob(move(drawn.points)) for move in group]
        expected = np.log(np.mean(np.exp(both), axis=0))
        expected = gaussian(drawn.points) - expected
        self.assertAllClose(drawn.log_weights, expected, atol=1e-4)
        plain = importance.draw(model, gaussian, 500)
        share, error = drawn.effective_share
        self.assertGreater(share, plain.effective_share[0] + 2.0 * error)
        moved = np.any(drawn.points != plain.points, axis=(1, 2, 3))
        self.assertAllEqual(drawn.points[moved], plain.points[moved][:, ::-1])
        self.assertBetween(moved.mean(), 0.4, 0.6)

    def test_context(self):
        model = make_model(0.3, context_shape=(1,))
        drawn = importance.draw(model, gaussian, 5, context=[1.5])
        own = model.log_prob(drawn.points, context=[1.5])
        self.assertAllClose(drawn.log_weights, gaussian(drawn.points) - own)

    def test_shape_of_log_density(self):
        model = make_model()
        double = importance.draw(
            model, lambda points: tf.cast(gaussian(points), tf.float64), 5
        )
        expected = importance.draw(model, gaussian, 5)
        self.assertAllEqual(double.log_weights, expected.log_weights)
        for change in (tf.reduce_sum, lambda values: values[:, tf.newaxis]):
            with self.assertRaisesRegex(ValueError, r"`log_density` .*\[n\]"):
                importance.draw(model, lambda x, f=change: f(gaussian(x)), 5)


class EffectiveShareTest(tf.test.TestCase):
    def test_value(self):
        """It does not depend on the scale of the weights."""
        log_weights = np.log([1.0, 1.0, 2.0]) + 1e4
        share, _ = importance.effective_share(log_weights)
        self.assertAllClose(share, 16.0 / (3.0 * 6.0))

    def test_errors(self):
        """Standard errors are those of repetitions."""
        rng = np.random.default_rng(0)
        draws = [
            importance.Draws(np.zeros(400), rng.normal(scale=0.5, size=400))
            for _ in range(400)
        ]
        for name in ("effective_share", "log_z"):
            values, errors = np.transpose([getattr(d, name) for d in draws])
            self.assertAllClose(np.std(values), errors.mean(), rtol=0.15)


class MetropolisTest(tf.test.TestCase, parameterized.TestCase):
    def test_distribution(self):
        """The chain visits proposals as often as their weights say."""
        rng = np.random.default_rng(0)
        weights = np.array([1.0, 2.0, 5.0])
        kinds = rng.integers(3, size=60_000)
        chain = importance.metropolis(np.log(weights[kinds]), seed=1)
        mean, error = chain.mean(kinds == 2)
        self.assertLess(abs(mean - 5.0 / 8.0), 4.0 * error)
        self.assertLess(error, 0.01)
        # The mean of min(1, w' / w) over the chain and the proposals.
        ratios = np.minimum(1.0, weights / weights[:, np.newaxis])
        moves = (weights / weights.sum()) @ ratios.mean(axis=1)
        same = len(kinds) * [1.0]
        self.assertAllClose(chain.acceptance, moves, rtol=0.02)
        self.assertEqual(importance.metropolis(np.log(same)).acceptance, 1.0)

    @parameterized.parameters(np.nan, np.inf)
    def test_weights_that_are_none(self, first):
        with self.assertRaisesRegex(ValueError, "log_weights"):
            importance.metropolis(np.array([first, 0.0]))

    @parameterized.parameters(0.0, 0.5, 0.9)
    def test_autocorrelation_time(self, rho):
        """It is that of an autoregressive process."""
        rng = np.random.default_rng(0)
        values = rng.normal(size=50_000)
        for step in range(1, len(values)):
            values[step] *= (1.0 - rho**2) ** 0.5
            values[step] += rho * values[step - 1]
        chain = importance.Chain(np.arange(len(values)), 1.0)
        expected = (1.0 + rho) / (1.0 - rho)
        time = chain.autocorrelation_time(values)
        self.assertAllClose(time, expected, rtol=0.15)
        _, error = chain.mean(values)
        self.assertAllClose(error, (time / 50_000) ** 0.5, rtol=0.05)
