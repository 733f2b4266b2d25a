"""Tests for initialization."""

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import RealNVP, data, initialization


def smooth_images(count, shape, seed=0):
    """Random images whose neighbouring pixels are alike."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    images = rng.normal(size=(count, height + 4, width + 4, channels))
    for axis in (1, 2):
        images = sum(np.roll(images, shift, axis) for shift in range(5))
    images = 128 + 8 * images[:, 4:, 4:]
    return np.clip(images, 0, 255).astype(np.uint8)


def make_dataset(images):
    stored = tf.data.Dataset.from_tensor_slices(images)
    return data.ImageDataset(
        "smooth", images.shape[1:], 256, stored, stored, len(images), 1
    )


def make_model(shape, filters):
    keras.utils.set_random_seed(0)
    return RealNVP(shape, filters=filters, num_blocks=1)


class InitializeTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ((8, 8, 1), 16, 1.0), ((8, 12, 3), 24, 1.0), ((8, 8, 3), 2, 0.1)
    )
    def test_brings_test_images_nearer(self, shape, filters, gain):
        model = make_model(shape, filters)
        dataset = make_dataset(smooth_images(200, shape))
        test_images = smooth_images(50, shape, seed=1)
        before = np.mean(model.bits_per_dim(test_images, seed=0))
        initialization.initialize(model, dataset, seed=0)
        after = np.mean(model.bits_per_dim(test_images, seed=0))
        self.assertLess(after, before - gain)

    def test_first_coupling_against_least_squares(self):
        shape = (8, 8, 2)
        model = make_model(shape, 16)
        images = smooth_images(60, shape)
        initialization.initialize(model, make_dataset(images), seed=5)
        # The same images in another order, with noise of their own.
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

    def test_what_a_coupling_changes_gets_unit_variance(self):
        shape = (8, 8, 3)
        model = make_model(shape, 24)
        images = smooth_images(128, shape)
        initialization.initialize(model, make_dataset(images), seed=0)
        latents = model.bijector.inverse(model.dequantize(images, seed=0))
        self.assertAllClose(np.std(latents), 1.0, atol=0.1)
        self.assertAllClose(np.mean(latents), 0.0, atol=0.1)

    def test_density_and_sampler_still_agree(self):
        shape = (4, 4, 2)
        model = make_model(shape, 16)
        initialization.initialize(
            model, make_dataset(smooth_images(100, shape)), seed=0
        )
        self.assertAllEqual(
            model.decode(model.encode(smooth_images(9, shape, seed=2))),
            smooth_images(9, shape, seed=2),
        )
        latents = model.sample_latents(3, seed=0)
        points = model.bijector.forward(latents)
        self.assertAllClose(
            model.bijector.forward_log_det_jacobian(latents),
            -model.bijector.inverse_log_det_jacobian(tf.identity(points)),
            rtol=1e-3,
            atol=1e-2,
        )

    def test_same_seed_gives_same_weights(self):
        dataset = make_dataset(smooth_images(300, (4, 4, 1)))
        weights = []
        for seed in (0, 0, 1):
            model = make_model((4, 4, 1), 8)
            initialization.initialize(model, dataset, seed)
            weights.append(
                np.concatenate([v.numpy().ravel() for v in model.variables])
            )
        self.assertAllEqual(weights[0], weights[1])
        self.assertNotAllEqual(weights[0], weights[2])

    @parameterized.parameters(1, 3)
    def test_few_images(self, count):
        # Too few to predict from: what is fitted then must stay sane.
        shape = (2, 2, 3)
        model = make_model(shape, 32)
        initialization.initialize(
            model, make_dataset(smooth_images(count, shape)), seed=0
        )
        bits = model.bits_per_dim(smooth_images(50, shape, seed=1), seed=0)
        self.assertAllInRange(bits, 0.0, 1e4)

    @parameterized.product(
        shape=[(2, 2, 1), (2, 2, 3), (2, 4, 1)], filters=[2, 16]
    )
    def test_smallest_images(self, shape, filters):
        """The last couplings see a pixel or two, and some change nothing."""
        model = make_model(shape, filters)
        images = smooth_images(100, shape)
        initialization.initialize(model, make_dataset(images), seed=0)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(images, seed=0))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(
            model.trainable_variables, gradients, strict=True
        ):
            self.assertAllInRange(variable.numpy(), -1e3, 1e3)
            self.assertTrue(np.isfinite(gradient).all(), variable.path)
        for coupling in model.couplings:
            self.assertAllInRange(coupling.rescale.numpy(), 1.0, 1.0)
            if coupling.mask.all():
                self.assertAllEqual(coupling.reshift.numpy(), 0.0)
        largest = max(np.abs(gradient).max() for gradient in gradients)
        self.assertGreater(largest, 1e-3)

    def test_many_scales(self):
        shape = (16, 16, 1)
        keras.utils.set_random_seed(0)
        model = RealNVP(shape, filters=16, num_blocks=1, num_scales=4)
        images = smooth_images(128, shape)
        initialization.initialize(model, make_dataset(images), seed=0)
        latents = model.bijector.inverse(model.dequantize(images, seed=0))
        self.assertAllClose(np.std(latents), 1.0, atol=0.1)
        for coupling in model.couplings:
            # Every one was fitted: none is the identity any more.
            self.assertNotEqual(coupling.reshift.numpy(), 0.0)

    def test_images_without_any_contrast(self):
        model = make_model((4, 4, 1), 8)
        images = np.full([20, 4, 4, 1], 7, np.uint8)
        initialization.initialize(model, make_dataset(images), seed=0)
        self.assertAllInRange(model.bits_per_dim(images, seed=1), -1.0, 8.0)


if __name__ == "__main__":
    tf.test.main()
