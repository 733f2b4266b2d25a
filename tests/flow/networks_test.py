"""Tests for networks and rematerialization."""

import contextlib
import math
import runpy
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import networks
from tf_realnvp.flow.networks import CouplingNetwork


def make_network(
    channels=2, filters=4, num_blocks=2, seed=0, num_classes=None, **kwargs
):
    """A network whose weights are off their initial values, zero and one."""
    network = CouplingNetwork(
        channels, filters, num_blocks, num_classes, **kwargs
    )
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(rng.normal(size=weight.shape))
    return network


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


class OnGridTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((2, 2, 8), (2, 4, 32), (2, 8, 32), (4, 8, 16))
    def test_coarser(self, channels, factor, channels_out):
        """All pixels of a block, or the means of its parts."""
        image = normal(1, 16, 16, channels).astype(np.float32)
        found = networks.on_grid(image, 16 // factor)
        self.assertEqual(found.shape[-1], channels_out)
        block = image[0, :factor, :factor]
        kept = math.isqrt(channels_out // channels)
        parts = np.reshape(block, [kept, factor // kept] * 2 + [channels])
        means = parts.mean(axis=(1, 3))
        self.assertAllClose(found[0, 0, 0], np.ravel(means), atol=1e-6)


class AssignLinearTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.product(channels=(1, 3), more_filters=(0, 2))
    def test_network_is_the_convolution(self, channels, more_filters):
        network = make_network(channels, 2 * channels + more_filters)
        before = np.square(network.last.direction).sum(axis=(0, 1, 2))
        kernel = normal(3, 3, channels, 2 * channels)
        kernel[..., 0] = 0.0  # An output that only has a bias.
        bias = normal(2 * channels, seed=1)
        network.assign_linear(kernel, bias)
        images = normal(2, 5, 4, channels, seed=2).astype(np.float32)
        expected = tf.nn.conv2d(images, kernel, 1, "SAME") + bias
        self.assertAllClose(network(images), expected, rtol=1e-4, atol=1e-4)
        # A step turns kernels as much as it did.
        after = np.square(network.last.direction).sum(axis=(0, 1, 2))
        self.assertAllClose(after, before, rtol=1e-4)

    def test_all_weights_that_count_can_be_trained(self):
        network = CouplingNetwork(2, filters=8, num_blocks=1)
        network.assign_linear(normal(3, 3, 2, 4), normal(4))
        images = normal(2, 5, 4, 2).astype(np.float32)
        weights = network.trainable_variables
        optimizer = keras.optimizers.Adam(1e-3)
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(network(images)))
            gradients = tape.gradient(loss, weights)
            optimizer.apply(gradients, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            self.assertGreater(np.abs(gradient).max(), 0.0, weight.path)


class CouplingNetworkTest(tf.test.TestCase, parameterized.TestCase):
    def test_last_bias_is_not_rounded_to_bfloat16(self):
        network = make_network()
        network.last.gain.assign(tf.zeros_like(network.last.gain))
        outputs = network(tf.zeros([1, 2, 2, 2], tf.bfloat16))
        self.assertAllEqual(outputs[0, 0, 0], network.last.bias)

    def test_another_backend_of_keras(self):
        """The import names the backend."""
        with (
            mock.patch.object(keras.config, "backend", return_value="jax"),
            self.assertRaisesRegex(ImportError, "is jax: set the environment"),
        ):
            runpy.run_path(networks.__file__)

    @parameterized.parameters(
        (networks._shared, False), (networks._rematerialized, True)
    )
    def test_networks_of_one_shape_share_a_trace(self, function, recompute):
        images = tf.constant(normal(3, 4, 6, 2), tf.float32)
        before = function.experimental_get_tracing_count()
        results = []
        # Filters that no other test has, so that it is not traced yet.
        for seed in range(3):
            network = make_network(filters=10, num_blocks=1, seed=seed)
            results.append(network.shared(images, recompute))
            self.assertAllClose(results[-1], network(images), rtol=1e-5)
        self.assertNotAllClose(results[0], results[1])
        traces = function.experimental_get_tracing_count() - before
        self.assertEqual(traces, 1)


class RematerializationTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        # Operation by operation in eager mode, and fused as training runs.
        # Every pair of the three is there.
        ("float32", False, None),
        ("float32", True, 3, "periodic"),
        ("bfloat16", False, 3),
        ("bfloat16", True, None),
    )
    def test_same_outputs_and_gradients(
        self, dtype, in_graph, num_classes, padding="same"
    ):
        network = make_network(num_classes=num_classes, padding=padding)
        label = None if num_classes is None else tf.constant([2, 0, 2])
        images = tf.constant(normal(3, 4, 6, 2), dtype)
        projection = tf.constant(normal(3, 4, 6, 4, seed=1), tf.float32)

        def outputs_and_gradients(function):
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = function(images, label=label)
            return outputs, tape.gradient(
                outputs, [images, *network.trainable_weights], projection
            )

        if in_graph:
            outputs_and_gradients = tf.function(
                outputs_and_gradients, autograph=False
            )
        with contextlib.nullcontext() if in_graph else untraced.untraced():
            outputs, gradients = outputs_and_gradients(network)
            again, gradients_again = outputs_and_gradients(
                lambda images, label: network.shared(images, True, label=label)
            )
        if in_graph:
            # Not the same ones are in both, and what is fused rounds once.
            tolerance = 1e-6 if dtype == "float32" else 5e-2
            atol = tolerance * np.abs(outputs).max()
            self.assertAllClose(outputs, again, rtol=tolerance, atol=atol)
        else:
            tolerance = 1e-6 if dtype == "float32" else 1e-2
            self.assertAllEqual(outputs, again)
        self.assertEqual(outputs.dtype, tf.float32)
        self.assertLen(gradients, 16 if num_classes is None else 17)
        for expected, gradient in zip(gradients, gradients_again, strict=True):
            self.assertEqual(gradient.dtype, expected.dtype)
            self.assertGreater(np.abs(expected).max(), 0.0)
            self.assertAllClose(
                gradient,
                expected,
                rtol=tolerance,
                atol=tolerance * np.abs(expected).max(),
            )
