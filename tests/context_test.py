"""Tests for context: densities that depend on vectors and images."""

import functools
import pickle

import folders
import jacobians
import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp.serving import weights

MODELS = {
    "vector": {"context_shape": (3,)},
    "image": {"context_shape": (4, 4, 2)},
    "coarse_image": {"context_shape": (2, 2, 1), "num_classes": 3},
    "several": {
        # Names that TFP gives to arguments of its own.
        "context_shape": {"b": (2,), "x": (16, 4, 1)},
        "image_shape": (16, 4, 1),
        "num_scales": 3,
        "num_colors": None,
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


def contexts(n, model, seed=0):
    """Returns contexts of images, as callers give them."""
    rng = np.random.default_rng(seed)
    return tf.nest.map_structure(
        lambda spec: np.float32(rng.normal(size=(n, *spec.shape[1:]))),
        model.context_specs,
    )


def images_of(n, model):
    points = small_models.points(n, model)
    return points if model.values.are_real else np.uint8(points)


def labels(n, model):
    return None if model.num_classes is None else np.arange(n) % 3


class ContextTest(untraced.UntracedTestCase, parameterized.TestCase):
    @over_models
    def test_matches_reference(self, name):
        model = shared(name)
        images, context = images_of(3, model), contexts(3, model)
        label = labels(3, model)
        points = np.float32(images) + model.values.middle
        expected_latents, expected = reference.of_model(
            model, points, label, contexts=tf.nest.flatten(context)
        )
        latents = model.encode(images, label, context)
        self.assertAllClose(latents, expected_latents, rtol=1e-3, atol=1e-4)
        if model.dequantization == "uniform":
            log_prob = model.log_density(
                tf.constant(points), **model.condition(points, label, context)
            )
            self.assertAllClose(log_prob, expected, rtol=1e-5, atol=1e-3)

    @over_models
    def test_log_det_matches_jacobian(self, name):
        model = shared(name)
        context, label = contexts(1, model), labels(1, model)
        latents = tf.random.stateless_normal([1, *model.latent_shape], [1, 2])

        def decode(batch):
            return model.decode_points(
                batch,
                None if label is None else label[0],
                tf.nest.map_structure(lambda value: value[0], context),
            )

        points = decode(latents)
        log_prob = model.log_density(
            points, **model.condition(points, label, context)
        )
        if model.dequantization == "uniform":
            base = np.sum(reference.log_normal(latents.numpy()))
            log_det = jacobians.log_abs_det(decode, latents[0])
            self.assertAllClose(base - log_det, log_prob[0], rtol=1e-3)

    @over_models
    def test_one_for_all(self, name):
        model = shared(name)
        context, label = contexts(3, model), labels(3, model)
        single = tf.nest.map_structure(lambda value: value[1], context)
        repeated = tf.nest.map_structure(
            lambda value: np.stack([value[1]] * 3), context
        )
        images = images_of(3, model)
        found = model.log_prob(images, 1, label, single)
        self.assertAllClose(
            found, model.log_prob(images, 1, label, repeated), rtol=1e-6
        )
        differences = found - model.log_prob(images, 1, label, context)
        self.assertNotAllClose(differences[::2], [0.0, 0.0], atol=1e-2)
        self.assertAllClose(differences[1], 0.0, atol=1e-3)

    @over_models
    def test_samples_are_given_the_context(self, name):
        model = shared(name)
        context, label = contexts(4, model), labels(4, model)
        latents = model.sample_latents(4, seed=3)
        samples = model.sample(4, seed=3, label=label, context=context)
        self.assertAllEqual(samples, model.decode(latents, label, context))
        if not model.values.are_real:
            latents = model.encode(samples, label, context)
            self.assertAllEqual(model.decode(latents, label, context), samples)
        others = model.sample(
            4, seed=3, label=label, context=contexts(4, model, seed=1)
        )
        self.assertNotAllEqual(samples, others)

    @over_models
    def test_gradients(self, name):
        """Each weight has one; a new model does not depend on the context."""
        model = shared(name)
        images, context = images_of(3, model), contexts(3, model)
        label = labels(3, model)
        for view in (
            model.for_training(),
            model.for_training(recompute=True),
        ):
            points = model.dequantize(images, 1)
            condition = model.condition(points, label, context)
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(view.log_density(points, **condition))
            self.assertAllClose(
                loss, np.sum(model.log_density(points, **condition)), rtol=1e-5
            )
            variables = [v.value for v in model.trainable_variables]
            for variable, gradient in zip(
                variables, tape.gradient(loss, variables), strict=True
            ):
                self.assertAllInRange(gradient, -1e9, 1e9)
                # Some features of so few may be zero in all of these images.
                if "moments" in variable.name or "network" in variable.name:
                    self.assertTrue(np.any(gradient), variable.name)
        new = tf_realnvp.RealNVP(**model.get_config())
        first, second = (
            new.log_prob(images, 1, label, contexts(3, model, seed))
            for seed in range(2)
        )
        self.assertAllEqual(first, second)

    @over_models
    def test_wrong_shapes(self, name):
        model = shared(name)
        images, label = images_of(3, model), labels(3, model)
        wrong = tf.nest.map_structure(
            lambda value: value[:2], contexts(3, model)
        )
        for context in (None, wrong, np.zeros([3, 9]), {"other": 1.0}):
            with self.assertRaisesRegex(ValueError, r"context.* got "):
                model.log_prob(images, 1, label, context)
        with self.assertRaisesRegex(ValueError, "context"):
            small_models.model().log_prob(small_models.images(1), context=[1.0])
        not_finite = tf.nest.map_structure(
            lambda value: value * np.nan, contexts(3, model)
        )
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, "finite"):
            model.log_prob(images, 1, label, not_finite)

    @over_models
    def test_copies(self, name):
        model = shared(name)
        images, context = images_of(2, model), contexts(2, model)
        label = labels(2, model)
        expected = model.log_prob(images, 1, label, context)
        for copy in (model.clone(), pickle.loads(pickle.dumps(model))):
            self.assertAllEqual(
                copy.log_prob(images, 1, label, context), expected
            )

    @parameterized.parameters(((0,),), ((2, 2),), ((),))
    def test_shapes_that_are_none(self, shape):
        with self.assertRaisesRegex(ValueError, "context_shape"):
            tf_realnvp.RealNVP((4, 4, 1), context_shape=shape)


class SavedContextTest(folders.FolderTestCase, parameterized.TestCase):
    @parameterized.parameters("coarse_image", "several")
    def test_saved_and_loaded(self, name):
        model = shared(name)
        images, context = images_of(3, model), contexts(3, model)
        label = labels(3, model)
        model.save(self.folder / "model")
        loaded = tf_realnvp.load(self.folder / "model")
        expected = model.log_prob(images, 1, label, context)
        self.assertAllClose(
            loaded.log_prob(images, 1, label, context), expected, rtol=1e-5
        )
        saved = tf.saved_model.load(str(self.folder / "model"))
        given = {"context": context}
        given |= {} if label is None else {"label": label}
        self.assertAllClose(
            saved.log_prob(images, seed=1, **given), expected, rtol=1e-5
        )
        latents = saved.encode(images, **given)
        self.assertAllClose(
            latents, model.encode(images, label, context), atol=1e-4
        )
        samples = saved.sample(3, 0.5, 1, **given)
        self.assertAllClose(
            np.float32(samples),
            np.float32(model.sample(3, 0.5, 1, label, context)),
            atol=1e-3,
        )
        inputs = {
            spec.name: np.asarray(value)
            for spec, value in zip(
                tf.nest.flatten(model.context_specs),
                tf.nest.flatten(context),
                strict=True,
            )
        }
        scores = saved.signatures["serving_default"](
            images=tf.constant(images), **inputs
        )
        self.assertEqual(scores["log_prob"].shape, [3])

    def test_warm_start(self):
        """A model without a context becomes one with, of the same density."""
        plain = small_models.displaced(0.3, filters=4)
        plain.save(self.folder / "plain")
        model = tf_realnvp.RealNVP(
            **plain.get_config(), context_shape={"a": (2,), "m": (4, 4, 1)}
        )
        weights.assign_weights(model, self.folder / "plain")
        images = small_models.images(3)
        self.assertAllClose(
            model.log_prob(images, 1, context=contexts(3, model)),
            plain.log_prob(images, 1),
            rtol=1e-5,
        )


if __name__ == "__main__":
    tf.test.main()
