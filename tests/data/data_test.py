"""Tests for data."""

import contextlib
import os
import pathlib

import folders
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import data
from tf_realnvp.data import preprocessing
from tf_realnvp.errors import DataError


class DigitsTest(tf.test.TestCase, parameterized.TestCase):
    def test_images_and_labels(self):
        from sklearn import datasets

        everything = datasets.load_digits()
        digits = data.load("DIGITS", labels=True)
        self.assertEqual(digits.name, "digits")
        self.assertEqual(digits.num_colors, 17)
        self.assertEqual(digits.class_names, tuple("0123456789"))
        self.assertAllClose(digits.class_probs, [0.1] * 10, atol=0.01)
        plain = data.load("digits")
        self.assertNotEqual(plain.fingerprint, digits.fingerprint)
        found = {}
        for name, size in (("train", 1437), ("test", 360)):
            images = digits.take(name, range(size))
            self.assertEqual(images.shape, (size, 8, 8, 1))
            self.assertAllEqual(images, plain.take(name, range(size)))
            labels = digits.splits[name].labels
            self.assertEqual(labels.dtype, np.int32)
            found |= zip(map(bytes, images), labels, strict=True)
        expected = zip(
            map(bytes, everything.images.astype(np.uint8)),
            everything.target,
            strict=True,
        )
        # No image occurs twice.
        self.assertLen(found, 1797)
        self.assertEqual(found, dict(expected))

    @parameterized.parameters((4, (4, 4)), ([6, 4], (6, 4)))
    def test_another_size(self, asked, size):
        images = data.load("digits").take("test", range(20))
        digits = data.load("digits", "", image_size=asked, flip=True)
        self.assertEqual(digits.image_shape, (*size, 1))
        self.assertTrue(digits.flip)
        self.assertAllEqual(
            digits.take("test", range(20)),
            [preprocessing.resize(image, size) for image in images],
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
            ("a.npz", f"{here}/a.npz"),
            ("digits", "digits"),
            ("cifar10", "CIFAR10"),
            ("celeb_a", "CelebA"),
            ("FashionMNIST:3.0.1", "fashion_mnist:3.0.1"),
            ("lsun/bedroom", "lsun/bedroom"),
        ):
            self.assertEqual(data.source(name), source)
        # A known name is no folder.
        self.assertEqual(data.load("digits").num_colors, 17)
        with self.assertRaisesRegex(DataError, "image"):
            data.load("./digits")
