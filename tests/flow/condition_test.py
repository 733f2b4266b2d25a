"""Tests for condition: densities that depend on vectors and images."""

import functools

import jacobians
import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import RealNVP, observations
from tf_realnvp.flow.unet import UNet
from tf_realnvp.training.objectives import Likelihood

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
        errors = small_models.shared(observe="mask").squared_errors(
            points, visible
        )
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
        new = RealNVP(**model.get_config())
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
        distribution = small_models.shared(observe="mask").distribution
        for density in (
            *(model.log_density, model.distribution.log_prob),
            *(distribution.log_prob, lambda points: distribution.sample(2)),
        ):
            with self.assertRaisesRegex(ValueError, "`context` must be given"):
                density(points)

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
        ({"visible": (4, 4, 1)},),
    )
    def test_shapes_that_are_none(self, shape):
        with self.assertRaisesRegex(ValueError, "context_shape"):
            RealNVP((4, 4, 1), context_shape=shape)
