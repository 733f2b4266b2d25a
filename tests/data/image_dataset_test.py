"""Tests for image_dataset."""

import contextlib
import dataclasses
import io
import pathlib
import subprocess
import sys
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import data
from tf_realnvp.data import image_dataset
from tf_realnvp.errors import DamagedImageError

REPOSITORY = pathlib.Path(__file__).parents[2]


def images_of(batches):
    """All images of some batches, [N, H, W, C]."""
    return np.concatenate([batch.numpy() for batch in batches])


def numbered(count, **options):
    """A data set in which image i is filled with i, and its decode count."""
    decoded = tf.Variable(0)

    def decode(i):
        decoded.assign_add(1)
        return tf.fill([2, 2, 1], tf.cast(i, tf.uint8))

    dataset = image_dataset.ImageDataset(
        name="numbered",
        image_shape=(2, 2, 1),
        num_colors=256,
        train=tf.data.Dataset.range(count),
        test=tf.data.Dataset.range(count),
        num_train=count,
        num_test=count,
        decode=decode,
        **options,
    )
    return dataset, decoded


def order(batches):
    return images_of(batches)[:, 0, 0, 0].tolist()


class HoldOutTest(tf.test.TestCase, parameterized.TestCase):
    def test_is_never_trained_on(self):
        images, decoded = numbered(100)
        held_out = images.hold_out(13, seed=5)
        self.assertEqual(
            (held_out.num_train, held_out.num_validation), (87, 13)
        )
        validation = order(held_out.validation_batches(4))
        self.assertLen(set(validation), 13)
        # From what is stored, and from memory.
        for epoch in range(3):
            train = order(held_out.train_batches(87, seed=0, epoch=epoch))
            self.assertCountEqual(train + validation, range(100))
        self.assertEqual(order(held_out.validation_batches(8)), validation)
        self.assertEqual(decoded, 100)
        self.assertEqual(order(held_out.test_batches(8)), list(range(100)))

    def test_which_depends_on_the_seed_alone(self):
        choices = [
            order(numbered(100)[0].hold_out(10, seed).validation_batches(10))
            for seed in (3, 3, 4)
        ]
        self.assertEqual(choices[0], choices[1])
        self.assertNotEqual(choices[0], choices[2])
        self.assertNotEqual(choices[0], list(range(10)))

    def test_shuffle_buffer(self):
        images, _ = numbered(100, shuffle_buffer=100)
        train = order(
            images.hold_out(50, seed=0).train_batches(5, seed=1, epoch=1)
        )
        self.assertLen(set(train), 50)

    def test_all_splits_count_for_the_memory(self):
        images = numbered(100)[0].hold_out(10, seed=0)
        for limit, is_cached in ((799, False), (800, True)):
            with mock.patch.object(image_dataset, "MAX_CACHE_BYTES", limit):
                copy = dataclasses.replace(images)
                self.assertEqual(
                    copy._make_cache(copy.num_validation) is not None, is_cached
                )


class BatchesTest(tf.test.TestCase, parameterized.TestCase):
    def test_train_batches_shape(self):
        batches = data.load("digits", "").train_batches(64, seed=0, epoch=0)
        self.assertLen(batches, 1437 // 64)
        self.assertEqual(batches.element_spec.dtype, tf.uint8)
        self.assertEqual(batches.element_spec.shape, (64, 8, 8, 1))

    def test_each_image_at_most_once(self):
        images, _ = numbered(100)
        seen = order(images.train_batches(8, seed=0, epoch=0))
        self.assertLen(seen, 96)
        self.assertLen(set(seen), 96)
        self.assertNotEqual(seen, sorted(seen))

    def test_order_depends_on_seed_and_epoch_alone(self):
        first, _ = numbered(100)
        tf.random.set_seed(1)
        expected = order(first.train_batches(8, seed=3, epoch=5))
        second, _ = numbered(100)
        tf.random.set_seed(2)
        after = tf.random.uniform([])
        tf.random.set_seed(2)
        repeated = second.train_batches(8, seed=3, epoch=5)
        self.assertEqual(order(repeated), expected)
        self.assertEqual(order(repeated), expected)
        # Nor does it disturb the global seed.
        self.assertEqual(tf.random.uniform([]), after)

    def test_orders_differ(self):
        images, _ = numbered(100)
        keys = [(s, e) for s in (0, 1, 2**32, 2**64) for e in range(3)]
        orders = {tuple(order(images.train_batches(8, *key))) for key in keys}
        self.assertLen(orders, len(keys))

    def test_same_order_in_another_process(self):
        code = (
            "import hashlib\n"
            "import numpy as np\n"
            "from tf_realnvp import data\n"
            'batches = data.load("digits", "").train_batches(100, 7, 2)\n'
            "images = np.concatenate([batch.numpy() for batch in batches])\n"
            "print(hashlib.sha256(images.tobytes()).hexdigest())\n"
        )
        here, there = io.StringIO(), None
        with contextlib.redirect_stdout(here):
            exec(code, {})
        there = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        self.assertEqual(there, here.getvalue())

    @parameterized.parameters(0, 1, 5, 12)
    def test_skip_goes_on(self, skip):
        images, _ = numbered(100)
        expected = order(images.train_batches(8, seed=0, epoch=1))
        batches = images.train_batches(8, seed=0, epoch=1, skip=skip)
        self.assertLen(batches, 12 - skip)
        rest = [i for b in batches for i in b.numpy()[:, 0, 0, 0].tolist()]
        self.assertEqual(rest, expected[8 * skip :])

    def test_shuffle_buffer_limits_how_far_images_move(self):
        images, _ = numbered(100, shuffle_buffer=10)
        seen = order(images.train_batches(10, seed=0, epoch=0))
        self.assertCountEqual(seen, range(100))
        for place, i in enumerate(seen):
            self.assertLess(i, place + 10)

    def test_shuffle_is_uniform_without_a_buffer(self):
        images, _ = numbered(100)
        seen = [
            order(images.train_batches(100, seed, epoch=0))
            for seed in range(100)
        ]
        # The mean of 100 uniform places has a standard deviation of 2.9.
        self.assertAllClose(np.mean(seen, axis=0), [49.5] * 100, atol=15)

    @parameterized.parameters((8, [8] * 12 + [4]), (50, [50, 50]), (300, [100]))
    def test_test_batches_are_complete(self, batch_size, sizes):
        images, _ = numbered(100)
        batches = list(images.test_batches(batch_size))
        self.assertEqual([len(batch) for batch in batches], sizes)
        self.assertEqual(order(batches), list(range(100)))

    def test_no_autotuning(self):
        # For seconds, its thread would keep an iterator from being deleted.
        images, _ = numbered(100)
        for batches in (images.train_batches(8, 0, 0), images.test_batches(8)):
            self.assertFalse(batches.options().autotune.enabled)

    def test_batch_of_all_images_and_larger(self):
        images, _ = numbered(100)
        self.assertLen(list(images.train_batches(100, seed=0, epoch=0)), 1)
        self.assertEmpty(list(images.train_batches(101, seed=0, epoch=0)))
        beyond = images.train_batches(8, seed=0, epoch=0, skip=13)
        self.assertEmpty(list(beyond))
        self.assertEmpty(beyond)


class MemoryTest(tf.test.TestCase, parameterized.TestCase):
    def test_images_are_decoded_once(self):
        images, decoded = numbered(100)
        for epoch in range(3):
            seen = order(images.train_batches(8, seed=0, epoch=epoch))
            self.assertLen(set(seen), 96)
            self.assertEqual(decoded, 100)
        list(images.test_batches(30))
        self.assertEqual(order(images.test_batches(20)), list(range(100)))
        self.assertEqual(decoded, 200)

    def test_passes_that_stop_early_add_up(self):
        images, decoded = numbered(100)
        list(images.train_batches(8, seed=0, epoch=0).take(1))
        self.assertLess(decoded, 100)
        list(images.train_batches(8, seed=0, epoch=0, skip=1))
        before = decoded.numpy()
        list(images.train_batches(8, seed=0, epoch=1))
        self.assertEqual(decoded, before)

    @parameterized.parameters(0, 1, 10, 12)
    def test_what_is_skipped_is_not_decoded(self, skip):
        images, decoded = numbered(100)
        list(images.train_batches(8, seed=0, epoch=0, skip=skip))
        self.assertEqual(decoded, 100 - 8 * skip)

    @parameterized.parameters(None, 10)
    def test_order_is_the_same_from_memory(self, shuffle_buffer):
        images, decoded = numbered(100, shuffle_buffer=shuffle_buffer)
        first = order(images.train_batches(8, seed=0, epoch=1))
        again = order(images.train_batches(8, seed=0, epoch=1))
        self.assertEqual(decoded, 100)
        self.assertEqual(again, first)
        rest = order(images.train_batches(8, seed=0, epoch=1, skip=5))
        self.assertEqual(rest, first[40:])

    def test_large_data_sets_are_decoded_in_each_pass(self):
        # 200 images of 4 bytes.
        with mock.patch.object(image_dataset, "MAX_CACHE_BYTES", 800):
            images, decoded = numbered(100)
            expected = order(images.train_batches(8, seed=0, epoch=0))
            list(images.train_batches(8, seed=0, epoch=1))
            self.assertEqual(decoded, 100)
        with mock.patch.object(image_dataset, "MAX_CACHE_BYTES", 799):
            images, decoded = numbered(100)
            for _ in range(2):
                seen = order(images.train_batches(8, seed=0, epoch=0))
                self.assertEqual(seen, expected)
            self.assertEqual(decoded, 200)
            self.assertEqual(order(images.test_batches(30)), list(range(100)))
            self.assertEqual(decoded, 300)

    def test_decoded_images_have_the_promised_shape(self):
        images, _ = numbered(4)
        images = dataclasses.replace(images, image_shape=(2, 4, 1))
        with self.assertRaisesRegex(ValueError, "shape"):
            images.train_batches(2, seed=0, epoch=0)


class DamageTest(tf.test.TestCase, parameterized.TestCase):
    def dataset(self, decode):
        images, _ = numbered(10)
        return dataclasses.replace(
            images,
            decode=decode,
            explain_damage=lambda reason: f"number 3: {reason}",
        )

    def assert_named(self, dataset, read):
        with self.assertRaises(DamagedImageError) as caught:
            with dataset.naming_damage():
                read(dataset)
        self.assertEqual(
            str(caught.exception),
            "an image of numbered cannot be read: number 3: Input is empty.",
        )

    @parameterized.parameters(False, True)
    def test_decoding(self, is_traced):
        png = tf.io.encode_png(tf.zeros([2, 2, 1], tf.uint8))

        def decode(i):
            with tf.name_scope(image_dataset.DECODING):
                content = tf.where(i == 3, "", png)
                return tf.io.decode_image(content, 1, expand_animations=False)

        if is_traced:
            decode = tf.function(decode).get_concrete_function(
                tf.TensorSpec([], tf.int64)
            )

        @tf.function
        def loop(batches):
            tf.while_loop(
                lambda i: i < 5,
                lambda i: (batches.get_next(), i + 1)[1:],
                [tf.constant(0)],
            )

        dataset = self.dataset(decode)
        self.assert_named(
            dataset, lambda dataset: list(dataset.test_batches(2))
        )
        # As training reads.
        self.assert_named(
            dataset, lambda dataset: loop(iter(dataset.test_batches(2)))
        )
        self.assert_named(
            dataset, lambda dataset: list(dataset.train_batches(2, 0, 0))
        )

    def test_other_errors_go_through(self):
        dataset = self.dataset(lambda i: tf.zeros([2, 2, 1], tf.uint8))

        @tf.function
        def step(batches):
            tf.debugging.assert_equal(
                batches.get_next(), tf.constant(1, tf.uint8)
            )

        with self.assertRaises(tf.errors.InvalidArgumentError):
            with dataset.naming_damage():
                step(iter(dataset.test_batches(2)))
        for error in (
            ValueError("x"),
            tf.errors.InternalError(None, None, "x"),
            tf.errors.ResourceExhaustedError(
                None, None, f"OOM [[{{{{node {image_dataset.DECODING}/x}}}}]]"
            ),
        ):
            with self.assertRaises(type(error)):
                with dataset.naming_damage():
                    raise error


class ReasonTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        "{}",
        "{}\n",
        "{}\nThe error could be from a previous operation.",
        "{{{{function_node __wrapped__x}}}} {} [Op:IteratorGetNext] name: ",
        "Graph execution error:\n\nDetected at node a/b defined at (most "
        "recent call last):\n<stack traces unavailable>\n{}\n\t "
        "[[{{{{node a/b}}}}]] [Op:__inference_steps_1]",
        "Graph execution error:\n\nDetected at node a/b defined at (most "
        'recent call last):\n  File "x.py", line 3\n\n  File "x.py", line 1\n\n'
        "{}\n\t [[{{{{node a/b}}}}]]\n\t [[c/d]] [Op:__inference_steps_1]",
    )
    def test_one_line(self, message):
        reason = "OOM when allocating tensor with shape[9]"
        error = tf.errors.OpError(None, None, message.format(reason), 8)
        self.assertEqual(image_dataset.reason(error), reason)

    def test_nothing_said(self):
        error = tf.errors.UnknownError(None, None, "")
        self.assertEqual(image_dataset.reason(error), "no details")


class SkippedTest(tf.test.TestCase):
    def test_one(self):
        line = image_dataset.describe_skipped({"a": "it is damaged"})
        self.assertEqual(line, "1 file is left out: a (it is damaged)")

    def test_many(self):
        line = image_dataset.describe_skipped(dict.fromkeys("abcdefg", "no"))
        self.assertStartsWith(line, "7 files are left out: a (no), b (no), ")
        self.assertEndsWith(line, "e (no), ...")


class FlipTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        pixels = np.random.RandomState(0).randint(256, size=[100, 4, 6, 3])
        self.pixels = pixels.astype(np.uint8)

    def dataset(self, flip):
        images = tf.data.Dataset.from_tensor_slices(self.pixels)
        return image_dataset.ImageDataset(
            name="noise",
            image_shape=(4, 6, 3),
            num_colors=256,
            train=images,
            test=images,
            num_train=100,
            num_test=100,
            flip=flip,
        )

    def test_half_of_the_training_images_are_mirrored(self):
        flipped, plain = self.dataset(True), self.dataset(False)
        patterns = set()
        for epoch in range(4):
            batches = images_of(flipped.train_batches(10, 0, epoch))
            originals = images_of(plain.train_batches(10, 0, epoch))
            mirrored = (batches != originals).any(axis=(1, 2, 3))
            self.assertAllEqual(batches[~mirrored], originals[~mirrored])
            self.assertAllEqual(
                batches[mirrored], originals[mirrored][:, :, ::-1]
            )
            self.assertBetween(mirrored.sum(), 30, 70)
            patterns.add(mirrored.tobytes())
            # Each batch draws anew.
            self.assertGreater(
                len(set(map(bytes, mirrored.reshape(10, 10)))), 5
            )
        self.assertLen(patterns, 4)

    def test_test_images_stay(self):
        seen = images_of(self.dataset(True).test_batches(10))
        self.assertAllEqual(seen, self.pixels)

    def test_mirroring_depends_on_seed_and_epoch_alone(self):
        images = self.dataset(True)
        tf.random.set_seed(1)
        first = images_of(images.train_batches(8, seed=3, epoch=5))
        tf.random.set_seed(2)
        again = images_of(images.train_batches(8, seed=3, epoch=5))
        self.assertAllEqual(again, first)
        for skip in (1, 7):
            rest = self.dataset(True).train_batches(8, 3, 5, skip=skip)
            self.assertLen(rest, 12 - skip)
            self.assertAllEqual(images_of(rest), first[8 * skip :])


def triangle(size, new_size):
    """The matrix of an antialiased bilinear filter."""
    scale = size / new_size
    centers = (np.arange(new_size) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centers[:, np.newaxis])
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


class ResizeTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ((20, 13, 3), None, 4),
        ((7, 30, 1), None, 4),
        ((5, 5, 3), None, 8),
        ((21, 16, 3), 9, 6),
    )
    def test_central_square_by_an_antialiased_filter(self, shape, crop, size):
        random = np.random.RandomState(0)
        image = random.randint(256, size=shape).astype(np.uint8)
        side = crop or min(shape[:2])
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        square = image[top : top + side, left : left + side]
        rows = columns = triangle(side, size)
        exact = np.einsum("ih,jw,hwc->ijc", rows, columns, square)
        resized = image_dataset.resize(tf.constant(image), size, crop)
        self.assertEqual(resized.dtype, tf.uint8)
        self.assertEqual(resized.shape, (size, size, shape[2]))
        self.assertAllClose(tf.cast(resized, tf.float32), exact, atol=0.51)

    def test_nothing_to_do(self):
        image = np.random.RandomState(0).randint(256, size=[6, 6, 3])
        image = image.astype(np.uint8)
        self.assertAllEqual(image_dataset.resize(tf.constant(image), 6), image)

    @parameterized.parameters(
        (2, 2, None),
        (64, 64, None),
        (28, 64, None),
        (66, 64, 32),
        (64, 66, 32),
        (9, 8, 32),
        (8, 9, 32),
        (None, None, 32),
        (8, None, 32),
    )
    def test_default_size(self, height, width, expected):
        size = image_dataset.default_size(height, width)
        self.assertEqual(size, expected)


if __name__ == "__main__":
    tf.test.main()
