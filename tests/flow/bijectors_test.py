"""Tests for bijectors."""

import functools
import math

import jacobians
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl.testing import parameterized

from tf_realnvp import bijectors
from tf_realnvp.flow.bijectors import (
    AffineCoupling,
    FactorOut,
    Sigmoid,
    Squeeze,
)

tfb = tfp.bijectors
tfd = tfp.distributions

IMAGE = (4, 6, 2)
SQUEEZED = (2, 3, 8)
HALF = (2, 3, 4)

CLOSE = {"rtol": 1e-8, "atol": 1e-8}


class Network:
    """A smooth function of a whole event, given by its seed.

    It is far from zero, and every output depends on every input and on the
    condition, so that a mistake in a coupling shows.
    """

    def __init__(self, event_shape, seed=0):
        size = math.prod(event_shape)
        rng = np.random.default_rng(seed)
        self.size = size
        self.output_shape = (-1, *event_shape[:-1], 2 * event_shape[-1])
        self.weights = [
            tf.Variable(rng.normal(size=shape))
            for shape in ([size, 8], [8], [8, 2 * size])
        ]
        self.inputs = []

    def __call__(self, events, condition=0.0):
        self.inputs.append(events)
        self.condition = condition
        kernel, bias, output = self.weights
        flat = tf.reshape(tf.cast(events, tf.float64), [-1, self.size])
        hidden = tf.matmul(flat, kernel) / self.size**0.5 + bias
        hidden = tf.tanh(hidden + condition)
        return tf.reshape(tf.matmul(hidden, output) / 2, self.output_shape)


float64 = functools.partial(tf.constant, dtype=tf.float64)


def coupling(mask, seed=0, **options):
    mask = np.asarray(mask)
    defaults = {
        "network": Network(mask.shape, seed),
        "rescale": tf.Variable(0.8, dtype=tf.float64),
        "reshift": tf.Variable(-0.3, dtype=tf.float64),
    }
    return AffineCoupling(mask, **defaults | options)


def checkerboard(shape=IMAGE, keep_odd=True, **options):
    return coupling(bijectors.checkerboard_mask(shape, keep_odd), **options)


def channels(shape=IMAGE, keep_odd=True, **options):
    return coupling(bijectors.channel_mask(shape, keep_odd), **options)


def factor_out(seed=5):
    parts = [
        checkerboard(HALF, seed=seed, name=f"part_{seed}"),
        channels(HALF, False, seed=6),
    ]
    return FactorOut(tfb.Chain(parts))


def flow():
    """All of RealNVP's parts in one chain, with different networks."""
    return tfb.Chain(
        [
            tfb.Scale(float64(4.0)),
            Sigmoid(low=float64(-0.1), high=float64(1.1)),
            # Out of the sigmoid's flat ends, which cost digits.
            tfb.Scale(float64(0.2)),
            checkerboard(keep_odd=False, seed=1),
            Squeeze(),
            tfb.Invert(channels(SQUEEZED, seed=2)),
            factor_out(),
        ]
    )


# Name, constructor, shape of a latent event, shape of an image event, and how
# many networks there are.
BIJECTORS = (
    ("checkerboard", checkerboard, IMAGE, IMAGE, 1),
    ("one_pixel", lambda: checkerboard((1, 1, 3)), *[(1, 1, 3)] * 2, 1),
    ("matrix", lambda: coupling([[True, False]]), [1, 2], [1, 2], 1),
    ("all_kept", lambda: coupling(np.ones(HALF, bool)), HALF, HALF, 1),
    ("squeeze", Squeeze, SQUEEZED, IMAGE, 0),
    ("factor_out", factor_out, SQUEEZED, SQUEEZED, 2),
    (
        "factor_out_constant",
        lambda: FactorOut(tfb.Scale(float64(3.0))),
        IMAGE,
        IMAGE,
        0,
    ),
    ("factor_out_scalar", lambda: FactorOut(tfb.Sinh()), [6], [6], 0),
    ("invert_squeeze", lambda: tfb.Invert(Squeeze()), IMAGE, SQUEEZED, 0),
    (
        "twins",  # Of one name.
        lambda: tfb.Chain([factor_out(7), factor_out(8)]),
        SQUEEZED,
        SQUEEZED,
        4,
    ),
    ("chain", flow, SQUEEZED, IMAGE, 4),
)

over_bijectors = parameterized.named_parameters(row[:4] for row in BIJECTORS)
with_networks = parameterized.named_parameters(
    row for row in BIJECTORS if row[4] and "kept" not in row[0]
)


def couplings_of(bijector):
    """All couplings in a bijector."""
    parts = (bijector, *bijector.submodules)
    return [part for part in parts if isinstance(part, AffineCoupling)]


def normal(shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def uncached(tensor):
    """The same values in a tensor that TFP's cache does not know."""
    return tf.constant(tensor.numpy())


def keywords_of(bijector, condition):
    """The keywords that bring a condition to all couplings."""
    return bijectors.condition_kwargs(bijector, condition=condition)


class ConditionTest(tf.test.TestCase):
    def test_one_tensor_under_two_conditions(self):
        """The cache distinguishes the conditions."""
        bijector, x = flow(), normal([3, *IMAGE]) + 2.0
        networks = [part.network for part in couplings_of(bijector)]
        conditions = normal([3, 8]), normal([3, 8], seed=1)
        kwargs = [keywords_of(bijector, condition) for condition in conditions]
        expected = []
        for condition in conditions:
            new = keywords_of(bijector, uncached(condition))
            z = bijector.inverse(uncached(x), **new)
            ildj = bijector.inverse_log_det_jacobian(uncached(x), 3, **new)
            expected.append((z, ildj))
        for one, other in zip(*expected, strict=True):
            self.assertNotAllClose(one, other, atol=0.1)
        values = [bijector.inverse(x, **keywords) for keywords in kwargs]
        runs = [len(network.inputs) for network in networks]
        for value, keywords, (z, log_det) in zip(
            values, kwargs, expected, strict=True
        ):
            self.assertAllClose(value, z, **CLOSE)
            for cached in (
                bijector.inverse_log_det_jacobian(x, 3, **keywords),
                -bijector.forward_log_det_jacobian(value, 3, **keywords),
            ):
                self.assertAllClose(cached, log_det, **CLOSE)
            self.assertIs(bijector.inverse(x, **keywords), value)
        self.assertEqual([len(network.inputs) for network in networks], runs)

    def test_one_for_each_event_of_a_batch(self):
        x, condition = normal([2, 3, *IMAGE]), normal([2, 3, 8])
        z = checkerboard().inverse(x, condition=condition)
        expected = checkerboard().inverse(
            tf.reshape(x, [6, *IMAGE]), condition=tf.reshape(condition, [6, 8])
        )
        self.assertAllClose(tf.reshape(z, [6, *IMAGE]), expected, **CLOSE)


class EveryBijectorTest(tf.test.TestCase, parameterized.TestCase):
    @over_bijectors
    def test_values_and_log_dets(self, make, latent, image):
        """Forward and inverse match, and so do log-dets and Jacobians."""
        bijector, condition = make(), normal([8])
        kwargs = keywords_of(bijector, condition)
        fldj = functools.partial(
            bijector.forward_log_det_jacobian, event_ndims=len(latent), **kwargs
        )
        ildj = functools.partial(
            bijector.inverse_log_det_jacobian, event_ndims=len(image), **kwargs
        )

        def jacobian(function, point):
            copies = tf.stack([condition] * math.prod(point.shape))
            kwargs = keywords_of(bijector, copies)
            return jacobians.log_abs_det(lambda x: function(x, **kwargs), point)

        z = normal(latent)
        expected = jacobian(bijector.forward, z)
        self.assertAllClose(fldj(z), expected, **CLOSE)
        x = bijector.forward(z, **kwargs)
        self.assertEqual(x.shape, image)
        # From the cache that `forward` has filled.
        self.assertAllClose(ildj(x), -expected, **CLOSE)
        x = uncached(x)
        self.assertAllClose(jacobian(bijector.inverse, x), -expected, **CLOSE)
        self.assertAllClose(ildj(x), -expected, **CLOSE)
        again = bijector.inverse(x, **kwargs)
        self.assertAllClose(again, z, **CLOSE)
        # From the cache that `inverse` has filled.
        self.assertAllClose(fldj(again), expected, **CLOSE)
        self.assertAllClose(
            bijector.forward(uncached(again), **kwargs), x, **CLOSE
        )
        for part in couplings_of(bijector):
            self.assertAllEqual(part.network.condition, [condition])

    @over_bijectors
    def test_batch_shapes(self, make, latent, image):
        bijector = make().copy(name="a_copy")
        self.assertEqual(bijector.name, "a_copy")
        # TFP lets a log-det that is the same for all events be a scalar.
        constant = bijector.is_constant_jacobian
        batch = normal([2, 3, *latent])
        x = bijector.forward(batch)
        self.assertEqual(x.shape, [2, 3, *image])
        fldj = bijector.forward_log_det_jacobian(batch, len(latent))
        self.assertEqual(fldj.shape, [] if constant else [2, 3])
        fldj = tf.broadcast_to(fldj, [2, 3])
        for index in ((slice(3), 1), (1, 2), (0, slice(0))):
            z, y = uncached(batch[index]), uncached(x[index])
            expected = fldj[index]
            shape = [] if constant else expected.shape
            self.assertAllClose(bijector.forward(z), y, **CLOSE)
            self.assertAllClose(bijector.inverse(y), z, **CLOSE)
            for value in (
                bijector.forward_log_det_jacobian(z, len(latent)),
                -bijector.inverse_log_det_jacobian(y, len(image)),
            ):
                self.assertEqual(value.shape, shape)
                value = tf.broadcast_to(value, expected.shape)
                self.assertAllClose(value, expected, **CLOSE)
        # More axes of an event: the sum over them.
        value = -bijector.inverse_log_det_jacobian(uncached(x), len(image) + 1)
        expected = tf.reduce_sum(fldj, axis=-1)
        self.assertAllClose(tf.broadcast_to(value, [2]), expected, **CLOSE)

    @over_bijectors
    def test_shapes_without_values(self, make, latent, image):
        """Static shapes are known for batches of unknown size."""
        bijector = make()
        for function, shape, expected in (
            (bijector.forward, latent, image),
            (bijector.inverse, image, latent),
        ):
            spec = tf.TensorSpec([None, *shape], tf.float64)
            graph = tf.function(function, [spec], autograph=False)
            value = normal([3, *shape])
            if shape == image:
                value = uncached(bijector.forward(normal([3, *latent])))
            self.assertAllClose(graph(value), function(value), **CLOSE)
            static = graph.get_concrete_function().structured_outputs.shape
            self.assertEqual(static.as_list(), [None, *expected])
        self.assertEqual(bijector.forward_event_shape(latent), image)
        self.assertEqual(bijector.inverse_event_shape(image), latent)
        self.assertAllEqual(bijector.forward_event_shape_tensor(latent), image)
        self.assertAllEqual(bijector.inverse_event_shape_tensor(image), latent)

    @with_networks
    def test_every_network_runs_once(self, make, latent, image, num_networks):
        """The value and the log-det together take one evaluation."""
        bijector = make()
        inputs = [part.network.inputs for part in couplings_of(bijector)]
        zero, one = tf.constant([0.0, 1.0], tf.float64)
        distribution = tfd.TransformedDistribution(
            tfd.Sample(tfd.Normal(zero, one), latent), bijector
        )
        in_graph = tf.function(distribution.log_prob, autograph=False)
        points = bijector.forward(normal([3, *latent]))

        def forward():
            z = normal([3, *latent])
            x = bijector.forward(z)
            bijector.forward_log_det_jacobian(z, len(latent))
            # The way back is the cache's.
            self.assertIs(bijector.inverse(x), z)
            bijector.inverse_log_det_jacobian(x, len(image))

        def inverse():
            x = uncached(points)
            z = bijector.inverse(x)
            bijector.inverse_log_det_jacobian(x, len(image))
            self.assertIs(bijector.forward(z), x)
            bijector.forward_log_det_jacobian(z, len(latent))

        for function in (
            forward,
            inverse,
            lambda: distribution.log_prob(uncached(points)),
            lambda: distribution.experimental_sample_and_log_prob(2),
            lambda: in_graph.get_concrete_function(points),
        ):
            for events in inputs:
                events.clear()
            function()
            self.assertEqual([len(i) for i in inputs], [1] * num_networks)


class AffineCouplingTest(tf.test.TestCase, parameterized.TestCase):
    def test_network_sees_the_kept_part_alone(self):
        bijector = checkerboard()
        event = normal([2, 3, *IMAGE])
        masked = tf.where(bijector.mask, event, 1e30)
        for log_det in (
            bijector.forward_log_det_jacobian,
            bijector.inverse_log_det_jacobian,
        ):
            self.assertAllEqual(log_det(uncached(masked)), log_det(event))
            event = uncached(event)
        kept = np.where(bijector.mask, event, 0.0).reshape(6, *IMAGE)
        self.assertLen(bijector.network.inputs, 4)
        for events in bijector.network.inputs:
            # With one axis for the batch.
            self.assertAllEqual(events, kept)

    @parameterized.parameters(2, 8)
    def test_wrong_network_output(self, channels):
        bijector = checkerboard(
            network=lambda events: tf.zeros([2, 4, 6, channels], tf.float64)
        )
        for function in (bijector.forward, bijector.inverse):
            with self.assertRaisesRegex(
                ValueError, rf"\(2, 4, 6, {channels}\) and .* incompatible"
            ):
                function(normal([2, *IMAGE]))


class SigmoidTest(tf.test.TestCase):
    def test_log_det_is_that_of_tfp(self):
        x = tf.linspace(-80.0, 80.0, 2001)
        bounds = {"low": -0.05, "high": 1.05}
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = Sigmoid(**bounds).forward_log_det_jacobian(x)
        expected = tfb.Sigmoid(**bounds).forward_log_det_jacobian(x)
        self.assertAllEqual(log_det, expected)
        self.assertAllClose(tape.gradient(log_det, x), -tf.tanh(x / 2))


class KeptTest(tf.test.TestCase):
    def test_passes_bit_for_bit(self):
        """The part that is kept or factored out does not change."""
        numbers = np.float32([1e-37, -1e-37, 1e38, -1e38, 1 / 3, -0.1, 7.0, 1])
        special = np.float32([-0.0, np.inf, -np.inf, np.nan, 1e-40, 0, 2, 3])
        even, half = np.arange(16) % 2 == 0, np.arange(16) >= 8
        for bijector, mask, kept in (
            (coupling(even), even, numbers),
            (FactorOut(tfb.Exp()), half, special),
            (FactorOut(tfb.Identity()), half, special),
        ):
            event = np.ones(16, np.float32)
            event[mask] = kept
            for function in (bijector.forward, bijector.inverse):
                result = function(tf.constant(event)).numpy()[mask]
                self.assertAllEqual(result.view(np.int32), kept.view(np.int32))
