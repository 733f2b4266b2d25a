"""Tests for model."""

import functools
import math
import pickle

import graphs
import image_arrays
import jacobians
import numpy as np
import reference
import scipy.stats
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import bijectors
from tf_realnvp.flow.multi_scale import max_num_scales
from tf_realnvp.flow.real_nvp import RealNVP

make_model = functools.partial(small_models.displaced, 0.3, filters=4)


# The models that all properties below are tested of.
MODELS = {
    "small": {},
    "many_levels": {"num_colors": 65536},
    "real_numbers": {"num_colors": None},
    "deep": {
        "image_shape": (4, 8, 1),
        "num_colors": 256,
        "num_scales": 3,
        "num_blocks": 2,
        "num_couplings": [2, 1, 3],
    },
    "mixed_masks": {
        "image_shape": (4, 8, 3),
        "num_couplings": (1, 5, 1),
        "channel_masks": "mixed",
    },
    "periodic": {  # Its last grids are 2 pixels high and 1.
        "image_shape": (4, 8, 1),
        "num_colors": None,
        "num_scales": 3,
        "filters": 8,
        "padding": "periodic",
    },
    "four_scales": {"image_shape": (8, 16, 1), "num_scales": 4, "filters": 2},
    "two_levels": {"image_shape": (4, 6, 3), "num_colors": 2, "alpha": 0.01},
    "variational": {
        "image_shape": (4, 6, 1),
        "filters": 8,
        "dequantization": "variational",
    },
    "classes": {
        "num_couplings": (1, 1, 1),
        "num_blocks": 2,
        "num_classes": 3,
        "class_probs": (0.5, 0.2, 0.3),
    },
    "variational_classes": {
        "num_couplings": (1, 1, 1),
        "num_classes": 2,
        "dequantization": "variational",
    },
}
over_models = parameterized.parameters(*MODELS)
# Those of which each has a part that no other has.
DIFFERENT = ("real_numbers", "deep", "periodic", "variational_classes")


LABELS = np.array([2, 0, 1, 2])
IMAGES = np.zeros([2, 4, 4, 1], np.uint8)
LATENTS = np.zeros([2, 2, 2, 4], np.float32)


@functools.cache
def shared(name="small"):
    """A model of the table, for all tests that do not change it."""
    return make_model(**MODELS[name])


def random_images(n, model):
    if model.num_colors is None:
        return small_models.points(n, model)
    return image_arrays.random_images(
        n, *model.image_shape, num_colors=model.num_colors
    )


def some_labels(n, model):
    """Labels of images, `None` if the model has no classes."""
    if model.num_classes is None:
        return None
    return (2 + np.arange(n)) % model.num_classes


def extreme_images(model):
    shape = (1, *model.image_shape)
    ends = (0, (model.num_colors or 10) - 1)
    return np.concatenate([np.full(shape, i, model.values.dtype) for i in ends])


class EveryModelTest(untraced.UntracedTestCase, parameterized.TestCase):
    @over_models
    def test_matches_reference(self, name):
        model = shared(name)
        images, labels = random_images(2, model), some_labels(2, model)
        points = images
        if model.num_colors is not None:  # Where `encode` dequantizes to.
            points = tf.constant(images + np.float32(0.5))
        expected_latents, expected = reference.of_model(model, points, labels)
        latents = model.encode(images, labels)
        self.assertAllClose(latents, expected_latents, rtol=1e-3, atol=1e-4)
        if model.dequantization == "uniform":  # That of the other has its own.
            log_prob = model.log_density(points, labels)
            self.assertAllClose(log_prob, expected, rtol=1e-5, atol=1e-3)

    @parameterized.parameters(*DIFFERENT)
    def test_log_dets_match_jacobian(self, name):
        model = shared(name)
        point = tf.constant(small_models.points(1, model)[0])

        def condition(*batch_shape):
            if model.num_classes is None:
                return {}
            labels = tf.ones(batch_shape, tf.int32)
            return bijectors.condition_kwargs(model.bijector, label=labels)

        expected = jacobians.log_abs_det(
            lambda x: model.bijector.inverse(x, **condition(len(x))), point
        )
        self.assertGreater(abs(expected), 1.0)
        latents = model.bijector.inverse(point, **condition()).numpy()
        log_det = model.bijector.inverse_log_det_jacobian(
            tf.identity(point), 3, **condition()
        )
        # The derivative of a sigmoid near 1 has few digits in float32.
        rtol = 1e-4 if model.dequantization == "uniform" else 2e-3
        self.assertAllClose(log_det, expected, rtol=rtol)
        # And the way back, at the same point.
        fldj = model.bijector.forward_log_det_jacobian(
            tf.constant(latents), 3, **condition()
        )
        self.assertAllClose(fldj, -expected, rtol=rtol)

    @over_models
    def test_decode_undoes_encode(self, name):
        model = shared(name)
        images = np.concatenate(
            [random_images(48, model), extreme_images(model)]
        )
        for labels in {None: [None]}.get(
            model.num_classes, [some_labels(50, model), 1]
        ):
            latents = model.encode(images, labels)
            self.assertEqual(latents.shape, [50, *model.latent_shape])
            self.assertEqual(latents.dtype, tf.float32)
            decoded = model.decode(latents, labels)
            self.assertEqual(decoded.dtype, model.values.dtype)
            tolerance = 0.0 if model.num_colors else 1e-5
            self.assertAllClose(decoded, images, tolerance, tolerance)

    @over_models
    def test_extreme_images_are_finite(self, name):
        model = shared(name)
        # Many times, each with noise of its own.
        images = np.repeat(extreme_images(model), 25, axis=0)
        self.assertTrue(np.isfinite(model.log_prob(images, seed=1)).all())

    @over_models
    def test_every_variable_has_a_gradient(self, name):
        model = shared(name)
        images, labels = random_images(8, model), some_labels(8, model)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.log_prob(images, 0, labels))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            self.assertIsNotNone(gradient, variable.path)
            self.assertTrue(np.isfinite(gradient).all(), variable.path)
            sizes = np.abs(gradient).max()
            if variable.name == "embedding":  # Of each class.
                sizes = np.abs(gradient).max(axis=(0, 2))
            # Two filters may both be zero.
            if model.filters > 2:
                self.assertGreater(np.min(sizes), 0.0, variable.path)

    @parameterized.parameters(*DIFFERENT)
    def test_no_images(self, name):
        model = shared(name)
        images, labels = random_images(0, model), some_labels(0, model)
        self.assertEqual(model.log_prob(images).shape, [0])
        latents = model.encode(images, labels)
        self.assertEqual(latents.shape, [0, *model.latent_shape])
        self.assertEqual(model.decode(latents, labels).shape, images.shape)
        self.assertEqual(model.sample(0).shape, images.shape)

    @parameterized.parameters(
        ("deep", RealNVP.clone, {"observe": "mask"}),
        *((name, RealNVP.clone, {}) for name in ("classes", "variational")),
        ("real_numbers", lambda model: pickle.loads(pickle.dumps(model)), {}),
    )
    def test_copies(self, name, copy, config):
        original = make_model(**MODELS[name], **config)
        original.metadata = {"class_names": list("abc")}
        images = random_images(2, original)
        expected = original.log_prob(images, seed=1).numpy()
        other = copy(original)
        self.assertEqual(other.name, original.name)
        self.assertEqual(other.get_config(), original.get_config())
        self.assertEqual(other.metadata, original.metadata)
        # TensorFlow wraps it not.
        self.assertIs(type(other.metadata["class_names"]), list)
        self.assertAllEqual(other.log_prob(images, seed=1), expected)
        other.variables[0].assign_add(tf.ones_like(other.variables[0]))
        self.assertAllEqual(original.log_prob(images, seed=1), expected)


class PeriodicTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(
        # Translations that keep all masks and blocks.
        (2, (8, 12, 2), (4, 4), {}),
        (2, (8, 12, 2), (2, 2), {"num_colors": None}),
        (3, (8, 16, 1), (0, 8), {"dequantization": "variational"}),
    )
    def test_commutes_with_translations(self, num_scales, shape, shift, config):
        config |= {"image_shape": shape, "num_scales": num_scales}
        for padding in ("periodic", "same"):
            model = make_model(padding=padding, **config)
            points = small_models.points(2, model)
            of_latents = [size // 2 for size in shift]
            expected = (
                model.log_density(points).numpy(),
                np.roll(model.bijector.inverse(points), of_latents, (1, 2)),
            )
            moved = np.roll(points, shift, (1, 2))
            found = model.log_density(moved), model.bijector.inverse(moved)
            for value, its in zip(found, expected, strict=True):
                error = np.abs(value - its).max() / np.abs(its).max()
                self.assertEqual(error < 1e-5, padding == "periodic")


class GraphTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("deep", "variational_classes")
    def test_each_network_runs_once(self, name):
        model = shared(name)
        noise = 0 if model.dequantization == "uniform" else 4 * (2 + 3)
        couplings = len(model.couplings) * (2 + 3 * model.num_blocks)
        images = tf.TensorSpec([None, *model.image_shape], tf.uint8)
        for function, argument, expected in (
            (model.log_prob, images, couplings + noise),
            (model.sample, tf.TensorSpec([], tf.int32), couplings),
        ):
            graph = tf.function(function, [argument], autograph=False)
            concrete = graph.get_concrete_function()
            self.assertEqual(graphs.count_ops(concrete, "Conv2D"), expected)

    def test_same_as_in_eager_mode(self):
        """The cache does not leak tensors out of loops."""
        model = shared("variational_classes")
        images = random_images(4, model)

        def run(images):
            latents = model.encode(images, 1)
            return (
                model.log_prob(images, 1),
                model.log_prob(images, 1, 1),
                model.log_prob(images, 1),
                latents,
                model.decode(latents, 1),
            )

        spec = tf.TensorSpec([None, *model.image_shape], tf.uint8)
        in_graph = tf.function(run, [spec], autograph=False)
        results = in_graph(images)
        with untraced.untraced():
            expected = run(images)
        for value, eager in zip(results, expected, strict=True):
            self.assertAllClose(value, eager, rtol=1e-5, atol=1e-4)
        for of_nothing in in_graph(images[:0]):
            self.assertEqual(of_nothing.shape[0], 0)


class StructureTest(untraced.UntracedTestCase, parameterized.TestCase):
    def test_default_model(self):
        model = RealNVP()
        self.assertEqual(model.latent_shape, (16, 16, 12))
        self.assertEqual((model.num_colors, model.alpha), (256, 0.1))
        self.assertEqual((model.filters, model.num_blocks), (128, 8))
        self.assertEqual(model.num_parameters, 4542120)
        self.assertLen(model.trainable_variables, 170)
        self.assertEqual({v.dtype for v in model.variables}, {"float32"})
        # Drawn for each network anew.
        directions = [network.weights[0] for network in model.networks]
        draws = {direction[0, 0, 0, 0].numpy() for direction in directions}
        self.assertLen(draws, 10)

    @parameterized.parameters(
        ("image_shape", (4, 4), (3, 4, 1), (4, 3, 1), (0, 2, 1), (2.5, 2, 1)),
        ("num_colors", 1, 65537, "8"),
        ("filters", 0, 3),
        ("num_blocks", 0),
        ("alpha", "a", 0.0, 9e-7, 0.999, math.nan),
        ("num_scales", 1, 6),
        ("num_couplings", (3, 3), (3, 3, 0)),
        ("dequantization", "learned"),
        ("num_classes", 0, 2.5),
        ("class_probs", [1.0], [0.5, 0.4], [1.5, -0.5]),
    )
    def test_wrong_arguments(self, name, *values):
        for value in values:
            arguments = {"num_classes": 2} | {name: value}
            with self.assertRaisesRegex(ValueError, f"^`{name}` must "):
                RealNVP(**arguments)

    def test_most_scales(self):
        for shape, expected in (
            ((4, 8, 1), 3),
            ((6, 6, 1), 2),
            ((64, 4, 3), 3),
        ):
            self.assertEqual(max_num_scales(shape), expected)
            with self.assertRaisesRegex(ValueError, "^`num_scales` must be a"):
                RealNVP(shape, num_scales=expected + 1)

    def test_is_identity(self):
        model = RealNVP((4, 4, 1), 17, 4, 1, num_couplings=(1, 1, 1))
        self.assertTrue(model.is_identity())
        for variable in (
            model.couplings[0].reshift,
            model.networks[1].last.gain,
            model.networks[2].last.bias,
        ):
            variable.assign(variable + 0.5)
            self.assertFalse(model.is_identity())
            variable.assign(variable - 0.5)

    def test_variational_dequantization(self):
        """Learned noise changes nothing but the density."""
        learned = shared("variational")
        config = learned.get_config() | {"dequantization": "uniform"}
        uniform = RealNVP(**config)
        for new, old in zip(uniform.variables, learned.variables, strict=False):
            new.assign(old)
        images = random_images(4, learned)
        self.assertAllEqual(learned.encode(images), uniform.encode(images))
        self.assertAllEqual(
            learned.sample(3, seed=1), uniform.sample(3, seed=1)
        )
        log_prob = uniform.log_prob(images, seed=0)
        self.assertNotAllClose(learned.log_prob(images, 0), log_prob, atol=0.1)


class EagerDensityTest(tf.test.TestCase):
    """Tests networks that are traced, as users have them."""

    def test_follows_weights(self):
        """The density is not taken from the cache when weights have changed.

        TFP's bijectors do not see that Keras variables change, and keep the
        latents of a point as long as they exist.
        """
        model = make_model()
        points = tf.constant(small_models.points(2, model))
        kept = model.bijector.inverse(points)
        before = model.log_density(points)
        for variable in model.variables:
            variable.assign(0.7 * variable)
        with tf.GradientTape() as tape:
            after = model.log_density(points)
        _, expected = reference.of_model(model, points)
        self.assertAllClose(after, expected, rtol=1e-5, atol=1e-3)
        self.assertNotAllClose(before, after, atol=0.1)
        self.assertNotIn(None, tape.gradient(after, model.variables))
        self.assertIs(model.bijector.inverse(points), kept)


class DequantizationTest(tf.test.TestCase):
    def test_noise_is_uniform(self):
        model = shared()
        images = random_images(2000, model)
        points = model.dequantize(images, seed=3)
        self.assertEqual(points.dtype, tf.float32)
        expected = model.distribution.log_prob(points[:2])
        log_prob = model.log_prob(images, 3)[:2]
        self.assertAllClose(log_prob, expected, rtol=1e-5)
        noise = points.numpy().astype(np.float64) - images
        self.assertGreaterEqual(noise.min(), 0.0)
        self.assertLess(noise.max(), 1.0)
        test = scipy.stats.kstest(noise.ravel(), "uniform")
        self.assertGreater(test.pvalue, 1e-6)
        # On its own for each component.
        correlations = np.corrcoef(noise.reshape(2000, -1), rowvar=False)
        correlations -= np.eye(16)
        # 120 normal ones: once in 15,000 times is one beyond five deviations.
        self.assertLess(np.abs(correlations).max(), 5 / math.sqrt(2000))


class SeedTest(tf.test.TestCase, parameterized.TestCase):
    """Seeds of the noise and of samples."""

    @parameterized.parameters(
        lambda seed=None: shared().dequantize(IMAGES, seed),
        lambda seed=None: shared().sample_latents(2, 1.0, seed),
    )
    def test_draws(self, draw):
        # Those that differ in the high half of 64 bits alone differ, too.
        seeds = (0, 1, -1, 2**32, 2**63 - 1, [1, 2], tf.constant([2, 1]))

        def draw_all():
            return [draw(seed) for seed in seeds]

        values = [value.numpy() for value in draw_all()]
        self.assertLen({value.tobytes() for value in values}, len(seeds))
        tf.random.uniform([])  # The generator's state does not matter.
        for again in (draw_all(), tf.function(draw_all)()):
            for value, expected in zip(again, values, strict=True):
                self.assertAllEqual(value, expected)
        # Without one they are fresh.
        in_graph = tf.function(draw, autograph=False)
        fresh = [function().numpy() for function in 3 * (draw, in_graph)]
        self.assertLen({value.tobytes() for value in fresh}, 6)

    def test_noise_of_each(self):
        """An image gets the noise that it has alone with its seed."""
        model = shared()
        images, seeds = random_images(4, model), [5, 5, -(2**63), 2**40]
        alone = [
            model.dequantize(images[i : i + 1], seeds[i])[0] for i in range(4)
        ]
        in_graph = tf.function(model.dequantize_each, autograph=False)
        for dequantize in (model.dequantize_each, in_graph):
            self.assertAllEqual(dequantize(images, np.array(seeds)), alone)


@functools.cache
def smallest_model():
    """Three grey levels of four pixels."""
    # Smooth enough to be integrated well.
    return small_models.displaced(0.2, (2, 2, 1), 3, seed=1, filters=4)


@functools.cache
def all_images():
    """The 81 images of the smallest model."""
    return np.stack(np.indices([3] * 4), axis=-1).reshape(81, 2, 2, 1)


def image_index(images):
    """Returns the indices of images in `all_images`."""
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
    """Tests a model so small that all of its images can be listed."""

    def assert_agree(self, values, variances, expected):
        """Checks that errors are normal: the largest one and their sum."""
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
        n = 128
        images = np.repeat(all_images(), n, axis=0)
        density = np.exp(smallest_model().log_prob(images, seed=0))
        density = density.reshape(81, n)
        expected = inside.mean(axis=0)
        variances = (density.var(axis=1) / n) + inside.var(axis=0, ddof=1) / 8
        self.assert_agree(density.mean(axis=1), variances, expected)
        # Some of the support is beyond the levels.
        self.assertBetween(expected.sum(), 0.8, 0.999)


class ConditionalTest(untraced.UntracedTestCase, parameterized.TestCase):
    """Models with classes."""

    def test_mixture_and_bayes(self):
        model = shared("classes")
        images = random_images(4, model)
        by_class = np.stack(
            [model.log_prob(images, 5, k).numpy() for k in range(3)], axis=1
        ).astype(np.float64)
        self.assertAllClose(
            model.log_prob(images, 5, LABELS),
            by_class[range(4), LABELS],
            rtol=1e-5,
        )
        joint = by_class + np.log(model.class_probs)
        mixture = np.logaddexp.reduce(joint, axis=1)
        self.assertAllClose(model.log_prob(images, 5), mixture, rtol=1e-5)
        for label in (None, [1, 2]):
            self.assertAllClose(
                model.log_prob_each(images[:2], [5, 5], label)[0],
                model.log_prob(images[:1], 5, label and label[0])[0],
                rtol=1e-5,
            )
        posterior = model.classify(images, 5)
        self.assertEqual(posterior.dtype, tf.float32)
        self.assertAllClose(posterior, joint - mixture[:, None], atol=1e-3)

    def test_distribution(self):
        """It takes labels as the methods do."""
        model, labels = shared("classes"), tf.constant(LABELS)
        points = tf.constant(small_models.points(4, model))
        expected = model.log_density(points, labels)
        distribution = model.distribution
        self.assertAllClose(
            distribution.log_prob(points, label=labels), expected
        )
        with self.assertRaisesRegex(ValueError, "needs a `label`"):
            distribution.log_prob(tf.identity(points))
        with self.assertRaisesRegex(ValueError, "has no classes to take a"):
            shared().distribution.log_prob(points, label=labels)

    def test_samples(self):
        model = shared("classes")
        images = model.sample(6, 0.9, seed=1, label=2)
        latents = model.sample_latents(6, 0.9, seed=1)
        self.assertAllEqual(images, model.decode(latents, 2))
        self.assertAllClose(latents, 0.9 * model.sample_latents(6, seed=1))
        mixed = model.sample(6, 0.9, seed=1, label=[2, 2, 2, 0, 0, 0])
        self.assertAllEqual(mixed[:3], images[:3])
        self.assertNotAllEqual(mixed[3:], images[3:])
        labels = model.sample_labels(6, seed=1)
        self.assertEqual(labels.dtype, tf.int32)
        drawn = model.sample(6, 0.9, seed=1)
        self.assertAllEqual(drawn, model.sample(6, 0.9, 1, labels))
        labels = model.sample_labels(3000, seed=0).numpy()
        frequencies = np.bincount(labels, minlength=3) / 3000
        # Five standard deviations.
        self.assertAllClose(frequencies, model.class_probs, atol=0.05)

    def test_class_without_probability(self):
        probs = shared("variational_classes").class_probs
        self.assertEqual(probs, (0.5, 0.5))  # All the same by default.
        model = make_model(
            num_couplings=(1, 1, 1), num_classes=2, class_probs=[0.0, 1.0]
        )
        images = random_images(2, model)
        self.assertAllClose(
            model.log_prob(images, 1), model.log_prob(images, 1, 1), rtol=1e-6
        )
        self.assertAllClose(model.classify(images), [[-np.inf, 0.0]] * 2)
        self.assertAllEqual(model.sample_labels(9), [1] * 9)


@functools.cache
def compiled_decode():
    """Of the small model: quicker than eager mode for many batches."""
    spec = tf.TensorSpec([None, 2, 2, 4])
    return tf.function(shared().decode, [spec], autograph=False)


class CodingTest(tf.test.TestCase):
    def test_points_are_rounded_down_and_clipped(self):
        model = shared()
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
        """Values are clipped and do not wrap around."""
        signs = np.random.default_rng(0).choice([-1, 1], [50, 2, 2, 4])
        for size in (1e6, 1e12, 1e24):
            images = compiled_decode()(tf.constant(size * signs, tf.float32))
            self.assertEqual(set(images.numpy().flat), {0, 16})


GOOD = {
    "log_prob": {"images": IMAGES},
    "bits_per_dim": {"images": IMAGES},
    "classify": {"images": IMAGES},
    "encode": {"images": IMAGES},
    "decode": {"latents": LATENTS},
    "sample": {"n": 1},
    "sample_labels": {"n": 1},
}


class WrongArgumentsTest(tf.test.TestCase, parameterized.TestCase):
    """`export_test` and `assertions_test` have other wrong arguments."""

    @parameterized.parameters(
        *(
            ("`label` must not be given", name, {"label": 0})
            for name in ("log_prob", "bits_per_dim", "encode", "sample")
        ),
        *(
            ("model has no classes", name, {})
            for name in ("classify", "sample_labels")
        ),
    )
    def test_no_classes(self, message, function, arguments):
        with self.assertRaisesRegex(ValueError, message):
            getattr(shared(), function)(**GOOD[function] | arguments)

    @parameterized.parameters("log_prob", "encode", "decode", "sample")
    def test_labels(self, name):
        function = getattr(shared("classes"), name)
        error = tf.errors.InvalidArgumentError
        with self.assertRaisesRegex(error, "`label` must be an integer"):
            function(**GOOD[name], label=3)
        if name in ("encode", "decode"):
            with self.assertRaisesRegex(ValueError, "`label` must be given"):
                function(**GOOD[name])


class PartOfOthersTest(untraced.UntracedTestCase):
    def test_checkpoint_restores_every_variable(self):
        model, restored = make_model(), small_models.displaced(0.5, filters=4)
        points = tf.constant(small_models.points(2, model))
        expected = model.distribution.log_prob(points)
        self.assertNotAllClose(
            restored.distribution.log_prob(points), expected, atol=0.1
        )
        path = f"{self.get_temp_dir()}/model"
        path = tf.train.Checkpoint(model=model).save(path)
        # Each once; with the checkpoint's own number and graph of objects.
        self.assertLen(tf.train.list_variables(path), len(model.variables) + 2)
        status = tf.train.Checkpoint(model=restored).restore(path)
        status.assert_consumed()
        self.assertTrue(small_models.same_weights(restored, model))
        # To the same point, which nothing may be left of.
        self.assertAllEqual(restored.distribution.log_prob(points), expected)

    def test_is_part_of_a_module(self):
        module = tf.Module()
        module.flow = make_model(dequantization="variational")
        module.scale = tf.Variable(1.0)
        expected = [v.value for v in module.flow.trainable_variables]
        found = {id(v) for v in module.trainable_variables}
        self.assertEqual(found, {id(v) for v in [*expected, module.scale]})
