"""Tests for context: densities that depend on vectors and images."""

import functools
import pickle
from unittest import mock

import command_lines
import folders
import image_arrays
import jacobians
import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp import bit_maps, data, detection, observations, restoration
from tf_realnvp.cli import main
from tf_realnvp.data import image_files
from tf_realnvp.errors import DataError
from tf_realnvp.flow.unet import UNet
from tf_realnvp.serving import weights
from tf_realnvp.training.objectives import Likelihood
from tf_realnvp.utils.batches import stream

MODELS = {
    "vector": {"context_shape": (3,)},
    "image": {"context_shape": (4, 4, 2), "padding": "periodic"},
    "coarse_image": {"context_shape": (2, 2, 1)},
    "several": {
        # Names that TFP gives to arguments of its own.
        "context_shape": {"b": (2,), "x": (16, 4, 1)},
        "image_shape": (16, 4, 1),
        "num_colors": None,
        "num_classes": 3,
    },
    "learned_noise": {
        "context_shape": (2,),
        "dequantization": "variational",
    },
}
over_models = parameterized.parameters(*MODELS)


@functools.cache
def shared(name):
    """A model of the table, for all tests that do not change it."""
    return small_models.displaced(0.3, filters=4, **MODELS[name])


def case(name, n, seed=0):
    """Returns a model, images, and what they are conditioned on."""
    model, rng = shared(name), np.random.default_rng(seed)
    points = small_models.points(n, model)
    given = tf.nest.map_structure(
        lambda spec: np.float32(rng.normal(size=(n, *spec.shape[1:]))),
        {"context": model.condition.specs["context"]},
    )
    if model.num_classes is not None:
        given["label"] = np.arange(n) % 3
    return model, points if model.values.are_real else np.uint8(points), given


def rows(given, which):
    return tf.nest.map_structure(lambda values: values[which], given)


class ContextTest(untraced.UntracedTestCase, parameterized.TestCase):
    @over_models
    def test_matches_reference(self, name):
        model, images, given = case(name, 3)
        points = np.float32(images) + model.values.middle
        contexts = tf.nest.flatten(given["context"])
        latents, expected = reference.of_model(
            model, points, given.get("label"), contexts=contexts
        )
        found = model.encode(images, **given)
        self.assertAllClose(found, latents, rtol=1e-3, atol=1e-4)
        if model.dequantization == "uniform":
            condition = model.condition(points, **given)
            found = model.log_density(tf.constant(points), **condition)
            self.assertAllClose(found, expected, rtol=1e-5, atol=1e-3)

    def test_order_of_several(self):
        model, images, given = case("several", 3)
        turned = dict(reversed(given["context"].items()))
        self.assertAllEqual(
            model.log_prob(images, 1, **given | {"context": turned}),
            model.log_prob(images, 1, **given),
        )

    @parameterized.parameters(("same", "constant"), ("periodic", "wrap"))
    def test_unet(self, padding, mode):
        small_models.set_seed(0)
        network = UNet(2, (28, 56, 3), padding)
        for weight in network.weights:
            weight.assign_add(0.1 * tf.random.normal(weight.shape))
        inputs = np.random.default_rng(0).normal(size=[2, 28, 56, 2])
        expected = reference.unet(inputs, network.get_weights(), mode)
        self.assertAllClose(network(inputs), expected, rtol=1e-4, atol=1e-4)

    def test_squared_error_trains_the_estimator(self):
        """And nothing else does."""
        model, images, given = case("image", 3)
        points = tf.cast(images, tf.float32) + 0.5
        estimate = model.condition.estimate(given["context"])
        expected = np.square(estimate - points / 17.0).sum(axis=(1, 2, 3))
        errors = model.squared_errors(points, given["context"])
        self.assertAllClose(errors, expected, rtol=1e-5)
        condition = model.condition(points, **given)
        own = [v.value for v in model.condition.estimator.trainable_variables]
        with tf.GradientTape(persistent=True) as tape:
            losses = Likelihood().to_train(model, points, condition)
            errors = model.squared_errors(points, given["context"])
            density = model.log_density(points, **condition)
        for found, right in zip(
            tape.gradient(losses, own), tape.gradient(errors, own), strict=True
        ):
            self.assertAllClose(found, right)
            self.assertTrue(np.any(found))
        self.assertAllEqual(tape.gradient(density, own), [None] * len(own))
        visible = observations.visible_pixels(images, 1.0)
        errors = of_masks().squared_errors(points, visible)
        self.assertAllEqual(errors, np.zeros(3))

    @parameterized.parameters(*MODELS.keys() - {"learned_noise"})
    def test_log_det_matches_jacobian(self, name):
        model, _, given = case(name, 1)
        latents = tf.random.stateless_normal([1, *model.latent_shape], [1, 2])
        decode = functools.partial(model.decode_points, **rows(given, 0))
        points = decode(latents)
        log_prob = model.log_density(points, **model.condition(points, **given))
        base = np.sum(reference.log_normal(latents.numpy()))
        log_det = jacobians.log_abs_det(decode, latents[0])
        self.assertAllClose(base - log_det, log_prob[0], rtol=1e-3)

    @over_models
    def test_one_for_all(self, name):
        model, images, given = case(name, 3)
        single = given | {"context": rows(given["context"], 1)}
        repeated = given | {"context": rows(given["context"], [1, 1, 1])}
        found = model.log_prob(images, 1, **single)
        same = model.log_prob(images, 1, **repeated)
        self.assertAllClose(found, same, rtol=1e-6)
        differences = found - model.log_prob(images, 1, **given)
        self.assertNotAllClose(differences[::2], [0.0, 0.0], atol=1e-2)
        self.assertAllClose(differences[1], 0.0, atol=1e-3)

    @over_models
    def test_samples_are_given_the_context(self, name):
        model, _, given = case(name, 4)
        latents = model.sample_latents(4, seed=3)
        samples = model.sample(4, seed=3, **given)
        self.assertAllEqual(samples, model.decode(latents, **given))
        if not model.values.are_real:
            latents = model.encode(samples, **given)
            self.assertAllEqual(model.decode(latents, **given), samples)
        *_, others = case(name, 4, seed=1)
        self.assertNotAllEqual(samples, model.sample(4, seed=3, **others))

    @over_models
    def test_gradients(self, name):
        """Each weight has one; a new model does not depend on the context."""
        model, images, given = case(name, 3)
        points = model.dequantize(images, 1)
        condition = model.condition(points, **given)
        expected = -model.log_density(points, **condition)
        variables = [v.value for v in model.trainable_variables]
        for recompute in (False, True):
            view = model.for_training(recompute=recompute)
            with tf.GradientTape() as tape:
                losses = Likelihood().to_train(view, points, condition)
                loss = tf.reduce_sum(losses)
            self.assertAllClose(losses, expected, rtol=1e-5)
            gradients = tape.gradient(loss, variables)
            for variable, gradient in zip(variables, gradients, strict=True):
                self.assertAllInRange(gradient, -1e9, 1e9)
                if "dense" in variable.name:
                    self.assertTrue(np.any(gradient), variable.name)
        new = tf_realnvp.RealNVP(**model.get_config())
        *_, others = case(name, 3, seed=1)
        first, second = (new.log_prob(images, 1, **c) for c in (given, others))
        self.assertAllEqual(first, second)

    @over_models
    def test_wrong_shapes(self, name):
        model, images, given = case(name, 3)
        label, right = given.get("label"), given["context"]
        wrong = tf.nest.map_structure(lambda value: value[:2], right)
        for context in (None, wrong, np.zeros([3, 9]), {"other": 1.0}):
            with self.assertRaisesRegex(ValueError, r"context.* got "):
                model.log_prob(images, 1, label, context)
        with self.assertRaisesRegex(ValueError, "context"):
            small_models.model().log_prob(small_models.images(1), context=[1.0])
        not_finite = tf.nest.map_structure(lambda v: v * np.nan, right)
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, "finite"):
            model.log_prob(images, 1, label, not_finite)

    def test_missing(self):
        """It is never left out of a density."""
        model, images, _ = case("vector", 2)
        points = tf.cast(images, tf.float32)
        distribution = of_masks().distribution
        for density in (
            *(model.log_density, model.distribution.log_prob),
            *(distribution.log_prob, lambda points: distribution.sample(2)),
        ):
            with self.assertRaisesRegex(ValueError, "`context` must be given"):
                density(points)

    def test_copies(self):
        model, images, given = case("several", 2)
        expected = model.log_prob(images, 1, **given)
        for copy in (model.clone(), pickle.loads(pickle.dumps(model))):
            self.assertAllEqual(copy.log_prob(images, 1, **given), expected)

    @parameterized.parameters(
        ((0,),),
        ((2.5,),),
        ((2, 2),),
        ((),),
        ((3, 3, 1),),
        ({},),
        ({1: (2,)},),
        ({"a b": (2,)},),
        ({"a/b": (2,)},),
        ({"\u00e4": (2,)},),
        ({"a": (2,), "A": (2,)},),
    )
    def test_shapes_that_are_none(self, shape):
        with self.assertRaisesRegex(ValueError, "context_shape"):
            tf_realnvp.RealNVP((4, 4, 1), context_shape=shape)


class SavedContextTest(folders.FolderTestCase):
    def test_saved_and_loaded(self):
        model, images, given = case("several", 3)
        model.save(self.folder / "model")
        expected = model.log_prob(images, 1, **given)
        loaded = tf_realnvp.load(self.folder / "model")
        saved = tf.saved_model.load(str(self.folder / "model"))
        for either in (loaded, saved):
            found = either.log_prob(images, seed=1, **given)
            self.assertAllClose(found, expected, rtol=1e-5)
        latents = model.encode(images, **given)
        self.assertAllClose(saved.encode(images, **given), latents, atol=1e-4)
        samples = np.float32(model.sample(3, 0.5, 1, **given))
        found = np.float32(saved.sample(3, 0.5, 1, **given))
        self.assertAllClose(found, samples, atol=1e-3)
        inputs = {
            spec.name: value
            for spec, value in zip(
                tf.nest.flatten(model.condition.specs["context"]),
                tf.nest.flatten(given["context"]),
                strict=True,
            )
        }
        score = saved.signatures["serving_default"]
        scores = score(images=tf.constant(images), **inputs)
        self.assertEqual(scores["log_prob"].shape, [3])

    def test_warm_start(self):
        """A model without a context becomes one with, of the same density."""
        plain = small_models.model()
        shape = {"a": (2,), "m": (4, 4, 1)}
        model, other = (
            tf_realnvp.RealNVP(**plain.get_config(), context_shape=shape)
            for _ in range(2)
        )
        with mock.patch.object(weights, "load_model", return_value=plain):
            weights.assign_weights(model, "plain")
        images = small_models.images(3)
        context = {"a": np.ones([3, 2]), "m": np.ones([3, 4, 4, 1])}
        found = model.log_prob(images, 1, context=context)
        self.assertAllClose(found, plain.log_prob(images, 1), rtol=1e-5)
        model.condition.standardize(context)
        with mock.patch.object(weights, "load_model", return_value=model):
            weights.assign_weights(other, "model")
        for first, second in zip(model.variables, other.variables, strict=True):
            self.assertAllEqual(first, second)

    def test_warm_start_from_another_order(self):
        """Contexts are matched by their names."""
        shapes = {"a": (2,), "b": (2,), "m": (4, 4, 1), "n": (2, 2, 2)}
        saved = small_models.displaced(0.3, filters=4, context_shape=shapes)
        config = saved.get_config()
        config["context_shape"] = dict(reversed(shapes.items()))
        model = tf_realnvp.RealNVP(**config)
        rng = np.random.default_rng(0)
        context = {k: rng.normal(size=(3, *s)) for k, s in shapes.items()}
        saved.condition.standardize({k: 2.0 * v for k, v in context.items()})
        with mock.patch.object(weights, "load_model", return_value=saved):
            weights.assign_weights(model, "saved")
        images = small_models.images(3)
        found, expected = (
            own.log_prob(images, 1, context=context) for own in (model, saved)
        )
        self.assertAllClose(found, expected, rtol=1e-5)
        self.assertAllClose(
            model.estimate(context), saved.estimate(context), rtol=1e-4
        )


class DataTest(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.images = small_models.images(40)
        # Tells which image it belongs to.
        self.means = self.images.mean(axis=(1, 2), dtype=np.float32)
        self.grids = np.float32(self.images) / 2.0

    def assert_together(self, images, context):
        means = np.mean(images, axis=(1, 2), dtype=np.float32)
        self.assertAllClose(context, means)

    def test_single(self):
        np.savez(
            self.folder / "a.npz",
            images=self.images,
            num_colors=17,
            context=self.means,
            labels=np.arange(40) % 2,
        )
        dataset = data.load(self.folder / "a.npz", labels=True)
        self.assertEqual(dataset.context_shape, (1,))
        dataset = dataset.hold_out(5, seed=0)
        for split in dataset.splits:
            for batch in dataset.batches(split, 7):
                self.assert_together(batch[0], batch[1]["context"])
                self.assertIn("label", batch[1])
        for batch in dataset.train_batches(4, seed=1, epoch=2):
            self.assert_together(batch[0], batch[1]["context"])
        plain = data.load(self.folder / "a.npz")
        other = data.arrays.from_images(self.images, 17, context=-self.means)
        same = data.arrays.from_images(self.images, 17, context=self.means)
        self.assertEqual(plain.fingerprint, same.fingerprint)
        self.assertNotEqual(plain.fingerprint, other.fingerprint)

    def test_several(self):
        parts = {"train": slice(30), "test": slice(30, 40)}
        entries = {"num_colors": 17}
        for name, part in parts.items():
            entries[name] = self.images[part]
            entries[f"{name}_context_mean"] = self.means[part]
            entries[f"{name}_context_grid"] = self.grids[part]
        np.savez(self.folder / "a.npz", **entries)
        dataset = data.load(self.folder / "a.npz")
        self.assertEqual(
            dataset.context_shape, {"mean": (1,), "grid": (4, 4, 1)}
        )
        images, condition = next(iter(dataset.batches("test", 3)))
        self.assert_together(images, condition["context"]["mean"])
        context = dataset.context("test", [4, 2])
        self.assertAllEqual(context["grid"], self.grids[[34, 32]])
        with self.assertRaisesRegex(DataError, "flip"):
            data.load(self.folder / "a.npz", flip=True)
        del entries["test_context_mean"]
        np.savez(self.folder / "b.npz", **entries)
        with self.assertRaisesRegex(DataError, "test_context_mean"):
            data.load(self.folder / "b.npz")

    @parameterized.parameters(
        (np.zeros([39, 1]),),
        (np.zeros([40]),),
        (np.full([40, 2], np.inf),),
        (np.full([40, 1], "a"),),
        # Which float32 cannot hold, or tell apart.
        (np.full([40, 1], 1e300),),
        (np.linspace(0.0, 1e-40, 40)[:, np.newaxis],),
        (1.7e9 + 0.3 * np.arange(40)[:, np.newaxis],),
    )
    def test_invalid(self, context):
        with self.assertRaisesRegex(DataError, "context"):
            data.arrays.from_images(self.images, 17, context=context)

    @parameterized.parameters(
        ("train test context", "context"),
        ("train test test_context", "test_context"),
        ("train test train_context", "test_context"),
        ("images train_context", "train_context"),
        ("images context context_context", "context_context"),
        ("images contexts", "contexts"),
        (
            "train test train_context_a test_context_a test_context_b",
            "test_context_b",
        ),
    )
    def test_entries_that_are_not_used(self, names, wrong):
        entries = {
            name: self.means if "context" in name else self.images
            for name in names.split()
        }
        np.savez(self.folder / "a.npz", num_colors=17, **entries)
        with self.assertRaisesRegex(DataError, f"a.npz: `{wrong}` is "):
            data.load(self.folder / "a.npz")

    def test_constant(self):
        """It is no mistake, as of a single value of a parameter."""
        context = np.full([40, 2], [1.7e9, 0.1])
        dataset = data.arrays.from_images(self.images, 17, context=context)
        self.assertEqual(dataset.context_shape, (2,))

    def test_of_another_model(self):
        model = small_models.displaced(0.1, context_shape=(2,))
        for context in (None, self.means):
            with self.assertRaisesRegex(DataError, r"\(2,\)"):
                tf_realnvp.train(model, self.images, context=context)
        with self.assertRaisesRegex(DataError, r"\(1,\)"):
            tf_realnvp.train(
                small_models.model().clone(), self.images, context=self.means
            )


def train_context(config, folder, epochs=2, **arguments):
    """Trains a new model on images that get brighter with the context."""
    rng = np.random.default_rng(0)
    context = rng.normal(3.0, 2.0, size=[60, 1]).astype(np.float32)
    images = np.clip(2.0 * context[:, :, None, None] + 2.0, 0, 16)
    noise = rng.integers(2, size=[60, 4, 4, 1])
    images = np.uint8(np.minimum(images + noise, 16))
    if "context_shape" in config:
        arguments.setdefault("context", context)
    small_models.set_seed(0)
    model = tf_realnvp.RealNVP(
        (4, 4, 1), 17, 4, 1, num_couplings=(1, 1, 1), **config
    )
    history = tf_realnvp.train(
        *(model, images),
        **arguments,
        epochs=epochs,
        batch_size=6,
        lr=0.01,
        run_dir=folder,
        progress=False,
    )
    return model, history, images, context


class LearningTest(folders.FolderTestCase):
    def test_learns(self):
        """Images become likelier, given a context, which is standardized."""
        model, _, images, context = train_context(
            {"context_shape": (1,)}, self.folder / "run", 8
        )
        right = model.log_prob(images, 0, context=context)
        wrong = model.log_prob(images, 0, context=context[::-1])
        self.assertGreater(np.mean(right), np.mean(wrong) + 3.0)
        dark, bright = (
            np.mean(model.sample(200, seed=0, context=[value]))
            for value in (0.0, 6.0)
        )
        self.assertLess(dark + 2.0, bright)
        [moments] = model.condition.moments.values()
        expected = [np.mean(context)], [np.std(context)]
        self.assertAllClose(moments, expected, atol=0.3)


class TrainingTest(untraced.UntracedTestCase):
    def test_resumes(self):
        config = {"observe": "mask"}
        one, two = self.folder / "one", self.folder / "two"
        model, history, images, _ = train_context(config, one, 2)
        train_context(config, two, 1)
        resumed, other, *_ = train_context(config, two, 2)
        self.assertEqual(
            [m.test_loss for m in history], [m.test_loss for m in other]
        )
        for first, second in zip(
            model.variables, resumed.variables, strict=True
        ):
            self.assertAllEqual(first, second)
        loaded = tf_realnvp.load(two)
        self.assertEqual(loaded.get_config(), model.get_config())
        context = model.observation(images, [0, 1])
        self.assertAllClose(
            loaded.log_prob(images, 0, context=context),
            model.log_prob(images, 0, context=context),
        )

    def test_observed_by_a_function(self):
        def observe(images, seed):
            del seed
            images = tf.cast(images, tf.float32)
            return {"mean": tf.reduce_mean(images, axis=(1, 2))}

        shapes = {"context_shape": {"mean": (1,)}}
        model, _, images, _ = train_context(
            shapes, self.folder / "run", context=None, observe=observe
        )
        means = np.mean(images, axis=(1, 2), dtype=np.float32)
        found = model.log_prob(images, 0, context={"mean": means})
        self.assertAllInRange(found, -1e3, 0.0)

    def test_frozen_parts(self):
        """They are initialized without a context, and trained with one."""
        small_models.set_seed(0)
        model = tf_realnvp.RealNVP(
            *((4, 4, 1), 17, 4, 1),
            num_couplings=(1, 1, 1),
            context_shape={"v": (2,), "image": (4, 4, 1)},
        )
        model.networks[0].trainable = False
        context = {"v": np.ones([40, 2]), "image": np.ones([40, 4, 4, 1])}
        images = small_models.images(40)
        options = {"epochs": 1, "batch_size": 8, "progress": False}
        (_, last) = tf_realnvp.train(model, images, context=context, **options)
        self.assertTrue(np.isfinite(last.test_loss))


class ObservationTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("mask", (8, 8, 4)),
        ("gray", (8, 8, 1)),
        ("lowres:2", (4, 4, 3)),
        ("noise:25", (8, 8, 3)),
    )
    def test_named(self, name, shape):
        images = np.random.default_rng(0).integers(17, size=[50, 8, 8, 3])
        images = images.astype(np.uint8)
        model = tf_realnvp.RealNVP((8, 8, 3), 17, 4, 1, observe=name)
        self.assertEqual(model.context_shape, shape)
        observed = model.observation(images, [1, 2])
        self.assertEqual(observed.shape, [50, *shape])
        self.assertAllEqual(observed, model.observation(images, [1, 2]))
        other = model.observation(images, [1, 3])
        is_random = name in ("mask", "noise:25")
        self.assertEqual(np.any(observed != other), is_random)
        if name == "mask":
            pixels, is_visible = observed[..., :3], observed[..., 3:]
            self.assertAllInSet(is_visible, [0.0, 1.0])
            self.assertAllEqual(pixels, images * is_visible)
        elif name == "noise:25":
            self.assertAllInSet(observed, np.arange(17))
            noise = (observed - np.float32(images))[abs(images - 8.0) < 3.0]
            self.assertAllClose(np.std(noise), 25.0 * 16.0 / 255.0, rtol=0.05)
        else:
            rows = images.reshape(50, shape[0], -1, shape[1], 8 // shape[1], 3)
            axes = (2, 4) if shape[2] == 3 else (2, 4, 5)
            means = rows.mean(axis=axes).reshape(observed.shape)
            self.assertAllEqual(observed, np.round(means))

    def test_real_numbers_are_not_rounded(self):
        model = tf_realnvp.RealNVP((8, 8, 1), None, 4, 1, observe="noise:0.1")
        noise = model.observation(tf.fill([50, 8, 8, 1], 0.5), [1, 2]) - 0.5
        self.assertAllClose(np.std(noise), 0.1, rtol=0.05)

    def test_masks(self):
        """They see nothing, all, and every part of an image equally often."""
        masks = observations.random_masks(4000, 8, 8, tf.constant([1, 2]))
        shares = np.mean(masks, axis=(1, 2, 3))
        for share in (0.0, 1.0):
            self.assertAllInRange(np.mean(shares == share), 0.03, 0.15)
        self.assertAllInRange(np.mean(shares == 0.5), 0.15, 0.35)
        mean = np.mean(masks, axis=0)[..., 0]
        self.assertAllClose(mean, mean[::-1, ::-1], atol=0.05)
        # Boxes hide the middle.
        self.assertGreater(mean[0, 0], mean[3, 3] + 0.05)
        others = observations.random_masks(4000, 8, 8, tf.constant([1, 3]))
        self.assertNotAllEqual(masks, others)

    @parameterized.parameters(
        *("none", "noise", "noise:x", "noise:-1", "noise:nan"),
        *("lowres:3", "lowres:0"),
    )
    def test_unknown(self, name):
        with self.assertRaises(ValueError):
            tf_realnvp.RealNVP((8, 8, 3), observe=name)
        with self.assertRaisesRegex(ValueError, "of its own"):
            tf_realnvp.RealNVP((8, 8, 3), observe="gray", context_shape=(2,))

    @parameterized.parameters(
        {},
        {"image_shape": (8, 8, 3), "num_scales": 3, "num_classes": 2},
        {"num_colors": None},
    )
    def test_visible_pixels_are_given(self, **config):
        """The density is that of the pixels that are not visible."""
        model = small_models.displaced(0.1, observe="mask", **config)
        rng, points = np.random.default_rng(0), small_models.points(3, model)
        images = points if model.values.are_real else np.uint8(points)
        mask = rng.random([3, *model.image_shape[:2], 1]) < 0.5
        context = observations.visible_pixels(images, mask)
        condition = {"context": context}
        if model.num_classes is not None:
            condition["label"] = np.array([0, 1, 1])
        given = np.broadcast_to(mask, images.shape)

        points = np.where(given, images + model.values.middle, points)
        latents, expected = reference.of_model(
            *(model, points, condition.get("label")),
            contexts=[context.numpy()],
            given=given.astype(float),
        )
        found = model.log_prob(np.where(given, 0, images), 1, **condition)
        self.assertEqual(found.shape, [3])
        checked = model.condition(points, **condition)
        found = model.log_density(tf.constant(points), **checked)
        self.assertAllClose(found, expected, rtol=1e-4, atol=1e-3)
        costs = bit_maps.costs(model, points, **condition)
        total = tf.reduce_sum(costs, axis=[1, 2, 3, 4])
        self.assertAllClose(total, -expected, rtol=1e-4, atol=1e-3)
        at_given = tf.reduce_sum(costs[:, 0, 0], axis=0)[mask.all((0, 3))]
        self.assertAllClose(at_given, tf.zeros_like(at_given))
        if model.values.are_real:
            self.assertAllClose(model.encode(points, **condition), latents)
        own = model.encode(images, **condition)
        back = model.decode(own, **condition)
        self.assertAllClose(np.float32(back), np.float32(images), atol=1e-5)
        samples = model.sample(3, seed=1, **condition).numpy()
        self.assertAllClose(samples[given], images[given], atol=1e-5)
        self.assertNotAllClose(samples[~given], images[~given])
        condition["context"] = observations.visible_pixels(images, 1.0)
        found = model.log_prob(images, 1, **condition)
        self.assertAllClose(found, np.zeros(3), atol=1e-3)

    def test_density_of_the_rest_is_exact(self):
        """By the Jacobian of what is not visible alone."""
        model = small_models.displaced(0.2, observe="mask", num_scales=2)
        mask = np.random.default_rng(0).random([1, 4, 4, 1]) < 0.4
        context = observations.visible_pixels(small_models.images(1), mask)
        latents = model.sample_latents(1, seed=1)
        points = model.decode_points(latents, context=context)
        free = np.flatnonzero(~mask)
        # Where components go is where a change of one moves the latents.
        in_latents = model.visible.in_latents(
            tf.fill(latents.shape, np.nan), context
        )
        free_latents = np.flatnonzero(np.isnan(in_latents))
        self.assertLen(free_latents, len(free))

        def decode(values):
            n = tf.shape(values)[0]
            whole = tf.tile(tf.reshape(latents, [1, 16]), [n, 1])
            at = tf.one_hot(free_latents, 16)
            whole = whole * (1.0 - tf.reduce_sum(at, 0)) + values @ at
            whole = tf.reshape(whole, [-1, *model.latent_shape])
            decoded = model.decode_points(whole, context=context[0])
            return tf.gather(tf.reshape(decoded, [-1, 16]), free, axis=1)

        values = tf.gather(tf.reshape(latents, [16]), free_latents)
        base = np.sum(reference.log_normal(values.numpy()))
        expected = base - jacobians.log_abs_det(decode, values)
        found = model.log_density(points, context=context)
        self.assertAllClose(found[0], expected, rtol=1e-4)

    def test_learned_noise_is_refused(self):
        with self.assertRaisesRegex(ValueError, "dequantization"):
            tf_realnvp.RealNVP(observe="mask", dequantization="variational")

    @parameterized.parameters({"num_colors": None}, {"num_classes": 2})
    def test_restores_what_is_missing(self, **config):
        model = small_models.displaced(0.1, observe="mask", **config)
        points = small_models.points(2, model)
        images = points if model.values.are_real else np.uint8(points)
        is_missing = np.zeros(images.shape, bool)
        is_missing[:, :2] = True
        found = restoration.restore(model, images, is_missing, num_samples=3)
        self.assertEqual(found.samples.shape, (2, 3, *model.image_shape))
        self.assertAllEqual(found.images[~is_missing], images[~is_missing])
        visible = observations.visible_pixels(images, ~is_missing)
        estimate = model.estimate(visible).numpy()
        mean = (3.0 * found.mean + 16.0 * estimate) / 19.0
        expected = model.values.nearest(mean)[is_missing]
        self.assertAllClose(found.images[is_missing], expected, rtol=1e-5)
        errors = is_missing * (estimate + model.values.middle - points)
        ratios = tf.reduce_sum(tf.square(errors), axis=[1, 2, 3])
        ratios /= model.squared_errors(points, visible)
        self.assertAllClose(ratios[0], ratios[1], rtol=1e-4)

    def test_noise_does_not_depend_on_the_batch(self):
        images = small_models.images(3)
        together, alone = (
            observations.given(of_noise(), own, None)
            for own in (images, images[2:])
        )
        self.assertAllEqual(together[2:], alone)

    def test_nothing_visible(self):
        """A model of masks is a density of images, too."""
        model = small_models.displaced(0.3, observe="mask")
        images = small_models.images(3)
        self.assertAllEqual(
            model.log_prob(images, 0),
            model.log_prob(images, 0, context=np.zeros([4, 4, 2])),
        )
        self.assertEqual(model.sample(2).shape, [2, 4, 4, 1])
        points = model.dequantize(images, 0)
        self.assertAllEqual(
            model.log_density(points), model.log_prob(images, 0)
        )

    @parameterized.parameters(255.0, 0.5, -1, True)
    def test_visible_is_what_is_not_zero(self, one):
        """And nothing else of a context has an effect."""
        images, model = small_models.images(3), of_masks()
        mask = np.random.default_rng(0).random([3, 4, 4, 1]) < 0.5
        expected = observations.visible_pixels(images, mask)
        found = observations.visible_pixels(images, mask * one)
        self.assertAllEqual(found, expected)
        own = np.concatenate([images + 0.0, mask * one], axis=-1)
        self.assertAllEqual(
            model.log_prob(images, 1, context=own),
            model.log_prob(images, 1, context=expected),
        )


@functools.cache
def of_vectors():
    return small_models.displaced(0.3, filters=4, context_shape=(3,))


@functools.cache
def of_masks():
    return small_models.displaced(0.3, filters=4, observe="mask")


@functools.cache
def of_noise():
    return small_models.displaced(0.3, filters=4, observe="noise:25")


class RestorationTest(tf.test.TestCase):
    def test_masks(self):
        images, model = small_models.images(3), of_masks()
        mask = np.zeros([4, 4, 1], bool)
        mask[1:3] = True
        found = restoration.restore(model, images, mask, num_samples=5)
        self.assertEqual(found.samples.shape, (3, 5, 4, 4, 1))
        for values in (found.images, found.mean, *found.samples.swapaxes(0, 1)):
            self.assertAllEqual(values[:, ~mask], images[:, ~mask])
        self.assertAllEqual(found.std > 0.0, np.tile(mask, [3, 1, 1, 1]))
        self.assertAllClose(found.mean, found.samples.mean(axis=1))
        context = np.concatenate([images * ~mask, 0 * images + ~mask], axis=-1)
        estimate = model.estimate(context).numpy()
        expected = (5.0 * found.mean + 16.0 * estimate)[:, mask] / 21.0
        expected = np.clip(np.round(expected), 0, 16)
        self.assertAllEqual(found.images[:, mask], expected)
        context, latents = context.repeat(3, 0), model.sample_latents(9, seed=0)
        for own, part in ((latents, slice(3)), (-latents, slice(3, None))):
            drawn = model.decode(own, context=context)
            drawn = np.reshape(drawn, [3, 3, 4, 4, 1])[:, :, mask]
            samples = found.samples[:, part, mask]
            self.assertAllEqual(samples, drawn[:, : samples.shape[1]])
        self.assertEmpty(restoration.restore(model, images[:0], mask).images)
        each = np.random.default_rng(0).random([2, 2, 3]) < 0.5
        colors = small_models.displaced(0.3, (2, 2, 3), observe="mask")
        pixels = np.uint8(small_models.points(1, colors))
        found = restoration.restore(colors, pixels, each)
        self.assertAllEqual(found.images[:, ~each], pixels[:, ~each])

    def test_noise(self):
        images, model = np.float32(small_models.images(2)) + 0.3, of_noise()
        found = restoration.restore(model, images, num_samples=3, seed=1)
        drawn = model.sample(4, seed=1, context=images.repeat(2, axis=0))
        drawn = np.reshape(drawn, [2, 2, 4, 4, 1])
        self.assertAllEqual(found.samples[:, :2], drawn)
        with self.assertRaisesRegex(ValueError, "noise:25"):
            restoration.restore(model, images, np.ones([4, 4, 1]))
        noise = 25.0 * 16.0 / 255.0
        self.assertLen(restoration.restore(model, images, None, noise).mean, 2)
        with self.assertRaisesRegex(ValueError, "noise:25"):
            restoration.restore(model, images, None, 2.0 * noise)
        with self.assertRaisesRegex(ValueError, r"`images` .*\[n, 4, 4, 1\]"):
            restoration.restore(model, images[0])


class CommandTest(command_lines.CommandTestCase):
    name = r"tf-realnvp( \w+)?"

    def call(self, make, command, *argv):
        self.use(small_models.opened(make))
        path = small_models.saved(make)
        return command_lines.call(main.main, command, path, *argv)

    def test_sample(self):
        model = of_vectors()
        rows = np.random.default_rng(0).normal(size=(3, 3))
        np.save("rows.npy", rows)
        np.savez("all.npz", images=np.zeros(1), context=rows[0])
        for file, context in (("rows.npy", rows), ("all.npz", rows[0])):
            argv = "--context", file, "--seed", 5, "--out", f"{file}s/"
            code, _, errors = self.call(of_vectors, "sample", *argv)
            self.assertEqual(code, 0, errors)
            n = 36 if context.ndim == 1 else 3
            expected = model.sample(n, seed=5, context=context)
            files = sorted(self.folder.glob(f"{file}s/*.png"))
            images = [image_files.read(file, (4, 4, 1), 17) for file in files]
            self.assertAllEqual(images, expected)
        np.save("wrong.npy", np.zeros([3, 2]))
        wrong = self.call(of_vectors, "sample", "--context", "wrong.npy")
        self.assert_usage_error(wrong, "(3, 2)")
        image_arrays.write_images("in", small_models.images(2), 17)
        for argv in (["sample"], ["reconstruct", "in/000.png"]):
            none = self.call(of_vectors, *argv)
            self.assert_usage_error(none, "(3,)")

    def test_evaluate_and_score(self):
        images = small_models.images(30)
        context = np.random.default_rng(0).normal(size=(30, 3))
        np.savez("a.npz", images=images, num_colors=17, context=context)
        code, out, errors = self.call(
            of_vectors, "evaluate", "--dataset", "./a.npz"
        )
        self.assertEqual(code, 0, errors)
        test = data.load("./a.npz").splits["test"]
        expected = of_vectors().bits_per_dim(
            images[test.indices],
            stream(0, 0),
            context=np.float32(context[test.indices]),
        )
        self.assertIn(f"{np.mean(expected):.3f}", out)
        np.save("one.npy", context[0])
        image_arrays.write_images("in", images[:4], 17)
        argv = "in", "--context", "one.npy", "--out", "scores.csv"
        code, _, errors = self.call(of_vectors, "score", *argv)
        self.assertEqual(code, 0, errors)
        rows = (self.folder / "scores.csv").read_text().splitlines()[1:]
        scores = {row[:7]: float(row.split(",")[1]) for row in rows}
        expected = of_vectors().log_prob_each(
            images[:4], [0] * 4, context=context[0]
        )
        self.assertAllClose([scores[k] for k in sorted(scores)], expected, 1e-4)
        np.save("wrong.npy", np.zeros([3, 2]))
        for command, *argv in (
            ("score", "in", "--reference", "in"),
            ("score", "in", "--maps", "maps", "--context", "wrong.npy"),
            ("detect", "--unusual", "in"),
        ):
            self.assert_usage_error(
                self.call(of_vectors, command, *argv), "(3,)"
            )

    def test_restore(self):
        image_arrays.write_images("in", small_models.images(2), 17)
        image_files.write("mask.png", np.uint8([[[1], [0]] * 2] * 4), 2)

        def restore(make, *argv):
            model = make()
            path = small_models.copied(
                small_models.saved(),
                self.folder,
                observe=model.observe,
                context_shape=model.context_shape,
            )
            self.use(model)
            return command_lines.call(main.main, "restore", path, *argv)

        argv = "in", "--mask", "mask.png", "--samples", 2, "--out", "out/"
        code, _, errors = restore(of_masks, *argv)
        self.assertEqual(code, 0, errors)
        self.assertLen(list(self.folder.glob("out/*.png")), 10)
        for argv in (("--noise", 50), ("--noise", 25, "--mask", "mask.png")):
            self.assert_usage_error(restore(of_noise, "in", *argv), "noise:25")


class DetectionTest(tf.test.TestCase):
    def test_measurements(self):
        images, model = small_models.images(5), of_vectors()
        context = np.random.default_rng(0).normal(size=(5, 3))
        measure = detection.Measurer(model, batch_size=2)
        expected = model.log_prob_each(images, [3] * 5, context=context)
        found = measure(images, 3, context)
        self.assertAllClose(found.log_prob, expected, rtol=1e-5)
        maps = measure.maps(images, 3, context)
        self.assertAllClose(
            maps.sum(axis=(1, 2)), -expected / np.log(2.0), rtol=1e-5
        )
        measure = detection.Measurer(of_noise())
        each = images[:, np.newaxis]  # It has the noise of a batch of its own.
        context = [of_noise().observation(own, [0, 0])[0] for own in each]
        self.assertAllClose(
            measure(images).log_prob, measure(images, 0, context).log_prob
        )


if __name__ == "__main__":
    tf.test.main()
