"""Tests for image_sets."""

import argparse
import contextlib
import io
import pathlib
from unittest import mock

import command_lines
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import image_sets
from tf_realnvp.data import tfds_images
from tf_realnvp.images import files as image_files
from tf_realnvp.serving.metadata import Metadata
from tf_realnvp.utils.errors import DataError, UsageError

# Of one level each.
IMAGES = np.full([30, 4, 4], np.arange(30)[:, None, None], np.uint8)


class LoadTest(command_lines.CommandTestCase, parameterized.TestCase):
    """Each image has a level of its own."""

    def write(self, folder, levels, size=4):
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        for level in levels:
            image = np.full([size, size, 1], level, np.uint8)
            image_files.write(path / f"{level}.png", image)

    def load(self, name, split="test", source=None, maximum=1000, seed=0):
        """Returns the names and the levels."""
        flags = argparse.Namespace(
            model="M", data_dir="", max_images=maximum, seed=seed, normal=name
        )
        metadata = Metadata((4, 4, 1), 256, source, {})
        result = image_sets.load(flags, "normal", metadata, split, 1)
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
        np.save("in.npy", IMAGES)
        np.savez("in.npz", train=IMAGES[:20], test=IMAGES[20:])
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
        for name, split, expected in (
            (None, "train", [4, 7]),
            ("in", "test", [5]),
            ("./in", "train", [4, 7]),
            (source, "test", [5]),
        ):
            _, levels = self.load(name, split, source)
            self.assertEqual(levels, expected)
        np.savez("in.npz", train=IMAGES[:20], test=IMAGES[20:])
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
        np.savez("in.npz", train=IMAGES[:20], test=IMAGES[20:])
        names, levels = self.load("in.npz", maximum=9)
        expected = [
            f"train {level}" if level < 20 else f"test {level - 20}"
            for level in levels
        ]
        self.assertEqual(names, expected)
        self.assertLen(set(levels), 9)

    def test_what_is_no_picture_takes_no_place(self):
        self.write("in", range(12))
        for number in range(30):
            (self.folder / "in" / f"{number}.txt").write_text("a label")
        _, levels = self.load("in", maximum=12)
        self.assertCountEqual(levels, range(12))
        _, levels = self.load("in", maximum=5)
        self.assertLen(set(levels), 5)

    def test_accents_that_are_encoded_otherwise(self):
        """As on a Mac, of which a folder may be a copy."""
        self.write("in/Cafe\u0301", range(9))
        self.write("in/The\u0301", range(9, 20))
        _, levels = self.load("in:Caf\u00e9")
        self.assertCountEqual(levels, range(9))

    def test_none(self):
        with self.assertRaisesRegex(UsageError, "--normal: name some.* M "):
            self.load(None)
        with self.assertRaisesRegex(UsageError, "cannot read .* ~no.body/in"):
            self.load("~no.body/in")  # Nobody is called so, and has no home.
        self.write("in", [])
        with self.assertRaisesRegex(UsageError, "--normal: there are 0 "):
            self.load("in")

    def write_classes(self):
        """Writes files and folders of two classes; those of "1" are odd."""
        levels = np.arange(30)
        np.savez("whole.npz", images=IMAGES, labels=levels % 2)
        np.savez(
            "split.npz",
            **{"train": IMAGES[:20], "test": IMAGES[20:]},
            **{"train_labels": levels[:20] % 2, "test_labels": levels[20:] % 2},
        )
        for number in (0, 1):
            self.write(f"in/train/{number}", range(number, 20, 2))
            self.write(f"in/test/{number}", range(20 + number, 30, 2))
            self.write(f"b:c/{number}", range(number, 30, 2))

    @parameterized.parameters("whole.npz", "split.npz", "in", "./b:c")
    def test_class(self, name):
        self.write_classes()
        names, levels = self.load(f"{name}:1")
        self.assertCountEqual(levels, range(1, 30, 2))
        self.assertLen(set(names), 15)
        _, some = self.load(f"{name}:0", maximum=5)
        self.assertLen(set(some), 5)
        self.assertContainsSubset(some, range(0, 30, 2))

    def test_class_of_pictures_of_other_sizes(self):
        """They are read as those of a folder without classes are."""
        self.write_classes()
        self.write("in/train/1", [33], size=9)
        # Beside `train` they are of no split.
        self.write("in", [50])
        (self.folder / "in" / "1").mkdir()
        self.write("in/1/1", [51])
        names, levels = self.load("in:1")
        self.assertCountEqual(levels, [*range(1, 30, 2), 33])
        self.assertIn("train/1/33.png", names)

    def test_what_the_model_was_trained_on_is_gone(self):
        source = str(self.folder / "gone")
        with self.assertRaisesRegex(
            UsageError, "--normal: name some, .* M was trained on .*/gone"
        ):
            self.load(None, source=source)

    @parameterized.parameters("split.npz", "in")
    def test_class_of_what_the_model_was_trained_on(self, name):
        self.write_classes()
        source = str(pathlib.Path(name).resolve())
        _, levels = self.load(f"{name}:1", "train", source)
        self.assertCountEqual(levels, range(1, 20, 2))
        _, levels = self.load(f"{name}:1", "test", source)
        self.assertCountEqual(levels, range(21, 30, 2))

    @parameterized.parameters("b:c", "b:c/1", "in:1")
    def test_what_is_there_comes_first(self, name):
        self.write(name, [40])
        self.write("in/1", [41])
        _, levels = self.load(name)
        self.assertEqual(levels, [40])

    @parameterized.parameters(
        ("in:2", "--normal: in has no class '2', but 0, 1"),
        ("whole.npz:", "--normal: whole has no class '', but 0, 1"),
        ("plain:1", "plain has no class '1' and no folders"),
        ("plain.npz:1", "plain.npz: it has no labels"),
        ("./no:1", "cannot read the folder ./no: No such file"),
        ("mnist:3.0.1", "called 'mnist:3.0.1'"),
        ("mnist:3.*.*:1", "called 'mnist:3.*.*'"),
    )
    def test_no_such_class(self, name, message):
        self.write_classes()
        self.write("plain", [3, 4])
        np.savez("plain.npz", images=np.zeros([30, 4, 4], np.uint8))

        def fail(name, *_):
            raise DataError(f"called {name!r}")

        self.enterContext(mock.patch.object(tfds_images, "load", fail))
        with self.assertRaises((DataError, UsageError)) as raised:
            self.load(name)
        self.assertIn(message, str(raised.exception))

    @parameterized.parameters(
        ("a", "./a", True),
        ("a", "b", False),
        ("a:1", "./a:1", True),
        ("a:1", "a", True),
        ("a", "a:1", True),
        ("a:1", "a:2", False),
        ("digits:1", "DIGITS:1", True),
        ("digits:1", "mnist:1", False),
        ("mnist:3.0.1", "mnist:3.0.1:1", True),
        # Of what the model was trained on.
        (None, "c", True),
        (None, "c:1", True),
        ("c", None, True),
        ("c:1", "c:2", False),
        # One of them is of the training images.
        ("digits", "digits", False, "train"),
        ("digits:1", "digits:1", False, "train"),
        (None, "c:1", False, "train"),
        ("a", "a", True, "train"),
        ("a:1", "a:1", True, "train"),
        ("a:caf\u00e9", "a:cafe\u0301", True),
        # Folders that are in one another.
        ("a", "a/1", True),
        ("a/1", "a", True),
        ("a/1", "a/2", False),
        ("a/1", "a/1x", False),
        ("a", "link", True),
        ("a:1", "a/1", True),
        ("a:1", "a/2", False),
        ("c/train", "c", True),
        (None, "c/test", True),
        ("d:1", "d/train", True),
        ("d:1", "d/train/2", False),
        ("a", "a/3.npy", False),
    )
    def test_disjoint(self, name, other, expected, split="test"):
        for path in ("a/1", "a/1x", "a/2", "c/train", "c/test"):
            (self.folder / path).mkdir(parents=True)
        for path in ("train/1", "train/2", "test/1", "test/2"):
            (self.folder / "d" / path).mkdir(parents=True)
        (self.folder / "a" / "3.npy").touch()
        (self.folder / "link").symlink_to("a/1")
        metadata = Metadata((4, 4, 1), 256, str(self.folder / "c"), {})
        flags = argparse.Namespace(first=name, second=other)
        splits = {"first": split, "second": "test"}
        if not expected:
            image_sets.check_disjoint(flags, metadata, splits)
            return
        with self.assertRaisesRegex(UsageError, "--second: .* of --first$"):
            image_sets.check_disjoint(flags, metadata, splits)

    @parameterized.parameters(
        ("c/train", True),
        ("c/new", False),  # Beside `train`, it was left out.
        (".", True),
        ("link", True),
        (".:c", True),
        ("c/test", False),
        ("c", False),
        ("c:new", False),
        ("cd", False),
        ("digits", False),
        (None, False),
    )
    def test_seen(self, name, expected):
        """A folder that shares pictures with what the model learned from."""
        for path in ("c/train", "c/test", "c/new", "cd"):
            (self.folder / path).mkdir(parents=True)
        (self.folder / "link").symlink_to("c/train")
        metadata = Metadata((4, 4, 1), 256, str(self.folder / "c"), {})
        flags = argparse.Namespace(normal=name)
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            image_sets.warn_of_seen(flags, "normal", metadata)
        self.assertEqual(
            stderr.getvalue().startswith("warning: --normal "), expected
        )

    def test_seen_where_nothing_is_split_by_folders(self):
        (self.folder / "c" / "test").mkdir(parents=True)
        metadata = Metadata((4, 4, 1), 256, str(self.folder / "c"), {})
        flags = argparse.Namespace(normal="c/test")
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            image_sets.warn_of_seen(flags, "normal", metadata)
        self.assertStartsWith(stderr.getvalue(), "warning: --normal ")

    @parameterized.parameters(
        ("digits", "DIGITS", True),
        ("CIFAR10", "cifar10", True),
        ("digits", "mnist", False),
        ("a", "./a/", True),
        ("a", "A", False),
        ("a.npy", "./a.npy", True),
        ("a", "link", True),
        ("link", "b", False),
        ("a", None, False),
    )
    def test_same(self, name, other, expected):
        (self.folder / "a").mkdir()
        (self.folder / "A").mkdir()
        (self.folder / "link").symlink_to("a")
        self.assertEqual(image_sets.same(name, other), expected)


if __name__ == "__main__":
    tf.test.main()
