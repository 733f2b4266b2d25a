"""Tests for data."""

import contextlib
import os
import sys
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import data
from tf_realnvp.errors import DataError


def images_of(batches):
    """All images of some batches, [N, H, W, C]."""
    return np.concatenate([batch.numpy() for batch in batches])


def as_set(images):
    return {image.tobytes() for image in np.asarray(images)}


class DigitsTest(tf.test.TestCase):
    def test_images(self):
        digits = data.load("digits")
        self.assertEqual(digits.name, "digits")
        self.assertEqual(digits.image_shape, (8, 8, 1))
        self.assertEqual(digits.num_colors, 17)
        self.assertEqual((digits.num_train, digits.num_test), (1437, 360))
        self.assertEqual(digits.fingerprint, "digits train 1437 test 360")
        for split, count in ((digits.train, 1437), (digits.test, 360)):
            self.assertEqual(split.element_spec.dtype, tf.uint8)
            self.assertEqual(split.element_spec.shape, (8, 8, 1))
            images = np.stack(list(split.as_numpy_iterator()))
            self.assertEqual(images.shape, (count, 8, 8, 1))
            self.assertEqual((images.min(), images.max()), (0, 16))

    def test_split_is_fixed_and_complete(self):
        from sklearn import datasets

        first, second = data.load("digits", ""), data.load("DIGITS", "")
        train = images_of(first.train.batch(2000))
        test = images_of(first.test_batches(100))
        self.assertAllEqual(test, images_of(second.test_batches(7)))
        # No picture occurs twice, so that sets tell whether splits overlap.
        self.assertLen(as_set(train) | as_set(test), 1797)
        everything = datasets.load_digits().images.astype(np.uint8)
        self.assertEqual(as_set(train) | as_set(test), as_set(everything))

    def test_without_scikit_learn(self):
        with mock.patch.dict(sys.modules, {"sklearn": None}):
            with self.assertRaisesRegex(DataError, "pip install scikit"):
                data.load("digits", "")


class ImageSizeTest(tf.test.TestCase, parameterized.TestCase):
    def test_digits_of_another_size(self):
        digits = data.load("digits", "", image_size=4)
        self.assertEqual(digits.image_shape, (4, 4, 1))
        original = images_of(data.load("digits", "").test_batches(400))
        shrunk = images_of(digits.test_batches(400))
        self.assertEqual(shrunk.shape, (360, 4, 4, 1))
        self.assertAllClose(shrunk.mean(), original.mean(), atol=0.5)
        self.assertLessEqual(shrunk.max(), 16)

    def test_flip(self):
        self.assertTrue(data.load("digits", "", flip=True).flip)
        self.assertFalse(data.load("digits", "").flip)

    @parameterized.product(
        name=("digits", "CIFAR10", "/nowhere", "mnist"), size=(-2, 0, 1, 7)
    )
    def test_bad_size(self, name, size):
        with self.assertRaisesRegex(DataError, f"{size}x{size}.*even"):
            data.load(name, "/nowhere", image_size=size)


class NameTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("/nowhere", "./nowhere", "~/nowhere", "nowhere/")
    def test_folder_that_is_not_there(self, name):
        with self.assertRaisesRegex(DataError, "no such folder"):
            data.load(name, "")

    @parameterized.parameters("CIFAR10", "CelebA", "mnist")
    def test_without_tfds(self, name):
        with mock.patch.dict(sys.modules, {"tensorflow_datasets": None}):
            with self.assertRaisesRegex(DataError, "pip install tensor"):
                data.load(name, "")

    def test_source(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(contextlib.chdir(folder))
        os.makedirs("pictures")
        os.makedirs("digits")
        here = os.getcwd()
        for name, source in (
            ("pictures", f"{here}/pictures"),
            ("./pictures/", f"{here}/pictures"),
            ("~/pictures", os.path.expanduser("~/pictures")),
            ("digits", "digits"),
            ("svhn_cropped", "svhn_cropped"),
            ("lsun/bedroom", "lsun/bedroom"),
        ):
            self.assertEqual(data.source(name), source)

    def test_known_name_is_no_folder(self):
        folder = self.enter_context(tempfile.TemporaryDirectory())
        os.mkdir(os.path.join(folder, "digits"))
        with contextlib.chdir(folder):
            self.assertEqual(data.load("digits", "").num_colors, 17)
            with self.assertRaisesRegex(DataError, "picture"):
                data.load("./digits", "")


if __name__ == "__main__":
    tf.test.main()
