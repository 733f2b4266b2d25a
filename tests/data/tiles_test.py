"""Tests for data sets of tiles."""

import functools
from unittest import mock

import folders
import numpy as np
from absl.testing import parameterized
from image_arrays import images_of
from PIL import Image

from tf_realnvp import data
from tf_realnvp.data import image_files
from tf_realnvp.errors import DataError
from tf_realnvp.utils import tiling

# Height and width of test images, and then of training images.
SIZES = {"train/x/a": (20, 33), "train/y/b": (16, 16), "test/y/c": (17, 40)}


class DatasetTest(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.pixels = {}
        for seed, (name, size) in enumerate(SIZES.items()):
            rng = np.random.default_rng(seed)
            pixels = rng.integers(256, size=size, dtype=np.uint8)
            self.write(name, pixels)
            self.pixels[name] = pixels

    def write(self, name, pixels):
        path = self.folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def load(self, **options):
        return data.load(self.folder, **{"tiles": 8} | options)

    def place(self, tile):
        """Returns the file that a tile is of, and its corner."""
        for name, pixels in self.pixels.items():
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (8, 8))
            found = np.argwhere((windows == tile[..., 0]).all(axis=(2, 3)))
            if len(found):
                return name, tuple(found[0])
        self.fail("it is no tile")

    def test_tiles(self):
        dataset = self.load()
        self.assertEqual(dataset.image_shape, (8, 8, 1))
        self.assertTrue(dataset.metadata["tiles"])
        # Those for testing cover the image.
        seen = dataset.take("test", range(dataset.num_test))
        expected = [
            ("test/y/c", tuple(corner))
            for corner in tiling.corners((17, 40), (8, 8))
        ]
        self.assertEqual([*map(self.place, seen)], expected)
        # Those for training are anywhere, and elsewhere in the next epoch.
        batches = functools.partial(dataset.train_batches, 64)
        first, again, other = map(batches, (1, 1, 1), (0, 0, 1))
        first, again, other = map(images_of, (first, again, other))
        self.assertAllEqual(first, again)
        places = [*map(self.place, first[:300])]
        names = [name for name, _ in places]
        self.assertEqual({*names}, {"train/x/a", "train/y/b"})
        # As many as their areas have.
        self.assertAllClose(names.count("train/x/a") / 300, 15 / 19, atol=0.1)
        rows, columns = zip(
            *(c for n, c in places if n == "train/x/a"), strict=True
        )
        self.assertEqual({*rows}, {*range(13)})
        self.assertEqual({*columns}, {*range(26)})
        self.assertNotAllEqual(first[:64], other[:64])
        resumed = images_of(dataset.train_batches(64, 1, 0, skip=3))
        self.assertAllEqual(resumed, first[3 * 64 :])

    def test_validation_is_of_other_images(self):
        self.pixels["train/x/d"] = self.pixels["train/x/a"][::-1]
        self.write("train/x/d", self.pixels["train/x/d"])
        dataset = self.load().hold_out(10, seed=0)
        self.assertEqual(dataset.num_validation, 10)
        held_out = dataset.take("validation", range(10))
        train = images_of(dataset.train_batches(32, 0, 0))
        names = [
            {self.place(tile)[0] for tile in part} for part in (held_out, train)
        ]
        self.assertTrue(names[0].isdisjoint(names[1]))
        with self.assertRaisesRegex(DataError, "leave no training image"):
            self.load().hold_out(2000, seed=0)

    def test_bits_and_labels(self):
        dataset = self.load(num_bits=3, labels=True)
        images, labels = next(iter(dataset.train_batches(64, 0, 0)))
        self.assertEqual(images.dtype, np.uint8)
        self.assertBetween(np.max(images), 1, 7)
        self.pixels = {name: old // 32 for name, old in self.pixels.items()}
        names = [self.place(tile)[0] for tile in images.numpy()]
        expected = [dataset.class_names[i] for i in labels["label"].numpy()]
        self.assertEqual([name.split("/")[1] for name in names], expected)

    def test_images_are_read_once(self):
        dataset = self.load()
        with mock.patch.object(
            image_files, "read_pixels", wraps=image_files.read_pixels
        ) as read:
            for epoch in range(2):
                images_of(dataset.train_batches(64, 0, epoch))
        self.assertLessEqual(read.call_count, 4)  # Two threads may ask at once.

    def test_damage(self):
        dataset = self.load()
        (self.folder / "test/y/c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        with self.assertRaisesRegex(DataError, "test/y/c.png: it is damaged"):
            dataset.take("test", [0])

    def test_bad(self):
        self.write("train/x/small", np.zeros([40, 7], np.uint8))
        dataset = self.load()
        self.assertEqual(
            dataset.skipped["train/x/small.png"], "it is smaller than a tile"
        )
        with self.assertRaisesRegex(DataError, "3 files left out: .*a tile"):
            self.load(tiles=18)
        for name, options in {
            "digits": {},
            self.folder: {"image_size": 8},
        }.items():
            with self.assertRaisesRegex(DataError, "`tiles` are of a folder"):
                data.load(name, tiles=8, **options)
        with self.assertRaisesRegex(ValueError, "tiles"):
            self.load(tiles=7)
