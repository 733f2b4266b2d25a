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
from tf_realnvp.utils import hashing
from tf_realnvp.utils.errors import DataError


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
        num_colors=256,
        splits={"train": split, "test": split},
        decode=decode,
        class_names=tuple(class_names),
        **{"image_fingerprint": "numbered", **options},
    )
    return dataset, decoded


def order(batches):
    return [i for batch in batches for i in batch.numpy()[:, 0, 0, 0].tolist()]


@tf.function
def read_as_training(batches):
    tf.while_loop(
        lambda i: i < 5, lambda i: (batches.get_next(), i + 1)[1:], [0]
    )


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
    """Models and runs of before must not see other images as theirs."""

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


class SampleTestImagesTest(tf.test.TestCase):
    def test_are_drawn(self):
        """In their order, with their labels, and from all of them."""
        labels = np.arange(100) // 50
        images, _ = numbered(100, labels, "ab")
        some = images.sample_test(20, seed=3)
        drawn = some.splits["test"].indices
        batch, its = next(iter(some.batches("test", 20)))
        self.assertEqual(order([batch]), drawn.tolist())
        self.assertAllEqual(its, labels[drawn])
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
        images, labels = zip(*batches, strict=True)
        found = order(images)
        labels = np.concatenate(labels)
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

    def test_relabel(self):
        images = self.labelled()
        names = ("x", *"gfedcba")
        numbers = [names.index(name) for name in images.class_names]
        other = images.relabel(names)
        self.assertEqual(other.class_names, names)
        self.assertEqual(other.fingerprint, images.fingerprint)
        for split, own in images.splits.items():
            expected = np.take(numbers, own.labels)
            self.assertAllEqual(other.splits[split].labels, expected)
        plain = images.relabel(())
        self.assertEqual(order(plain.batches("test", 5)), [*range(20)])
        self.assertEqual(plain.fingerprint, numbered(20)[0].fingerprint)
        self.assertEmpty(plain.class_probs)

    def test_fingerprint(self):
        """Of images, names and labels; what it was, and no matter the split."""
        fingerprints = {"x"}
        for names, labels in (
            ((), None),
            ("ab", [0, 1, 0]),
            ("ab", [0, 1, 1]),
            ("ac", [0, 1, 0]),
        ):
            own = labels and np.array(labels)
            images, _ = numbered(3, own, names, image_fingerprint="x")
            fingerprints.add(images.fingerprint)
        self.assertLen(fingerprints, 4)
        self.assertLen([f for f in fingerprints if f[:6] == "55ca94"], 1)
        held_out = self.labelled().hold_out(2, seed=0)
        self.assertEqual(held_out.fingerprint, self.labelled().fingerprint)

    @parameterized.parameters([[0, 1, 2]], [[-1, 0, 1]])
    def test_wrong_labels(self, labels):
        message = f"from 0 to 1, got some from {min(labels)} to {max(labels)}"
        with self.assertRaisesRegex(DataError, f"train images .* {message}"):
            numbered(3, np.array(labels), "ab")


class TrainingHashesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_sample(self, has_hashes):
        """Of all images but those for testing."""
        self.enter_context(mock.patch.object(hashing, "SKETCH_SIZE", 3))
        dataset, decoded = numbered(9, has_records=not has_hashes)
        numbers, files = [0, 1, 2], []
        if has_hashes:
            hashes = np.array([9, 2, 7, 1, 8, 6, 5, 4, 3], np.uint64)
            train = dataclasses.replace(dataset.splits["train"], hashes=hashes)
            dataset.splits["train"] = train
            numbers, files = [1, 3, 8], [1, 2, 3]
        pixels = [np.full([2, 2, 1], i, np.uint8) for i in numbers]
        expected = {*files, *map(hashing.hash_of, pixels)}
        text = dataset.metadata["training_hashes"]
        self.assertEqual(hashing.parse_sketch(text), expected)
        self.assertEqual(decoded, 3)
        text = dataset.hold_out(4, seed=0).metadata["training_hashes"]
        self.assertContainsSubset(expected, hashing.parse_sketch(text))


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


class MomentsTest(tf.test.TestCase):
    def test_of_each_channel(self):
        """In training, and of more images than a batch holds."""
        rng = np.random.default_rng(0)
        pixels = rng.normal([3.0, -9.0], [0.5, 7.0], size=(600, 2, 2, 2))
        images = arrays.from_images(pixels, None, labels=np.arange(600) % 2)
        train = images.take("train", range(images.num_train))
        expected = train.mean(axis=(0, 1, 2)), train.std(axis=(0, 1, 2))
        self.assertAllClose(images.moments(), expected, rtol=1e-5)


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
    def test_train_batches_are_whole(self):
        images, _ = numbered(100)
        batches = images.train_batches(8, seed=0, epoch=0)
        expected = tf.TensorSpec((8, 2, 2, 1), tf.uint8)
        self.assertEqual(batches.element_spec, expected)
        self.assertEmpty(list(images.train_batches(101, seed=0, epoch=0)))

    def test_order_depends_on_seed_and_epoch_alone(self):
        """Not on what was read, nor on the global seed, which it leaves."""
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
        """And decodes nothing of what it leaves out."""
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

    def test_shuffle_buffer_limits_how_far_images_move(self):
        images, _ = numbered(100, shuffle_buffer=10)
        seen = order(images.train_batches(10, seed=0, epoch=0))
        self.assertCountEqual(seen, range(100))
        for place, i in enumerate(seen):
            self.assertLess(i, place + 10)

    def test_initial_images(self):
        """As many up to 64x64; more would take too much memory of larger."""
        for width, number in ((64, 128), (66, 124), (2048, 8)):
            shape = (64, width, 1)
            images = np.zeros([200, *shape], np.uint8)
            dataset = arrays.make("black", [images, images[:1]], 256)
            self.assertEqual(dataset.initial_images(0).shape, (number, *shape))


class MemoryTest(tf.test.TestCase, parameterized.TestCase):
    def test_images_are_decoded_once(self):
        """Those that are dropped, too, and if a pass stops early."""
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
        """After the last pipeline and iterator: TensorFlow keeps nothing."""
        self.enter_context(
            mock.patch.object(image_dataset, "MAX_CACHE_BYTES", cache_bytes)
        )
        content = random_images(40, 4, 4, 1)
        images = arrays.from_images(content).keep_bits(5)
        batches = images.train_batches(9, seed=0, epoch=1)
        expected = images_of(batches)
        if is_decoded:
            batches = images.train_batches(9, seed=0, epoch=1)
        alive = [weakref.ref(content)]
        for pipe in images._pipelines.values():
            alive.append(weakref.ref(pipe.cache or pipe))
        del images, content, pipe
        gc.collect()
        self.assertAllEqual(images_of(batches), expected)
        iterator = iter(batches)
        del batches
        gc.collect()
        self.assertAllEqual(images_of(iterator), expected)
        del iterator
        gc.collect()
        self.assertTrue(all(at() is None for at in alive))


class DamageTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        is_traced=(False, True),
        read=(
            lambda dataset: list(dataset.train_batches(2, 0, 0)),
            lambda dataset: read_as_training(iter(dataset.batches("test", 2))),
        ),
    )
    def test_decoding(self, is_traced, read):
        png = tf.io.encode_png(tf.zeros([2, 2, 1], tf.uint8))

        def decode(i):
            with tf.name_scope(pipeline.DECODING):
                content = tf.where(i == 3, "", png)
                return tf.io.decode_image(content, 1, expand_animations=False)

        if is_traced:
            decode = tf.function(decode).get_concrete_function(
                tf.TensorSpec([], tf.int64)
            )
        dataset = dataclasses.replace(
            numbered(10)[0],
            decode=decode,
            explain_damage=lambda reason: f"number 3: {reason}",
        )
        with self.assertRaisesRegex(
            DataError, "^an image of numbered.*: number 3: Input is empty.*$"
        ):
            with dataset.naming_damage():
                read(dataset)

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
