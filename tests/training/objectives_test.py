"""Tests for objectives: training from a log-density."""

import csv
import shutil
import tempfile

import numpy as np
import tensorflow as tf
import untraced
from absl.testing import parameterized
from small_models import displaced, same_weights

import tf_realnvp
from tf_realnvp.training.objectives import ReverseKL

SHAPE = (4, 4, 1)
SETTINGS = {"batch_size": 16, "max_steps": 150, "lr": 3e-3, "progress": False}


def make_model(scale=0.2, seed=0):
    return displaced(scale, SHAPE, None, seed, filters=4)


def action(points):
    """Two modes at each pixel."""
    squares = tf.square(points)
    return tf.reduce_sum(squares - tf.square(squares), axis=[1, 2, 3])


class PathGradientTest(untraced.UntracedTestCase, parameterized.TestCase):
    def gradient(self, model, loss):
        with tf.GradientTape() as tape:
            result = loss()
        gradients = tape.gradient(result, model.trainable_variables)
        return result, tf.nest.map_structure(tf.convert_to_tensor, gradients)

    @parameterized.parameters(False, True)
    def test_gradient(self, recompute):
        """It is the whole gradient without that of the density's weights."""
        model = make_model()
        objective = ReverseKL(action, model, 4)
        latents = objective.points(model, tf.range(5), tf.constant([0, 1]))
        self.assertEqual(latents.shape, (5, *model.latent_shape))
        points = model.bijector.forward(latents)

        def whole():
            own = tf.identity(model.bijector.forward(tf.identity(latents)))
            return model.log_density(own) - action(own)

        view = model.for_training(recompute=recompute)
        losses, path = self.gradient(
            model, lambda: objective.to_train(view, latents, {})
        )
        expected, total = self.gradient(model, whole)
        _, score = self.gradient(model, lambda: model.log_density(points))
        self.assertAllClose(losses, expected, atol=1e-4)
        losses = objective.losses(model, latents, {})
        self.assertAllClose(losses, expected, atol=1e-4)
        for own, first, second in zip(path, total, score, strict=True):
            self.assertAllClose(own, first - second, rtol=1e-3, atol=1e-3)
            self.assertGreater(np.abs(own).max(), 0.0)

    def test_no_variance_at_the_optimum(self):
        model = make_model()
        objective = ReverseKL(model.clone().log_density, model, 4)
        latents = objective.points(model, tf.range(3), tf.constant([0, 1]))
        losses, path = self.gradient(
            model, lambda: objective.to_train(model, latents, {})
        )
        self.assertAllClose(losses, tf.zeros(3), atol=1e-4)
        for gradient in path:
            self.assertAllClose(gradient, tf.zeros_like(gradient), atol=1e-3)


class TrainTest(tf.test.TestCase):
    def test_training(self):
        """It improves the share, and goes on bit for bit."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        whole, parts = make_model(), make_model()
        history = tf_realnvp.train(whole, log_density=action, **SETTINGS)
        shares = [metrics.effective_share for metrics in history]
        self.assertEqual([m.step for m in history], [0, 100, 150])
        self.assertLess(shares[0], 0.1)
        self.assertGreater(shares[-1], 2.0 * shares[0])
        self.assertLess(history[-1].test_loss, history[0].test_loss)

        def interrupt(metrics):
            if metrics.step == 100:
                raise KeyboardInterrupt

        again = {"log_density": action, "run_dir": folder, **SETTINGS}
        with self.assertRaises(KeyboardInterrupt):
            tf_realnvp.train(parts, on_epoch=interrupt, **again)
        other = make_model(0.0)
        self.assertEqual(tf_realnvp.train(other, **again), history)
        self.assertTrue(same_weights(other, whole))
        self.assertTrue(same_weights(tf_realnvp.load(folder), whole))
        with open(f"{folder}/metrics.csv") as file:
            *_, last = csv.DictReader(file)
        self.assertAllClose(float(last["effective_share"]), shares[-1])

    def test_refused(self):
        for model in (
            displaced(0.2, filters=4),
            displaced(0.2, SHAPE, None, filters=4, num_classes=2),
            displaced(0.2, SHAPE, None, filters=4, context_shape=(1,)),
        ):
            with self.assertRaisesRegex(ValueError, "log_density"):
                tf_realnvp.train(model, log_density=action, **SETTINGS)
            with self.assertRaisesRegex(ValueError, "data"):
                tf_realnvp.train(model, **SETTINGS)
