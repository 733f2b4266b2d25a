"""Tests for the models in the repository, at weights of a long training."""

import pathlib

import numpy as np
import pytest
import reference
import tensorflow as tf

import tf_realnvp
from tf_realnvp.serving import metadata

MODELS = pathlib.Path(__file__).parents[1] / "models"


class FashionMnistTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = MODELS / "realnvp_fashion_mnist"
        cls.model = tf_realnvp.load(cls.path)
        cls.samples = cls.model.sample(4, temperature=0.8, seed=0)

    def test_metadata(self):
        content = metadata.read(self.path)
        self.assertEqual(content.source, "fashion_mnist")
        bits = content.others["metrics"]["test_bits_per_dim"]
        own = np.mean(self.model.bits_per_dim(self.samples, seed=0))
        self.assertBetween(own, 0.5 * bits, 1.5 * bits)

    def test_against_reference(self):
        points = self.model.dequantize(self.samples[:1], seed=0)
        _, expected = reference.of_model(self.model, points)
        log_prob = self.model.distribution.log_prob(points)
        self.assertAllClose(log_prob, expected, rtol=1e-5)

    def test_inverse(self):
        latents = self.model.encode(self.samples)
        self.assertAllEqual(self.model.decode(latents), self.samples)
        points = self.model.bijector.forward(latents)
        self.assertAllClose(
            self.model.bijector.forward_log_det_jacobian(latents),
            -self.model.bijector.inverse_log_det_jacobian(tf.identity(points)),
            rtol=1e-4,
        )

    def test_served_by_tensorflow_alone(self):
        saved = tf.saved_model.load(str(self.path))
        same = saved.sample(4, 0.8, seed=0) == self.samples
        self.assertGreater(np.mean(same), 0.99)  # But for rounding.
        self.assertAllClose(
            saved.log_prob(self.samples, seed=1),
            self.model.log_prob(self.samples, seed=1),
            rtol=1e-5,
        )


class FashionMnistClassesTest(tf.test.TestCase):
    """The model with classes, which has learned noise as well."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = MODELS / "realnvp_fashion_mnist_classes"
        cls.model = tf_realnvp.load(cls.path)
        cls.labels = np.arange(10)
        cls.samples = cls.model.sample(10, 0.8, seed=0, label=cls.labels)

    def test_metadata(self):
        content = metadata.read(self.path)
        self.assertEqual(content.source, "fashion_mnist")
        self.assertLen(content.class_names, 10)
        self.assertEqual(content.class_names[7], "Sneaker")
        bits = content.others["metrics"]["test_bits_per_dim"]
        own = self.model.bits_per_dim(self.samples, seed=0, label=self.labels)
        self.assertBetween(np.mean(own), 0.5 * bits, 1.5 * bits)

    @pytest.mark.long  # To load so many functions takes a while.
    def test_served_by_tensorflow_alone(self):
        saved = tf.saved_model.load(str(self.path))
        # Unlike the functions they need no new trace.
        sample, encode, decode, classify = (
            saved.signatures[name]
            for name in ("sample", "encode", "decode", "classify")
        )
        labels = tf.constant(self.labels, tf.int32)
        drawn = sample(
            n=tf.constant(10),
            temperature=tf.constant(0.8),
            seed=tf.constant(0, tf.int64),
            label=labels,
        )["images"]
        same = drawn == self.samples
        self.assertGreater(np.mean(same), 0.99)  # But for rounding.
        latents = encode(images=drawn, label=labels)["latents"]
        back = decode(latents=latents, label=labels)["images"]
        self.assertAllEqual(back, drawn)
        others = (labels + 5) % 10
        translated = decode(latents=latents, label=others)["images"]
        log_probs = classify(images=tf.concat([drawn, translated], axis=0))
        likeliest = np.argmax(log_probs["class_log_probs"], axis=1)
        right = likeliest == [*labels, *others]
        self.assertGreaterEqual(np.sum(right[:10]), 7)
        self.assertGreaterEqual(np.sum(right[10:]), 5)


if __name__ == "__main__":
    tf.test.main()
