"""Tests for networks."""

import contextlib
import functools

import graphs
import keras
import numpy as np
import reference
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import networks, rematerialization
from tf_realnvp.networks import Convolution, CouplingNetwork, ResidualBlocks


def randomize(layer, seed=0):
    """Moves all weights off their initial values, zero and one mostly."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@contextlib.contextmanager
def without_fusion():
    """Lets TensorFlow run operations one by one, as they were written."""
    set_options = tf.config.optimizer.set_experimental_options
    set_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        set_options({"disable_meta_optimizer": False})


def nodes_of(graph_def):
    """All nodes of a graph, those of its functions included."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


class AssignLinearTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(channels=(1, 3), more_filters=(0, 2))
    def test_network_is_the_convolution(self, channels, more_filters):
        network = CouplingNetwork(channels, 2 * channels + more_filters, 2)
        randomize(network)
        kernel = normal(3, 3, channels, 2 * channels)
        kernel[..., 0] = 0.0  # An output that only has a bias.
        bias = normal(2 * channels, seed=1)
        for bias_variable in (network.first.bias, network.blocks.expand.bias):
            bias_variable.assign(tf.zeros_like(bias_variable))
        network.first.gain.assign(tf.ones_like(network.first.gain))
        network.assign_linear(kernel, bias)
        images = normal(2, 5, 4, channels, seed=2).astype(np.float32)
        expected = tf.nn.conv2d(images, kernel, 1, "SAME") + bias
        self.assertAllClose(network(images), expected, rtol=1e-4, atol=1e-4)

    def test_all_weights_that_count_can_be_trained(self):
        network = CouplingNetwork(2, filters=8, num_blocks=1)
        network.assign_linear(normal(3, 3, 2, 4), normal(4))
        images = normal(2, 5, 4, 2).astype(np.float32)
        optimizer = keras.optimizers.Adam(1e-3)
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(network(images)))
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(gradients, network.trainable_variables)
        for weight, gradient in zip(
            network.trainable_variables, gradients, strict=True
        ):
            self.assertNotAllEqual(
                gradient, tf.zeros_like(gradient), weight.path
            )

    def test_too_few_filters(self):
        network = CouplingNetwork(2, filters=2, num_blocks=1)
        self.assertFalse(network.can_be_linear)
        with self.assertRaisesRegex(ValueError, "needs 4 filters .* got 2"):
            network.assign_linear(normal(3, 3, 2, 4), normal(4))
        bias = normal(4)
        network.assign_linear(np.zeros([3, 3, 2, 4]), bias)
        outputs = network(normal(1, 2, 2, 2).astype(np.float32))
        self.assertAllClose(outputs, np.broadcast_to(bias, outputs.shape))


class WeightNormTest(tf.test.TestCase, parameterized.TestCase):
    def test_matches_formula(self):
        direction = normal(3, 2, 4, 5)
        gain = np.array([2.0, -3.0, 0.0, 1.0, 1e-3])
        kernel = networks.weight_norm(tf.constant(direction), gain)
        self.assertAllClose(
            kernel, reference.weight_norm(direction, gain), rtol=1e-12
        )

    def test_each_of_a_stack_is_normalized_on_its_own(self):
        directions = normal(7, 3, 3, 4, 5)
        gains = normal(7, 5)
        kernels = networks.weight_norm(
            tf.constant(directions), tf.constant(gains)
        )
        self.assertEqual(kernels.shape, directions.shape)
        for i in range(7):
            self.assertAllClose(
                kernels[i],
                reference.weight_norm(directions[i], gains[i]),
                rtol=1e-12,
            )

    def test_norm_is_gain(self):
        gains = normal(6, 5)
        for scale in (1e-3, 1.0, 1e3):
            kernels = networks.weight_norm(
                tf.constant(scale * normal(6, 3, 3, 4, 5)), tf.constant(gains)
            )
            norms = np.sqrt(np.sum(np.square(kernels), axis=(1, 2, 3)))
            self.assertAllClose(norms, np.abs(gains), rtol=1e-6)


class ResidualBlocksTest(tf.test.TestCase, parameterized.TestCase):
    def blocks(self, num_blocks, filters, seed=0):
        """Random weights of float64."""
        rng = np.random.default_rng(seed)
        inner = filters // 2
        return ResidualBlocks(
            *(
                Convolution(
                    tf.Variable(rng.normal(size=(num_blocks, *shape))),
                    tf.Variable(rng.normal(size=(num_blocks, shape[-1]))),
                    tf.Variable(rng.normal(size=(num_blocks, shape[-1]))),
                )
                for shape in (
                    (1, 1, filters, inner),
                    (3, 3, inner, inner),
                    (1, 1, inner, filters),
                )
            )
        )

    def apply(self, images, blocks):
        blocks = tf.nest.map_structure(tf.convert_to_tensor, blocks)
        for block in networks.unstack_blocks(blocks):
            images = networks.residual_block(images, block)
        return images

    @parameterized.parameters(1, 3)
    def test_matches_reference(self, num_blocks):
        images = normal(2, 4, 7, 6)
        blocks = self.blocks(num_blocks, 6)
        self.assertAllClose(
            self.apply(tf.constant(images), blocks),
            reference.residual_blocks(
                images, [v.numpy() for v in tf.nest.flatten(blocks)]
            ),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_gradients_match_finite_differences(self):
        blocks = self.blocks(2, 4)
        images = tf.constant(normal(2, 3, 4, 4))
        variables = tf.nest.flatten(blocks)
        towards = [normal(*v.shape, seed=1) for v in variables]
        projection = normal(2, 3, 4, 4, seed=2)

        def loss():
            return tf.reduce_sum(projection * self.apply(images, blocks))

        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, variables)
        weights = [v.numpy() for v in variables]
        values = []
        for step in (1e-6, -1e-6):
            for variable, weight, toward in zip(
                variables, weights, towards, strict=True
            ):
                variable.assign(weight + step * toward)
            values.append(loss())
        for gradient, toward in zip(gradients, towards, strict=True):
            self.assertGreater(abs(np.sum(gradient * toward)), 1e-3)
        expected = sum(
            np.sum(gradient * toward)
            for gradient, toward in zip(gradients, towards, strict=True)
        )
        self.assertAllClose((values[0] - values[1]) / 2e-6, expected, rtol=1e-6)


class CouplingNetworkTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((1, 4, 1), (3, 6, 2))
    def test_matches_reference(self, channels, filters, num_blocks):
        network = CouplingNetwork(channels, filters, num_blocks)
        randomize(network)
        images = normal(2, 4, 6, channels)
        outputs = network(tf.constant(images, tf.float32))
        self.assertEqual(outputs.dtype, tf.float32)
        expected = reference.coupling_network(images, network.get_weights())
        self.assertAllClose(outputs, expected, rtol=1e-4, atol=1e-4)

    def test_initial_outputs_are_zeros(self):
        network = CouplingNetwork(3, filters=4, num_blocks=2)
        outputs = network(tf.constant(normal(2, 4, 6, 3), tf.float32))
        self.assertAllEqual(outputs, tf.zeros([2, 4, 6, 6]))

    def test_two_steps_reach_all_weights(self):
        """The zeros at the start hold nothing back after the first step."""
        network = CouplingNetwork(2, filters=4, num_blocks=2)
        images = tf.constant(normal(8, 4, 6, 2), tf.float32)
        weights = network.trainable_weights

        def gradients():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((network(images) - 1.0) ** 2)
            return tape.gradient(loss, weights)

        first = gradients()
        for weight, gradient in zip(weights, first, strict=True):
            self.assertTrue(np.isfinite(gradient).all())
            weight.assign_sub(0.1 * gradient)
        for weight, gradient in zip(weights, gradients(), strict=True):
            self.assertTrue(np.isfinite(gradient).all())
            self.assertGreater(np.abs(gradient).max(), 0.0, weight.path)

    @parameterized.parameters((1, 1), (2, 3), (5, 8))
    def test_output_shape(self, height, width):
        network = CouplingNetwork(3, filters=4, num_blocks=1)
        outputs = network(tf.ones([2, height, width, 3]))
        self.assertEqual(outputs.shape, [2, height, width, 6])

    @parameterized.parameters((3, 440716), (12, 471856), (6, 451096))
    def test_num_parameters(self, channels, expected):
        network = CouplingNetwork(channels)
        self.assertEqual(network.count_params(), expected)
        self.assertLen(network.trainable_weights, 15)
        self.assertLen(network.weights, 15)

    @parameterized.parameters(
        ("channels", 0),
        ("channels", "a"),
        ("channels", None),
        ("filters", 0),
        ("filters", 3),
        ("filters", 4.5),
        ("filters", float("nan")),
        ("num_blocks", 0),
        ("num_blocks", -1),
        ("num_blocks", [1]),
        ("num_blocks", True),
    )
    def test_wrong_arguments(self, name, value):
        arguments = {"channels": 1, "filters": 4, "num_blocks": 1}
        with self.assertRaises(ValueError) as caught:
            CouplingNetwork(**arguments | {name: value})
        self.assertStartsWith(str(caught.exception), f"`{name}` must be ")
        self.assertEndsWith(str(caught.exception), f", got {value!r}.")

    def test_weights(self):
        network = CouplingNetwork(2, filters=6, num_blocks=5)
        self.assertEqual(
            [tuple(weight.shape) for weight in network.weights],
            [
                *((3, 3, 2, 6), (6,), (6,)),
                *((5, 1, 1, 6, 3), (5, 3), (5, 3)),
                *((5, 3, 3, 3, 3), (5, 3), (5, 3)),
                *((5, 1, 1, 3, 6), (5, 6), (5, 6)),
                *((3, 3, 6, 4), (4,), (4,)),
            ],
        )
        for stack in network.blocks:
            self.assertNotAllClose(stack.direction[0], stack.direction[1])
            self.assertAllEqual(stack.gain, tf.ones_like(stack.gain))
            self.assertAllEqual(stack.bias, tf.zeros_like(stack.bias))
        self.assertAllEqual(network.last.gain, tf.zeros([4]))

    @parameterized.parameters(2, 8)
    def test_filters_are_halved_inside_blocks(self, filters):
        network = CouplingNetwork(1, filters, num_blocks=1)
        shapes = [weight.shape for weight in network.weights]
        self.assertIn((1, 3, 3, filters // 2, filters // 2), shapes)

    def test_bfloat16(self):
        """Weights stay float32, convolutions are bfloat16."""
        network = CouplingNetwork(2, filters=4, num_blocks=2)
        randomize(network)
        for weight in network.weights:
            self.assertEqual(weight.dtype, "float32")
        images = normal(2, 4, 6, 2)
        outputs = network(tf.constant(images, tf.bfloat16))
        self.assertEqual(outputs.dtype, tf.bfloat16)
        # Three digits are lost; more would be an error.
        expected = reference.coupling_network(images, network.get_weights())
        error = np.abs(tf.cast(outputs, tf.float32) - expected)
        self.assertLess(error.max(), 0.05 * np.abs(expected).max())

        graph = tf.function(network, autograph=False).get_concrete_function(
            tf.TensorSpec([None, 4, 6, 2], tf.bfloat16)
        )
        dtypes = [
            node.attr["T"].type
            for node in nodes_of(graph.graph.as_graph_def())
            if node.op == "Conv2D"
        ]
        self.assertNotEmpty(dtypes)
        self.assertEqual(set(dtypes), {tf.bfloat16.as_datatype_enum})

    def test_bfloat16_gradients_are_float32(self):
        network = CouplingNetwork(2, filters=4, num_blocks=1)
        randomize(network)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(tf.ones([2, 4, 6, 2], tf.bfloat16)))
        for gradient in tape.gradient(loss, network.trainable_weights):
            self.assertEqual(gradient.dtype, tf.float32)

    @parameterized.product(
        dtype=["float32", "bfloat16"],
        in_graph=[False, True],
        fused=[False, True],
    )
    def test_rematerialization(self, dtype, in_graph, fused):
        """The same outputs and gradients, from fewer tensors."""
        network = CouplingNetwork(2, filters=4, num_blocks=2)
        randomize(network)
        images = tf.constant(normal(3, 4, 6, 2), dtype)
        projection = tf.constant(normal(3, 4, 6, 4, seed=1), dtype)

        def outputs_and_gradients(function):
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = function(images)
            return outputs, tape.gradient(
                outputs, [images, *network.trainable_weights], projection
            )

        if in_graph:
            outputs_and_gradients = tf.function(
                outputs_and_gradients, autograph=False
            )
        with contextlib.nullcontext() if fused else without_fusion():
            outputs, gradients = outputs_and_gradients(network)
            again, gradients_again = outputs_and_gradients(
                functools.partial(rematerialization.coupling_network, network)
            )
        if fused:
            # Not the same ones are in both, and what is fused rounds once.
            tolerance = 1e-6 if dtype == "float32" else 5e-2
            atol = tolerance * np.abs(outputs).max()
            self.assertAllClose(outputs, again, rtol=tolerance, atol=atol)
        else:
            tolerance = 1e-6 if dtype == "float32" else 1e-2
            self.assertAllEqual(outputs, again)
        self.assertLen(gradients, 16)
        for expected, gradient in zip(gradients, gradients_again, strict=True):
            self.assertEqual(gradient.dtype, expected.dtype)
            self.assertGreater(np.abs(expected).max(), 0.0)
            self.assertAllClose(
                gradient,
                expected,
                rtol=tolerance,
                atol=tolerance * np.abs(expected).max(),
            )

    @parameterized.parameters(
        (networks._shared, CouplingNetwork.shared),
        (
            rematerialization._rematerialized,
            rematerialization.coupling_network,
        ),
    )
    def test_networks_of_one_shape_share_a_trace(self, function, apply):
        images = tf.constant(normal(3, 4, 6, 2), tf.float32)
        before = function.experimental_get_tracing_count()
        results = []
        # Filters that no other test has, so that it is not traced yet.
        for seed in range(3):
            network = CouplingNetwork(2, filters=10, num_blocks=1)
            randomize(network, seed)
            results.append(apply(network, images))
            self.assertAllClose(results[-1], network(images), rtol=1e-5)
        self.assertNotAllClose(results[0], results[1])
        traces = function.experimental_get_tracing_count() - before
        self.assertEqual(traces, 1)

    def test_rematerialization_runs_the_middle_convolutions_once(self):
        network = CouplingNetwork(2, filters=4, num_blocks=3)

        @tf.function(autograph=False)
        def gradients(images):
            with tf.GradientTape() as tape:
                outputs = rematerialization.coupling_network(network, images)
            return tape.gradient(outputs, network.trainable_weights)

        function = gradients.get_concrete_function(tf.TensorSpec([2, 4, 6, 2]))
        # Of the 2 + 3 * 3 convolutions all but the 3 are run once more.
        self.assertEqual(graphs.count_ops(function, "Conv2D"), 11 + 8)

    def test_config_round_trip(self):
        network = CouplingNetwork(2, 4, 2, name="a_name")
        copy = CouplingNetwork.from_config(network.get_config())
        self.assertEqual(copy.name, "a_name")
        images = tf.constant(normal(2, 4, 6, 2), tf.float32)
        self.assertAllEqual(copy(images), tf.zeros([2, 4, 6, 4]))
        randomize(network)
        copy.set_weights(network.get_weights())
        self.assertAllClose(copy(images), network(images), rtol=1e-6)

    def test_initial_weights_follow_the_seed(self):
        weights = []
        for seed in (1, 1, 2):
            keras.utils.set_random_seed(seed)
            network = CouplingNetwork(1, filters=4, num_blocks=1)
            weights.append(network.get_weights())
        for first, again, other in zip(*weights, strict=True):
            self.assertAllEqual(first, again)
            if first.std() > 0.0:
                self.assertNotAllClose(first, other)
        self.assertGreater(sum(w.std() > 0.0 for w in weights[0]), 4)


if __name__ == "__main__":
    tf.test.main()
