"""Tests for restoration."""

import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import random_images

from tf_realnvp import restoration
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
            mean, std = np.full_like(std, 128.0), std / scale
            found = truth, truth[:, np.newaxis], mean, std
            return restoration.Restoration(*found), truth

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
        parts = mean, mean[:, np.newaxis], mean, 0.0 * mean
        found = restoration.Restoration(*parts)
        for truth, ends in ((7, (7, 7)), (10, (4, 10))):
            truth = np.full(mean.shape, truth)
            factor = restoration.interval_factor(values, found, truth, 0.9)
            low, high = restoration.interval(values, found, factor)
            self.assertEqual((low.min(), high.max()), ends)


class RestoreTest(tf.test.TestCase, parameterized.TestCase):
    def test_any_mask(self):
        """It broadcasts, and what is missing does not matter."""
        model = small_models.shared(observe="mask")
        images = small_models.images(2)
        expected = restoration.restore(model, images, MASK)
        self.assertLen(expected.samples[0], 16)
        grey = np.where(MASK, [[[-0.9]], [[0.1]], [[np.nan]], [[8]]], 0.0)
        holes = np.where(MASK, np.uint8(255), images)
        for mask in (MASK.astype(int), np.uint8(255) * MASK, grey):
            found = restoration.restore(model, holes, mask)
            self.assertAllEqual(found.images, expected.images)
            self.assertAllEqual(found.std, expected.std)

    def test_known_pixels_stay(self):
        """Those of images without a hole, too, and of a channel alone."""
        model = small_models.shared(image_shape=(4, 4, 2), observe="mask")
        images = random_images(3, 4, 4, 2, num_colors=17)
        mask = np.stack([MASK, ~MASK, np.zeros_like(MASK)])
        mask = np.concatenate([mask, np.roll(mask, 1, axis=1)], axis=-1)
        found = restoration.restore(model, images, mask)
        self.assertIsNone(found.label)
        for values in (found.images, found.mean, *found.samples.swapaxes(0, 1)):
            self.assertAllEqual(values[~mask], images[~mask])
        self.assertAllEqual(found.std[~mask], 0.0 * images[~mask])
        self.assertGreater(np.mean(found.std[mask] > 0.0), 0.8)

    @parameterized.parameters(
        (ValueError, "images", {"images": small_models.images(4)[..., 0]}),
        (TypeError, "images", {"images": np.zeros(SHAPE)}),
        (INVALID, "images", *({"images": np.full(SHAPE, i)} for i in (-1, 17))),
        (ValueError, "num_samples", {"num_samples": 0}),
        (ValueError, "batch_size", {"batch_size": 0}),
        (ValueError, "label", {"label": 1}),
    )
    def test_bad(self, error, name, *cases):
        valid = {"images": small_models.images(4), "mask": MASK}
        model = small_models.shared(observe="mask")
        for arguments in cases:
            with self.assertRaisesRegex(error, f"`{name}` must "):
                restoration.restore(model, **(valid | arguments))
        with self.assertRaisesRegex(ValueError, "`observe` 'mask'"):
            restoration.restore(small_models.model(), **valid)
