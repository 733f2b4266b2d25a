"""Tests for restoration."""

from unittest import mock

import numpy as np
import reference
import scipy.special
import scipy.stats
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import restoration

MASK = np.zeros([4, 4, 1], bool)
MASK[1:, 1:3] = True
SHAPE = (4, *small_models.IMAGE_SHAPE)
INVALID = tf.errors.InvalidArgumentError


class LogDensityTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("plain", small_models.model), ("classes", small_models.distinct)
    )
    def test_against_numpy(self, make):
        model, rng = make(), np.random.default_rng(1)
        points = rng.uniform(0.0, 17.0, SHAPE).astype(np.float32)
        labels = np.int32([0, 2, 1, 2]) if model.num_classes else None
        latents, _ = reference.of_model(model, points, labels)
        values = rng.uniform(0.0, 16.0, SHAPE)
        center = rng.normal(size=latents.shape)
        posterior = restoration._Posterior(model, tf.identity, SHAPE[1:])
        latents = latents.astype(np.float32)
        observation = restoration._Observation(
            values.astype(np.float32),
            np.broadcast_to(MASK, SHAPE).astype(np.float32),
            np.zeros(4, np.int32) if labels is None else labels,
            center.astype(np.float32),
        )
        density = posterior._density(latents, observation, 0.7)
        gradient = posterior._gradient(latents, observation, 0.7)
        errors = MASK * (points - 0.5 - values) / 0.7
        squares = np.square(errors).reshape(4, -1).sum(axis=1)
        squares += np.square(latents - center).reshape(4, -1).sum(axis=1)
        self.assertAllClose(density, -0.5 * squares, rtol=1e-4)
        self.assertAllInRange(np.abs(gradient).max(axis=(1, 2, 3)), 1e-2, 1e4)


class RestoreTest(tf.test.TestCase, parameterized.TestCase):
    def test_independent_pixels(self):
        """Of a new model pixels are independent: each posterior is integrated.

        They are half known, with noise; the others have the prior.
        """
        model = small_models.make_model()
        values = np.linspace(1.0, 16.0, 16)
        values = np.stack([values, values[::-1]]).reshape(2, 4, 4, 1)
        mask = np.arange(32).reshape(2, 4, 4, 1) % 2 == 1
        found = restoration.restore(
            model, values, mask, noise=1.5, num_samples=200, batch_size=400
        )
        z = np.linspace(-8.0, 8.0, 4001)
        alpha = model.alpha
        levels = (scipy.special.expit(z) - alpha / 2) / (1 - alpha) * 17.0
        errors = ~mask[..., np.newaxis] * (
            (levels - 0.5 - values[..., np.newaxis]) / 1.5
        )
        log_density = -0.5 * (np.square(z) + np.square(errors))
        density = scipy.special.softmax(log_density, axis=-1)
        levels = np.clip(np.floor(levels), 0, 16)
        mean = (density * levels).sum(axis=-1)
        variance = (density * np.square(levels)).sum(axis=-1) - np.square(mean)
        self.assertAllClose(found.mean, mean, atol=0.5)
        self.assertAllClose(found.std, np.sqrt(variance), rtol=0.15)
        self.assertGreater(found.std[mask].min(), 2 * found.std[~mask].max())
        likeliest = levels[log_density.argmax(axis=-1)]
        self.assertAllClose(found.images, likeliest, atol=1)
        self.assertAllClose(
            found.log_density,
            log_density.max(axis=-1).sum(axis=(1, 2, 3)),
            atol=0.01,
        )
        self.assertAllInRange(found.acceptance, 0.5, 0.99)
        self.assertAllInRange(found.r_hat, 0.9, 1.1)
        self.assertAllInRange(found.ess, 200, 200 * 40)
        last = found.samples.mean(axis=1)
        self.assertAllClose(last, mean, atol=1.0)

    @mock.patch.object(restoration, "_NUM_DESCENTS", 40)
    def test_known_pixels_are_fitted_roughly_first(self):
        """Otherwise the descent ends far from the likeliest."""
        model = small_models.model()
        images = model.sample(9, seed=0).numpy()
        annealed = restoration.restore(model, images, MASK)
        with mock.patch.object(restoration, "_FIRST_SIGMA", 1.0):
            direct = restoration.restore(model, images, MASK)
        self.assertAllGreater(annealed.log_density - direct.log_density, 5.0)

    @mock.patch.multiple(restoration, **small_models.FEW_STEPS)
    def test_known_pixels_of_any_mask(self):
        """Values that are missing do not matter, even NaN."""
        model, images = small_models.model(), small_models.images(2)
        grey = np.where(MASK, [[[-0.9]], [[0.1]], [[np.nan]], [[8]]], 0.0)
        for noise, missing in ((None, 255), (1.5, np.nan)):
            holes = np.where(MASK, missing, images)
            expected = restoration.restore(model, images, MASK, noise)
            for mask in (MASK, MASK.astype(int), np.uint8(255) * MASK, grey):
                found = restoration.restore(model, holes, mask, noise)
                self.assertAllEqual(found.images, expected.images)
                self.assertAllEqual(found.log_density, expected.log_density)
            none = restoration.restore(model, holes[:0], MASK, noise)
            self.assertEqual(none.images.shape, (0, *SHAPE[1:]))

    @mock.patch.multiple(restoration, **small_models.FEW_STEPS)
    def test_known_pixels_stay(self):
        """Some are missing in each image, or none."""
        images = small_models.images(3)
        mask = np.stack([MASK, ~MASK, np.zeros_like(MASK)])
        found, again, other = (
            restoration.restore(
                *(small_models.model(), images, mask),
                num_samples=num_samples,
                batch_size=4,
                seed=seed,
            )
            for num_samples, seed in ((2, 1), (2, 1), (1, 2))
        )
        self.assertIsNone(found.label)
        for name, value in vars(found).items():
            if value is not None:
                np.testing.assert_array_equal(value, getattr(again, name))
        is_missing = np.broadcast_to(mask[:, np.newaxis], found.samples.shape)
        self.assertAllEqual(found.images[~mask], images[~mask])
        self.assertAllEqual(found.mean[~mask], images[~mask])
        self.assertAllEqual(found.std[~mask], np.zeros_like(images)[~mask])
        known = np.broadcast_to(images[:, np.newaxis], is_missing.shape)
        self.assertAllEqual(found.samples[~is_missing], known[~is_missing])
        self.assertAllEqual(found.images, other.images)
        self.assertEqual(other.samples.shape, (3, 1, 4, 4, 1))
        self.assertNotAllEqual(found.samples[:, :1], other.samples)
        self.assertNotAllEqual(found.samples[:, 0], found.samples[:, 1])
        self.assertGreater(np.mean(found.std[mask] > 0.0), 0.8)
        for its in (found, other):
            self.assertAllEqual(np.isnan(its.r_hat), [False, False, True])
            self.assertAllEqual(np.isfinite(its.ess), [True, True, False])

    @mock.patch.multiple(restoration, **small_models.FEW_STEPS)
    def test_likeliest_class(self):
        model = small_models.distinct()
        images = model.sample(6, seed=0, label=[0, 1, 2] * 2).numpy()
        found, *given = (
            restoration.restore(model, images, MASK, label=label)
            for label in (None, 0, 1, 2)
        )
        joint = np.transpose([its.log_density for its in given])
        joint += np.log(model.class_probs)
        self.assertAllEqual(found.label, joint.argmax(axis=1))
        self.assertGreater(len(set(found.label)), 1)
        for index, label in enumerate(found.label):
            self.assertAllEqual(found.images[index], given[label].images[index])
        with self.assertRaisesRegex(TypeError, "`label` must "):
            restoration.restore(model, images, MASK, label=0.9)

    def test_nothing_known(self):
        """Then samples are those of the model."""
        model = small_models.model()
        found = restoration.restore(
            model,
            small_models.images(1),
            np.ones_like(MASK),
            num_samples=300,
            batch_size=300,
        )
        drawn = model.sample(3000, seed=5).numpy()
        for statistic in (np.mean, np.std):
            p_value = scipy.stats.ks_2samp(
                statistic(found.samples[0], axis=(1, 2, 3)),
                statistic(drawn, axis=(1, 2, 3)),
            ).pvalue
            self.assertGreater(p_value, 0.01)
        self.assertAllClose(found.mean[0], drawn.mean(axis=0), atol=1.0)

    def test_observe(self):
        """Of images at half the size."""
        model, images = small_models.model(), small_models.images(4)

        def observe(levels):
            return tf.nn.avg_pool2d(levels, 2, 2, "VALID")

        seen = observe(images.astype(np.float32))
        found = restoration.restore(
            model, seen, noise=0.2, observe=observe, batch_size=3
        )
        again = observe(found.images.astype(np.float32))
        self.assertAllClose(again, seen, atol=1.0)
        self.assertIsNone(found.samples)

    @parameterized.parameters(
        (ValueError, "images", {"images": small_models.images(4)[..., 0]}),
        (TypeError, "images", {"images": np.zeros(SHAPE)}),
        (INVALID, "images", *({"images": np.full(SHAPE, i)} for i in (-1, 17))),
        (INVALID, "images", {"images": np.full(SHAPE, np.nan), "noise": 1.0}),
        (ValueError, "noise", {"mask": None}, {"observe": tf.identity}),
        (ValueError, "noise", *({"noise": i} for i in (0, -1.0, np.inf))),
        (ValueError, "num_samples", {"num_samples": -1}),
        (ValueError, "batch_size", {"batch_size": 0}),
        (ValueError, "label", {"label": 1}),
    )
    def test_bad(self, error, name, *cases):
        valid = {"images": small_models.images(4), "mask": MASK}
        for arguments in cases:
            with self.assertRaisesRegex(error, f"`{name}` must "):
                restoration.restore(small_models.model(), **(valid | arguments))
