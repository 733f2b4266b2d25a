"""Tests for model."""

import contextlib
import functools
import math
from unittest import mock

import graphs
import keras
import numpy as np
import reference
import tensorflow as tf
import tensorflow_probability as tfp
from absl.testing import parameterized

from tf_realnvp import bijectors, checks, networks
from tf_realnvp.model import RealNVP, max_num_scales

tfb = tfp.bijectors


def make_model(
    image_shape=(4, 4, 1), num_colors=17, seed=0, scale=0.3, **kwargs
):
    """A small model, its weights well off their initial values.

    At those every coupling is the identity, and most mistakes do not show.
    """
    kwargs = {"filters": 4, "num_blocks": 1} | kwargs
    model = RealNVP(image_shape, num_colors, **kwargs)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign_add(scale * rng.normal(size=variable.shape))
    return model


@functools.cache
def shared_model():
    """One model for all tests that do not change it."""
    return make_model()


@functools.cache
def compiled_decode():
    """Of the shared model: quicker than eager mode for many batches."""
    spec = tf.TensorSpec([None, 2, 2, 4])
    return tf.function(shared_model().decode, [spec], autograph=False)


def random_images(n, model, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, *model.image_shape)
    return rng.integers(model.num_colors, size=shape, dtype=np.uint8)


def random_points(n, model, seed=0):
    """Dequantized images."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.0, model.num_colors, size=(n, *model.image_shape))
    return points.astype(np.float32)


def extreme_images(model):
    shape = (1, *model.image_shape)
    return np.concatenate(
        [np.zeros(shape, np.uint8), np.full(shape, model.num_colors - 1)]
    ).astype(np.uint8)


def evaluate_reference(model, points):
    """Latents and log-density of points, by NumPy."""
    couplings = [
        (network.get_weights(), coupling.rescale, coupling.reshift)
        for network, coupling in zip(
            model.networks, model.couplings, strict=True
        )
    ]
    return reference.real_nvp(
        points, couplings, model.num_colors, model.alpha, model.num_scales
    )


@contextlib.contextmanager
def counted_networks():
    """Counts the calls of every Keras model, by name."""
    calls = {}
    original = networks.CouplingNetwork.__call__

    def call(self, *args, **kwargs):
        calls[self.name] = calls.get(self.name, 0) + 1
        return original(self, *args, **kwargs)

    with mock.patch.object(networks.CouplingNetwork, "__call__", call):
        yield calls


def kolmogorov_smirnov(values, cdf):
    """The largest distance of an empirical distribution from `cdf`."""
    values = cdf(np.sort(np.ravel(values)))
    steps = np.arange(len(values) + 1) / len(values)
    return max(np.max(steps[1:] - values), np.max(values - steps[:-1]))


def ks_limit(n):
    """What the distance exceeds once in a million samples of size `n`."""
    return math.sqrt(-0.5 * math.log(1e-6 / 2) / n)


class StructureTest(tf.test.TestCase, parameterized.TestCase):
    def test_default_model(self):
        model = RealNVP()
        self.assertEqual(model.image_shape, (32, 32, 3))
        self.assertEqual(model.latent_shape, (16, 16, 12))
        self.assertEqual((model.num_colors, model.alpha), (256, 0.1))
        self.assertEqual((model.filters, model.num_blocks), (128, 8))
        self.assertEqual(model.num_dims, 3072)
        self.assertEqual(model.num_parameters, 4542120)
        self.assertLen(model.trainable_variables, 170)
        self.assertLen(model.variables, 170)
        self.assertLen({id(v) for v in model.trainable_variables}, 170)
        self.assertEqual({v.dtype for v in model.variables}, {"float32"})
        # Drawn for each network anew.
        directions = [network.weights[0] for network in model.networks]
        draws = {direction[0, 0, 0, 0].numpy() for direction in directions}
        self.assertLen(draws, 10)

    def test_parts_are_in_the_order_of_the_design(self):
        model = make_model((4, 6, 3), num_colors=5)
        *parts, factor_out = model.bijector.bijectors
        scale, sigmoid, *parts = parts
        self.assertIsInstance(scale, tfb.Scale)
        self.assertAllClose(scale.scale, 5.0)
        self.assertIsInstance(sigmoid, tfb.Sigmoid)
        self.assertAllClose(sigmoid.low, -0.05 / 0.9)
        self.assertAllClose(sigmoid.high, 0.95 / 0.9)
        squeeze = parts.pop(3)
        self.assertIsInstance(squeeze, bijectors.Squeeze)
        self.assertEqual(squeeze.block_size, 2)
        self.assertIsInstance(factor_out, bijectors.FactorOut)
        couplings = [*parts, *factor_out.bijector.bijectors]
        self.assertLen(couplings, 10)

        masks = [
            *(reference.checkerboard_mask((4, 6, 3), p) for p in (1, 0, 1)),
            *(reference.channel_mask((2, 3, 12), p) for p in (1, 0, 1)),
            *(reference.checkerboard_mask((2, 3, 6), p) for p in (1, 0, 1, 0)),
        ]
        scalars = model.trainable_variables[-20:]
        for i, coupling in enumerate(couplings):
            self.assertIsInstance(coupling, bijectors.AffineCoupling)
            self.assertAllEqual(coupling.mask, masks[i])
            self.assertIs(coupling.network, model.networks[i])
            self.assertIs(coupling.rescale, scalars[2 * i])
            self.assertIs(coupling.reshift, scalars[2 * i + 1])
        self.assertEqual(
            [network.channels for network in model.networks],
            [3] * 3 + [12] * 3 + [6] * 4,
        )

    def test_initial_couplings_are_the_identity(self):
        model = RealNVP((4, 6, 3), 17, filters=4, num_blocks=1)
        points = random_points(2, model)
        p = 0.05 + 0.9 * points.astype(np.float64) / 17
        logits = np.log(p / (1 - p))
        latents = model.bijector.inverse(points)
        self.assertAllClose(
            latents, reference.squeeze(logits), rtol=1e-4, atol=1e-5
        )
        log_det = np.log(0.9 / 17 / (p * (1 - p))).sum(axis=(1, 2, 3))
        self.assertAllClose(
            model.bijector.inverse_log_det_jacobian(points, event_ndims=3),
            log_det,
            rtol=1e-5,
        )

    def test_order_of_variables(self):
        """Networks, then scalars; the same in all models."""
        first, second = shared_model(), make_model(seed=1)
        for one, other in zip(first.variables, second.variables, strict=True):
            self.assertEqual((one.name, one.shape), (other.name, other.shape))
        weights = [w for network in first.networks for w in network.weights]
        self.assertLen(weights, 150)
        for one, other in zip(first.variables[:150], weights, strict=True):
            self.assertIs(one, other)
        self.assertEqual(
            [v.name for v in first.variables[150:]],
            [
                f"coupling_{i}_{name}"
                for i in range(10)
                for name in ("rescale", "reshift")
            ],
        )

    @parameterized.parameters(
        ("image_shape", (4, 4)),
        ("image_shape", (2, 2, 2, 2)),
        ("image_shape", (3, 4, 1)),
        ("image_shape", (4, 3, 1)),
        ("image_shape", (0, 2, 1)),
        ("image_shape", (2, 2, 0)),
        ("image_shape", (2, -2, 1)),
        ("image_shape", (2.5, 2, 1)),
        ("num_colors", 1),
        ("num_colors", 257),
        ("num_colors", 2.5),
        ("filters", 0),
        ("filters", 3),
        ("filters", 4.5),
        ("num_blocks", 0),
        ("num_blocks", -1),
        ("num_blocks", 1.5),
        ("image_shape", 5),
        ("image_shape", None),
        ("image_shape", "abc"),
        ("image_shape", ("a", 2, 1)),
        ("image_shape", (2, float("inf"), 1)),
        ("num_colors", float("nan")),
        ("num_colors", True),
        ("num_colors", "8"),
        ("filters", None),
        ("num_blocks", [1]),
        ("alpha", "a"),
        ("alpha", None),
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("alpha", -0.1),
        ("alpha", float("nan")),
        ("num_scales", 1),
        ("num_scales", 2.5),
        ("num_scales", None),
    )
    def test_wrong_arguments(self, name, value):
        with self.assertRaises(ValueError) as caught:
            RealNVP(**{name: value})
        self.assertStartsWith(str(caught.exception), f"`{name}` must ")
        self.assertEndsWith(str(caught.exception), f"got {value!r}.")

    @parameterized.parameters(
        ((2, 2, 1), 2),
        ((4, 4, 1), 2),
        ((4, 8, 1), 3),
        ((6, 6, 1), 2),
        ((8, 8, 1), 3),
        ((28, 28, 1), 3),
        ((32, 32, 3), 5),
        ((64, 64, 3), 6),
        ((64, 4, 3), 3),
    )
    def test_most_scales(self, shape, expected):
        self.assertEqual(max_num_scales(shape), expected)
        size = f"{shape[0]}x{shape[1]}"
        with self.assertRaisesRegex(
            ValueError, f"^`num_scales` must be at most {expected} for .*{size}"
        ):
            RealNVP(shape, filters=2, num_blocks=1, num_scales=expected + 1)

    def test_parts_of_three_scales(self):
        model = RealNVP((8, 4, 3), filters=2, num_blocks=1, num_scales=3)
        masks = [
            *(reference.checkerboard_mask((8, 4, 3), p) for p in (1, 0, 1)),
            *(reference.channel_mask((4, 2, 12), p) for p in (1, 0, 1)),
            *(reference.checkerboard_mask((4, 2, 6), p) for p in (1, 0, 1)),
            *(reference.channel_mask((2, 1, 24), p) for p in (1, 0, 1)),
            *(reference.checkerboard_mask((2, 1, 12), p) for p in (1, 0, 1, 0)),
        ]
        for coupling, network, mask in zip(
            model.couplings, model.networks, masks, strict=True
        ):
            self.assertAllEqual(coupling.mask, mask)
            self.assertIs(coupling.network, network)
        self.assertEqual(model.latent_shape, (4, 2, 12))
        scalars = model.trainable_variables[-32:]
        for i, coupling in enumerate(model.couplings):
            self.assertIs(coupling.rescale, scalars[2 * i])
            self.assertIs(coupling.reshift, scalars[2 * i + 1])

    def test_clone_has_the_same_scales(self):
        model = make_model((8, 8, 1), num_scales=3)
        clone = model.clone()
        self.assertEqual(clone.num_scales, 3)
        images = random_images(2, model)
        self.assertAllEqual(
            clone.log_prob(images, seed=1), model.log_prob(images, seed=1)
        )

    def test_whole_numbers_of_numpy(self):
        model = RealNVP(
            np.array([2, 4, 1]), np.int64(3), filters=4.0, num_blocks=1.0
        )
        self.assertEqual(model.image_shape, (2, 4, 1))
        self.assertIs(type(model.num_colors), int)
        self.assertEqual(model.sample(1).shape, [1, 2, 4, 1])


class DensityTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        {},
        {"image_shape": (4, 6, 3), "num_colors": 256, "num_blocks": 2},
        {"image_shape": (4, 6, 3), "num_colors": 2, "alpha": 0.01},
        {"image_shape": (8, 8, 1), "num_scales": 3},
        {"image_shape": (8, 16, 1), "num_scales": 4},
    )
    def test_matches_reference(self, **kwargs):
        model = make_model(**kwargs)
        points = tf.constant(random_points(2, model))
        expected_latents, expected = evaluate_reference(model, points)
        latents = model.bijector.inverse(points)
        self.assertAllClose(latents, expected_latents, rtol=1e-3, atol=1e-4)
        log_prob = model.distribution.log_prob(points)
        self.assertAllClose(log_prob, expected, rtol=1e-5, atol=1e-3)

    def test_encode_matches_reference(self):
        model = shared_model()
        images = random_images(2, model)
        latents, _ = evaluate_reference(model, images + 0.5)
        self.assertAllClose(model.encode(images), latents, rtol=1e-3, atol=1e-4)

    @parameterized.parameters({}, {"image_shape": (4, 8, 2), "num_scales": 3})
    def test_log_det_matches_jacobian(self, **kwargs):
        model = make_model(**kwargs) if kwargs else shared_model()
        [point] = random_points(1, model)
        size = point.size
        # A batch of copies gives all rows of the Jacobian in one pass.
        copies = tf.stack([point] * size)
        with tf.GradientTape() as tape:
            tape.watch(copies)
            latents = model.bijector.inverse(copies)
        rows = tf.reshape(tf.eye(size), latents.shape)
        jacobian = np.reshape(tape.gradient(latents, copies, rows), [size] * 2)
        expected = np.linalg.slogdet(jacobian.astype(np.float64))[1]
        self.assertGreater(abs(expected), 1.0)
        log_det = model.bijector.inverse_log_det_jacobian(
            tf.constant(point), event_ndims=3
        )
        self.assertAllClose(log_det, expected, rtol=1e-4)
        # And the way back, at the same point.
        fldj = model.bijector.forward_log_det_jacobian(
            tf.constant(latents[0].numpy()), event_ndims=3
        )
        self.assertAllClose(fldj, -expected, rtol=1e-4)

    def test_follows_weights_in_eager_mode(self):
        """No value may be left over from before, though the point is the same.

        TFP's bijectors cache, and do not see when Keras's variables change.
        """
        model = make_model()
        points = tf.constant(random_points(2, model))
        before = model.distribution.log_prob(points)
        for variable in model.variables:
            variable.assign(0.7 * variable)
        _, expected = evaluate_reference(model, points)
        after = model.distribution.log_prob(points)
        self.assertAllClose(after, expected, rtol=1e-5, atol=1e-3)
        self.assertNotAllClose(before, after, atol=0.1)

    def test_every_variable_has_a_gradient(self):
        model = shared_model()
        images = random_images(8, model)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.bits_per_dim(images, seed=0))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            self.assertIsNotNone(gradient, variable.path)
            self.assertTrue(np.isfinite(gradient).all(), variable.path)
            self.assertGreater(np.abs(gradient).max(), 0.0, variable.path)

    def test_bits_per_dim(self):
        model = shared_model()
        images = random_images(2, model)
        log_prob = model.log_prob(images, seed=5)
        self.assertEqual(log_prob.shape, [2])
        self.assertEqual(log_prob.dtype, tf.float32)
        bits = model.bits_per_dim(images, seed=5)
        self.assertEqual(bits.dtype, tf.float32)
        self.assertAllClose(bits, log_prob / (-16 * np.log(2.0)))

    def test_extreme_images_are_finite(self):
        for model in (shared_model(), make_model((2, 2, 3), 256)):
            # Many times, each with noise of its own.
            images = np.repeat(extreme_images(model), 25, axis=0)
            log_prob = model.log_prob(images, seed=1)
            self.assertTrue(np.isfinite(log_prob).all())

    def test_support(self):
        """It ends where the docstring of `distribution` says."""
        model = shared_model()
        margin = 0.1 / (2 - 2 * 0.1) * 17
        inside = np.full([2, 4, 4, 1], -margin + 1e-3, np.float32)
        inside[1] = 17 + margin - 1e-3
        log_prob = model.distribution.log_prob(inside)
        self.assertTrue(np.isfinite(log_prob).all())
        outside = np.full([2, 4, 4, 1], -margin - 1e-3, np.float32)
        outside[1] = 17 + margin + 1e-3
        log_prob = model.distribution.log_prob(outside)
        self.assertTrue(np.isnan(log_prob).all())

    def test_no_images(self):
        model = shared_model()
        images = random_images(0, model)
        self.assertEqual(model.log_prob(images).shape, [0])
        latents = model.encode(images)
        self.assertEqual(latents.shape, [0, 2, 2, 4])
        self.assertEqual(model.decode(latents).shape, [0, 4, 4, 1])

    def test_mixed_bfloat16(self):
        """Networks of little precision; density and inverse keep theirs."""
        saved = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = make_model()
        finally:
            keras.config.set_dtype_policy(saved)
        self.assertEqual({v.dtype for v in model.variables}, {"float32"})
        images = np.concatenate(
            [random_images(48, model), extreme_images(model)]
        )
        self.assertAllEqual(model.decode(model.encode(images)), images)
        points = images[:2] + np.float32(0.5)
        log_prob = model.distribution.log_prob(points)
        self.assertEqual(log_prob.dtype, tf.float32)
        _, expected = evaluate_reference(model, points)
        self.assertAllClose(log_prob, expected, rtol=0.02)


class DequantizationTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        # Makes `log_prob` return the points that it evaluates the density at.
        distribution = self.enter_context(
            mock.patch.object(RealNVP, "distribution")
        )
        distribution.log_prob = lambda points: points
        self.model = shared_model()
        self.images = random_images(2, self.model)

    def test_noise_is_uniform(self):
        images = random_images(2000, self.model)
        points = self.model.log_prob(images, seed=3)
        self.assertEqual(points.dtype, tf.float32)
        noise = points.numpy().astype(np.float64) - images
        self.assertGreaterEqual(noise.min(), 0.0)
        self.assertLess(noise.max(), 1.0)
        distance = kolmogorov_smirnov(noise, lambda x: x)
        self.assertLess(distance, ks_limit(noise.size))
        # On its own for each component.
        correlations = np.corrcoef(noise.reshape(2000, -1), rowvar=False)
        correlations -= np.eye(16)
        # 120 normal ones: once in 15,000 times is one beyond five deviations.
        self.assertLess(np.abs(correlations).max(), 5 / math.sqrt(2000))

    def test_same_seed_gives_same_noise(self):
        log_prob = self.model.log_prob
        # Those that differ in the high half of 64 bits alone differ, too.
        seeds = (0, 1, -1, 2**32, 2**32 + 1, [1, 2], tf.constant([2, 1]))
        values = [log_prob(self.images, seed).numpy() for seed in seeds]
        for seed, value in zip(seeds, values, strict=True):
            tf.random.uniform([])  # The generator's state does not matter.
            self.assertAllEqual(log_prob(self.images, seed), value)
            in_graph = tf.function(lambda s=seed: log_prob(self.images, s))
            self.assertAllEqual(in_graph(), value)
        self.assertLen({value.tobytes() for value in values}, len(seeds))
        for dtype in (np.int8, np.int64, np.uint8):
            self.assertAllEqual(log_prob(self.images, dtype(1)), values[1])

    def test_no_seed_gives_fresh_noise(self):
        log_prob = self.model.log_prob
        in_graph = tf.function(log_prob, autograph=False)
        values = [
            function(self.images).numpy().tobytes()
            for function in (log_prob, in_graph)
            for _ in range(5)
        ]
        self.assertLen(set(values), 10)
        # A user can make it repeatable all the same.
        repeated = []
        for _ in range(2):
            tf.random.set_seed(1)
            repeated.append(log_prob(self.images))
        self.assertAllEqual(*repeated)

    def test_bits_per_dim_passes_the_seed(self):
        self.assertAllClose(
            self.model.bits_per_dim(self.images, seed=7),
            self.model.log_prob(self.images, seed=7) / (-16 * np.log(2.0)),
        )

    @parameterized.parameters(np.int8, np.int32, np.int64, np.uint16, np.uint32)
    def test_integer_dtypes(self, dtype):
        points = self.model.log_prob(self.images.astype(dtype), seed=1)
        self.assertAllEqual(points, self.model.log_prob(self.images, seed=1))


@functools.cache
def smallest_model():
    """Three grey levels of four pixels."""
    # Smooth enough to be integrated well.
    return make_model((2, 2, 1), num_colors=3, seed=1, scale=0.2)


@functools.cache
def all_images():
    """The 81 images of the smallest model."""
    return np.stack(np.indices([3] * 4), axis=-1).reshape(81, 2, 2, 1)


def image_index(images):
    """The places of images in `all_images`."""
    return np.reshape(images, [-1, 4]).astype(int) @ [27, 9, 3, 1]


@functools.cache
def integrate_density():
    """Integrates the smallest model's density over its whole support.

    On eight lattices of 2**13 points, each shifted at random, so that their
    differences tell the error.

    Returns:
      Probabilities of images, `[8, 81]` each: of all points that are the image
      after rounding down and clipping, and of those without clipping. The
      support reaches beyond the levels on both sides.
    """
    model = smallest_model()
    log_prob = tf.function(model.distribution.log_prob, autograph=False)
    rng = np.random.default_rng(0)
    n = 2**13
    # The generating vector of F. Kuo's lattice-32001-1024-1048576.
    lattice = np.outer(np.arange(n), [1, 182667, 469891, 498753]) / n
    margin = 3 * 0.05 / 0.9
    clipped, inside = [], []
    for _ in range(8):
        unit = (lattice + rng.uniform(size=4)) % 1.0
        points = -margin + (3 + 2 * margin) * unit
        points = points.reshape(n, 2, 2, 1).astype(np.float32)
        density = np.exp(log_prob(points).numpy().astype(np.float64))
        mass = density * (3 + 2 * margin) ** 4 / n
        index = image_index(np.clip(np.floor(points), 0, 2))
        is_inside = ((points >= 0) & (points < 3)).all(axis=(1, 2, 3))
        clipped.append(np.bincount(index, mass, 81))
        inside.append(np.bincount(index, mass * is_inside, 81))
    return np.array(clipped), np.array(inside)


class ProbabilityTest(tf.test.TestCase):
    """On the smallest model, of which all images can be looked at."""

    def assert_agree(self, values, variances, expected):
        """Checks normal errors: the worst, and all together."""
        errors = (values - expected) ** 2 / variances
        n = errors.size
        self.assertLess(errors.max(), 5**2)
        # Chi-square, five deviations.
        self.assertLess(errors.sum(), n + 5 * math.sqrt(2 * n))

    def test_probabilities_of_all_images_sum_to_one(self):
        clipped, _ = integrate_density()
        totals = clipped.sum(axis=1)
        error = totals.std(ddof=1) / math.sqrt(8)
        self.assertLess(error, 1e-4)
        # Float32 has its errors, too.
        self.assertLess(abs(totals.mean() - 1.0), 5 * error + 1e-5)

    def test_samples_have_these_probabilities(self):
        clipped, _ = integrate_density()
        n = 50_000
        images = smallest_model().sample(n, seed=0)
        frequencies = np.bincount(image_index(images), minlength=81) / n
        expected = clipped.mean(axis=0)
        variances = expected / n + clipped.var(axis=0, ddof=1) / 8
        self.assert_agree(frequencies, variances, expected)

    def test_log_prob_bounds_these_probabilities(self):
        """The mean of `exp(log_prob)` over the noise is the probability."""
        _, inside = integrate_density()
        n = 256
        images = np.repeat(all_images(), n, axis=0)
        density = np.exp(smallest_model().log_prob(images, seed=0))
        density = density.reshape(81, n)
        expected = inside.mean(axis=0)
        variances = (density.var(axis=1) / n) + inside.var(axis=0, ddof=1) / 8
        self.assert_agree(density.mean(axis=1), variances, expected)
        # Some of the support is beyond the levels.
        self.assertBetween(expected.sum(), 0.95, 0.999)


class SingleEvaluationTest(tf.test.TestCase):
    """Each network runs once for a density and once for a sample."""

    def test_number_of_convolutions(self):
        model = shared_model()
        for function, arguments in (
            (model.log_prob, [tf.TensorSpec([None, 4, 4, 1], tf.uint8)]),
            (model.sample, [tf.TensorSpec([], tf.int32)]),
        ):
            graph = tf.function(function, arguments, autograph=False)
            count = graphs.count_ops(graph.get_concrete_function(), "Conv2D")
            self.assertEqual(count, 10 * (2 + 3 * model.num_blocks))

    def test_in_eager_mode(self):
        model = shared_model()
        images = random_images(2, model)
        points = random_points(2, model)
        once = {f"coupling_{i}": 1 for i in range(10)}
        for function in (
            lambda: model.log_prob(images),
            lambda: model.distribution.log_prob(points),
            lambda: model.sample(2),
        ):
            with counted_networks() as calls:
                function()
            self.assertEqual(calls, once)


class CodingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        {},
        {"image_shape": (4, 6, 3), "num_colors": 256},
        {"image_shape": (8, 8, 1), "num_scales": 3},
    )
    def test_decode_undoes_encode(self, **kwargs):
        model = make_model(**kwargs)
        images = np.concatenate(
            [random_images(48, model), extreme_images(model)]
        )
        latents = model.encode(images)
        self.assertEqual(latents.shape, [50, *model.latent_shape])
        self.assertEqual(latents.dtype, tf.float32)
        decoded = model.decode(latents)
        self.assertEqual(decoded.dtype, tf.uint8)
        self.assertAllEqual(decoded, images)

    def test_points_are_rounded_down_and_clipped(self):
        model = shared_model()
        points = random_images(50, model) + np.float32(0.9)
        points[::2] -= 0.8
        levels = np.floor(points)
        # The support of the density reaches beyond the levels by 0.94.
        points[:2, 0] = -0.5
        levels[:2, 0] = 0
        points[2:4, 0] = 17.5
        levels[2:4, 0] = 16
        latents = model.bijector.inverse(points)
        self.assertAllEqual(compiled_decode()(latents), levels)

    def test_far_latents_give_extreme_levels(self):
        """Clipped, not wrapped around."""
        signs = np.random.default_rng(0).choice([-1, 1], [50, 2, 2, 4])
        for size in (1e6, 1e12, 1e24):
            images = compiled_decode()(tf.constant(size * signs, tf.float32))
            self.assertEqual(set(images.numpy().flat), {0, 16})


class SamplingTest(tf.test.TestCase, parameterized.TestCase):
    def test_type_and_shape(self):
        model = make_model((4, 6, 3), num_colors=5)
        images = model.sample(50, seed=0)
        self.assertEqual(images.dtype, tf.uint8)
        self.assertEqual(images.shape, [50, 4, 6, 3])
        self.assertEqual(set(images.numpy().flat), set(range(5)))

    def test_is_decoded_latents(self):
        model = shared_model()
        latents = model.sample_latents(2, seed=0)
        self.assertEqual(latents.dtype, tf.float32)
        self.assertEqual(latents.shape, [2, 2, 2, 4])
        self.assertAllEqual(compiled_decode()(latents), model.sample(2, seed=0))

    def test_number_of_images(self):
        model = shared_model()
        self.assertEqual(model.sample(0).shape, [0, 4, 4, 1])
        for n in (np.int64(3), tf.constant(3), tf.constant(3, tf.int64)):
            self.assertEqual(model.sample_latents(n).shape, [3, 2, 2, 4])

    def test_in_graph(self):
        model = shared_model()
        sample = tf.function(
            model.sample,
            [
                tf.TensorSpec([], tf.int32),
                tf.TensorSpec([], tf.float32),
                tf.TensorSpec([], tf.int64),
            ],
            autograph=False,
        )
        static = sample.get_concrete_function().structured_outputs
        self.assertEqual(static.shape.as_list(), [None, 4, 4, 1])
        self.assertEqual(sample(0, 1.0, 7).shape, [0, 4, 4, 1])
        for arguments in ((3, 1.0, 7), (2, 0.5, -1)):
            images = sample(*arguments)
            latents = model.sample_latents(*arguments)
            self.assertAllEqual(images, compiled_decode()(latents))
            self.assertAllEqual(images, sample(*arguments))
        self.assertNotAllEqual(sample(3, 1.0, 7), sample(3, 1.0, 8))
        for arguments, message in (
            ((-1, 1.0, 0), "`n` must be from 0 to 134217727"),
            ((2**27, 1.0, 0), "`n` must be from 0 to 134217727"),
            ((1, -0.5, 0), "`temperature` must be finite and at least 0"),
            ((1, np.nan, 0), "`temperature` must be finite and at least 0"),
        ):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, message
            ):
                sample(*arguments)

    def test_seed(self):
        sample = shared_model().sample_latents
        seeds = (0, 1, -1, 2**32, [1, 2])
        values = [sample(2, seed=seed).numpy() for seed in seeds]
        self.assertLen({value.tobytes() for value in values}, len(seeds))
        for seed, value in zip(seeds, values, strict=True):
            tf.random.uniform([])  # The generator's state does not matter.
            self.assertAllEqual(sample(2, seed=seed), value)

    def test_no_seed_gives_fresh_latents(self):
        sample = shared_model().sample_latents
        in_graph = tf.function(lambda: sample(2), autograph=False)
        values = [
            function().numpy().tobytes()
            for function in (lambda: sample(2), in_graph)
            for _ in range(5)
        ]
        self.assertLen(set(values), 10)

    def test_temperature(self):
        model = shared_model()
        latents = model.sample_latents(3, seed=1)
        cooler = model.sample_latents(3, temperature=0.25, seed=1)
        self.assertAllClose(cooler, 0.25 * latents, rtol=1e-6)
        images = model.sample(2, temperature=0.0)
        self.assertAllEqual(images[0], images[1])
        mode = compiled_decode()(tf.zeros([1, 2, 2, 4]))
        self.assertAllEqual(images[:1], mode)

    @parameterized.parameters(-1.0, np.nan, np.inf, -np.inf)
    def test_wrong_temperature(self, temperature):
        for function in (
            shared_model().sample,
            shared_model().sample_latents,
        ):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError,
                rf"`temperature` must be finite .*\n?.*{temperature:.0f}",
            ):
                function(1, temperature=temperature)

    @parameterized.parameters(
        # 16 components an image, counted in 31 bits.
        -1,
        -2,
        2**27,
        2**28,
        10**9,
        2**31 - 1,
        2**31,
        2**32 + 1,
        2**62,
    )
    def test_wrong_number(self, n):
        known = tf.function(lambda: shared_model().sample_latents(n))
        for function in (
            lambda: shared_model().sample(n),
            lambda: shared_model().sample_latents(n),
            known,
        ):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError,
                rf"`n` must be from 0 to 134217727, got['\]]?\s*\[?{n}",
            ):
                function()

    def test_temperature_that_overflows(self):
        with self.assertRaisesRegex(
            tf.errors.InvalidArgumentError, "`temperature` must be lower"
        ):
            shared_model().sample(2, temperature=3e38, seed=0)

    @parameterized.parameters(
        ("n", 2.5, TypeError),
        ("n", 2.0, TypeError),
        ("n", np.float32(2), TypeError),
        ("n", float("nan"), TypeError),
        ("n", "a", TypeError),
        ("n", None, TypeError),
        ("n", True, TypeError),
        ("n", 2**70, TypeError),
        ("n", [1, 2], ValueError),
        ("n", [2], ValueError),
        ("temperature", "a", TypeError),
        ("temperature", None, TypeError),
        ("temperature", True, TypeError),
        ("temperature", 1j, TypeError),
        ("temperature", 1e39, TypeError),
        ("temperature", [1.0, 2.0], ValueError),
        ("seed", 1.5, TypeError),
        ("seed", 1.0, TypeError),
        ("seed", [1.0, 2.0], TypeError),
        ("seed", "a", TypeError),
        ("seed", True, TypeError),
        ("seed", 2**63, TypeError),
        ("seed", [[1], [1, 2]], TypeError),
        ("seed", [1], ValueError),
        ("seed", [1, 2, 3], ValueError),
        ("seed", [[1, 2]], ValueError),
    )
    def test_wrong_types_and_shapes(self, name, value, error):
        model = shared_model()
        calls = [
            (model.sample, {"n": 1}),
            (model.sample_latents, {"n": 1}),
        ]
        if name == "seed":
            images = {"images": random_images(1, model)}
            calls += [(model.log_prob, images), (model.bits_per_dim, images)]
        for function, arguments in calls:
            with self.assertRaises(error) as caught:
                function(**arguments | {name: value})
            message = str(caught.exception)
            self.assertStartsWith(message, f"`{name}` must be ")
            self.assertEndsWith(message, f"{checks.short(value)}.")

    def test_temperature_of_any_real_dtype(self):
        sample = shared_model().sample_latents
        expected = sample(2, 1.0, 0)
        for one in (
            1,
            np.int64(1),
            np.float16(1.0),
            np.float64(1.0),
            np.array(1.0),
            tf.constant(1.0, "double"),
        ):
            self.assertAllEqual(sample(2, one, 0), expected)

    def test_seed_that_does_not_fit(self):
        """It would be the same as a negative one."""
        model = shared_model()
        for function, argument in (
            (model.sample_latents, 1),
            (model.log_prob, random_images(1, model)),
        ):
            in_graph = tf.function(function, autograph=False)
            for value in (2**63, 2**64 - 1):
                for call, seed in (
                    (function, np.uint64(value)),
                    (in_graph, tf.constant(value, tf.uint64)),
                ):
                    with self.assertRaisesRegex(
                        tf.errors.InvalidArgumentError,
                        rf"`seed` must be an .*, got['\]]?\s*\[?{value}",
                    ):
                        call(argument, seed=seed)

    def test_seeds_that_fit(self):
        sample = shared_model().sample_latents
        for dtype in (tf.int64, tf.uint64):
            for seed in (0, 5, 2**63 - 1):
                self.assertAllEqual(
                    sample(2, seed=tf.constant(seed, dtype)),
                    sample(2, seed=seed),
                )
        # TensorFlow makes pairs of more bits than its users give it.
        seed = tf.random.experimental.stateless_fold_in(
            [1, 2], tf.constant(3, tf.int64)
        )
        self.assertGreater(np.abs(seed).max(), 2**32)
        self.assertAllEqual(
            sample(2, seed=seed), sample(2, seed=tf.cast(seed, tf.int32))
        )

    def test_latents_of_samples_are_standard_normal(self):
        model = make_model(seed=1, scale=0.2)
        n = 2000
        samples = model.distribution.sample(n, seed=1)
        # A copy, or the cache would give back the latents it was made from.
        latents = model.bijector.inverse(tf.constant(samples.numpy()))
        latents = latents.numpy().astype(np.float64).reshape(n, 16)
        # Five standard deviations of each estimate; one of 152 is beyond once
        # in 11,000 times, and the seed is fixed.
        self.assertLess(np.abs(latents.mean(axis=0)).max(), 5 / math.sqrt(n))
        covariance = latents.T @ latents / n
        diagonal = np.diagonal(covariance)
        self.assertLess(np.abs(diagonal - 1).max(), 5 * math.sqrt(2 / n))
        covariance -= np.diag(diagonal)
        self.assertLess(np.abs(covariance).max(), 5 / math.sqrt(n))
        erf = np.vectorize(math.erf)
        distance = kolmogorov_smirnov(
            latents, lambda z: (1 + erf(z / math.sqrt(2))) / 2
        )
        self.assertLess(distance, ks_limit(latents.size))


class WrongImagesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("log_prob", "bits_per_dim", "encode")
    def test_in_eager_mode(self, name):
        model = shared_model()
        function = getattr(model, name)
        good = random_images(2, model)
        for images in (good[0], good[..., 0], good[:, :2], np.uint8(3)):
            message = (
                "`images` must have the shape [n, 4, 4, 1], "
                f"got {list(images.shape)}"
            )
            with self.assertRaises(ValueError) as caught:
                function(images)
            self.assertIn(message, str(caught.exception))
        for dtype in ("float32", "float64", "bool"):
            with self.assertRaisesRegex(
                TypeError, rf"integers in 0 \.\.\. 16, got dtype {dtype}"
            ):
                function(good.astype(dtype))
        for images in (
            None,
            "a",
            [],
            {},
            [[1], [1, 2]],
            [2**70],
            good.astype(object),
            good.astype("M8[s]"),
            tf.ragged.constant([[1], [1, 2]]),
            tf.sparse.from_dense([[0, 1]]),
        ):
            with self.assertRaisesRegex(
                TypeError, r"`images` must be integers in 0 \.\.\. 16, got .*\."
            ):
                function(images)
        for value in (-1, 17, 255, 256, 2**32, 2**40):
            images = np.full_like(good, 5, np.int64)
            images[1, 3, 3, 0] = value
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError,
                r"`images` must be in 0 \.\.\. 16, got values from'\s"
                rf"{min(value, 5)}\sb'to'\s{max(value, 5)}$",
            ):
                function(images)

    @parameterized.parameters("log_prob", "encode")
    def test_of_unknown_shape(self, name):
        model = shared_model()
        function = tf.function(
            getattr(model, name),
            [tf.TensorSpec(None, tf.uint8)],
            autograph=False,
        )
        good = random_images(2, model)
        self.assertEqual(function(good).shape[0], 2)
        for images in (
            good[0],
            good[..., 0],
            good[:, :2],
            np.reshape(good, [4, 2, 4, 1]),
            np.reshape(good, [1, 2, 4, 4, 1]),
            np.reshape(good, [2, 4, 4, 1, 1]),
            np.uint8(3),
        ):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError,
                r"`images` must have the shape \[n, 4, 4, 1\], got",
            ):
                function(images)
        with self.assertRaisesRegex(
            tf.errors.InvalidArgumentError,
            r"`images` must be in 0 \.\.\. 16, got",
        ):
            function(good + 17)


class WrongLatentsTest(tf.test.TestCase, parameterized.TestCase):
    def test_in_eager_mode(self):
        decode = shared_model().decode
        for shape in ([2, 2, 4], [3, 4, 4, 1], [3, 2, 2], [1, 3, 2, 2, 4], []):
            with self.assertRaises(ValueError) as caught:
                decode(tf.zeros(shape))
            self.assertIn(
                f"`latents` must have the shape [n, 2, 2, 4], got {shape}",
                str(caught.exception),
            )
        for value in (np.nan, np.inf, -np.inf):
            latents = np.zeros([2, 2, 2, 4], np.float32)
            latents[1, 1, 1, 3] = value
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, "`latents` must be finite"
            ):
                decode(latents)

    @parameterized.parameters(np.float16, np.float64, np.int64, np.uint8)
    def test_real_dtypes(self, dtype):
        latents = np.arange(32).reshape(2, 2, 2, 4) % 3
        images = shared_model().decode(latents.astype(dtype))
        self.assertAllEqual(
            images, shared_model().decode(latents.astype(np.float32))
        )

    def test_no_numbers(self):
        latents = np.zeros([2, 2, 2, 4], np.float32)
        for wrong in (
            None,
            {},
            [[1.0], [1.0, 2.0]],
            "a",
            latents.astype(bool),
            latents.astype(str),
            latents.astype(object),
            latents.astype(complex),
            tf.ragged.constant([[1.0], [1.0, 2.0]]),
        ):
            with self.assertRaisesRegex(
                TypeError, "`latents` must be numbers of float32, got .*"
            ):
                shared_model().decode(wrong)

    def test_overflow(self):
        """Not silently an image of zeros, which NaN would become."""
        for value in (3e38, -3e38):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, "`latents` must be smaller"
            ):
                compiled_decode()(tf.fill([1, 2, 2, 4], value))
        with self.assertRaisesRegex(
            tf.errors.InvalidArgumentError, "`latents` must be finite float32"
        ):
            shared_model().decode(np.full([1, 2, 2, 4], 1e300))

    def test_of_unknown_shape(self):
        model = shared_model()
        decode = tf.function(
            model.decode, [tf.TensorSpec(None)], autograph=False
        )
        latents = model.sample_latents(2, seed=0)
        self.assertAllEqual(decode(latents), model.decode(latents))
        for shape in ([2, 2, 4], [2, 4, 2, 2], [1, 2, 2, 2, 4], [32], []):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError,
                r"`latents` must have the shape \[n, 2, 2, 4\], got",
            ):
                decode(tf.zeros(shape))
        with self.assertRaisesRegex(
            tf.errors.InvalidArgumentError, "`latents` must be finite"
        ):
            decode(np.nan * latents)


class CheckpointTest(tf.test.TestCase):
    def test_restores_every_variable(self):
        model, restored = make_model(seed=0), make_model(seed=1)
        points = tf.constant(random_points(2, model))
        expected = model.distribution.log_prob(points)
        self.assertNotAllClose(
            restored.distribution.log_prob(points), expected, atol=0.1
        )
        path = tf.train.Checkpoint(model=model).save(
            f"{self.get_temp_dir()}/model"
        )
        saved = [
            (name, shape)
            for name, shape in tf.train.list_variables(path)
            if name.startswith("model/")
        ]
        self.assertLen(saved, 170)
        self.assertEqual(
            sum(math.prod(shape) for _, shape in saved), model.num_parameters
        )
        status = tf.train.Checkpoint(model=restored).restore(path)
        status.assert_consumed()
        for old, new in zip(model.variables, restored.variables, strict=True):
            self.assertAllEqual(new, old)
        # To the same point, which nothing may be left of.
        self.assertAllEqual(restored.distribution.log_prob(points), expected)


if __name__ == "__main__":
    tf.test.main()
