"""Tests for arrays: files of NumPy, arrays and pipelines as data sets."""

from unittest import mock

import folders
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import as_set, images_of, labels_of
from image_arrays import random_images as images

from tf_realnvp import data
from tf_realnvp.data import arrays, image_dataset
from tf_realnvp.errors import DataError

BLACK = np.zeros([4, 4, 4], np.uint8)


def trained(dataset):
    """Returns the training images, in no order, as bytes."""
    batches = dataset.train_batches(1, seed=0, epoch=1)
    return sorted(image.tobytes() for image in images_of(batches))


def held_out(dataset):
    return images_of(dataset.batches("test", 3))


def pipeline(*content):
    return tf.data.Dataset.from_tensor_slices(
        content[0] if len(content) == 1 else content
    )


class FileTest(folders.FolderTestCase, parameterized.TestCase):
    def save(self, name, **content):
        path = self.folder / name
        if name.endswith(".npy"):
            np.save(path, content["images"])
        else:
            np.savez(path, **content)
        return str(path)

    @parameterized.product(num_arrays=(1, 2), as_keras=((), (1,)))
    def test_images_and_labels(self, num_arrays, as_keras):
        pixels = images(20, 8, 6, 3)
        labels = (np.arange(20) % 3).reshape(20, *as_keras)
        if num_arrays == 1:
            content = {"images": pixels, "labels": labels}
        else:
            content = {"train": pixels[:15], "train_labels": labels[:15]}
            content |= {"test": pixels[15:], "test_labels": labels[15:]}
        path = self.save("a.npz", **content)
        plain, dataset = data.load(path), data.load(path, labels=True)
        self.assertEqual(plain.name, "a")
        self.assertEqual(plain.image_shape, (8, 6, 3))
        self.assertEqual(plain.num_colors, 256)
        self.assertEmpty(plain.class_names)
        self.assertEqual(dataset.class_names, ("0", "1", "2"))
        if num_arrays == 2:
            self.assertAllEqual(held_out(plain), pixels[15:])
        expected = {
            image.tobytes(): label
            for image, label in zip(pixels, labels.ravel(), strict=True)
        }
        # Read, then from memory.
        for _ in range(2):
            self.assertEqual(labels_of(dataset), expected)

    @parameterized.parameters("a.npy", "a.npz")
    def test_a_tenth_is_for_testing(self, name):
        content = images(150, 4, 4)
        path = self.save(name, images=content)
        dataset = data.load(path)
        self.assertEqual(dataset.image_shape, (4, 4, 1))
        self.assertBetween(dataset.num_test, 5, 30)
        found = trained(dataset)
        found += [image.tobytes() for image in held_out(dataset)]
        self.assertCountEqual(found, [image.tobytes() for image in content])
        again = arrays.from_images(content)
        self.assertAllEqual(held_out(again), held_out(dataset))
        self.assertEqual(again.fingerprint, dataset.fingerprint)
        content[3, 1, 1] ^= 1
        other = arrays.from_images(content)
        self.assertNotEqual(other.fingerprint, dataset.fingerprint)
        # Validation images have their part in the training.
        kept_out = dataset.hold_out(9, seed=0)
        self.assertEqual(kept_out.metadata, dataset.metadata)
        hashes = dataset.metadata["training_hashes"].split()
        self.assertLen(hashes, dataset.num_train)

    def test_resized(self):
        for height, width, expected in ((64, 62, (64, 62)), (66, 64, (32, 32))):
            path = self.save("b.npy", images=images(2, height, width))
            self.assertEqual(data.load(path).image_shape, (*expected, 1))

    @parameterized.parameters(
        ({"images": BLACK > 0}, r"integers \[n, H, W\].* got bool"),
        ({"train": BLACK, "test": BLACK / 2}, "integers .* got float64"),
        ({"images": BLACK.astype(int) - 1}, "got values from -1 to -1"),
        ({"images": BLACK.astype(int) + 2**17}, "to 65535, got .* 131072"),
        ({"images": BLACK[..., None, None]}, r"\[4, 4, 4, 1, 1\]"),
        ({"images": BLACK[:1]}, "got 1"),
        ({"train": BLACK}, "no `test`"),
        ({"train": BLACK, "test": BLACK[:, :2]}, "different shapes"),
        (
            {"images": BLACK + 5, "num_colors": 5},
            "from 0 to 4, got values from 5",
        ),
        ({"images": BLACK, "num_colors": 1}, "`num_colors` .* got 1"),
        ({"images": np.array([{}, []], object)}, "Object arrays"),
    )
    def test_other_content(self, content, message):
        path = self.save("a.npz", **content)
        with self.assertRaisesRegex(DataError, message):
            data.load(path)

    @parameterized.parameters(
        ({}, "no `labels`"),
        ({"train_labels": np.zeros(20, int)}, "no `labels`.*there are images"),
        ({"labels": np.zeros(19, int)}, r"one for each of 20 .* int64 \[19\]"),
        ({"labels": np.zeros(20)}, "must be integers .* float64"),
        ({"labels": np.arange(20) * 10**12}, "from 0 to"),
    )
    def test_no_labels(self, labels, message):
        path = self.save("a.npz", images=images(20, 4, 4), **labels)
        self.assertEmpty(data.load(path).class_names)
        with self.assertRaisesRegex(DataError, message):
            data.load(path, labels=True)

    def test_levels_of_sixteen_bits_are_those_of_both_splits(self):
        low, high = np.full(
            [2, 2, 4, 4, 1], [[[[[9]]]], [[[[999]]]]], np.uint16
        )
        for train, test in ((low, high), (high, low)):
            path = self.save("a.npz", train=train, test=test)
            self.assertEqual(data.load(path).num_colors, 1024)

    @parameterized.parameters(
        # Highest value, `num_colors` in the file, `num_bits`; levels, and what
        # is left of the values.
        (40_000, None, None, 65536, 0),
        (4095, None, None, 4096, 0),
        (4095, None, 12, 4096, 0),
        (4095, None, 10, 1024, 2),
        (4095, None, 7, 128, 5),
        (4095, 65536, 12, 4096, 4),
        (4095, 5000, None, 5000, 0),
        (40, None, None, 512, 0),
    )
    def test_sixteen_bits(self, highest, levels, num_bits, num_colors, dropped):
        rng = np.random.default_rng(0)
        pixels = rng.integers(highest + 1, size=(30, 4, 4, 1), dtype=np.uint16)
        pixels[3, 0] = highest
        extra = {} if levels is None else {"num_colors": levels}
        path = self.save("a.npz", images=pixels, **extra)
        dataset = data.load(path, num_bits=num_bits)
        self.assertEqual(dataset.num_colors, num_colors)
        self.assertEqual(dataset.metadata.get("dropped_bits", 0), dropped)
        dtype = np.uint8 if num_colors <= 256 else np.uint16
        for _ in range(2):  # Read, then from memory.
            batches = [
                *dataset.train_batches(1, 0, 0),
                *dataset.batches("test", 1),
            ]
            images = images_of(batches)
            self.assertEqual(images.dtype, dtype)
            expected = (pixels >> dropped).astype(dtype)
            self.assertEqual(as_set(images), as_set(expected))

    @parameterized.parameters(
        (np.int64, 256), (">i2", 4096), (np.uint32, 65536)
    )
    def test_integers_of_any_dtype(self, dtype, num_colors):
        pixels = images(20, 4, 4, 1, num_colors=num_colors)
        pixels[0] = num_colors - 1
        same = arrays.from_images(pixels, num_colors)
        pixels = pixels.astype(dtype)
        path = self.save("a.npy", images=pixels)
        elements = pipeline(pixels.astype(pixels.dtype.newbyteorder("=")))
        for dataset in (
            data.load(path),
            arrays.from_tf_data(elements, num_colors),
        ):
            self.assertEqual(dataset.num_colors, num_colors)
            self.assertEqual(dataset.fingerprint, same.fingerprint)
            self.assertEqual(trained(dataset), trained(same))

    @parameterized.parameters(b"", b"PK\3\4", b"\x93NUMPY\1\0", None)
    def test_damaged(self, content):
        for name in ("a.npz", "a.npy"):
            path = self.folder / name
            if content is not None:
                path.write_bytes(content)
            with self.assertRaisesRegex(DataError, f"{path}: .*cannot be read"):
                data.load(path)


class MemoryTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((None, ()), (3, (1,)))
    def test_pipelines(self, batch_size, as_keras):
        """A pipeline gives the same data set as an array."""
        content = images(20, 4, 4, 1, num_colors=9)
        labels = (np.arange(20) % 3).reshape(20, *as_keras)
        # Of unknown length.
        pairs = pipeline(content, labels).filter(lambda *_: True)
        if batch_size is not None:
            pairs = pairs.batch(batch_size)
        dataset = arrays.from_tf_data(pairs, 9, 4)
        same = arrays.from_images(content, 9, labels, 4)
        self.assertEqual(dataset.class_names, ("0", "1", "2", "3"))
        self.assertEqual(dataset.class_probs, same.class_probs)
        self.assertEqual(dataset.metadata, same.metadata)
        for pair, expected in zip(
            (*dataset.train_batches(9, 0, 1), *dataset.batches("test", 9)),
            (*same.train_batches(9, 0, 1), *same.batches("test", 9)),
            strict=True,
        ):
            self.assertAllEqual(pair[0], expected[0])
            self.assertAllEqual(pair[1]["label"], expected[1]["label"])
        # Without classes they are as if they had no labels.
        plain = arrays.from_tf_data(pairs, 9)
        alone = arrays.from_tf_data(pipeline(content), 9)
        self.assertEqual(trained(plain), trained(alone))
        self.assertEqual(plain.fingerprint, alone.fingerprint)

    def test_another_order_in_each_pass(self):
        """Test images of one pass would be training images of the next."""
        elements = pipeline(images(60, 4, 4, 1))
        fixed = elements.shuffle(60, 0, reshuffle_each_iteration=False)
        arrays.from_tf_data(fixed)
        late = elements.take(50).concatenate(elements.shuffle(60))
        labels = tf.data.Dataset.range(60).shuffle(60)
        for changing, num_classes in (
            (late, None),
            (tf.data.Dataset.zip(elements, labels), 60),
        ):
            with self.assertRaisesRegex(DataError, "leave out `shuffle`"):
                arrays.from_tf_data(changing, num_classes=num_classes)

    def test_order_of_pytorch(self):
        """The model would train on nonsense."""
        for shape in ((4, 6, 3), (8, 8, 8), (2, 8, 8), (4, 4, 8)):
            dataset = arrays.from_images(images(20, *shape))
            self.assertEqual(dataset.image_shape, shape)
        for shape in ((1, 28, 28), (3, 8, 6), (4, 6, 8)):
            with self.assertRaisesRegex(DataError, "seems to be .n, C, H, W"):
                arrays.from_images(images(20, *shape))

    def test_memory_of_a_shuffle(self):
        elements = pipeline(images(40, 4, 4, 1))
        self.assertIsNone(arrays.from_tf_data(elements).shuffle_buffer)
        with (
            mock.patch.object(image_dataset, "MAX_CACHE_BYTES", 639),
            mock.patch.object(arrays, "SHUFFLE_BYTES", 100),
        ):
            dataset = arrays.from_tf_data(elements)
            self.assertEqual(dataset.shuffle_buffer, 6)
            self.assertLen(trained(dataset), dataset.num_train)

    @parameterized.parameters("f8", "f2", ">f4")
    def test_real_numbers(self, dtype):
        """They are float32 whatever they were, and finite in it."""
        content = np.random.default_rng(0).normal(size=[30, 4, 4, 1])
        native, content = content.astype(dtype[-2:]), content.astype(dtype)
        makers = (
            lambda: arrays.from_images(content, None),
            lambda: arrays.from_tf_data(pipeline(native), None),
        )
        expected = as_set(content.astype(np.float32))
        for make in makers:
            dataset = make()
            images = *trained(dataset), *map(bytes, held_out(dataset))
            self.assertEqual({*images}, expected)
        self.assertEqual(*(make().fingerprint for make in makers))
        for value in (np.nan, np.inf, -np.inf, *[1e40] * (dtype == "f8")):
            native[17, 2, 3, 0] = content[17, 2, 3, 0] = value
            for make in makers:
                with self.assertRaisesRegex(DataError, "be floating-point"):
                    make()

    @parameterized.parameters(
        (lambda pairs: pairs.map(lambda i, _: {"image": i}), "must be images"),
        (lambda pairs: pairs.map(lambda i, n: (i, n, n)), "must be images"),
        (lambda pairs: pairs.map(lambda i, n: (i[..., 0], n)), "must be im"),
        (lambda pairs: pairs.map(lambda i, n: (i, n / 2)), "labels, integers"),
        (lambda pairs: pairs.map(lambda i, n: (i, n + 1)), "from 0 to 2, got"),
        (lambda pairs: pairs.map(lambda i, n: (i | 128, n)), "99, got values"),
        (lambda pairs: pairs.repeat(), "repeats"),
    )
    def test_other_pipelines(self, change, message):
        pairs = pipeline(images(4, 4, 4, 1, num_colors=99), np.arange(4) % 3)
        with self.assertRaisesRegex(DataError, message):
            arrays.from_tf_data(change(pairs), 100, 3)
