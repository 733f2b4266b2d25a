"""Tests for batched."""

import math

import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import batched
from tf_realnvp.utils.batches import stream

PLAIN, CLASSES = small_models.model, small_models.conditional


class BatchedTest(tf.test.TestCase, parameterized.TestCase):
    """It gives the same results as the model."""

    @parameterized.parameters(
        *((PLAIN, n, None) for n in (1, 64, 70)),
        *((CLASSES, 70, label) for label in (1, None, np.arange(70) % 3)),
    )
    def test_sample(self, make, n, label):
        seed = 2**32 - 1
        first, *rest = batched.sample(make(), n, 0.5, seed, label)
        head, others = label, label
        if np.ndim(label):
            head, others = label[:64], label[64:]
        self.assertAllEqual(first, make().sample(min(n, 64), 0.5, seed, head))
        for images in rest:
            own = stream(seed, 1)
            self.assertAllEqual(images, make().sample(6, 0.5, own, others))
        # No image repeats another, nor one of the next seed.
        again = batched.sample(make(), n, 0.5, 0, label)
        images = np.concatenate([first, *rest, *again])
        self.assertLen(np.unique(images, axis=0), 2 * n)

    @parameterized.parameters(PLAIN, CLASSES)
    def test_density(self, make):
        model, images = make(), small_models.images(5)
        for seed in (5, 5 + (7 << 32)):
            by_class = batched.log_prob_of_classes(model, images, seed)
            self.assertEqual(by_class.dtype, np.float64)
            log_prob = batched.mixture(model, by_class)
            expected = model.log_prob(images, seed)
            self.assertAllClose(log_prob, expected, rtol=1e-5)
        labels = range(3) if make is CLASSES else [None]
        by_class = [model.log_prob(images, 3, label) for label in labels]
        results = batched.log_prob_of_classes(model, images, 3)
        self.assertAllClose(results, np.transpose(by_class), rtol=1e-5)
        each = [model.log_prob_each(images, [3] * 5, label) for label in labels]
        joint = np.stack(each, axis=1) + batched.log_prior(model)
        scores = batched.score_each(model, images, 3)
        self.assertAllClose(
            scores.log_prob, np.logaddexp.reduce(joint, axis=1), rtol=1e-5
        )
        self.assertAllEqual(scores.label, joint.argmax(axis=1))

    @parameterized.parameters(PLAIN, CLASSES)
    def test_latents(self, make):
        """Batches do not change the results."""
        model, images = make(), small_models.images(70)
        latents, labels = batched.encode_likeliest(model, images)
        self.assertAllEqual(labels, batched.score_each(model, images, 0).label)
        self.assertAllClose(latents, batched.encode(model, images, labels))
        self.assertAllEqual(batched.decode(model, latents, labels), images)
        condition = [labels] if make is CLASSES else []
        expected = make().encode(images, *condition)
        self.assertAllClose(latents, expected, rtol=1e-4, atol=1e-4)

    @parameterized.parameters(100, 300)
    def test_many_and_few(self, n):
        """A part of many is the same as in a process of its own."""
        whole = [*batched.sample(CLASSES(), n, 1.0, 3)]
        [second] = batched.sample(CLASSES(), n, 1.0, 3, numbers=[1])
        self.assertAllEqual(second, whole[1])

    def test_context_of_each(self):
        model = small_models.displaced(0.3, filters=4, context_shape=(3,))
        context = np.random.default_rng(0).normal(size=[70, 3])
        found = np.concatenate(
            [*batched.sample(model, 70, 1.0, 3, None, context)]
        )
        first = model.sample(64, 1.0, 3, context=context[:64])
        self.assertAllEqual(found[:64], first)
        last = model.sample(6, 1.0, stream(3, 1), context=context[64:])
        self.assertAllEqual(found[64:], last)

    def test_filled(self):
        """All batches have one size, by which sums round."""
        images = small_models.images(5)
        batch = batched.fill(PLAIN(), images)
        self.assertEqual(batch.shape, (64, 4, 4, 1))
        self.assertAllEqual(batch[:5], images)
        self.assertAllEqual(batch[5:], np.zeros([59, 4, 4, 1]))
        self.assertAllEqual(batched.fill(PLAIN(), []), np.zeros([64, 4, 4, 1]))
        for other in (images / np.float32(17), images[:, :, :1]):
            with self.assertRaises((TypeError, ValueError)):
                batched.fill(PLAIN(), other)

    def test_likeliest_together(self):
        model, images = CLASSES(), small_models.images(9)
        self.assertGreater(
            len(set(batched.score_each(model, images, 0).label)), 1
        )
        _, labels = batched.encode_likeliest(model, images, together=True)
        by_class = batched.log_prob_of_classes(model, images, 0, each=True)
        joint = by_class.sum(axis=0) + batched.log_prior(model)
        self.assertAllEqual(labels, np.full(9, joint.argmax()))


class ImportanceBoundTest(tf.test.TestCase):
    def test_densities_that_floats_do_not_hold(self):
        self.assertAllClose(
            batched.importance_bound(np.array([[-8000.0], [-8001.0]])),
            [-8000.0 + math.log((1.0 + math.exp(-1.0)) / 2.0)],
            rtol=1e-12,
        )
