"""Tests of saved models that have a context."""

from unittest import mock

import folders
import numpy as np
import small_models
import tensorflow as tf

import tf_realnvp
from tf_realnvp.serving import weights


class ContextTest(folders.FolderTestCase):
    def test_saved_and_loaded(self):
        shapes = {"b": (2,), "x": (4, 4, 1)}
        model = small_models.displaced(
            *(0.3, (4, 4, 1), None),
            **{"filters": 2, "num_classes": 3, "context_shape": shapes},
        )
        rng, images = np.random.default_rng(0), small_models.points(3, model)
        context = {k: rng.normal(size=(3, *s)) for k, s in shapes.items()}
        context = {k: np.float32(v) for k, v in context.items()}
        given = {"context": context, "label": np.arange(3)}
        model.save(self.folder / "model")
        expected = model.log_prob(images, 1, **given)
        loaded = tf_realnvp.load(self.folder / "model")
        saved = tf.saved_model.load(str(self.folder / "model"))
        for either in (loaded, saved):
            found = either.log_prob(images, seed=1, **given)
            self.assertAllClose(found, expected, rtol=1e-5)
        # Which would be broadcast.
        whole = context["x"]
        for x in (whole[:, :, :1], whole[:1], whole[0, 0, 0, 0]):
            other = given | {"context": context | {"x": x}}
            with self.assertRaises(tf.errors.InvalidArgumentError):
                saved.log_prob(images, seed=1, **other)
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
        """New contexts leave the density as it is."""
        shapes = {"a": (2,), "b": (2,), "m": (4, 4, 1), "n": (2, 2, 2)}
        rng = np.random.default_rng(0)
        context = {k: rng.normal(size=(3, *s)) for k, s in shapes.items()}
        plain = small_models.displaced(0.3, filters=4)
        with_context = small_models.displaced(
            0.3, filters=4, context_shape=shapes
        )
        with_context.condition.standardize(
            {k: 2.0 * v for k, v in context.items()}
        )
        images = small_models.images(3)
        for saved, given in (
            (plain, {}),
            (with_context, {"context": context}),
        ):
            model = tf_realnvp.RealNVP(**with_context.get_config())
            with mock.patch.object(weights, "load_model", return_value=saved):
                weights.assign_weights(model, "saved")
            found = model.log_prob(images, 1, context=context)
            expected = saved.log_prob(images, 1, **given)
            self.assertAllClose(found, expected, rtol=1e-5)
        estimates = (own.estimate(context) for own in (model, with_context))
        self.assertAllClose(*estimates, rtol=1e-4)
