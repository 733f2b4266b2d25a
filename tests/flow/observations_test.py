"""Tests for observations: densities of what is not seen of images."""

import jacobians
import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import RealNVP, bit_maps, observations
from tf_realnvp.flow.values import Values


class ObservationTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("mask", (8, 8, 4)),
        ("gray", (8, 8, 1)),
        ("lowres:2", (4, 4, 3)),
        ("noise:25", (8, 8, 3)),
    )
    def test_named(self, name, shape):
        images = np.random.default_rng(0).integers(17, size=[50, 8, 8, 3])
        images = images.astype(np.uint8)
        observe = observations.named(name, Values(17))
        observed = observe(images, [1, 2])
        self.assertEqual(observed.shape, [50, *shape])
        self.assertAllEqual(observed, observe(images, [1, 2]))
        other = observe(images, [1, 3])
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
        observe = observations.named("noise:0.1", Values(None))
        noise = observe(tf.fill([50, 8, 8, 1], 0.5), [1, 2]) - 0.5
        self.assertAllClose(np.std(noise), 0.1, rtol=0.05)

    def test_masks(self):
        """They see nothing, or every part of an image equally often."""
        masks = observations.random_masks(4000, 8, 8, tf.constant([1, 2]))
        shares = np.mean(masks, axis=(1, 2, 3))
        self.assertAllInRange(np.mean(shares == 0.0), 0.1, 0.2)
        self.assertLess(np.mean(shares == 1.0), 0.01)  # It teaches nothing.
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
            RealNVP((8, 8, 3), observe=name)
        with self.assertRaisesRegex(ValueError, "of its own"):
            RealNVP((8, 8, 3), observe="gray", context_shape=(2,))

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
        self.assertAllEqual(found, model.log_prob(images, 1, **condition))
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

    def test_learned_noise_of_the_rest_is_exact(self):
        """It leaves what is visible alone, which adds nothing to a density."""
        shape = 4, 4, 2
        kind = {"dequantization": "variational", "observe": "mask"}
        model = small_models.displaced(0.3, shape, **kind)
        uniform = RealNVP(**model.get_config() | {"dequantization": "uniform"})
        own = model.named_variables()
        for name, variable in uniform.named_variables().items():
            variable.assign(own[name])
        points = small_models.points(1, model)
        mask = np.random.default_rng(0).random([1, 4, 4, 1]) < 0.4
        context = observations.visible_pixels(np.floor(points), mask)
        points = model.visible.in_points(tf.constant(points), context)
        free = np.flatnonzero(~np.broadcast_to(mask, points.shape))
        noise = model.bijector.bijectors[0]
        visible = observations.split_visible(context)[1]

        def move(values):
            at = tf.one_hot(free, 32)
            flat = tf.reshape(points, [1, 32]) * (1.0 - tf.reduce_sum(at, 0))
            whole = tf.reshape(flat + values @ at, [-1, *shape])
            moved = noise.inverse(whole, visible=visible)
            return tf.gather(tf.reshape(moved, [-1, 32]), free, axis=1)

        values = tf.gather(tf.reshape(points, [32]), free)
        moved = noise.inverse(points, visible=visible)
        given = visible > 0.0
        self.assertAllClose(moved[given], points[given], atol=1e-6)
        self.assertNotAllClose(moved[~given], points[~given], atol=0.01)
        self.assertAllClose(noise.forward(moved, visible=visible), points)
        log_det = jacobians.log_abs_det(move, values)
        expected = uniform.log_density(moved, context=context)[0] + log_det
        found = model.log_density(points, context=context)[0]
        self.assertAllClose(found, expected, rtol=1e-4)
        costs = bit_maps.costs(model, points, context=context)
        self.assertAllClose(tf.reduce_sum(costs), -expected, rtol=1e-4)
        # Noise takes no part in samples.
        both = (m.sample(1, seed=1, context=context) for m in (model, uniform))
        self.assertAllEqual(*both)

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
        model = small_models.shared(observe="mask")
        images = small_models.images(3)
        mask = np.random.default_rng(0).random([3, 4, 4, 1]) < 0.5
        expected = observations.visible_pixels(images, mask)
        found = observations.visible_pixels(images, mask * one)
        self.assertAllEqual(found, expected)
        own = np.concatenate([images + 0.0, mask * one], axis=-1)
        self.assertAllEqual(
            model.log_prob(images, 1, context=own),
            model.log_prob(images, 1, context=expected),
        )
