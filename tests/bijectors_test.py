"""Tests for bijectors."""

import math

import hypothesis
import numpy as np
import reference
import tensorflow as tf
import tensorflow_probability as tfp
from absl.testing import parameterized
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tf_realnvp import bijectors, networks
from tf_realnvp.bijectors import AffineCoupling, FactorOut, Squeeze

tfb = tfp.bijectors
tfd = tfp.distributions

IMAGE = (4, 6, 2)
SQUEEZED = (2, 3, 8)
HALF = (2, 3, 4)

CLOSE = {"rtol": 1e-8, "atol": 1e-8}


class Network:
    """A smooth function of a whole event, given by its seed.

    It is far from zero, and every output depends on every input, so that a
    mistake in a coupling shows.
    """

    def __init__(self, event_shape, seed=0, dtype=tf.float64):
        size = math.prod(event_shape)
        rng = np.random.default_rng(seed)
        self.size = size
        self.output_shape = (-1, *event_shape[:-1], 2 * event_shape[-1])
        self.weights = [
            tf.Variable(rng.normal(size=shape), dtype=dtype)
            for shape in ([size, 8], [8], [8, 2 * size])
        ]
        self.num_calls = 0

    def __call__(self, events):
        self.num_calls += 1
        kernel, bias, output = self.weights
        flat = tf.reshape(events, [-1, self.size])
        hidden = tf.tanh(tf.matmul(flat, kernel) / self.size**0.5 + bias)
        return tf.reshape(tf.matmul(hidden, output) / 2, self.output_shape)

    def numpy(self, events):
        kernel, bias, output = (weight.numpy() for weight in self.weights)
        flat = np.reshape(events, [-1, self.size])
        hidden = np.tanh(flat @ kernel / self.size**0.5 + bias)
        return np.reshape(hidden @ output / 2, self.output_shape)


def coupling(mask, seed=0, **kwargs):
    mask = np.asarray(mask)
    kwargs = {"network": Network(mask.shape, seed)} | kwargs
    return AffineCoupling(mask, rescale=0.8, reshift=-0.3, **kwargs)


def checkerboard(shape=IMAGE, keep_odd=True, **kwargs):
    return coupling(bijectors.checkerboard_mask(shape, keep_odd), **kwargs)


def channels(shape=IMAGE, keep_odd=True, **kwargs):
    return coupling(bijectors.channel_mask(shape, keep_odd), **kwargs)


def float64(value):
    return tf.constant(value, tf.float64)


def flow():
    """All of RealNVP's parts in one chain, with different networks."""
    return tfb.Chain(
        [
            tfb.Scale(float64(4.0)),
            tfb.Sigmoid(low=float64(-0.1), high=float64(1.1)),
            # Out of the sigmoid's flat ends, which cost digits.
            tfb.Scale(float64(0.2)),
            checkerboard(IMAGE, keep_odd=True, seed=1),
            checkerboard(IMAGE, keep_odd=False, seed=2),
            Squeeze(),
            channels(SQUEEZED, keep_odd=True, seed=3),
            channels(SQUEEZED, keep_odd=False, seed=4),
            FactorOut(
                tfb.Chain(
                    [
                        checkerboard(HALF, keep_odd=True, seed=5),
                        checkerboard(HALF, keep_odd=False, seed=6),
                    ]
                )
            ),
        ]
    )


def networks_of(bijector):
    """The networks of all couplings in a bijector."""
    if isinstance(bijector, AffineCoupling):
        return [bijector.network]
    parts = getattr(bijector, "bijectors", [])
    if hasattr(bijector, "bijector"):
        parts = [bijector.bijector]
    return [network for part in parts for network in networks_of(part)]


# Name, constructor, shape of a latent event, shape of an image event.
BIJECTORS = (
    ("checkerboard_odd", checkerboard, IMAGE, IMAGE),
    ("checkerboard_even", lambda: checkerboard(keep_odd=False), IMAGE, IMAGE),
    ("channels_odd", channels, IMAGE, IMAGE),
    ("channels_even", lambda: channels(keep_odd=False), IMAGE, IMAGE),
    ("one_pixel", lambda: checkerboard((1, 1, 3)), (1, 1, 3), (1, 1, 3)),
    ("vector", lambda: coupling([True, False, False, True, False]), [5], [5]),
    ("matrix", lambda: coupling([[True, False], [False] * 2]), [2, 2], [2, 2]),
    ("all_kept", lambda: coupling(np.ones(IMAGE, bool)), IMAGE, IMAGE),
    ("none_kept", lambda: coupling(np.zeros(IMAGE, bool)), IMAGE, IMAGE),
    ("squeeze", Squeeze, SQUEEZED, IMAGE),
    ("squeeze_by_3", lambda: Squeeze(3), (1, 2, 9), (3, 6, 1)),
    (
        "factor_out",
        lambda: FactorOut(
            tfb.Chain(
                [
                    checkerboard(HALF, keep_odd=True, seed=1),
                    channels(HALF, keep_odd=False, seed=2),
                ]
            )
        ),
        SQUEEZED,
        SQUEEZED,
    ),
    ("factor_out_default", FactorOut, IMAGE, IMAGE),
    (
        "factor_out_constant",
        lambda: FactorOut(tfb.Scale(float64(3.0))),
        IMAGE,
        IMAGE,
    ),
    ("factor_out_scalar", lambda: FactorOut(tfb.Sinh()), IMAGE, IMAGE),
    ("invert", lambda: tfb.Invert(checkerboard()), IMAGE, IMAGE),
    ("invert_squeeze", lambda: tfb.Invert(Squeeze()), IMAGE, SQUEEZED),
    ("chain", flow, SQUEEZED, IMAGE),
)

over_bijectors = parameterized.named_parameters(*BIJECTORS)

# Those with networks, and how many there are.
NUM_NETWORKS = {
    "checkerboard_odd": 1,
    "vector": 1,
    "none_kept": 1,
    "factor_out": 2,
    "invert": 1,
    "chain": 6,
}
with_networks = parameterized.named_parameters(
    (*row, NUM_NETWORKS[row[0]]) for row in BIJECTORS if row[0] in NUM_NETWORKS
)


def distribution_of(bijector, latent):
    """The bijector's image of a standard normal."""
    base = tfd.Sample(tfd.Normal(float64(0.0), float64(1.0)), latent)
    return tfd.TransformedDistribution(base, bijector)


def normal(shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def uncached(tensor):
    """The same values in a tensor that TFP's cache does not know."""
    return tf.constant(tensor.numpy())


def log_abs_det_jacobian(function, point):
    """The log-det by automatic differentiation, at one event.

    A batch of copies of the event gives all rows of the Jacobian in one pass,
    row `i` from copy `i`.
    """
    size = math.prod(point.shape)
    copies = tf.stack([point] * size)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        values = function(copies)
    rows = tf.reshape(tf.eye(size, dtype=values.dtype), values.shape)
    jacobian = tape.gradient(values, copies, rows)
    return np.linalg.slogdet(np.reshape(jacobian, [size, size]))[1]


class EveryBijectorTest(tf.test.TestCase, parameterized.TestCase):
    @over_bijectors
    def test_forward_log_det_matches_jacobian(self, make, latent, image):
        bijector = make()
        for seed in range(2):
            z = normal(latent, seed)
            self.assertAllClose(
                bijector.forward_log_det_jacobian(z, event_ndims=len(latent)),
                log_abs_det_jacobian(bijector.forward, z),
                **CLOSE,
            )

    @over_bijectors
    def test_inverse_log_det_matches_jacobian(self, make, latent, image):
        bijector = make()
        for seed in range(2):
            x = uncached(bijector.forward(normal(latent, seed)))
            self.assertAllClose(
                bijector.inverse_log_det_jacobian(x, event_ndims=len(image)),
                log_abs_det_jacobian(bijector.inverse, x),
                **CLOSE,
            )

    @over_bijectors
    def test_inverse_undoes_forward(self, make, latent, image):
        bijector = make()
        z = normal([3, *latent])
        x = bijector.forward(z)
        self.assertEqual(x.shape, [3, *image])
        again = bijector.inverse(uncached(x))
        self.assertIsNot(again, z)
        self.assertAllClose(again, z, **CLOSE)

    @over_bijectors
    def test_forward_undoes_inverse(self, make, latent, image):
        bijector = make()
        x = uncached(bijector.forward(normal([3, *latent])))
        z = bijector.inverse(x)
        self.assertEqual(z.shape, [3, *latent])
        again = bijector.forward(uncached(z))
        self.assertIsNot(again, x)
        self.assertAllClose(again, x, **CLOSE)

    @over_bijectors
    def test_log_dets_are_opposite(self, make, latent, image):
        """In whatever order value and log-det are asked for."""
        bijector = make()
        z = normal([3, *latent])
        expected = bijector.forward_log_det_jacobian(z, len(latent))
        x = bijector.forward(z)
        same = [
            bijector.forward_log_det_jacobian(z, len(latent)),
            # From the cache that `forward` has filled.
            -bijector.inverse_log_det_jacobian(x, len(image)),
        ]
        x = uncached(x)
        same.append(-bijector.inverse_log_det_jacobian(x, len(image)))
        z = bijector.inverse(x)
        same.append(-bijector.inverse_log_det_jacobian(x, len(image)))
        # From the cache that `inverse` has filled.
        same.append(bijector.forward_log_det_jacobian(z, len(latent)))
        # From a cache without log-dets.
        z = normal([3, *latent])
        x = bijector.forward(z)
        same.append(-bijector.inverse_log_det_jacobian(x, len(image)))
        same.append(bijector.forward_log_det_jacobian(z, len(latent)))
        for value in same:
            self.assertAllClose(value, expected, **CLOSE)

    @over_bijectors
    def test_batch_shapes(self, make, latent, image):
        bijector = make()
        batch = normal([2, 3, *latent])
        x = bijector.forward(batch)
        fldj = bijector.forward_log_det_jacobian(batch, len(latent))
        self.assertEqual(x.shape, [2, 3, *image])
        # TFP lets a log-det that is the same for all events be a scalar.
        constant = bijector.is_constant_jacobian
        self.assertEqual(fldj.shape, [] if constant else [2, 3])
        fldj = tf.broadcast_to(fldj, [2, 3])
        for index in ((slice(3), 1), (1, 2), (0, slice(0))):
            part = batch[index]
            self.assertAllClose(bijector.forward(part), x[index], **CLOSE)
            expected = fldj[index]
            log_det = bijector.forward_log_det_jacobian(part, len(latent))
            self.assertEqual(log_det.shape, [] if constant else expected.shape)
            log_det = tf.broadcast_to(log_det, expected.shape)
            self.assertAllClose(log_det, expected, **CLOSE)
            y = uncached(x[index])
            self.assertAllClose(bijector.inverse(y), part, **CLOSE)
            log_det = bijector.inverse_log_det_jacobian(y, len(image))
            self.assertEqual(log_det.shape, [] if constant else expected.shape)
            log_det = tf.broadcast_to(log_det, expected.shape)
            self.assertAllClose(log_det, -expected, **CLOSE)

    @over_bijectors
    def test_larger_event_ndims_sum_log_det(self, make, latent, image):
        bijector = make()
        z = normal([2, 3, *latent])
        x = uncached(bijector.forward(z))
        for function, value, ndims in (
            (bijector.forward_log_det_jacobian, z, len(latent)),
            (bijector.inverse_log_det_jacobian, x, len(image)),
        ):
            log_det = function(value, event_ndims=ndims)
            for extra in (1, 2):
                batch = [2, 3][: 2 - extra]
                self.assertAllClose(
                    tf.broadcast_to(function(value, ndims + extra), batch),
                    tf.reduce_sum(
                        tf.broadcast_to(log_det, [2, 3]), range(-extra, 0)
                    ),
                    **CLOSE,
                )

    def in_graph(self, bijector, z, z_shape, x_shape):
        """Checks all functions when only this much of a shape is known.

        Returns:
          Symbolic values and log-dets, forward and inverse.
        """
        x = uncached(bijector.forward(z))
        z_ndims, x_ndims = len(z.shape) - 1, len(x.shape) - 1

        def transform(z, x):
            return (
                bijector.forward(z),
                bijector.inverse(x),
                bijector.forward_log_det_jacobian(z, z_ndims),
                bijector.inverse_log_det_jacobian(x, x_ndims),
            )

        specs = [tf.TensorSpec(s, tf.float64) for s in (z_shape, x_shape)]
        graph = tf.function(transform, specs, autograph=False)
        log_det = bijector.forward_log_det_jacobian(z, z_ndims)
        self.assertAllClose(graph(z, x), (x, z, log_det, -log_det), **CLOSE)
        return graph.get_concrete_function().structured_outputs

    @over_bijectors
    def test_unknown_batch_size(self, make, latent, image):
        bijector = make()
        outputs = self.in_graph(
            bijector, normal([3, *latent]), [None, *latent], [None, *image]
        )
        batch = [] if bijector.is_constant_jacobian else [None]
        self.assertEqual(
            [output.shape.as_list() for output in outputs],
            [[None, *image], [None, *latent], batch, batch],
        )

    @parameterized.parameters(
        (checkerboard, IMAGE, IMAGE),
        (Squeeze, SQUEEZED, IMAGE),
        (FactorOut, IMAGE, IMAGE),
        (flow, SQUEEZED, IMAGE),
    )
    def test_unknown_shapes(self, make, latent, image):
        bijector = make()
        z = normal([3, *latent])
        outputs = self.in_graph(bijector, z, [None] * 4, [None] * 4)
        self.assertEqual([output.shape.rank for output in outputs[:2]], [4, 4])
        self.in_graph(bijector, z, None, None)

    @over_bijectors
    def test_event_shapes(self, make, latent, image):
        bijector = make()
        self.assertEqual(bijector.forward_event_shape(latent), image)
        self.assertEqual(bijector.inverse_event_shape(image), latent)
        self.assertAllEqual(bijector.forward_event_shape_tensor(latent), image)
        self.assertAllEqual(bijector.inverse_event_shape_tensor(image), latent)
        unknown = tf.TensorShape(None)
        self.assertIsNone(bijector.forward_event_shape(unknown).rank)
        self.assertIsNone(bijector.inverse_event_shape(unknown).rank)
        dynamic = tf.function(
            lambda latent, image: (
                bijector.forward_event_shape_tensor(latent),
                bijector.inverse_event_shape_tensor(image),
            ),
            autograph=False,
        )
        shapes = dynamic(tf.constant(latent), tf.constant(image))
        self.assertAllEqual(shapes[0], image)
        self.assertAllEqual(shapes[1], latent)

    @over_bijectors
    def test_transformed_distribution(self, make, latent, image):
        bijector = make()
        distribution = distribution_of(bijector, latent)
        self.assertEqual(distribution.event_shape, image)
        self.assertEqual(distribution.batch_shape, [])
        sample = distribution.sample([2, 3], seed=1)
        self.assertEqual(sample.shape, [2, 3, *image])
        log_prob = distribution.log_prob(uncached(sample))
        self.assertEqual(log_prob.shape, [2, 3])
        # Each on its own, by the formula and by the Jacobian.
        x = uncached(sample[1, 2])
        z = bijector.inverse(x).numpy()
        self.assertAllClose(
            log_prob[1, 2],
            -0.5 * np.sum(z**2 + np.log(2 * np.pi))
            + log_abs_det_jacobian(bijector.inverse, x),
            rtol=1e-8,
        )

    @over_bijectors
    def test_copy(self, make, latent, image):
        bijector = make()
        copy = bijector.copy(name="a_copy")
        self.assertIs(type(copy), type(bijector))
        self.assertEqual(copy.name, "a_copy")
        z = normal([3, *latent])
        self.assertAllEqual(copy.forward(z), bijector.forward(z))

    @with_networks
    def test_every_network_runs_once(self, make, latent, image, num_networks):
        """Value and log-det together cost one evaluation."""
        bijector = make()
        counted = networks_of(bijector)
        self.assertLen(counted, num_networks)
        once = [1] * num_networks

        def calls():
            counts = [network.num_calls for network in counted]
            for network in counted:
                network.num_calls = 0
            return counts

        z = normal([3, *latent])
        x = bijector.forward(z)
        bijector.forward_log_det_jacobian(z, len(latent))
        self.assertEqual(calls(), once)
        # The way back is the cache's.
        self.assertIs(bijector.inverse(x), z)
        bijector.inverse_log_det_jacobian(x, len(image))
        self.assertEqual(sum(calls()), 0)

        x = uncached(x)
        z = bijector.inverse(x)
        bijector.inverse_log_det_jacobian(x, len(image))
        self.assertEqual(calls(), once)
        self.assertIs(bijector.forward(z), x)
        bijector.forward_log_det_jacobian(z, len(latent))
        self.assertEqual(sum(calls()), 0)

        distribution = distribution_of(bijector, latent)
        x = uncached(x)
        for function in (
            lambda: distribution.log_prob(x),
            lambda: distribution.sample(2),
            lambda: distribution.experimental_sample_and_log_prob(2),
        ):
            function()
            self.assertEqual(calls(), once)
        sample = distribution.sample(2)
        distribution.log_prob(sample)
        self.assertEqual(calls(), once)

    def test_every_network_runs_once_in_graph(self):
        bijector = flow()
        distribution = distribution_of(bijector, SQUEEZED)
        for function, arguments in (
            (
                distribution.log_prob,
                [tf.TensorSpec([None, *IMAGE], tf.float64)],
            ),
            (lambda: distribution.sample(2), []),
        ):
            graph = tf.function(function, arguments, autograph=False)
            graph.get_concrete_function()
            for network in networks_of(bijector):
                self.assertEqual(network.num_calls, 1)
                network.num_calls = 0

    @with_networks
    def test_log_prob_follows_weights(self, make, latent, image, num_networks):
        """Of one and the same eager tensor: no value may be left over."""
        bijector = make()
        distribution = distribution_of(bijector, latent)
        x = uncached(distribution.sample(3, seed=1))
        before = distribution.log_prob(x)
        for network in networks_of(bijector):
            network.weights[1].assign_add(tf.ones([8], tf.float64))
            network.weights[2].assign(-0.5 * network.weights[2])
        after = distribution.log_prob(x)
        self.assertAllClose(after, distribution.log_prob(uncached(x)))
        self.assertNotAllClose(before, after)


@st.composite
def bijectors_and_shapes(draw):
    """Any bijector of this module, with the shape of a latent event."""
    *size, channels = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    kind = draw(st.sampled_from(["coupling", "squeeze", "factor_out"]))
    if kind == "squeeze":
        block_size = draw(st.integers(2, 4))
        return Squeeze(block_size), [*size, channels * block_size**2]
    mask = draw(
        hnp.arrays(bool, draw(hnp.array_shapes(max_dims=3, max_side=4)))
    )
    inner = coupling(mask, seed=draw(st.integers(0, 9)))
    if kind == "coupling":
        return inner, list(mask.shape)
    return FactorOut(inner), [*mask.shape[:-1], 2 * mask.shape[-1]]


class PropertyTest(tf.test.TestCase):
    @hypothesis.settings(max_examples=60, derandomize=True, deadline=None)
    @hypothesis.given(
        bijectors_and_shapes(),
        st.lists(st.integers(0, 3), max_size=2),
        st.integers(0, 9),
    )
    def test_inverse_and_log_dets(self, bijector_and_shape, batch, seed):
        bijector, latent = bijector_and_shape
        z = normal([*batch, *latent], seed)
        x = bijector.forward(z)
        self.assertEqual(x.shape.num_elements(), z.shape.num_elements())
        fldj = bijector.forward_log_det_jacobian(z, len(latent))
        x = uncached(x)
        self.assertAllClose(bijector.inverse(x), z, **CLOSE)
        ildj = bijector.inverse_log_det_jacobian(x, len(latent))
        self.assertAllClose(ildj, -fldj, **CLOSE)
        z = uncached(bijector.inverse(x))
        self.assertAllClose(bijector.forward(z), x, **CLOSE)


class MaskTest(tf.test.TestCase):
    def test_checkerboard_mask(self):
        mask = bijectors.checkerboard_mask((3, 4, 2))
        self.assertEqual(mask.dtype, np.bool_)
        odd = [
            [False, True, False, True],
            [True, False, True, False],
            [False, True, False, True],
        ]
        for channel in range(2):
            self.assertAllEqual(mask[..., channel], odd)
        even = bijectors.checkerboard_mask((3, 4, 2), keep_odd=False)
        self.assertAllEqual(even, ~mask)

    def test_channel_mask(self):
        mask = bijectors.channel_mask((2, 1, 5))
        self.assertEqual(mask.dtype, np.bool_)
        odd = [False, True, False, True, False]
        self.assertAllEqual(mask, [[odd], [odd]])
        even = bijectors.channel_mask((2, 1, 5), keep_odd=False)
        self.assertAllEqual(even, ~mask)

    def test_masks_are_independent_arrays(self):
        """Not views of one row, which an assignment would change as a whole."""
        for make in (bijectors.checkerboard_mask, bijectors.channel_mask):
            mask = make((2, 2, 2))
            count = mask.sum()
            mask[0, 0, 0] = ~mask[0, 0, 0]
            self.assertEqual(abs(int(mask.sum()) - int(count)), 1)


class AffineCouplingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_matches_reference(self, keep_odd):
        for mask in (
            bijectors.checkerboard_mask(IMAGE, keep_odd),
            bijectors.channel_mask(IMAGE, keep_odd),
        ):
            bijector = coupling(mask)
            arguments = (mask, bijector.network.numpy, 0.8, -0.3)
            value = normal([3, *IMAGE])
            z, ildj = reference.coupling_inverse(value.numpy(), *arguments)
            self.assertAllClose(bijector.inverse(value), z, rtol=1e-12)
            self.assertAllClose(
                bijector.inverse_log_det_jacobian(value), ildj, rtol=1e-12
            )
            x, fldj = reference.coupling_forward(value.numpy(), *arguments)
            value = uncached(value)
            self.assertAllClose(bijector.forward(value), x, rtol=1e-12)
            self.assertAllClose(
                bijector.forward_log_det_jacobian(value), fldj, rtol=1e-12
            )

    def test_log_det_of_keras_network_matches_jacobian(self):
        network = networks.CouplingNetwork(2, filters=4, num_blocks=1)
        rng = np.random.default_rng(0)
        for weight in network.weights:
            weight.assign(rng.normal(size=weight.shape))
        for mask in (
            bijectors.checkerboard_mask(IMAGE),
            bijectors.channel_mask(IMAGE),
        ):
            bijector = AffineCoupling(
                mask, network, tf.Variable(0.8), tf.Variable(-0.3)
            )
            point = tf.cast(normal(IMAGE), tf.float32)
            for function, log_det in (
                (bijector.forward, bijector.forward_log_det_jacobian),
                (bijector.inverse, bijector.inverse_log_det_jacobian),
            ):
                expected = log_abs_det_jacobian(function, point)
                self.assertGreater(abs(expected), 1.0)
                self.assertEqual(log_det(point).dtype, tf.float32)
                self.assertAllClose(log_det(point), expected, rtol=1e-5)

    def test_kept_part_passes_bit_for_bit(self):
        special = np.array(
            [-0.0, np.inf, -np.inf, np.nan, 1e-40, -1e38, 1 / 3, 7.0],
            np.float32,
        )
        mask = np.arange(16) % 2 == 0
        event = np.ones(16, np.float32)
        event[mask] = special
        network = Network([16], dtype=tf.float32)
        bijector = coupling(mask, network=network)
        for function in (bijector.forward, bijector.inverse):
            kept = function(tf.constant(event)).numpy()[mask]
            self.assertAllEqual(kept.view(np.int32), special.view(np.int32))

    def test_network_sees_the_kept_part_alone(self):
        """Whatever the rest holds, also where zero times it is not zero."""
        seen = []
        mask = bijectors.checkerboard_mask(IMAGE)
        network = Network(IMAGE)

        def spy(events):
            seen.append(events.numpy())
            return network(events)

        bijector = coupling(mask, network=spy)
        clean = normal([2, *IMAGE])
        expected = [
            bijector.forward_log_det_jacobian(clean),
            bijector.inverse_log_det_jacobian(uncached(clean)),
        ]
        event = tf.where(mask, clean, np.nan)
        self.assertAllEqual(
            [
                bijector.forward_log_det_jacobian(event),
                bijector.inverse_log_det_jacobian(uncached(event)),
            ],
            expected,
        )
        for events in seen:
            self.assertAllEqual(events, np.where(mask, clean, 0.0))

    def test_network_gets_one_batch_axis(self):
        shapes = []

        def spy(events):
            shapes.append(events.shape.as_list())
            return tf.zeros([len(events), 4, 6, 4], tf.float64)

        bijector = coupling(np.ones(IMAGE, bool), network=spy)
        for batch in ([], [3], [2, 3], [0]):
            self.assertEqual(
                bijector.inverse(normal([*batch, *IMAGE])).shape,
                [*batch, *IMAGE],
            )
        self.assertEqual([shape[0] for shape in shapes], [1, 3, 6, 0])
        self.assertEqual({tuple(shape[1:]) for shape in shapes}, {IMAGE})

    @parameterized.parameters("bfloat16", "float16", "float64")
    def test_arithmetic_is_in_the_dtype_of_the_event(self, dtype):
        """A network of another precision changes its outputs alone."""
        mask = bijectors.channel_mask(IMAGE)
        network = Network(IMAGE, dtype=tf.float32)
        bijector = coupling(
            mask, network=lambda events: tf.cast(network(events), dtype)
        )

        def rounded(events):
            outputs = network(tf.constant(events, tf.float32))
            return tf.cast(tf.cast(outputs, dtype), tf.float64).numpy()

        event = tf.cast(normal([3, *IMAGE]), tf.float32)
        x, ildj = reference.coupling_inverse(
            event.numpy().astype(np.float64), mask, rounded, 0.8, -0.3
        )
        for value, expected in (
            (bijector.inverse(event), x),
            (bijector.inverse_log_det_jacobian(event), ildj),
        ):
            self.assertEqual(value.dtype, tf.float32)
            # Far below the steps of bfloat16 (4e-3) and float16 (5e-4).
            self.assertAllClose(value, expected, rtol=1e-5, atol=1e-5)

    def test_gradients_reach_the_parameters(self):
        rescale, reshift = tf.Variable(0.8), tf.Variable(-0.3)
        network = Network(IMAGE, dtype=tf.float32)
        mask = bijectors.channel_mask(IMAGE)
        bijector = AffineCoupling(mask, network, rescale, reshift)
        x = tf.cast(normal([3, *IMAGE]), tf.float32)
        with tf.GradientTape() as tape:
            log_det = tf.reduce_sum(bijector.inverse_log_det_jacobian(x))
        by_rescale, by_reshift = tape.gradient(log_det, [rescale, reshift])
        # The log-det is `rescale * sum(tanh(a)) + reshift * count`.
        count = 3 * (~mask).sum()
        self.assertAllClose(by_reshift, count)
        self.assertAllClose(by_rescale, (log_det + 0.3 * count) / 0.8)

    def test_log_prob_matches_reference_before_and_after_a_change(self):
        rescale = tf.Variable(0.8, dtype=tf.float64)
        mask = bijectors.checkerboard_mask(IMAGE)
        network = Network(IMAGE)
        distribution = distribution_of(
            AffineCoupling(mask, network, rescale, 0.1), IMAGE
        )
        x = normal([3, *IMAGE])

        def expected():
            z, log_det = reference.coupling_inverse(
                x.numpy(), mask, network.numpy, rescale.numpy(), 0.1
            )
            density = -0.5 * (z**2 + np.log(2 * np.pi))
            return density.reshape(3, -1).sum(axis=1) + log_det

        first = expected()
        self.assertAllClose(distribution.log_prob(x), first, rtol=1e-12)
        network.weights[2].assign(-2.0 * network.weights[2])
        second = expected()
        self.assertAllClose(distribution.log_prob(x), second, rtol=1e-12)
        rescale.assign(-0.5)
        third = expected()
        self.assertAllClose(distribution.log_prob(x), third, rtol=1e-12)
        self.assertNotAllClose(first, second)
        self.assertNotAllClose(second, third)

    def test_chains_with_stock_bijectors(self):
        mask = [True, False, True]
        inner = coupling(mask)
        chain = tfb.Chain([tfb.Softplus(), inner, tfb.Shift(float64(2.0))])
        z = normal([4, 3])
        outputs, log_det = reference.coupling_forward(
            z.numpy() + 2.0, np.array(mask), inner.network.numpy, 0.8, -0.3
        )
        self.assertAllClose(chain.forward(z), np.log1p(np.exp(outputs)))
        self.assertAllClose(
            chain.forward_log_det_jacobian(z, event_ndims=1),
            log_det + np.log(reference.sigmoid(outputs)).sum(axis=1),
        )

    def test_properties(self):
        network = Network([2])
        bijector = AffineCoupling([True, False], network, 2.0, 3.0)
        self.assertAllEqual(bijector.mask, [True, False])
        self.assertIs(bijector.network, network)
        self.assertEqual((bijector.rescale, bijector.reshift), (2.0, 3.0))
        self.assertEqual(bijector.forward_min_event_ndims, 1)
        self.assertEqual(bijector.inverse_min_event_ndims, 1)
        copy = bijector.copy(rescale=5.0)
        self.assertEqual((copy.rescale, copy.reshift), (5.0, 3.0))
        self.assertIs(copy.network, network)

    @parameterized.parameters(
        (TypeError, "`mask` must be boolean, got dtype int64", [1, 0]),
        (TypeError, "`mask` must be boolean, got dtype float64", [1.0, 0.0]),
        (ValueError, "`mask` must have at least one axis", True),
    )
    def test_wrong_mask(self, error, message, mask):
        with self.assertRaisesRegex(error, message):
            AffineCoupling(mask, lambda x: x)

    @parameterized.parameters(None, 3, "network")
    def test_wrong_network(self, network):
        message = f"`network` must be callable, got {network!r}"
        with self.assertRaisesRegex(TypeError, message):
            AffineCoupling([True, False], network)

    @parameterized.parameters("rescale", "reshift")
    def test_wrong_scalars(self, key):
        for value in ([1.0, 2.0], np.ones([1]), tf.Variable(tf.ones([2, 1]))):
            message = rf"`{key}` must be a scalar, got shape \("
            with self.assertRaisesRegex(ValueError, message):
                coupling_with = {"mask": [True], "network": Network([1])}
                AffineCoupling(**coupling_with, **{key: value})

    @parameterized.parameters(2, 3, 8)
    def test_wrong_network_output(self, channels):
        bijector = checkerboard(
            network=lambda events: tf.zeros([2, 4, 6, channels], tf.float64)
        )
        message = (
            r"`network` must return .* shape \(None, 4, 6, 4\) .*"
            rf"got \(2, 4, 6, {channels}\)"
        )
        for function in (bijector.forward, bijector.inverse):
            with self.assertRaisesRegex(ValueError, message):
                function(normal([2, *IMAGE]))

    @parameterized.parameters(
        (1, 4, 6, 3), (1, 6, 4, 2), (1, 1, 1, 2), (6, 2), (48,)
    )
    def test_wrong_event_shape(self, *shape):
        bijector = checkerboard()
        for function in (
            bijector.forward,
            bijector.inverse,
            bijector.forward_log_det_jacobian,
            bijector.inverse_log_det_jacobian,
        ):
            with self.assertRaises(ValueError):
                function(normal(shape))
        with self.assertRaisesRegex(ValueError, r"mask, \(4, 6, 2\), got"):
            bijector.inverse(normal(shape))

    def test_validate_args_checks_event_shape_at_run_time(self):
        bijector = checkerboard(validate_args=True)
        for function in (bijector.forward, bijector.inverse):
            graph = tf.function(
                function,
                input_signature=[tf.TensorSpec([None] * 4, tf.float64)],
            )
            self.assertEqual(graph(normal([2, *IMAGE])).shape, [2, *IMAGE])
            # As many components, so that nothing else would fail.
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, "that of the mask"
            ):
                graph(normal([2, 6, 4, 2]))


class SqueezeTest(tf.test.TestCase, parameterized.TestCase):
    def test_order(self):
        image = [
            [["a0", "a1"], ["b0", "b1"], ["c0", "c1"], ["d0", "d1"]],
            [["e0", "e1"], ["f0", "f1"], ["g0", "g1"], ["h0", "h1"]],
        ]
        squeezed = [
            [
                ["a0", "a1", "b0", "b1", "e0", "e1", "f0", "f1"],
                ["c0", "c1", "d0", "d1", "g0", "g1", "h0", "h1"],
            ]
        ]
        names = np.unique(image)
        image = tf.constant(np.searchsorted(names, image))
        squeezed = tf.constant(np.searchsorted(names, squeezed))
        self.assertAllEqual(Squeeze().inverse(image), squeezed)
        self.assertAllEqual(Squeeze().forward(squeezed), image)

    @parameterized.parameters(2, 3)
    def test_matches_reference(self, block_size):
        image = normal([2, 6, 12, 3])
        squeezed = reference.squeeze(image.numpy(), block_size)
        bijector = Squeeze(block_size)
        self.assertAllEqual(bijector.inverse(image), squeezed)
        self.assertAllEqual(bijector.forward(tf.constant(squeezed)), image)

    def test_log_det(self):
        bijector = Squeeze()
        self.assertTrue(bijector.is_constant_jacobian)
        for dtype in (tf.float32, tf.float64):
            log_det = bijector.inverse_log_det_jacobian(tf.ones(IMAGE, dtype))
            self.assertEqual(log_det.dtype, dtype)
            self.assertAllEqual(log_det, 0.0)

    def test_partly_known_event_shapes(self):
        bijector = Squeeze(3)
        self.assertEqual(
            bijector.inverse_event_shape([None, 6, 1]).as_list(), [None, 2, 9]
        )
        self.assertEqual(
            bijector.forward_event_shape([2, None, None]).as_list(),
            [6, None, None],
        )

    def test_block_size(self):
        self.assertEqual(Squeeze().block_size, 2)
        self.assertEqual(Squeeze(3.0).block_size, 3)
        self.assertEqual(Squeeze(3).copy().block_size, 3)
        self.assertEqual(Squeeze(3).copy(block_size=4).block_size, 4)

    @parameterized.parameters(
        1, 0, -2, 2.5, "a", None, True, float("nan"), float("inf")
    )
    def test_wrong_block_size(self, block_size):
        message = f"`block_size` must be a whole .* got {block_size!r}"
        with self.assertRaisesRegex(ValueError, message):
            Squeeze(block_size)

    def test_indivisible_shapes(self):
        for function, shape in (
            (Squeeze().inverse, [1, 3, 4, 1]),
            (Squeeze().inverse, [1, 4, 3, 1]),
            (Squeeze().forward, [1, 2, 2, 6]),
        ):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, "divisible"
            ):
                function(normal(shape))


class FactorOutTest(tf.test.TestCase, parameterized.TestCase):
    def test_transforms_first_half_and_keeps_second(self):
        inner = checkerboard(HALF)
        bijector = FactorOut(inner)
        self.assertIs(bijector.bijector, inner)
        event = normal([3, *SQUEEZED])
        first, second = uncached(event[..., :4]), event[..., 4:]
        for outer_function, inner_function in (
            (bijector.forward, inner.forward),
            (bijector.inverse, inner.inverse),
        ):
            outputs = outer_function(event)
            self.assertAllEqual(outputs[..., :4], inner_function(first))
            self.assertAllEqual(outputs[..., 4:], second)
        for outer_function, inner_function in (
            (
                bijector.forward_log_det_jacobian,
                inner.forward_log_det_jacobian,
            ),
            (
                bijector.inverse_log_det_jacobian,
                inner.inverse_log_det_jacobian,
            ),
        ):
            self.assertAllEqual(outer_function(event), inner_function(first))

    def test_second_half_passes_bit_for_bit(self):
        second = np.array([-0.0, np.inf, np.nan, 1e-40], np.float32)
        event = np.concatenate([np.ones(4, np.float32), second])
        for bijector in (FactorOut(tfb.Exp()), FactorOut()):
            for function in (bijector.forward, bijector.inverse):
                outputs = function(tf.constant(event)).numpy()[4:]
                self.assertAllEqual(
                    outputs.view(np.int32), second.view(np.int32)
                )

    def test_event_ndims(self):
        for inner, event_ndims in (
            (None, 1),
            (tfb.Exp(), 1),
            (coupling([True, False]), 1),
            (checkerboard(HALF), 3),
        ):
            bijector = FactorOut(inner)
            self.assertEqual(bijector.forward_min_event_ndims, event_ndims)
            self.assertEqual(bijector.inverse_min_event_ndims, event_ndims)

    def test_constant_jacobian(self):
        """As TFP's convention is: one scalar for all events of a batch."""
        self.assertTrue(FactorOut().is_constant_jacobian)
        self.assertTrue(FactorOut(tfb.Scale(3.0)).is_constant_jacobian)
        self.assertFalse(FactorOut(tfb.Exp()).is_constant_jacobian)
        log_det = FactorOut(tfb.Scale(3.0)).forward_log_det_jacobian(
            tf.ones([5, *IMAGE]), event_ndims=3
        )
        # One of two channels in 4 * 6 pixels.
        self.assertAllClose(log_det, 24 * np.log(3.0))

    def test_nested(self):
        inner = coupling([True, False])
        bijector = FactorOut(FactorOut(inner))
        event = normal([3, 8])
        outputs = bijector.inverse(event)
        self.assertAllEqual(
            outputs[:, :2], inner.inverse(uncached(event[:, :2]))
        )
        self.assertAllEqual(outputs[:, 2:], event[:, 2:])

    def test_odd_channels(self):
        for function in (FactorOut().forward, FactorOut().inverse):
            with self.assertRaisesRegex(
                ValueError, r"channels must be even, got .*\(2, 3\)"
            ):
                function(normal([2, 3]))

    @parameterized.parameters(3, "bijector", Network)
    def test_no_bijector(self, value):
        with self.assertRaisesRegex(TypeError, "`bijector` must be a `tfb.Bij"):
            FactorOut(value)

    def test_bijector_that_changes_shape(self):
        bijector = FactorOut(Squeeze())
        image = normal([3, 4, 6, 8])
        for function, after in (
            (bijector.forward, r"\(3, 8, 12, 1\)"),
            (bijector.inverse, r"\(3, 2, 3, 16\)"),
            (
                lambda x: bijector.forward_log_det_jacobian(x, event_ndims=3),
                r"\(3, 8, 12, 1\)",
            ),
        ):
            message = (
                "`bijector` must keep the shape of an event, but squeeze maps "
                rf"\(3, 4, 6, 4\) to {after}"
            )
            with self.assertRaisesRegex(ValueError, message):
                function(image)

    def test_bijector_that_changes_rank(self):
        with self.assertRaisesRegex(
            ValueError, "`bijector` must keep the rank .* 1 to 2"
        ):
            FactorOut(tfb.Reshape([2, 2], [4]))


if __name__ == "__main__":
    tf.test.main()
