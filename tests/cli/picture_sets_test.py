"""Tests for picture_sets."""

import argparse
import contextlib
import io
import pathlib

import command_lines
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import pictures
from tf_realnvp.cli import picture_sets
from tf_realnvp.errors import UsageError
from tf_realnvp.serving.metadata import Metadata


class LoadTest(command_lines.CommandTestCase, parameterized.TestCase):
    """Each image has a level of its own."""

    def write(self, folder, levels, size=4):
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        for level in levels:
            image = np.full([size, size, 1], level, np.uint8)
            pictures.write(path / f"{level}.png", image)

    def load(self, name, split="test", source=None, maximum=1000, seed=0):
        """Returns the names and the levels."""
        flags = argparse.Namespace(
            model="M", data_dir="", max_images=maximum, seed=seed, normal=name
        )
        metadata = Metadata((4, 4, 1), 256, source, {})
        result = picture_sets.load(flags, "normal", metadata, split, 1)
        self.assertEqual(result.images.dtype, np.uint8)
        self.assertEqual(result.images.shape, (len(result), 4, 4, 1))
        for image in result.images:
            self.assertLen(np.unique(image), 1)
        return result.names, [int(image[0, 0, 0]) for image in result.images]

    @parameterized.parameters("train", "test")
    def test_all_of_a_folder(self, split):
        self.write("in", [3])
        self.write("in/train", [4])
        self.write("in/test", [5, 6], size=9)
        (self.folder / "in" / "notes.txt").write_text("words")
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            names, levels = self.load("in", split)
        self.assertEqual(
            names, ["3.png", "test/5.png", "test/6.png", "train/4.png"]
        )
        self.assertEqual(levels, [3, 5, 6, 4])
        self.assertIn("notes.txt", stderr.getvalue())

    def test_all_of_a_file(self):
        images = np.full([30, 4, 4], np.arange(30)[:, None, None], np.uint8)
        np.save("in.npy", images)
        np.savez("in.npz", train=images[:20], test=images[20:])
        for name in ("in.npy", "in.npz"):
            names, levels = self.load(name)
            self.assertCountEqual(levels, range(30))
            self.assertLen(set(names), 30)
        self.assertEqual(levels, [*range(30)])

    def test_what_the_model_was_trained_on(self):
        """Its splits are kept apart, by whatever name it goes."""
        self.write("in/train", [4, 7])
        self.write("in/test", [5])
        source = str(pathlib.Path("in").resolve())
        for name in (None, "in", "./in", source):
            for split, expected in (("train", [4, 7]), ("test", [5])):
                _, levels = self.load(name, split, source)
                self.assertEqual(levels, expected)
        images = np.full([30, 4, 4], np.arange(30)[:, None, None], np.uint8)
        np.savez("in.npz", train=images[:20], test=images[20:])
        source = str(pathlib.Path("in.npz").resolve())
        _, levels = self.load("in.npz", "test", source)
        self.assertEqual(levels, [*range(20, 30)])

    def test_some(self):
        """They are drawn by the seed."""
        self.write("in", range(30))
        first, again, other = (
            self.load("in", maximum=9, seed=seed) for seed in (1, 1, 2)
        )
        self.assertLen(set(first[1]), 9)
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        for name, level in zip(*first, strict=True):
            self.assertEqual(name, f"{level}.png")
        images = np.full([30, 4, 4], np.arange(30)[:, None, None], np.uint8)
        np.savez("in.npz", train=images[:20], test=images[20:])
        names, levels = self.load("in.npz", maximum=9)
        expected = [
            f"train {level}" if level < 20 else f"test {level - 20}"
            for level in levels
        ]
        self.assertEqual(names, expected)
        self.assertLen(set(levels), 9)

    def test_none(self):
        with self.assertRaisesRegex(UsageError, "--normal: name some.* M "):
            self.load(None)
        self.write("in", [])
        with self.assertRaisesRegex(UsageError, "--normal: there are 0 "):
            self.load("in")

    @parameterized.parameters(
        ("digits", "DIGITS", True),
        ("CIFAR10", "cifar10", True),
        ("digits", "mnist", False),
        ("a", "./a/", True),
        ("a", "A", False),
        ("a.npy", "./a.npy", True),
        ("a", None, False),
    )
    def test_same(self, name, other, expected):
        (self.folder / "a").mkdir()
        (self.folder / "A").mkdir()
        self.assertEqual(picture_sets.same(name, other), expected)


if __name__ == "__main__":
    tf.test.main()
