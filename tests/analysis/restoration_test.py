"""Tests for restoration."""

from unittest import mock

import numpy as np
import scipy.special
import scipy.stats
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import restoration
from tf_realnvp.analysis import posterior
from tf_realnvp.flow.values import Values

MASK = np.zeros([4, 4, 1], bool)
MASK[1:, 1:3] = True
SHAPE = (4, *small_models.IMAGE_SHAPE)
INVALID = tf.errors.InvalidArgumentError


class IntervalTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        coverage=[0.5, 0.8, 0.95], num_colors=[256, None], scale=[1.0, 9.0]
    )
    def test_holds_the_truth(self, coverage, num_colors, scale):
        """As often as it should, though the spread is wrong by a factor."""
        values, rng = Values(num_colors), np.random.default_rng(0)

        def restored():
            std = rng.uniform(5.0, 12.0, size=(300, 6, 6, 1))
            truth = values.nearest(rng.normal(128.0, std))
            few = np.zeros_like(truth)
            mean, std = np.full_like(std, 128.0), std / scale
            return restoration.Restoration(few, mean=mean, std=std), truth

        missing = rng.uniform(size=(300, 6, 6, 1)) < 0.5
        factor = restoration.interval_factor(
            values, *restored(), coverage, missing
        )
        found, truth = restored()
        low, high = restoration.interval(values, found, factor, missing)
        self.assertEqual(low.dtype, values.dtype)
        is_held = (low <= truth) & (truth <= high)
        self.assertAllClose(is_held[missing].mean(), coverage, atol=0.025)
        for end in (low, high):
            self.assertAllEqual(end[~missing], found.mean[~missing])

    def test_certain(self):
        """Where all samples agree, an interval is as wide as it must be."""
        values = Values(17)
        mean = np.full([40, 4, 4, 1], 7.0, np.float32)
        found = restoration.Restoration(mean, mean=mean, std=0.0 * mean)
        for truth, ends in ((7, (7, 7)), (10, (4, 10))):
            truth = np.full(mean.shape, truth)
            factor = restoration.interval_factor(values, found, truth, 0.9)
            low, high = restoration.interval(values, found, factor)
            self.assertEqual((low.min(), high.max()), ends)


class RestoreTest(tf.test.TestCase, parameterized.TestCase):
    def test_independent_pixels(self):
        """Compares with integrals, as a new model has independent pixels.

        Half of the pixels are known, with noise. The others have the prior.
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

    @mock.patch.object(posterior, "NUM_DESCENTS", 40)
    def test_is_likelier_than_the_original(self):
        """So few steps suffice only if the noise is large at first."""
        model = small_models.model()
        images = model.sample(9, seed=0).numpy()
        found = restoration.restore(model, images, MASK)
        squares = np.square(model.encode(images)).sum(axis=(1, 2, 3))
        self.assertAllGreater(found.log_density + squares / 2, 0.0)

    @mock.patch.multiple(posterior, **small_models.FEW_STEPS)
    def test_known_pixels_of_any_mask(self):
        """The missing values do not matter, even if they are NaN."""
        model, images = small_models.model(), small_models.images(2)
        grey = np.where(MASK, [[[-0.9]], [[0.1]], [[np.nan]], [[8]]], 0.0)
        for noise, missing, *masks in (
            (None, 255, MASK, MASK.astype(int)),
            (1.5, np.nan, np.uint8(255) * MASK, grey),
        ):
            holes = np.where(MASK, missing, images)
            expected = restoration.restore(model, images, MASK, noise)
            for mask in masks:
                found = restoration.restore(model, holes, mask, noise)
                self.assertAllEqual(found.images, expected.images)
                self.assertAllEqual(found.log_density, expected.log_density)
            none = restoration.restore(model, holes[:0], MASK, noise)
            self.assertEqual(none.images.shape, (0, *SHAPE[1:]))

    @mock.patch.multiple(posterior, **small_models.FEW_STEPS)
    def test_known_pixels_stay(self):
        images = small_models.images(3)
        mask = np.stack([MASK, ~MASK, np.zeros_like(MASK)])
        found, other = (
            restoration.restore(
                *(small_models.model(), images, mask),
                num_samples=num_samples,
                batch_size=4,
                seed=num_samples,
            )
            for num_samples in (2, 1)
        )
        self.assertIsNone(found.label)
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
        for restored in (found, other):
            self.assertAllEqual(np.isnan(restored.r_hat), [False, False, True])
            self.assertAllEqual(np.isfinite(restored.ess), [True, True, False])

    @mock.patch.multiple(posterior, **small_models.FEW_STEPS)
    def test_likeliest_class(self):
        model = small_models.distinct()
        images = model.sample(6, seed=0, label=[0, 1, 2] * 2).numpy()
        found, *by_class = (
            restoration.restore(model, images, MASK, label=label)
            for label in (None, 0, 1, 2)
        )
        joint = np.transpose([of_class.log_density for of_class in by_class])
        joint += np.log(model.class_probs)
        self.assertAllEqual(found.label, joint.argmax(axis=1))
        self.assertGreater(len(set(found.label)), 1)
        for index, label in enumerate(found.label):
            expected = by_class[label].images[index]
            self.assertAllEqual(found.images[index], expected)
        with self.assertRaisesRegex(TypeError, "`label` must "):
            restoration.restore(model, images, MASK, label=0.9)

    @mock.patch.multiple(posterior, **small_models.FEW_STEPS)
    def test_prior_of_classes(self):
        """It decides between classes that have the same density."""
        probs = 0.01, 0.98, 0.01
        model = small_models.displaced(0.2, num_classes=3, class_probs=probs)
        for network in model.networks:
            network.embedding.assign(tf.zeros_like(network.embedding))
        found = restoration.restore(model, small_models.images(3), MASK)
        self.assertAllEqual(found.label, [1, 1, 1])

    def test_nothing_known(self):
        """Draws the samples of the model."""
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
        """Restores images that were seen at half their size."""
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
