"""Tests for data."""

import contextlib
import os
import pathlib

import folders
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import as_set, images_of, labels_of

from tf_realnvp import data
from tf_realnvp.data import image_dataset
from tf_realnvp.utils.errors import DataError


class DigitsTest(tf.test.TestCase, parameterized.TestCase):
    def test_images(self):
        from sklearn import datasets

        digits, again = data.load("digits"), data.load("DIGITS", "")
        self.assertEqual(digits.name, "digits")
        self.assertEqual(digits.image_shape, (8, 8, 1))
        self.assertEqual(digits.num_colors, 17)
        self.assertEqual((digits.num_train, digits.num_test), (1437, 360))
        self.assertEqual(digits.fingerprint, "digits train 1437 test 360")
        train = digits.take("train", range(1437))
        test = images_of(digits.test_batches(100))
        self.assertEqual((test.dtype, test.shape), (np.uint8, (360, 8, 8, 1)))
        self.assertAllEqual(test, images_of(again.test_batches(7)))
        # No picture occurs twice, so that sets tell whether splits overlap.
        self.assertLen(train, 1437)
        self.assertLen(as_set(train) | as_set(test), 1797)
        everything = datasets.load_digits().images.astype(np.uint8)
        self.assertEqual(as_set(train) | as_set(test), as_set(everything))
        self.assertEqual((train.min(), train.max()), (0, 16))

    def test_labels(self):
        from sklearn import datasets

        digits = data.load("digits", labels=True)
        self.assertEqual(digits.class_names, tuple("0123456789"))
        self.assertEqual(digits.splits["train"].labels.dtype, np.int32)
        self.assertAllClose(digits.class_probs, [0.1] * 10, atol=0.01)
        everything = datasets.load_digits()
        expected = {
            image.astype(np.uint8).tobytes(): label
            for image, label in zip(
                everything.images, everything.target, strict=True
            )
        }
        # A remainder of the training images makes no batch.
        labels = labels_of(digits, 100)
        self.assertLen(labels, 1400 + 360)
        self.assertContainsSubset(labels.items(), expected.items())

    @parameterized.parameters((4, (4, 4)), ([6, 4], (6, 4)))
    def test_another_size(self, asked, size):
        images = images_of(data.load("digits").test_batches(400))[:20]
        digits = data.load("digits", "", image_size=asked, flip=True)
        self.assertEqual(digits.image_shape, (*size, 1))
        self.assertTrue(digits.flip)
        self.assertAllEqual(
            images_of(digits.test_batches(400))[:20],
            [image_dataset.resize(image, size) for image in images],
        )


class NameTest(folders.FolderTestCase, parameterized.TestCase):
    @parameterized.parameters(-2, 0, 7, ((4, 5),), ((4,),), "4x4")
    def test_bad_size(self, size):
        with self.assertRaisesRegex(ValueError, "`image_size`.* even"):
            data.load("digits", image_size=size)

    @parameterized.parameters(
        "/nowhere",
        "./nowhere",
        "~/nowhere",
        "nowhere/",
        "~no.body",  # Nobody is called so, and has no home.
        "~no.body/a.npy",
        __file__,
        pathlib.Path("/nowhere"),
    )
    def test_folder_that_is_not_there(self, name):
        with self.assertRaisesRegex(DataError, f"^{name}: .*[nN]o such f"):
            data.load(name)

    def test_folders(self):
        self.enterContext(contextlib.chdir(self.folder))
        os.makedirs("images")
        os.makedirs("digits")
        here = os.getcwd()
        for name, source in (
            ("images", f"{here}/images"),
            ("./images/", f"{here}/images"),
            ("~/images", os.path.expanduser("~/images")),
            ("digits", "digits"),
            ("cifar10", "CIFAR10"),
            ("svhn_cropped", "svhn_cropped"),
            ("lsun/bedroom", "lsun/bedroom"),
        ):
            self.assertEqual(data.source(name), source)
        # A known name is no folder.
        self.assertEqual(data.load("digits", "").num_colors, 17)
        with self.assertRaisesRegex(DataError, "image"):
            data.load("./digits", "")


if __name__ == "__main__":
    tf.test.main()
