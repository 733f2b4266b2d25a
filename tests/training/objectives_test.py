"""Tests for objectives: training from a log-density."""

import csv
from unittest import mock

import folders
import numpy as np
import pytest
import tensorflow as tf
import untraced
from absl.testing import parameterized
from small_models import displaced, same_weights

import tf_realnvp
from tf_realnvp.errors import UsageError
from tf_realnvp.training import objectives
from tf_realnvp.training.objectives import Draws, ReverseKL

SHAPE = (4, 4, 1)
SETTINGS = {"batch_size": 16, "max_steps": 160, "lr": 1e-2, "progress": False}


def make_model(scale=0.2, **config):
    config = {"num_couplings": (1, 1, 1), "filters": 4} | config
    return displaced(scale, SHAPE, None, **config)


def action(points, context=0.0):
    """Two modes at each pixel, or one that the context moves."""
    squares = tf.square(points)
    values = squares - tf.square(squares) + points * context
    return tf.reduce_sum(values, axis=[1, 2, 3])


def distance(points, given):
    """The log-density of normal noise about the context."""
    errors = points - given[:, tf.newaxis, tf.newaxis]
    return -0.5 * tf.reduce_sum(tf.square(errors), axis=[1, 2, 3])


IN_CONTEXT = SETTINGS | {
    "log_density": distance,
    "context": np.linspace(-2.0, 2.0, 50)[:, np.newaxis],
}


class PathGradientTest(untraced.UntracedTestCase, parameterized.TestCase):
    def gradient(self, model, loss):
        with tf.GradientTape() as tape:
            result = loss()
        variables = model.trainable_variables
        gradients = [
            tf.zeros(v.shape) if gradient is None else gradient
            for v, gradient in zip(
                variables, tape.gradient(result, variables), strict=True
            )
        ]
        return result, tf.nest.map_structure(tf.convert_to_tensor, gradients)

    @parameterized.product(
        recompute=(False, True), context_shape=(None, (4, 4, 1))
    )
    def test_gradient(self, recompute, context_shape):
        """It is the whole gradient without that of the density's weights.

        A U-Net has that of its squared error.
        """
        model = make_model(context_shape=context_shape)
        context = np.random.default_rng(0).normal(size=[5, 4, 4, 1])
        given = {} if context_shape is None else {"context": context}
        objective = ReverseKL(action, model)
        condition = model.condition(tf.zeros([5]), **given)
        latents = objective.points(model, tf.range(5), tf.constant([0, 1]))
        self.assertEqual(latents.shape, (5, *model.latent_shape))
        points = model.decode_points(latents, **given)

        def whole():
            own = model.decode_points(tf.identity(latents), **given)
            own = tf.identity(own)
            log_f = action(own, *condition.values())
            return model.log_density(own, **condition) - log_f

        def score():
            losses = model.log_density(points, **condition)
            if given:
                losses -= model.squared_errors(points, **condition)
            return losses

        view = model.for_training(recompute=recompute)
        losses, path = self.gradient(
            model, lambda: objective.to_train(view, latents, condition)
        )
        expected, total = self.gradient(model, whole)
        _, score = self.gradient(model, score)
        self.assertAllClose(losses, expected, atol=1e-4)
        losses = objective.losses(model, latents, condition)
        self.assertAllClose(losses, expected, atol=1e-4)
        for own, first, second in zip(path, total, score, strict=True):
            self.assertAllClose(own, first - second, rtol=1e-3, atol=1e-3)
            self.assertGreater(np.abs(own).max(), 0.0)

    def test_no_variance_at_the_optimum(self):
        model = make_model()
        objective = ReverseKL(model.clone().log_density, model)
        latents = objective.points(model, tf.range(3), tf.constant([0, 1]))
        losses, path = self.gradient(
            model, lambda: objective.to_train(model, latents, {})
        )
        self.assertAllClose(losses, tf.zeros(3), atol=1e-4)
        for gradient in path:
            self.assertAllClose(gradient, tf.zeros_like(gradient), atol=1e-3)


class TrainTest(folders.FolderTestCase):
    def setUp(self):
        super().setUp()
        for patch in (
            mock.patch.object(objectives, "_STEPS_PER_EPOCH", 80),
            mock.patch.object(Draws, "num_test", 512),
        ):
            self.enterContext(patch)

    def test_training(self):
        """It improves the share."""
        model = make_model()
        history = tf_realnvp.train(
            model, log_density=action, run_dir=self.folder, **SETTINGS
        )
        shares = [metrics.effective_share for metrics in history]
        self.assertEqual([m.step for m in history], [0, 80, 160])
        self.assertLess(shares[0], 0.1)
        self.assertGreater(shares[-1], 2.0 * shares[0])
        self.assertLess(history[-1].test_loss, history[0].test_loss)
        self.assertTrue(same_weights(tf_realnvp.load(self.folder), model))
        with open(self.folder / "metrics.csv") as file:
            *_, last = csv.DictReader(file)
        self.assertAllClose(float(last["effective_share"]), shares[-1])

    @pytest.mark.long
    def test_context(self):
        """It learns the mode of each context."""
        model = make_model(0.0, context_shape=(1,))
        tf_realnvp.train(model, **IN_CONTEXT)
        for value in (-1.5, 0.0, 1.5):
            mean = tf.reduce_mean(model.sample(500, context=[value], seed=0))
            self.assertAllClose(mean, value, atol=0.25)

    def test_resumed(self):
        """It goes on bit for bit."""
        whole, parts, other = (
            make_model(0.0, context_shape=(1,)) for _ in range(3)
        )

        settings = IN_CONTEXT | {"max_steps": 2}
        with (
            untraced.untraced(),
            mock.patch.object(objectives, "_STEPS_PER_EPOCH", 3),
            mock.patch.object(Draws, "num_test", 8),
        ):
            history = tf_realnvp.train(whole, **settings)
            self.assertIsNone(history[-1].effective_share)
            settings["run_dir"] = self.folder
            # In the middle of an epoch.
            tf_realnvp.train(parts, **settings | {"max_steps": 1})
            self.assertEqual(tf_realnvp.train(other, **settings), history)
            others = {"context": IN_CONTEXT["context"] + 1.0}
            with self.assertRaisesRegex(UsageError, "fingerprint"):
                tf_realnvp.train(other, **settings | others)
            loaded = tf_realnvp.load(self.folder)
        for model in (other, loaded):
            self.assertTrue(same_weights(model, whole))

    def test_contexts_of_each_epoch(self):
        """They are drawn anew, all of them, and do not depend on the start."""
        model = make_model(context_shape=(1,))
        context = np.arange(10.0)[:, np.newaxis]
        draws = Draws(model, 4, context)

        def drawn(*args):
            batches = draws.train_batches(4, *args)
            return np.stack([own["context"][:, 0] for _, own in batches])

        first = drawn(0, 1)
        self.assertAllEqual(np.unique(first), context[:, 0])
        self.assertAllEqual(drawn(0, 1, 3), first[3:])
        for others in (drawn(0, 2), drawn(1, 1), np.roll(first, 1)):
            self.assertLess(np.mean(first == others), 0.3)

    def test_refused(self):
        for arguments in (
            *({"labels": [1]}, {"flip": True}, {"num_validation": 4}),
            {"observe": lambda images, seed: images},
        ):
            with self.assertRaisesRegex(ValueError, "are for `data`"):
                tf_realnvp.train(
                    make_model(), log_density=action, **arguments, **SETTINGS
                )
        with self.assertRaisesRegex(ValueError, r"`log_density` .*\[n\]"):
            tf_realnvp.train(
                make_model(),
                log_density=lambda points: tf.reduce_sum(action(points)),
                **SETTINGS,
            )
        model = make_model(context_shape=(1,))
        for context in (None, np.zeros([3, 2])):
            with self.assertRaisesRegex(ValueError, "context"):
                tf_realnvp.train(
                    model, log_density=action, context=context, **SETTINGS
                )
        for model in (
            displaced(0.2, filters=4),
            displaced(0.2, SHAPE, None, filters=4, num_classes=2),
            displaced(0.2, SHAPE, None, filters=4, observe="noise:1"),
        ):
            with self.assertRaisesRegex(ValueError, "log_density"):
                tf_realnvp.train(model, log_density=action, **SETTINGS)
            with self.assertRaisesRegex(ValueError, "data"):
                tf_realnvp.train(model, **SETTINGS)
