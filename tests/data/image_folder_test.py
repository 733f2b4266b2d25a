"""Tests for image_folder."""

import contextlib
import errno
import io
import os
import pathlib
import threading
import time
import zlib
from unittest import mock

import folders
import numpy as np
import odd_images
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import as_set
from PIL import Image

from tf_realnvp import data
from tf_realnvp.data import image_files, preprocessing
from tf_realnvp.errors import DataError
from tf_realnvp.utils import hashing

GREY = ("PNG L", "PNG LA", "JPEG L", "PNG 1", "PNG I;16")
COLOUR = ("PNG RGB", "PNG P", "PNG RGBA", "JPEG RGB", "JPEG CMYK")


def write(path, size=(12, 12), seed=None, **options):
    """Writes an image of noise, `size` is (width, height); returns it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(
        256, size=[size[1], size[0], 3], dtype=np.uint8
    )
    Image.fromarray(pixels).save(path, **options)
    return pixels


def level(number):
    """A grey image of one level, by which it can be told from others."""
    return odd_images.encode(Image.new("L", (2, 2), number), "PNG")


class FolderTestCase(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = self.folder.resolve() / "images"
        self.root.mkdir()

    def write_levels(self, *names):
        """Writes an image of level i as file i."""
        for number, name in enumerate(names):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(level(number))

    def load(self, **options):
        return data.load(str(self.root), "/nowhere", **options)

    def failure(self, **options):
        with self.assertRaises((DataError, OSError)) as caught:
            self.load(**options)
        return str(caught.exception)

    def read(self, images, split):
        return images.take(split, range(images.splits[split].num_images))

    def read_all(self, images):
        """The images of both splits, of which no two are alike."""
        return as_set(self.read(images, "train")) | as_set(
            self.read(images, "test")
        )

    def levels(self, images, split):
        """Which of the files of `write_levels` are in a split."""
        return self.read(images, split)[:, 0, 0, 0].tolist()


class LabelsTest(FolderTestCase):
    @parameterized.parameters(
        ("", "cat", "a dog", "no label: put"),
        ("train/", "cat", "cat/young", "no label.*inside of"),
    )
    def test_are_names_of_sub_folders(self, above, first, second, message):
        names = [f"{above}{(first, second)[i % 2]}/{i}" for i in range(12)]
        if above:
            names += ["val/dog/12", "val/cat/13", "elsewhere"]
        self.write_levels(*names)
        self.assertEmpty(self.load().class_names)
        images = self.load(labels=True)
        self.assertEqual(
            images.class_names, ("cat", "dog") if above else ("a dog", "cat")
        )
        for split, content in images.splits.items():
            levels = self.levels(images, split)
            for level, label in zip(levels, content.labels, strict=True):
                name = names[level].removeprefix(above).removeprefix("val/")
                self.assertStartsWith(name, images.class_names[label] + "/")
        write(self.root / above / "16.png")
        self.assertRegex(
            self.failure(labels=True), f"{above}16.png has {message}"
        )


class SplitTest(FolderTestCase):
    @parameterized.parameters(
        ("Train", "Test", True),
        ("train2017", "val2017", True),
        ("inside/train", "inside/testing", True),
        ("trainers", "test", False),
        ("train_station", "val", False),
    )
    def test_other_names(self, first, second, is_refused):
        """Names that suggest another split are refused."""
        self.write_levels(
            *(f"{name}/{i}" for name in (first, second) for i in "ab")
        )
        if is_refused:
            first, second = map(os.path.basename, (first, second))
            message = f"{first} and {second} are not taken"
            self.assertRegex(self.failure(), message)
        else:
            self.assertLen(self.read_all(self.load()), 4)

    @parameterized.parameters("test", "validation", "val", "testing")
    def test_folders_of_splits(self, split):
        """Files outside the folders of the splits are left out."""
        self.write_levels(
            *(f"train/cat/{i}" for i in range(6)),
            *(f"{split}/dog/{i}" for i in range(2)),
            "other/x",
        )
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            images = self.load()
        self.assertRegex(stderr.getvalue(), "left out: other/x ")
        train, test = self.levels(images, "train"), self.levels(images, "test")
        left_out = ["other/x"]
        if split == "testing":
            left_out += ["testing/dog/0", "testing/dog/1"]
            self.assertCountEqual(train + test, range(6))
        else:
            self.assertCountEqual(train, range(6))
            self.assertCountEqual(test, (6, 7))
        reason = "it is beside the folder `train`"
        self.assertEqual(images.skipped, dict.fromkeys(left_out, reason))

    def test_no_training_image_can_be_read(self):
        """The test images are not trained on."""
        self.write_levels(*(f"test/{i}" for i in range(6)))
        (self.root / "train").mkdir()
        (self.root / "train" / "a.png").write_bytes(b"no image")
        self.assertRegex(self.failure(), "training and test need .* each")

    def test_is_by_the_hash_of_the_content(self):
        """A renamed image stays in its split."""
        self.write_levels(*(f"{i}.png" for i in range(200)))
        train, test = hashing.split(hashing.hashes_of(map(level, range(200))))
        images = self.load()
        self.assertCountEqual(self.levels(images, "train"), train)
        self.assertCountEqual(self.levels(images, "test"), test)


class ImagesTest(FolderTestCase):
    @parameterized.parameters(
        # Sizes of two images, what is asked for, and the shape.
        ((6, 4), (6, 4), None, (4, 6, 3)),
        ((66, 66), (66, 66), None, (32, 32, 3)),
        ((6, 4), (4, 6), None, (32, 32, 3)),
        ((20, 30), (12, 12), (8, 6), (8, 6, 3)),
    )
    def test_size(self, first, second, size, shape):
        write(self.root / "a.png", first)
        write(self.root / "b.png", second)
        images = self.load(image_size=size)
        self.assertEqual(images.name, "images")
        self.assertEqual(images.image_shape, shape)
        expected = [
            preprocessing.resize(
                tf.io.decode_png(path.read_bytes()), shape[:2]
            ).numpy()
            for path in self.root.iterdir()
        ]
        self.assertEqual(self.read_all(images), as_set(expected))

    def write_kinds(self, *kinds):
        """Writes an image of each kind, and one that was turned."""
        for i, kind in enumerate(kinds):
            kind, mode = kind.split()
            for orientation in (1, 6):
                size = (12, 12 + i) if orientation == 1 else (12 + i, 12)
                image = odd_images.noise(mode, *size)
                # Names say nothing of what is in a file.
                (self.root / f"{i} {orientation}.image").write_bytes(
                    odd_images.encode(image, kind, orientation)
                )

    @parameterized.parameters(
        (GREY, 1), (GREY + COLOUR, 3), *((("PNG L", c), 3) for c in COLOUR)
    )
    def test_commands_read_the_same(self, kinds, channels):
        """One color image makes all images RGB."""
        self.write_kinds(*kinds)
        if channels == 3:
            write(self.root / "progressive.jpg", progressive=True)
        for height in (12, 6):
            images = self.load(image_size=(height, 12))
            self.assertEqual(images.image_shape, (height, 12, channels))
            self.assertEmpty(images.skipped)
            expected = [
                image_files.read(path, images.image_shape)
                for path in self.root.iterdir()
            ]
            self.assertEqual(self.read_all(images), as_set(expected))

    def test_images_that_were_turned_are_of_one_size(self):
        for orientation in range(1, 9):
            shape = (4, 6) if orientation < 5 else (6, 4)
            image = odd_images.noise("RGB", *shape)
            content = odd_images.encode(image, "PNG", orientation)
            (self.root / f"{orientation}").write_bytes(content)
        images = self.load()
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assertLen(self.read_all(images), 8)

    def test_some_of_sixteen_bits(self):
        self.write_kinds("PNG I;16", "PNG L")
        with contextlib.redirect_stderr(io.StringIO()) as written:
            images = self.load()
        self.assertEqual(images.num_colors, 256)
        self.assertStartsWith(written.getvalue(), "warning: 2 images of 16 b")

    @parameterized.product(bits=(10, 16), kinds=(["PNG"], ["PNG", "TIFF"]))
    def test_all_of_sixteen_bits(self, bits, kinds):
        """Pixels keep their values, whether or not they are resized."""
        expected = []
        for number, kind in enumerate(2 * kinds):
            image = odd_images.noise("I;16", 6, 4)
            pixels = np.asarray(image)[..., None] >> (16 - bits)
            pixels = np.roll(pixels, number, axis=0)
            name = self.root / f"{number}"
            name.write_bytes(
                odd_images.encode(Image.fromarray(pixels[..., 0]), kind)
            )
            self.assertAllEqual(
                image_files.read(name, pixels.shape, 2**bits), pixels
            )
            expected.append(pixels)
        images = self.load()
        self.assertEqual(images.num_colors, 2**bits)
        self.assertEqual(images.initial_images(0).dtype, np.uint16)
        self.assertEqual(self.read_all(images), as_set(expected))
        small = self.load(image_size=2)
        self.assertGreater(small.initial_images(0).numpy().max(), 2**8)


class UnreadableTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        for name in ("0.png", "1.png", "0.jpg", "1.jpg"):
            write(self.root / name, (40, 40))

    def check(self, number, **skipped):
        """Checks how many images are used, and why the others are not."""
        images = self.load()
        self.assertEqual(images.skipped, skipped)
        self.assertLen(self.read_all(images), number)

    def test_other_files(self):
        (self.root / "sub").mkdir()
        (self.root / "sub" / "labels.csv").write_text("a,b\n")
        # What may not be there.
        (self.root / "gone.png").symlink_to(self.root / "nothing")
        os.mkfifo(self.root / "pipe.png")
        (self.root / "circle.png").symlink_to("circle.png")
        # Links to folders may go in circles.
        (self.root / "up").symlink_to(self.root)
        # These are not looked at, and this is no file.
        (self.root / ".DS_Store").touch()
        write(self.root / ".hidden" / "a.png", (8, 8))
        write(self.root / "folder.png" / "a.png", (40, 40))
        self.check(
            5,
            **{
                "sub/labels.csv": "it is neither PNG nor JPEG nor TIFF",
                "gone.png": "No such file or directory",
                "up": "it is not a regular file",
                "circle.png": "Too many levels of symbolic links",
                "pipe.png": "it is not a regular file",
            },
        )

    def test_damage(self):
        for name in ("0.png", "0.jpg"):
            path = self.root / name
            content = path.read_bytes()
            for keep in (10, len(content) // 5, 9 * len(content) // 10, -13):
                (self.root / f"{keep} of {name}").write_bytes(content[:keep])
        content = bytearray((self.root / "0.png").read_bytes())
        content[len(content) // 2] ^= 1
        (self.root / "bit of 0.png").write_bytes(content)
        # No damage: something behind the image.
        path = self.root / "1.jpg"
        path.write_bytes(path.read_bytes() + b"more")
        damaged = [path.name for path in self.root.glob("* of *")]
        self.check(4, **dict.fromkeys(damaged, "it is damaged"))

    @parameterized.parameters((errno.EIO, True), (errno.EACCES, False))
    def test_errors_of_the_system(self, number, fails):
        """A run could not be resumed without an image."""

        def fail(path, *arguments):
            if os.path.basename(path) == "1.png":
                raise OSError(number, os.strerror(number), str(path))
            return open(path, *arguments)

        with mock.patch.object(image_files, "open", fail, create=True):
            if fails:
                message = f"{os.strerror(number)}: .*/1.png"
                self.assertRegex(self.failure(), message)
            else:
                self.assertCountEqual(self.load().skipped, ["1.png"])

    def test_a_disk_that_does_not_answer(self):
        """An error does not wait for it."""
        self.load()
        stalled = threading.Event()
        self.addCleanup(stalled.set)

        def look(content):
            if content.startswith(b"\x89PNG"):  # The second file.
                stalled.wait(60.0)
            raise OSError(errno.EIO, "it does not answer")

        start = time.monotonic()
        with (
            mock.patch.object(image_files, "look", look),
            self.assertRaisesRegex(OSError, "does not answer"),
        ):
            self.load()
        self.assertLess(time.monotonic() - start, 30.0)

    @parameterized.parameters(0, 1)
    def test_too_few(self, count):
        for path in sorted(self.root.iterdir())[count:]:
            path.unlink()
        (self.root / "text.txt").touch()
        self.assertRegex(
            self.failure(), f"{count} of the {count + 1} files.*text.txt \\("
        )

    def test_subfolder_that_may_not_be_read(self):
        error = PermissionError(13, "Permission denied", "sub")
        with mock.patch.object(os, "scandir", side_effect=error):
            self.assertIn("Permission denied", self.failure())


class FingerprintTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        for i in range(6):
            write(self.root / f"{'train' if i < 4 else 'test'}/{i}.png")
        self.fingerprint = self.load().fingerprint

    def test_what_matters(self):
        """It depends on contents, splits and order."""
        first, second = (self.root / f"train/{i}.png" for i in range(2))
        test = self.root / "test/4.png"
        fingerprints = {self.fingerprint}
        for old, new in (
            (first, self.root / "train/9.png"),
            (second, self.root / "test/1.png"),
            (test, self.root / "train/4.png"),
        ):
            old.rename(new)
            fingerprints.add(self.load().fingerprint)
        write(self.root / "train/4.png", seed=7)
        fingerprints.add(self.load().fingerprint)
        self.assertLen(fingerprints, 5)

    def test_what_does_not_matter(self):
        """Places, names, dates and sizes do not count."""
        other = self.root.rename(self.root.parent / "other")
        os.utime(other / "train" / "0.png", (1, 1))
        (other / "train" / "1.png").rename(other / "train" / "1 of 4")
        (other / "train" / "text.png").write_text("words")
        write(other / "not in a split.png")
        images = data.load(str(other), image_size=4, flip=True)
        self.assertEqual(images.fingerprint, self.fingerprint)
