"""Tests for image_folder."""

import contextlib
import errno
import hashlib
import io
import os
import pathlib
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
from tf_realnvp.data import image_dataset
from tf_realnvp.images import files as image_files
from tf_realnvp.utils.errors import DataError

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
        """Writes an image of level i as file i; returns their levels."""
        for number, name in enumerate(names):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(level(number))
        return range(len(names))

    def load(self, **options):
        return data.load(str(self.root), "/nowhere", **options)

    def failure(self, **options):
        with self.assertRaises(DataError) as caught:
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

    def classes(self, images):
        """Names of the classes of the files of `write_levels`, by number."""
        found = {}
        for split, own in images.splits.items():
            labels = [images.class_names[label] for label in own.labels]
            levels = self.levels(images, split)
            found.update(zip(levels, labels, strict=True))
        return [found[number] for number in sorted(found)]


class LabelsTest(FolderTestCase):
    def test_sub_folders(self):
        folders_of = [
            ("cat", "a dog")[i % 2] + "/young" * (i % 3 == 0) for i in range(12)
        ]
        self.write_levels(*(f"{at}/{i}.png" for i, at in enumerate(folders_of)))
        images = self.load(labels=True)
        self.assertEqual(images.class_names, ("a dog", "cat"))
        self.assertEqual(
            self.classes(images), [at.split("/")[0] for at in folders_of]
        )
        self.assertEmpty(self.load().class_names)
        write(self.root / "12.png")
        self.assertRegex(
            self.failure(labels=True), "images: 12.png has no label: put the"
        )

    def test_inside_of_train_and_test(self):
        names = [
            f"{i // 4 and 'val' or 'train'}/{'cd'[i % 2]}/{i}" for i in range(6)
        ]
        self.write_levels(*names, "elsewhere.png")
        images = self.load(labels=True)
        self.assertEqual(images.class_probs, (0.5, 0.5))
        self.assertEqual(self.classes(images), list("cdcdcd"))
        write(self.root / "train" / "6.png")
        self.assertRegex(
            self.failure(labels=True), "train/6.png has no label.*inside of"
        )


class SplitTest(FolderTestCase):
    @parameterized.parameters(
        ("Train", "Test"),
        ("training", "valid"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("inside/train", "inside/testing"),
    )
    def test_other_names_of_splits(self, train, test):
        """Training would see the test images."""
        self.write_levels(f"{train}/a", f"{train}/b", f"{test}/a", f"{test}/b")
        self.assertRegex(self.failure(), f"{train} and {test} are not taken")

    @parameterized.parameters(
        ("vase", "valley"), ("trainers", "test"), ("train_station", "val")
    )
    def test_classes_with_names_like_splits(self, first, second):
        self.write_levels(
            f"{first}/a", f"{first}/b", f"{second}/a", f"{second}/b"
        )
        images = self.load()
        self.assertEqual(images.num_train + images.num_test, 4)

    @parameterized.parameters("testing", "valid", "Test", "other")
    def test_train_alone(self, beside):
        """It is split, and nothing of what is beside it trained on."""
        self.write_levels("train/c/a", "train/c/b", "train/c/d", f"{beside}/a")
        images = self.load()
        self.assertCountEqual(
            self.levels(images, "train") + self.levels(images, "test"), range(3)
        )
        reason = "it is beside the folder `train`"
        self.assertEqual(images.skipped, {f"{beside}/a": reason})

    @parameterized.parameters("test", "validation", "val")
    def test_folders_of_splits(self, split):
        self.write_levels(
            *(f"train/cat/{i}" for i in range(6)),
            *(f"{split}/dog/{i}" for i in range(2)),
            "other/x",
            "training_set/x",
        )
        images = self.load()
        self.assertCountEqual(self.levels(images, "train"), range(6))
        self.assertCountEqual(self.levels(images, "test"), (6, 7))
        self.assertLen(images.skipped, 2)

    def test_is_by_the_hash_of_the_name(self):
        """As in former versions: what was trained on must not be tested on."""
        names = [f"cats/{i}.png" for i in range(200)]
        self.write_levels(*names)
        expected = [
            i
            for i, name in enumerate(names)
            if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
            < 0.1 * 2**32
        ]
        self.assertBetween(len(expected), 5, 40)
        images = self.load()
        self.assertCountEqual(self.levels(images, "test"), expected)
        self.assertCountEqual(
            self.levels(images, "train") + expected, range(200)
        )
        # Others have no say in it.
        for name in names[::2]:
            (self.root / name).unlink()
        left = [i for i in expected if i % 2]
        self.assertCountEqual(self.levels(self.load(), "test"), left)

    def test_each_side_has_an_image(self):
        for number in range(20):
            self.write_levels(f"{number}/{number}-0", f"{number}/{number}-1")
            images = data.load(str(self.root / str(number)), "")
            self.assertEqual((images.num_train, images.num_test), (1, 1))


class ImagesTest(FolderTestCase):
    def test_small_images_stay_as_they_are(self):
        pixels = [write(self.root / f"{i}.png", (6, 4)) for i in range(20)]
        images = self.load()
        self.assertEqual(images.name, "images")
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assertEqual(images.num_colors, 256)
        self.assertEmpty(images.skipped)
        self.assertEqual(self.read_all(images), as_set(pixels))
        self.assertFalse(images.flip)
        self.assertTrue(self.load(flip=True).flip)

    @parameterized.parameters(
        # Sizes of two images, what is asked for, and the shape.
        ((6, 5), (6, 5), None, (32, 32, 3)),
        ((66, 66), (66, 66), None, (32, 32, 3)),
        ((6, 4), (4, 6), None, (32, 32, 3)),
        ((20, 30), (12, 12), (8, 6), (8, 6, 3)),
    )
    def test_others_are_resized(self, first, second, size, shape):
        write(self.root / "a.png", first)
        write(self.root / "b.png", second)
        images = self.load(image_size=size)
        self.assertEqual(images.image_shape, shape)
        expected = [
            image_dataset.resize(
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

    @parameterized.parameters(*COLOUR)
    def test_one_in_colour_makes_all_so(self, kind):
        self.write_kinds("PNG L", kind)
        self.assertEqual(self.load(image_size=12).image_shape, (12, 12, 3))

    @parameterized.parameters((GREY, 1), (GREY + COLOUR, 3))
    def test_commands_read_the_same(self, kinds, channels):
        self.write_kinds(*kinds)
        write(self.root / "progressive.jpg", progressive=True)
        write(self.root / "interlaced.png", interlace=1)
        if channels == 1:
            (self.root / "progressive.jpg").unlink()
            (self.root / "interlaced.png").unlink()
        for height in (12, 6):
            images = self.load(image_size=(height, 12))
            self.assertEqual(images.image_shape, (height, 12, channels))
            self.assertEmpty(images.skipped)
            expected = [
                image_files.read(path, images.image_shape)
                for path in self.root.iterdir()
            ]
            self.assertEqual(self.read_all(images), as_set(expected))

    @parameterized.parameters("PNG", "JPEG")
    def test_images_that_were_turned_are_of_one_size(self, kind):
        for orientation in range(1, 9):
            shape = (4, 6) if orientation < 5 else (6, 4)
            (self.root / f"{orientation}").write_bytes(
                odd_images.encode(
                    odd_images.noise("RGB", *shape), kind, orientation
                )
            )
        images = self.load()
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assertLen(self.read_all(images), 8)

    @parameterized.parameters((0, ""), (2, "warning: 2 images of 16 bits"))
    def test_sixteen_bits(self, number, warning):
        for i in range(4):
            mode = "I;16" if i < number else "L"
            (self.root / f"{i}.png").write_bytes(
                odd_images.encode(odd_images.noise(mode), "PNG")
            )
        with contextlib.redirect_stderr(io.StringIO()) as written:
            self.load()
        self.assertStartsWith(written.getvalue(), warning)
        self.assertEqual(bool(warning), bool(written.getvalue()))


class UnreadableTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        self.good = [
            write(self.root / name, (40, 40)) for name in ("0.png", "1.png")
        ]
        for name in ("0.jpg", "1.jpg"):
            write(self.root / name, (40, 40))

    def check(self, number=4, **skipped):
        """Checks how many images are used, and why the others are not."""
        images = self.load()
        self.assertEqual(images.skipped, skipped)
        self.assertLen(self.read_all(images), number)
        return images

    def test_other_files(self):
        neither = "it is neither PNG nor JPEG"
        (self.root / "sub").mkdir()
        (self.root / "empty.png").touch()
        (self.root / "sub" / "labels.csv").write_text("a,b\n")
        write(self.root / "4.png", format="GIF")
        (self.root / "moving.png").write_bytes(odd_images.animation())
        # What may not be there, and what may never end.
        (self.root / "gone.png").symlink_to(self.root / "nothing")
        os.mkfifo(self.root / "pipe.png")
        # Links to folders may go in circles.
        (self.root / "up").symlink_to(self.root)
        # These are not looked at, and this is no file.
        (self.root / ".DS_Store").touch()
        write(self.root / ".hidden" / "a.png", (8, 8))
        write(self.root / "folder.png" / "a.png", (40, 40))
        self.check(
            5,
            **{
                "empty.png": neither,
                "sub/labels.csv": neither,
                "4.png": neither,
                "moving.png": "it is animated",
                "gone.png": "No such file or directory",
                "pipe.png": "it is not a regular file",
                "up": "it is not a regular file",
            },
        )

    def test_truncated(self):
        damaged = {}
        for name in ("0.png", "0.jpg"):
            content = (self.root / name).read_bytes()
            for keep in (10, len(content) // 5, 9 * len(content) // 10, -13):
                damaged[f"{keep} of {name}"] = "it is damaged"
                (self.root / f"{keep} of {name}").write_bytes(content[:keep])
        self.check(**damaged)

    def test_damage_inside(self):
        path = self.root / "0.png"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        path = self.root / "0.jpg"
        content = bytearray(path.read_bytes())
        # More codes than a Huffman table can have.
        start = content.index(b"\xff\xc4") + 5
        content[start : start + 16] = b"\xff" * 16
        path.write_bytes(content)
        # No damage: something behind the image.
        path = self.root / "1.jpg"
        path.write_bytes(path.read_bytes() + b"more")
        self.check(2, **{"0.png": "it is damaged", "0.jpg": "it is damaged"})

    @parameterized.parameters(
        ("EIO", "Input/output error"),
        ("ESTALE", "Stale file handle"),
        ("EACCES", None),
        ("ENOENT", None),
    )
    def test_errors_of_the_system(self, name, failure):
        """If they pass: without the image a run could not be resumed."""
        number = getattr(errno, name)

        def fail(path, *arguments):
            if os.path.basename(path) == "1.png":
                raise OSError(number, os.strerror(number), str(path))
            return open(path, *arguments)

        with mock.patch.object(image_files, "open", fail, create=True):
            if failure is None:
                self.assertCountEqual(self.load().skipped, ["1.png"])
            else:
                self.assertRegex(self.failure(), f"{failure}: .*/1.png")

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


class DamageTest(FolderTestCase):
    """What only decoding shows, or what happened since the folder was read."""

    @parameterized.parameters(
        ("a.png", odd_images.undecodable_png(), None, "damaged"),
        ("2.png", None, None, "No such file"),
        ("2.png", None, (8, 10), "size has changed"),
    )
    def test_is_named(self, name, content, size, reason):
        for i in range(4):
            write(self.root / f"{i}.png", (8, 8))
        path = self.root / name
        if content is not None:
            path.write_bytes(content)
        images = self.load()
        if size is not None:
            write(path, size)
        elif content is None:
            path.unlink()
        with self.assertRaises(DataError) as caught:
            self.read_all(images)
        for part in ("image of images", f"{path}: ", reason):
            self.assertIn(part, str(caught.exception))


class FingerprintTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        for i in range(6):
            write(self.root / f"{'train' if i < 4 else 'test'}/{i}.png")
        self.fingerprint = self.load().fingerprint
        self.assertRegex(self.fingerprint, "^[0-9a-f]{64}$")

    def test_what_does_not_matter(self):
        """Place, dates, sizes, and what is left out."""
        other = self.root.rename(self.root.parent / "other")
        os.utime(other / "train" / "0.png", (1, 1))
        (other / "train" / "text.png").write_text("words")
        write(other / "not in a split.png")
        images = data.load(str(other), image_size=4, flip=True)
        self.assertEqual(images.fingerprint, self.fingerprint)

    @parameterized.parameters("name", "content", "split", "swap", "less")
    def test_change(self, change):
        first = self.root / "train" / "0.png"
        if change == "name":
            # Which leaves the order as it is.
            first.rename(first.with_name("00.png"))
        elif change == "content":
            write(first, seed=0)
        elif change == "split":
            first.rename(self.root / "test" / "0.png")
        elif change == "swap":
            second = self.root / "train" / "1.png"
            content = first.read_bytes()
            first.write_bytes(second.read_bytes())
            second.write_bytes(content)
        else:
            first.unlink()
        self.assertNotEqual(self.load().fingerprint, self.fingerprint)


if __name__ == "__main__":
    tf.test.main()
