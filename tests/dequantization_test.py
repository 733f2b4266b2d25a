"""Tests for dequantization."""

import keras
import numpy as np
import reference
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import dequantization, networks

SHAPE = (4, 6, 2)
NUM_COLORS = 5


def make_flow(scale=0.3):
    """A flow with weights off their first values, by `scale`; they."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    functions = [
        networks.CouplingNetwork(4, 8, 1, channels_out=4) for _ in range(3)
    ]
    scalars = [keras.Variable(value) for value in 3 * (1.0, 0.0)]
    weights = [w for network in functions for w in network.weights] + scalars
    for weight in weights:
        weight.assign_add(scale * rng.normal(size=weight.shape))
    flow = dequantization.NoiseFlow(SHAPE, NUM_COLORS, functions, scalars)
    return flow, functions, scalars


def some_images(n):
    rng = np.random.default_rng(1)
    return rng.integers(NUM_COLORS, size=(n, *SHAPE)).astype(np.uint8)


def some_noise(n):
    return np.random.default_rng(2).random((n, *SHAPE)).astype(np.float32)


class NoiseFlowTest(tf.test.TestCase, parameterized.TestCase):
    def test_is_uniform_at_first(self):
        flow, *_ = make_flow(0.0)
        noise, log_prob = flow(some_images(3), some_noise(3))
        self.assertAllClose(noise, some_noise(3), atol=1e-6)
        self.assertAllClose(log_prob, np.zeros((3, *SHAPE)), atol=1e-5)

    def test_against_reference(self):
        flow, functions, scalars = make_flow()
        images, uniform = some_images(2), some_noise(2)
        noise, log_prob = flow(images, uniform)
        seen = 4 * (images / (NUM_COLORS - 1) - 0.5)
        z = np.log(uniform / (1 - uniform)).astype(np.float64)
        expected = np.log(uniform * (1 - uniform)).sum(axis=(1, 2, 3))
        for index, network in enumerate(functions):
            weights = network.get_weights()
            z, log_det = reference.coupling_inverse(
                z,
                reference.checkerboard_mask(SHAPE, (index + 1) % 2),
                lambda kept, weights=weights: reference.coupling_network(
                    np.concatenate([kept, seen], axis=-1), weights
                ),
                scalars[2 * index].numpy(),
                scalars[2 * index + 1].numpy(),
            )
            expected -= log_det
        u = reference.sigmoid(z)
        expected -= np.log(u * (1 - u)).sum(axis=(1, 2, 3))
        self.assertAllClose(noise, u, rtol=1e-4, atol=1e-5)
        log_prob = np.sum(log_prob, axis=(1, 2, 3))
        self.assertAllClose(log_prob, expected, rtol=1e-4)
        self.assertGreater(np.abs(expected).min(), 1.0)

    def test_density_is_that_of_the_noise(self):
        """By the Jacobian: the density of uniform noise is 1."""
        flow, *_ = make_flow()
        size = int(np.prod(SHAPE))
        images = np.repeat(some_images(1), size, axis=0)
        uniform = tf.constant(np.repeat(some_noise(1), size, axis=0))
        with tf.GradientTape() as tape:
            tape.watch(uniform)
            noise, log_prob = flow(images, uniform)
        rows = tf.reshape(tf.eye(size), noise.shape)
        jacobian = tape.gradient(noise, uniform, rows).numpy()
        log_det = np.linalg.slogdet(jacobian.reshape(size, size))[1]
        self.assertAllClose(np.sum(log_prob[0]), -log_det, rtol=1e-4)

    def test_depends_on_the_image(self):
        flow, *_ = make_flow()
        noise = [
            flow(images, some_noise(2))[0]
            for images in (some_images(2), NUM_COLORS - 1 - some_images(2))
        ]
        self.assertNotAllClose(*noise, atol=0.01)

    def test_ends(self):
        flow, *_ = make_flow()
        for end in (0.0, 1.0 - 2.0**-23):
            uniform = np.full((1, *SHAPE), end, np.float32)
            noise, log_prob = flow(some_images(1), uniform)
            self.assertAllInRange(noise, 0.0, 1.0)
            self.assertTrue(np.isfinite(log_prob).all())

    def test_every_weight_has_a_gradient(self):
        flow, functions, scalars = make_flow()
        with tf.GradientTape() as tape:
            noise, log_prob = flow(some_images(4), some_noise(4))
            loss = tf.reduce_sum(log_prob) - tf.reduce_sum(noise**2)
        weights = [w for network in functions for w in network.weights]
        gradients = tape.gradient(loss, [*weights, *scalars])
        for weight, gradient in zip(
            [*weights, *scalars], gradients, strict=True
        ):
            self.assertTrue(np.isfinite(gradient).all(), weight.path)
            self.assertGreater(np.abs(gradient).max(), 0.0, weight.path)


if __name__ == "__main__":
    tf.test.main()
