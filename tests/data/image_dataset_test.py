"""Tests for image_dataset."""

import dataclasses
import gc
import weakref
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import images_of, random_images
from tensorflow.python.framework import random_seed

from tf_realnvp import data
from tf_realnvp.data import arrays, image_dataset, pipeline, splits
from tf_realnvp.errors import DataError
from tf_realnvp.flow.values import Values


def numbered(count, labels=None, class_names=(), has_records=False, **options):
    """A data set in which image i is filled with i, and its decode count.

    Args:
      count: Number of images in each split, the same in both.
      labels: Of these.
      class_names: Names of the classes.
      has_records: Whether they are stored one after the other, as TFDS's are.
      **options: Of the data set.
    """
    decoded = tf.Variable(0)

    def decode(i):
        decoded.assign_add(1)
        return tf.fill([2, 2, 1], tf.cast(i, tf.uint8))

    split = splits.Split(
        np.arange(count),
        labels,
        tf.data.Dataset.range(count) if has_records else None,
    )
    dataset = image_dataset.ImageDataset(
        name="numbered",
        image_shape=(2, 2, 1),
        values=Values(256),
        splits={"train": split, "test": split},
        decode=decode,
        class_names=tuple(class_names),
        **{"image_fingerprint": "numbered", **options},
    )
    return dataset, decoded


def order(batches):
    return [i for x, _ in batches for i in x.numpy()[:, 0, 0, 0].tolist()]


class HoldOutTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_is_never_trained_on(self, has_records):
        images, decoded = numbered(100, has_records=has_records)
        held_out = images.hold_out(13, seed=5)
        self.assertEqual(
            (held_out.num_train, held_out.num_validation), (87, 13)
        )
        # From what is stored, and from memory.
        for epoch in range(2):
            validation = order(held_out.batches("validation", 4))
            self.assertEqual(validation, sorted(validation))
            train = order(held_out.train_batches(87, seed=0, epoch=epoch))
            self.assertCountEqual(train + validation, range(100))
        self.assertEqual(decoded, 100)
        self.assertEqual(order(held_out.batches("test", 8)), list(range(100)))


class SameForEverTest(tf.test.TestCase):
    """Orders and splits must never change, as old runs depend on them."""

    def test_orders(self):
        for has_records in (False, True):
            images, _ = numbered(20, has_records=has_records)
            held_out = images.hold_out(3, seed=0)
            self.assertEqual(
                order(held_out.batches("validation", 3)), [0, 10, 18]
            )
            other = order(images.hold_out(3, seed=1).batches("validation", 3))
            self.assertNotEqual(other, [0, 10, 18])
            images, _ = numbered(8, has_records=has_records)
            batches = images.train_batches(4, seed=0, epoch=1)
            self.assertEqual(order(batches), [5, 3, 4, 7, 2, 6, 0, 1])

    def test_splits(self):
        digits = data.load("digits", labels=True)
        self.assertAllEqual(
            digits.splits["test"].labels[:8], [7, 9, 4, 7, 0, 2, 6, 1]
        )
        levels = np.arange(20, dtype=np.uint8)
        images = np.broadcast_to(levels[:, None, None, None], [20, 2, 2, 1])
        dataset = arrays.from_images(images)
        self.assertEqual(order(dataset.batches("test", 2)), [1, 8, 9, 17])


class ObserveTest(tf.test.TestCase):
    def test_seeds(self):
        """Each batch of each epoch has its own, resumed or not."""

        def observe(images, seed):
            return tf.repeat(tf.cast(seed, tf.int32)[None], len(images), 0)

        images, _ = numbered(40, observe=observe)

        def seeds(*args, **options):
            batches = images.train_batches(8, *args, **options)
            return [tuple(own["context"][0].numpy()) for _, own in batches]

        first = seeds(seed=0, epoch=1)
        self.assertLen(set(first), 5)
        self.assertEqual(seeds(seed=0, epoch=1, skip=2), first[2:])
        for others in (seeds(seed=0, epoch=2), seeds(seed=1, epoch=1)):
            self.assertEmpty({*first} & {*others})


class SampleTestImagesTest(tf.test.TestCase):
    def test_are_drawn(self):
        """They keep their order and their labels."""
        labels = np.arange(100) // 50
        images, _ = numbered(100, labels, "ab")
        some = images.sample_test(20, seed=3)
        drawn = some.splits["test"].indices
        batch = next(iter(some.batches("test", 20)))
        self.assertEqual(order([batch]), drawn.tolist())
        self.assertAllEqual(batch[1]["label"], labels[drawn])
        self.assertAllEqual(drawn, np.unique(drawn))
        self.assertBetween(np.mean(drawn < 50), 0.2, 0.8)
        other = images.sample_test(20, seed=4)
        self.assertNotAllEqual(drawn, other.splits["test"].indices)
        self.assertEqual(some.num_train, 100)
        self.assertIs(images.sample_test(100, 0), images)


class LabelsTest(tf.test.TestCase, parameterized.TestCase):
    def labelled(self, **options):
        """Image i is filled with i, and its label is 2 i modulo 7."""
        labels = 2 * np.arange(20, dtype=np.int32) % 7
        return numbered(20, labels, "abcdefg", **options)[0]

    def assert_labelled(self, batches, count):
        """Checks the labels; returns the order of the images."""
        batches = list(batches)
        found = order(batches)
        labels = np.concatenate([own["label"] for _, own in batches])
        self.assertLen(found, count)
        self.assertEqual(labels.dtype, np.int32)
        self.assertAllEqual(labels, 2 * np.array(found) % 7)
        return found

    @parameterized.parameters(2**30, 0)
    def test_stay_with_their_images(self, cache_bytes):
        self.enter_context(
            mock.patch.object(image_dataset, "MAX_CACHE_BYTES", cache_bytes)
        )
        images = self.labelled(flip=True).hold_out(6, seed=1)
        plain = numbered(20, flip=True)[0].hold_out(6, seed=1)
        expected = order(plain.train_batches(7, 0, 1))
        for _ in range(2):
            self.assert_labelled(images.batches("test", 8), 20)
            self.assert_labelled(images.batches("validation", 4), 6)
            self.assertEqual(
                self.assert_labelled(images.train_batches(7, 0, 1), 14),
                expected,
            )
        self.assert_labelled(images.train_batches(7, 0, 1, skip=1), 7)
        self.assert_labelled(images.keep_bits(8).batches("test", 8), 20)
        first, other = (images.initial_images(seed) for seed in (0, 1))
        self.assertEqual(first.shape, [14, 2, 2, 1])
        self.assertNotAllEqual(first, other)
        # Those held out are included, and no test images.
        counts = np.multiply(images.sample_test(2, 0).class_probs, 20)
        self.assertAllClose(counts, [3, 3, 3, 3, 3, 2, 3])

    def test_fingerprint(self):
        """It depends on images, names and labels, but not on the split."""
        fingerprints = {"x"}
        for names, labels in (
            ((), None),
            ("ab", [0, 1, 0]),
            ("ab", [0, 1, 1]),
            ("ac", [0, 1, 0]),
        ):
            numbers = labels and np.array(labels)
            images, _ = numbered(3, numbers, names, image_fingerprint="x")
            fingerprints.add(images.fingerprint)
        self.assertLen(fingerprints, 4)
        self.assertLen([f for f in fingerprints if f[:6] == "55ca94"], 1)
        held_out = self.labelled().hold_out(2, seed=0)
        self.assertEqual(held_out.fingerprint, self.labelled().fingerprint)


class KeepBitsTest(tf.test.TestCase):
    def test_highest_bits(self):
        all_levels = np.arange(256, dtype=np.uint8).reshape(-1, 2, 2, 1)
        images = arrays.make("levels", [all_levels, all_levels], 256)
        for num_bits in (1, 5, 8):
            kept = images.keep_bits(num_bits)
            self.assertEqual(kept.num_colors, 2**num_bits)
            # Files of 8 bits hold what the data set has.
            self.assertNotIn("dropped_bits", kept.metadata)
            self.assertAllEqual(
                images_of(kept.batches("test", 9)), all_levels >> (8 - num_bits)
            )

    def test_other_levels(self):
        with self.assertRaisesRegex(DataError, "17 levels"):
            data.load("digits", num_bits=4)
        with self.assertRaisesRegex(DataError, "256 levels, .* of 4096 or"):
            numbered(2)[0].keep_bits(12)


class TakeTest(tf.test.TestCase):
    def test_some_of_a_split(self):
        images = numbered(300)[0].sample_test(7, seed=0)
        numbers = images.splits["test"].indices
        for split, chosen, expected in (
            ("train", [299, 0, 5, 0], [299 % 256, 0, 5, 0]),
            ("test", [6, 2], numbers[[6, 2]] % 256),
            ("test", [], []),
        ):
            taken = images.take(split, chosen)
            self.assertEqual(taken.dtype, np.uint8)
            self.assertEqual(taken.shape, (len(chosen), 2, 2, 1))
            self.assertAllEqual(taken[:, 0, 0, 0], expected)


class BatchesTest(tf.test.TestCase, parameterized.TestCase):
    def test_order_depends_on_seed_and_epoch_alone(self):
        """It neither depends on the global seed nor changes it."""
        first, second = (numbered(100, flip=True)[0] for _ in range(2))
        tf.random.set_seed(1)
        expected = order(first.train_batches(8, seed=3, epoch=5))
        list(second.batches("test", 8))
        tf.random.set_seed(2)
        after = random_seed.get_seed(None)
        tf.random.set_seed(2)
        repeated = second.train_batches(8, seed=3, epoch=5)
        self.assertEqual(order(repeated), expected)
        self.assertEqual(order(repeated), expected)
        self.assertEqual(random_seed.get_seed(None), after)
        for other in ((2, 5), (3 + 2**32, 5), (3, 4)):
            self.assertNotEqual(order(first.train_batches(8, *other)), expected)

    @parameterized.parameters((5, None), (5, 10), (12, 10), (13, None))
    def test_skip_goes_on(self, skip, shuffle_buffer):
        """Skipped images are not decoded."""
        images, decoded = numbered(100, shuffle_buffer=shuffle_buffer)
        batches = images.train_batches(8, seed=0, epoch=1, skip=skip)
        self.assertLen(batches, max(12 - skip, 0))
        rest = order(batches)
        self.assertEqual(decoded, 100 - 8 * skip if skip <= 12 else 0)
        # From what is stored, and then from memory.
        for _ in range(2):
            whole = order(images.train_batches(8, seed=0, epoch=1))
            self.assertEqual(rest, whole[8 * skip :])
        batches = images.train_batches(8, seed=0, epoch=1, skip=skip)
        self.assertEqual(order(batches), rest)

    def test_initial_images(self):
        """There are fewer of large images, which take more memory."""
        for width, number in ((64, 128), (66, 124), (2048, 8)):
            shape = (64, width, 1)
            images = np.zeros([200, *shape], np.uint8)
            dataset = arrays.make("black", [images, images[:1]], 256)
            self.assertEqual(dataset.initial_images(0).shape, (number, *shape))


class MemoryTest(tf.test.TestCase, parameterized.TestCase):
    def test_images_are_decoded_once(self):
        """This holds for dropped images, and if a pass ends early."""
        images, decoded = numbered(100)
        list(images.train_batches(8, seed=0, epoch=0).take(1))
        self.assertLess(decoded, 100)
        list(images.train_batches(8, seed=0, epoch=0, skip=1))
        before = decoded.numpy()
        for epoch in range(2):
            seen = order(images.train_batches(8, seed=0, epoch=epoch))
            self.assertLen(set(seen), 96)
        self.assertEqual(decoded, before)
        list(images.batches("test", 30))
        self.assertEqual(order(images.batches("test", 20)), list(range(100)))
        self.assertEqual(decoded, before + 100)

    @parameterized.parameters((800, 200), (799, 400))
    def test_large_data_sets_are_decoded_in_each_pass(self, limit, expected):
        # 200 images of 4 bytes, whatever split they are in.
        self.enter_context(
            mock.patch.object(image_dataset, "MAX_CACHE_BYTES", limit)
        )
        images, decoded = numbered(100)
        images = images.hold_out(20, seed=0)
        first = order(images.train_batches(8, seed=0, epoch=0))
        for _ in range(2):
            list(images.batches("validation", 8))
            self.assertEqual(
                order(images.batches("test", 30)), list(range(100))
            )
        again = order(images.train_batches(8, seed=0, epoch=0))
        self.assertEqual(again, first)
        self.assertEqual(decoded, expected)

    @parameterized.parameters((2**30, False), (2**30, True), (0, False))
    def test_is_freed(self, cache_bytes, is_decoded):
        """Nothing is kept after the last pipeline and iterator."""
        self.enter_context(
            mock.patch.object(image_dataset, "MAX_CACHE_BYTES", cache_bytes)
        )
        content = random_images(40, 4, 4, 1)
        images = arrays.from_images(content).keep_bits(5)
        batches = images.train_batches(9, seed=0, epoch=1)
        expected = images_of(batches)
        if is_decoded:
            batches = images.train_batches(9, seed=0, epoch=1)
        reference = weakref.ref(content)
        del images, content
        gc.collect()
        self.assertAllEqual(images_of(batches), expected)
        iterator = iter(batches)
        del batches
        gc.collect()
        self.assertAllEqual(images_of(iterator), expected)
        del iterator
        gc.collect()
        self.assertIsNone(reference())


class DamageTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        tf.errors.InvalidArgumentError(None, None, "an assertion of a step"),
        tf.errors.ResourceExhaustedError(
            None, None, f"OOM [[{{{{node {pipeline.DECODING}/x}}}}]]"
        ),
    )
    def test_other_errors_go_through(self, error):
        dataset, _ = numbered(10)
        with self.assertRaises(type(error)):
            with dataset.naming_damage():
                raise error


class FlipTest(tf.test.TestCase):
    def test_half_of_the_training_images_are_mirrored(self):
        pixels = random_images(600, 4, 6, 3)
        plain = arrays.make("noise", [pixels, pixels], 256)
        flipped = dataclasses.replace(plain, flip=True)
        patterns = []
        for epoch in range(2):
            batches = images_of(flipped.train_batches(60, 0, epoch))
            originals = images_of(plain.train_batches(60, 0, epoch))
            mirrored = (batches != originals).any(axis=(1, 2, 3))
            expected = originals.copy()
            expected[mirrored] = originals[mirrored, :, ::-1]
            self.assertAllEqual(batches, expected)
            patterns += map(bytes, mirrored.reshape(10, 60))
        self.assertLen(set(patterns), 20)  # Each batch draws anew.
        # Five standard deviations.
        share = np.mean([[*pattern] for pattern in patterns])
        self.assertAllClose(share, 0.5, rtol=0, atol=0.07)
        # A function of seed and epoch alone, also after a start in the middle.
        for skip in (0, 7):
            tf.random.set_seed(skip)
            rest = dataclasses.replace(flipped).train_batches(60, 0, 1, skip)
            self.assertAllEqual(images_of(rest), batches[60 * skip :])
        self.assertAllEqual(images_of(flipped.batches("test", 60)), pixels)


class MomentsTest(tf.test.TestCase, parameterized.TestCase):
    def real_numbers(self, mean, deviation, of_second=None):
        """Images of two channels, of which the second may be constant."""
        rng = np.random.default_rng(0)
        images = rng.normal(mean, deviation, (600, 4, 4, 2)).astype(np.float32)
        images[..., 1] *= 3.0
        if of_second is not None:
            images[..., 1] = of_second
        return arrays.from_images(images, None, labels=np.arange(600) % 2)

    @parameterized.parameters((1e8, 30.0), (0.0, 1e-6), (-3.0, 2.0))
    def test_far_from_zero(self, mean, deviation):
        """Those of each channel of the training images are exact."""
        dataset = self.real_numbers(mean, deviation)
        train = np.float64(dataset.take("train", range(dataset.num_train)))
        expected = train.mean(axis=(0, 1, 2)), train.std(axis=(0, 1, 2))
        self.assertAllClose(dataset.moments(), expected, rtol=1e-9)

    @parameterized.parameters(0.0, 12.22, 1e8)
    def test_constant_channel(self, value):
        """Such images have no density."""
        with self.assertRaisesRegex(DataError, "channel 1 .* constant"):
            self.real_numbers(0.0, 1.0, value).moments()
