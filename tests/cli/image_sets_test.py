"""Tests for image_sets."""

import contextlib
import io
import os
from unittest import mock

import command_lines
import numpy as np
from absl.testing import parameterized
from image_arrays import write_images

from tf_realnvp import data
from tf_realnvp.cli import image_sets
from tf_realnvp.errors import UsageError
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import hashing

# Of one level each.
IMAGES = np.full([30, 4, 4], np.arange(30)[:, None, None], np.uint8)


class LoadTest(command_lines.CommandTestCase, parameterized.TestCase):
    """Each image has a level of its own."""

    def write(self, folder, levels, size=4):
        images = [np.full([size, size, 1], n, np.uint8) for n in levels]
        write_images(folder, images, names=[f"{n}.png" for n in levels])

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

    def loader(self, values=256, metadata=None, **options):
        values = Values.of(values)
        model = mock.Mock(image_shape=(4, 4, 1), num_colors=values.num_colors)
        model.values, model.metadata = values, metadata or {}
        return image_sets.Loader(model, "", **options)

    def load(self, name, split="test", maximum=1000, seed=0, trained_on=None):
        """Returns the names and the levels."""
        loader = self.loader(
            metadata=trained_on and trained_on.metadata,
            **{"max_images": maximum, "seed": seed},
        )
        result = loader.load("normal", name, split, 1)
        self.assertEqual(result.images.dtype, np.uint8)
        self.assertEqual(result.images.shape, (len(result), 4, 4, 1))
        for image in result.images:
            self.assertLen(np.unique(image), 1)
        return result.names, [int(image[0, 0, 0]) for image in result.images]

    def test_all_of_a_folder(self):
        self.write("in", [3])
        self.write("in/train", [4])
        self.write("in/test", [5, 6], size=9)
        (self.folder / "in" / "notes.txt").write_text("words")
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            names, levels = self.load("in")
        expected = ["3.png", "test/5.png", "test/6.png", "train/4.png"]
        self.assertEqual(names, expected)
        self.assertEqual(levels, [3, 5, 6, 4])
        self.assertIn("notes.txt", stderr.getvalue())

    @parameterized.parameters("split.npz", "in")
    def test_what_the_model_was_trained_on(self, name):
        """Its splits are kept apart, even if it was moved."""
        self.write_classes()
        seen = data.load(name)
        for moved in (None, name, f"./moved-{name}"):
            if moved == f"./moved-{name}":
                os.rename(name, moved)
            _, levels = self.load(moved, "train", trained_on=seen)
            self.assertCountEqual(levels, range(20))
            _, levels = self.load(moved, "test", trained_on=seen)
            self.assertCountEqual(levels, range(20, 30))
        _, levels = self.load(f"{moved}:1", "train", trained_on=seen)
        self.assertCountEqual(levels, range(1, 20, 2))
        # Images that were not trained on may all be used.
        np.save("unseen.npy", IMAGES[20:])
        unseen = "unseen.npy" if name == "split.npz" else f"{moved}/test"
        _, levels = self.load(unseen, "test", trained_on=seen)
        self.assertCountEqual(levels, range(20, 30))

    @parameterized.parameters("whole.npz", "b:c")
    def test_what_has_training_images(self, name):
        """The training images are left out of a set that has grown."""
        self.write_classes()
        np.savez("whole.npz", images=IMAGES[:20])
        seen = data.load(name)
        np.savez("whole.npz", images=IMAGES)
        self.write("b:c/2", range(30, 60))
        _, levels = self.load(name, "test", trained_on=seen)
        trained = seen.take("train", range(seen.num_train))
        self.assertNotEmpty(levels)
        self.assertLess(len(levels), 30)
        self.assertNoCommonElements(levels, trained[:, 0, 0, 0].tolist())
        # Others are used as a whole.
        np.savez("others.npz", images=IMAGES + 60)
        _, levels = self.load("others.npz", "test", trained_on=seen)
        self.assertCountEqual(levels, range(60, 90))

    @parameterized.parameters(
        *("train.npy", "in/train", "larger", "larger.npy", "larger.npz:1")
    )
    def test_test_images_that_were_trained_on(self, name):
        """They are known by their files, or by their pixels."""
        self.write_classes()
        seen, images = data.load("in"), IMAGES.repeat(2, 1).repeat(2, 2)
        np.save("train.npy", IMAGES[:20])
        np.save("larger.npy", images)
        np.savez("larger.npz", images=images, labels=np.arange(30) % 2)
        np.save("others.npy", images + 60)
        self.write("larger", range(30), size=9)
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            self.load(name, "test", trained_on=seen)
        self.assertIn("model was trained on", stderr.getvalue())
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            self.load("others.npy", "test", trained_on=seen)
            self.load(name, "train", trained_on=seen)
        self.assertEmpty(stderr.getvalue())

    def test_some(self):
        """The seed decides which ones."""
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
        self.assertLen(set(levels), 9)
        for name, level in zip(names, levels, strict=True):
            split, number = name.split()
            self.assertEqual(int(number) + 20 * (split == "test"), level)

    def test_tiles(self):
        """Images are whole, or the tile in their middle."""
        rng = np.random.default_rng(0)
        images = {
            f"{number}.png": rng.integers(256, size=shape, dtype=np.uint8)
            for number, shape in enumerate([(9, 6, 1), (4, 4, 1), (3, 9, 1)])
        }
        write_images("in", images.values(), names=[*images])
        metadata = {"tiles": True}
        for whole in (True, False):
            loader = self.loader(metadata=metadata, max_images=9, whole=whole)
            with contextlib.redirect_stderr(io.StringIO()) as stderr:
                found = loader.load("normal", "in", "test", 1)
            self.assertIn("2.png: it is smaller than a tile", stderr.getvalue())
            self.assertEqual(found.names, ["0.png", "1.png"])
            first = images["0.png"]
            expected = first if whole else first[2:6, 1:5]
            self.assertAllEqual(found.images[0], expected)
            self.assertAllEqual(found.images[1], images["1.png"])
        for number in range(30):
            size = (5, 6 + number % 2, 1)
            pixels = rng.integers(256, size=size, dtype=np.uint8)
            images[f"{number:03d}.png"] = pixels
        write_images("all", images.values(), names=[*images])
        dataset = data.load("./all", tiles=4)
        metadata = dataset.metadata
        loader = self.loader(metadata=metadata, max_images=99, whole=True)
        with contextlib.redirect_stderr(io.StringIO()):
            seen, unseen = (
                loader.load("normal", "./all", split, 1)
                for split in ("train", "test")
            )
        self.assertLen({*seen.names, *unseen.names}, 32)
        self.assertLen(seen.names, 32 - len(unseen.names))
        hashes = [
            hashing.hash_of((self.folder / "all" / name).read_bytes())
            for name in unseen.names
        ]
        self.assertContainsSubset(hashes, dataset.splits["test"].hashes)
        loader = self.loader(metadata=metadata, max_images=99, whole=True)
        with contextlib.redirect_stderr(io.StringIO()):
            default = loader.load("normal", None, "test", 1)
        self.assertEqual(default.names, unseen.names)

    def test_what_is_no_image_takes_no_place(self):
        self.write("in", range(12))
        for number in range(30):
            (self.folder / "in" / f"{number}.txt").write_text("a label")
        _, levels = self.load("in", maximum=12)
        self.assertCountEqual(levels, range(12))
        _, levels = self.load("in", maximum=5)
        self.assertLen(set(levels), 5)

    @parameterized.parameters("whole.npz", "split.npz", "in", "./b:c")
    def test_class(self, name):
        self.write_classes()
        names, levels = self.load(f"{name}:1")
        self.assertCountEqual(levels, range(1, 30, 2))
        self.assertLen(set(names), 15)
        _, some = self.load(f"{name}:0", maximum=5)
        self.assertLen(set(some), 5)
        self.assertContainsSubset(some, range(0, 30, 2))

    @parameterized.parameters("b:c", "b:c/1", "in:1")
    def test_what_is_there_comes_first(self, name):
        self.write(name, [40])
        self.write("in/1", [41])
        _, levels = self.load(name)
        self.assertEqual(levels, [40])

    @parameterized.parameters(
        (None, "name one: the model does not tell"),
        ("empty", "empty has 0 readable images, and at least 1 are needed"),
        ("in:2", "no class '2', but 0, 1$"),
        ("empty:1", "training and test need a JPEG, PNG or TIFF image each"),
        ("plain.npz:1", "plain.npz: it has no .*labels"),
        ("mnisd:3.0.1", "called 'mnisd:3.0.1'"),
        ("colour.npy", "4x4x3 with 256 levels, those of the model 4x4x1"),
    )
    def test_bad(self, name, message):
        self.write_classes()
        self.write("empty", [])
        np.savez("plain.npz", images=np.zeros([30, 4, 4], np.uint8))
        np.save("colour.npy", np.zeros([30, 4, 4, 3], np.uint8))
        with self.assertRaisesRegex(
            UsageError, f"(?s)^argument --normal: .*{message}"
        ):
            self.load(name)

    @parameterized.parameters(
        # Values of the model; the highest level, and the bits that it drops.
        (Values(4096), 4095, 0),
        (Values(4096), 500, 0),
        (Values(1024, dropped_bits=2), 4000, 2),
        (Values(16), 255, 4),
    )
    def test_bits_of_the_model(self, values, highest, dropped):
        """Images have as many, whatever the highest of these is."""
        levels = np.full([30, 4, 4, 1], highest, np.uint16)
        np.save("levels.npy", levels.astype(int))
        write_images("in", levels, 65536)
        loader = self.loader(values, max_images=30)
        for name in ("levels.npy", "in")[: 1 + (highest > 255)]:
            images = loader.load("normal", name, "test").images
            self.assertEqual(images.dtype, values.dtype)
            self.assertAllEqual(np.unique(images), [highest >> dropped])

    @parameterized.parameters(
        (Values(4096), 4 * 4095, "16,384 levels, those of the model"),
        (Values(4096), 7.5, "real numbers, those of the model"),
        (Values(None), 255, "256 levels, those of the model"),
        (Values(17), 255, "256 levels, those of the model"),
    )
    def test_other_values(self, values, value, message):
        np.save("other.npy", np.full([30, 4, 4], value))
        with self.assertRaisesRegex(UsageError, message):
            self.loader(values).load("normal", "other.npy", "test")
