"""Tests for the models in the repository, at weights of a long training."""

import functools
import json
import pathlib

import numpy as np
import reference
import tensorflow as tf
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp import bijectors, observations
from tf_realnvp.serving import metadata

MODELS = pathlib.Path(__file__).parents[1] / "models"
CLOTHES = MODELS / "realnvp_fashion_mnist"
FACES = MODELS / "realnvp_faces"
MASKS = MODELS / "realnvp_fashion_mnist_masks"
LABELS = np.arange(4)


@functools.cache
def load(path):
    """Returns a model, what it takes as labels, and samples of it."""
    model = tf_realnvp.load(path)
    label = {"label": LABELS} if path == CLOTHES else {}
    return model, label, model.sample(4, temperature=0.8, seed=0, **label)


class ModelsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((CLOTHES, "fashion_mnist"), (FACES, None))
    def test_metadata(self, path, source):
        model, label, samples = load(path)
        content = metadata.read(path)
        self.assertEqual(content["source"], source)
        bits = content["metrics"]["test_bits_per_dim"]
        if path == CLOTHES:
            page = MODELS.with_name("docs") / "bits_per_dim.json"
            self.assertNear(np.mean(json.loads(page.read_text())), bits, 0.08)
            self.assertLen(content["class_names"], 10)
            self.assertEqual(content["class_names"][7], "Sneaker")
        of_samples = np.mean(model.bits_per_dim(samples, seed=0, **label))
        self.assertBetween(of_samples, 0.5 * bits, 1.5 * bits)

    def test_against_reference(self):
        model, _, samples = load(CLOTHES)
        points = model.dequantize(samples[:1], seed=0)
        noise = model.bijector.bijectors[0]  # Has a test of its own.
        expected = noise.inverse_log_det_jacobian(points, 3)
        _, of_flow = reference.of_model(
            model, noise.inverse(points), LABELS[:1]
        )
        expected += of_flow
        log_prob = model.log_density(points, LABELS[:1])
        self.assertAllClose(log_prob, expected, rtol=1e-5)

    def test_masks(self):
        """What is visible stays, and is worth something."""
        model, _, samples = load(MASKS)
        self.assertEqual(model.observe, "mask")
        _, _, clothes = load(CLOTHES)
        is_visible = np.ones([28, 28, 1])
        is_visible[14:] = 0.0
        context = observations.visible_pixels(clothes, is_visible)
        drawn = model.sample(4, seed=1, context=context)
        self.assertAllEqual(drawn[:, :14], clothes[:, :14])
        self.assertNotAllEqual(drawn[:, 14:], clothes[:, 14:])
        right = model.log_prob(clothes, 0, context=context)
        wrong = model.log_prob(clothes, 0, context=context[::-1])
        whole = model.log_prob(clothes, 0)
        self.assertGreater(np.mean(right), np.mean(wrong))
        self.assertGreater(np.mean(right), np.mean(whole))

    def test_inverse(self):
        model, label, samples = load(CLOTHES)
        latents = model.encode(samples, **label)
        self.assertAllEqual(model.decode(latents, **label), samples)
        kwargs = bijectors.condition_kwargs(model.bijector, **label)
        points = model.bijector.forward(latents, **kwargs)
        self.assertAllClose(
            model.bijector.forward_log_det_jacobian(latents, **kwargs),
            -model.bijector.inverse_log_det_jacobian(
                tf.identity(points), **kwargs
            ),
            rtol=1e-4,
        )

    def test_served_by_tensorflow_alone(self):
        model, label, samples = load(CLOTHES)
        saved = tf.saved_model.load(str(CLOTHES))
        same = saved.sample(4, 0.8, seed=0, **label) == samples
        self.assertGreater(np.mean(same), 0.99)  # But for rounding.
        self.assertAllClose(
            saved.log_prob(samples, seed=1, **label),
            model.log_prob(samples, seed=1, **label),
            rtol=1e-5,
        )
