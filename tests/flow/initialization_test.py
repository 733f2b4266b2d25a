"""Tests for initialization."""

import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import RealNVP, initialization


def smooth_images(count, shape, seed=0):
    """Random images whose neighbouring pixels are alike."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    images = rng.normal(size=(count, height + 4, width + 4, channels))
    for axis in (1, 2):
        images = sum(np.roll(images, shift, axis) for shift in range(5))
    contrasts = [8, 2, 4][:channels]  # Those of channels differ.
    images = 128 + contrasts * images[:, 4:, 4:]
    return np.clip(images, 0, 255).astype(np.uint8)


def make_model(shape, filters, num_scales=2, **kwargs):
    small_models.set_seed(0)
    # Each takes a while; all of a kind are fitted alike.
    kwargs = {"num_couplings": (2, 2, 2)} | kwargs
    return RealNVP(
        shape, filters=filters, num_blocks=1, num_scales=num_scales, **kwargs
    )


class InitializeTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(
        # Shape, filters, scales, and by how many bits/dim the density gains.
        ((4, 8, 3), 24, 2, 1.0),
        ((8, 8, 3), 2, 2, 0.1),  # Too few filters to predict with.
        ((4, 8, 1), 16, 3, 0.5, "periodic"),
    )
    def test_brings_test_images_nearer(
        self, shape, filters, scales, gain, padding="same"
    ):
        model = make_model(shape, filters, scales, padding=padding)
        images = smooth_images(200, shape)
        test_images = smooth_images(50, shape, seed=1)
        before = np.mean(model.bits_per_dim(test_images, seed=0))
        initialization.initialize(model, images, seed=3)
        after = np.mean(model.bits_per_dim(test_images, seed=0))
        self.assertLess(after, before - gain)
        for coupling in model.couplings:
            # Every one was fitted: none is the identity any more.
            self.assertNotEqual(coupling.reshift.numpy(), 0.0)
        # With the noise that it saw, every channel gets unit variance.
        latents = model.bijector.inverse(model.dequantize(images, seed=3))
        ones = np.ones(latents.shape[-1])
        self.assertAllClose(np.std(latents, axis=(0, 1, 2)), ones, atol=1e-4)
        self.assertAllClose(np.mean(latents, axis=(0, 1, 2)), 0.0 * ones)
        # It can still be inverted.
        latents = model.encode(test_images)
        self.assertAllEqual(model.decode(latents), test_images)

    @parameterized.parameters(None, 3)
    def test_frozen(self, num_classes):
        """Couplings that are frozen, even in part, do not change."""
        shape = (4, 8, 1)
        model = make_model(shape, 16, num_classes=num_classes)
        model.networks[0].trainable = False
        model.couplings[2].reshift.trainable = False
        initialization.initialize(model, smooth_images(200, shape), seed=0)
        for index, (coupling, network) in enumerate(
            zip(model.couplings, model.networks, strict=True)
        ):
            is_fitted = bool(coupling.reshift.numpy())
            self.assertEqual(is_fitted, index not in (0, 2))
            self.assertEqual(np.any(network.last.gain.numpy()), is_fitted)

    def test_first_coupling_against_least_squares(self):
        shape = (8, 8, 2)
        model = make_model(shape, 16)
        images = smooth_images(60, shape)
        initialization.initialize(model, images, seed=5)
        # The same images, with noise of their own.
        points = model.dequantize(images, seed=1)
        scale, sigmoid = model.bijector.bijectors[:2]
        logits = sigmoid.inverse(scale.inverse(points)).numpy()
        coupling = model.couplings[0]
        outputs = coupling.inverse(tf.constant(logits)).numpy()
        kept = np.pad(logits * coupling.mask, ((0, 0), (1, 1), (1, 1), (0, 0)))
        for channel in range(2):
            rows, targets, errors = [], [], []
            for y, x in zip(*np.nonzero(~coupling.mask[..., 0]), strict=True):
                patch = kept[:, y : y + 3, x : x + 3].reshape(len(images), -1)
                rows.append(np.insert(patch, 0, 1.0, axis=1))
                targets.append(logits[:, y, x, channel])
                errors.append(outputs[:, y, x, channel])
            rows, targets = np.concatenate(rows), np.concatenate(targets)
            solution, *_ = np.linalg.lstsq(rows, targets, rcond=None)
            expected = targets - rows @ solution
            expected /= expected.std()
            errors = np.concatenate(errors)
            self.assertAllClose(np.std(errors), 1.0, atol=0.03)
            self.assertGreater(np.corrcoef(errors, expected)[0, 1], 0.999)

    @parameterized.parameters(
        # Too few to predict from, and without any contrast; with the most
        # bits/dim that they may then have.
        (smooth_images(1, (2, 2, 3)), 1e4),
        (smooth_images(3, (2, 2, 3)), 1e4),
        (np.full([20, 4, 4, 1], 7, np.uint8), 8.0),
    )
    def test_images_that_tell_little(self, images, most):
        model = make_model(images.shape[1:], 32)
        initialization.initialize(model, images, seed=0)
        others = smooth_images(50, model.image_shape, seed=1)
        for seen, highest in ((images, most), (others, 1e5)):
            bits = model.bits_per_dim(seen, seed=1)
            self.assertAllInRange(bits, -1.0, highest)

    @parameterized.parameters(((2, 2, 1), 2), ((2, 2, 1), 8), ((2, 4, 3), 16))
    def test_smallest_images(self, shape, filters):
        """The last couplings see one or two pixels."""
        model = make_model(shape, filters)
        images = smooth_images(400, shape)
        initialization.initialize(model, images, seed=0)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(images, seed=0))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(
            model.trainable_variables, gradients, strict=True
        ):
            self.assertAllInRange(variable.numpy(), -1e3, 1e3)
            self.assertTrue(np.isfinite(gradient).all(), variable.path)
        for coupling in model.couplings:
            self.assertEqual(coupling.rescale.numpy(), 1.0)
            if coupling.mask.all():
                self.assertEqual(coupling.reshift.numpy(), 0.0)
        largest = max(np.abs(gradient).max() for gradient in gradients)
        self.assertGreater(largest, 1e-3)
