"""Tests of what is done with models that have a condition."""

import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import detection, observations, restoration


class RestorationTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(
        {"num_colors": None}, {"num_colors": 4096}, {"num_classes": 2}
    )
    def test_restores_what_is_missing(self, **config):
        model = small_models.displaced(0.1, observe="mask", **config)
        points = small_models.points(2, model)
        images = points.astype(model.values.dtype)
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

    def test_masks(self):
        model = small_models.shared(observe="mask")
        images = small_models.images(3)
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
        model = small_models.shared(observe="noise:25")
        images = np.float32(small_models.images(2)) + 0.3
        found = restoration.restore(model, images, num_samples=3, seed=1)
        drawn = model.sample(4, seed=1, context=images.repeat(2, axis=0))
        drawn = np.reshape(drawn, [2, 2, 4, 4, 1])
        self.assertAllEqual(found.samples[:, :2], drawn)
        with self.assertRaisesRegex(ValueError, "noise:25"):
            restoration.restore(model, images, np.ones([4, 4, 1]))
        with self.assertRaisesRegex(ValueError, r"`images` .*\[n, 4, 4, 1\]"):
            restoration.restore(model, images[0])


class DetectionTest(tf.test.TestCase):
    def test_measurements(self):
        model = small_models.shared(context_shape=(3,))
        images = small_models.images(5)
        context = np.random.default_rng(0).normal(size=(5, 3))
        measure = detection.Measurer(model, batch_size=2)
        expected = model.log_prob_each(images, [3] * 5, context=context)
        found = measure(images, 3, context)
        self.assertAllClose(found.log_prob, expected, rtol=1e-5)
        maps = measure.maps(images, 3, context)
        self.assertAllClose(
            maps.sum(axis=(1, 2)), -expected / np.log(2.0), rtol=1e-5
        )
        model = small_models.shared(observe="noise:25")
        measure = detection.Measurer(model)
        each = images[:, np.newaxis]  # It has the noise of a batch of its own.
        context = [model.observation(own, [0, 0])[0] for own in each]
        self.assertAllClose(
            measure(images).log_prob, measure(images, 0, context).log_prob
        )
