"""Tests for image_folder."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import pathlib
import shutil
import zlib
from unittest import mock

import folders
import numpy as np
import odd_images
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import as_set, images_of
from PIL import Image

from tf_realnvp import data
from tf_realnvp.data import image_dataset, image_folder
from tf_realnvp.images import files as image_files
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import DataError

GREY = ("PNG L", "PNG LA", "JPEG L", "PNG 1", "PNG I;16")
COLOUR = ("PNG RGB", "PNG P", "PNG RGBA", "JPEG RGB", "JPEG CMYK")


def write(path, size=(12, 12), seed=None, **options):
    """Writes a picture of noise, `size` is (width, height); returns it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(
        256, size=[size[1], size[0], 3], dtype=np.uint8
    )
    Image.fromarray(pixels).save(path, **options)
    return pixels


def names_of(stored):
    """Names of the pictures in `ImageDataset.train` or `test`."""
    return {
        os.path.basename(path).decode()
        for path, *_ in stored.as_numpy_iterator()
    }


class FolderTestCase(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = self.folder.resolve() / "pictures"
        self.root.mkdir()

    def load(self, **options):
        return data.load(str(self.root), "/nowhere", **options)

    def failure(self, **options):
        with self.assertRaises(DataError) as caught:
            self.load(**options)
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        return message

    def read_all(self, images):
        """The images of both splits, of which no two are alike."""
        number = images.num_train + images.num_test
        stored = images.train.stored.concatenate(images.test.stored)
        both = image_dataset.Split(stored, number)
        batches = list(dataclasses.replace(images, test=both).test_batches(1))
        self.assertLen(batches, number)
        return as_set(images_of(batches))


class LabelsTest(FolderTestCase):
    def labels_of(self, images):
        """Labels of both splits, by the names of the files."""
        found = {}
        for split in (images.train, images.test):
            for (path, *_), label in zip(
                split.stored.as_numpy_iterator(), split.labels, strict=True
            ):
                name = os.path.basename(path).decode()
                found[name] = images.class_names[label]
        return found

    def test_sub_folders(self):
        expected = {}
        for i in range(12):
            name = ("cat", "a dog")[i % 2]
            expected[f"{i}.png"] = name
            write(self.root / name / ("young" * (i % 3 == 0)) / f"{i}.png")
        images = self.load(labels=True)
        self.assertEqual(images.class_names, ("a dog", "cat"))
        self.assertEqual(self.labels_of(images), expected)
        self.assertEmpty(self.load().class_names)
        write(self.root / "12.png")
        self.assertRegex(
            self.failure(labels=True), "pictures: 12.png has no label: put the"
        )

    def test_inside_of_train_and_test(self):
        expected = {}
        for i in range(6):
            name, split = ("cat", "dog")[i % 2], ("train", "val")[i // 4]
            expected[f"{i}.png"] = name
            write(self.root / split / name / f"{i}.png")
        write(self.root / "elsewhere.png")
        images = self.load(labels=True)
        self.assertEqual(images.class_names, ("cat", "dog"))
        self.assertEqual(images.class_probs, (0.5, 0.5))
        self.assertEqual(self.labels_of(images), expected)
        write(self.root / "train" / "6.png")
        failure = self.failure(labels=True)
        self.assertIn("train/6.png has no label", failure)
        self.assertIn("inside of `train` and `test`", failure)

    def test_train_without_test(self):
        for i in range(6):
            write(self.root / "train" / ("cat", "dog")[i % 2] / f"{i}.png")
        write(self.root / "unlabelled" / "6.png")
        images = self.load(labels=True)
        self.assertEqual(images.class_names, ("cat", "dog"))
        self.assertEqual(images.num_train + images.num_test, 6)
        # A class may be called so by chance.
        self.assertEqual(
            images.skipped,
            {"unlabelled/6.png": "it is beside the folder `train`"},
        )


class PicturesTest(FolderTestCase):
    @parameterized.parameters(
        ("Train", "Test"),
        ("training", "validation"),
        ("TRAIN", "valid"),
        ("train", "Test"),
        ("training_set", "test_set"),
        ("train", "test_set"),
        ("Training Data", "Validation Data"),
        ("trainset", "testset"),
        ("train-images", "val-images"),
        ("train2017", "val2017"),
        ("seg_train", "seg_test"),
        ("inside/train", "inside/test"),
    )
    def test_splits_by_other_names(self, train, test):
        """Training would see the test pictures, or they would be left out."""
        for name in (train, test):
            write(self.root / name / "a.png")
            write(self.root / name / "b.png")
        self.assertRegex(self.failure(), f"{train} and {test} are not taken")
        shutil.rmtree(self.root / test)  # A class may be called so.
        self.assertEqual(self.load().num_train, 1)

    @parameterized.parameters("test", "inside/val", "seg_test")
    def test_test_images_alone(self, test):
        """They are trained on as others are, and whoever named them is told."""
        for name in ("a.png", "b.png"):
            write(self.root / test / name)
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            self.assertEqual(self.load().num_train, 1)
        self.assertRegex(
            stderr.getvalue(), f"^warning: the pictures in {test} are not kept"
        )

    @parameterized.parameters(
        ("train", "vase"),
        ("train", "valley"),
        ("train_set", "validator"),
        ("trainer", "test"),
        ("training shoes", "tests"),
        ("trainspotting", "testament"),
    )
    def test_classes_with_names_like_splits(self, first, second):
        for name in (first, second):
            write(self.root / name / "a.png")
            write(self.root / name / "b.png")
        images = self.load()
        self.assertEqual(
            images.num_train + images.num_test, 2 if first == "train" else 4
        )

    @parameterized.parameters("test", "validation", "val")
    def test_splits_beside_others(self, split):
        for name in ("train", split, "training_set", "Test"):
            write(self.root / name / "a.png")
        self.assertLen(self.load().skipped, 2)

    def test_small_pictures_stay_as_they_are(self):
        pixels = [write(self.root / f"{i}.png", (6, 4)) for i in range(20)]
        images = self.load()
        self.assertEqual(images.name, "pictures")
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assertEqual(images.num_colors, 256)
        self.assertEmpty(images.skipped)
        self.assertEqual(self.read_all(images), as_set(pixels))
        self.assertFalse(images.flip)
        self.assertTrue(self.load(flip=True).flip)

    @parameterized.parameters(
        # Sizes of two pictures, what is asked for, and the shape.
        ((6, 5), (6, 5), None, (32, 32, 3)),
        ((66, 66), (66, 66), None, (32, 32, 3)),
        ((6, 4), (4, 6), None, (32, 32, 3)),
        ((20, 30), (12, 12), 8, (8, 8, 3)),
        ((20, 30), (12, 12), (8, 6), (8, 6, 3)),
    )
    def test_other_pictures_are_resized(self, first, second, size, shape):
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
        """Writes a picture of each kind, and one that was turned."""
        for i, kind in enumerate(kinds):
            kind, mode = kind.split()
            for orientation in (1, 6):
                size = (12, 12 + i) if orientation == 1 else (12 + i, 12)
                picture = odd_images.noise(mode, *size)
                # Names say nothing of what is in a file.
                (self.root / f"{i} {orientation}.picture").write_bytes(
                    odd_images.encode(picture, kind, orientation)
                )

    @parameterized.parameters(*COLOUR)
    def test_one_in_colour_makes_all_so(self, kind):
        self.write_kinds("PNG L", kind)
        images = self.load(image_size=12)
        self.assertEqual(images.image_shape, (12, 12, 3))

    @parameterized.parameters((GREY, 1), (GREY + COLOUR, 3))
    def test_commands_read_the_same(self, kinds, channels):
        self.write_kinds(*kinds)
        for height in (12, 6):
            images = self.load(image_size=(height, 12))
            self.assertEqual(images.image_shape, (height, 12, channels))
            self.assertEmpty(images.skipped)
            self.assert_as_commands_read(images)

    def assert_as_commands_read(self, images):
        expected = [
            image_files.read(path, images.image_shape)
            for path in self.root.iterdir()
        ]
        self.assertNotEmpty(expected)
        self.assertEqual(self.read_all(images), as_set(expected))

    @parameterized.parameters("PNG", "JPEG")
    def test_pictures_that_were_turned_are_of_one_size(self, kind):
        for orientation in range(1, 9):
            shape = (4, 6) if orientation < 5 else (6, 4)
            picture = odd_images.noise("RGB", *shape)
            (self.root / f"{orientation}").write_bytes(
                odd_images.encode(picture, kind, orientation)
            )
        images = self.load()
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assert_as_commands_read(images)

    @parameterized.parameters("L", "RGB", "CMYK")
    def test_faults_that_are_recovered_from(self, mode):
        """They are trained on, without a word from the JPEG library."""
        for i in range(3):
            picture = odd_images.noise(mode, 12, 12)
            (self.root / f"{i}.jpg").write_bytes(
                odd_images.encode(picture, "JPEG")
                if i
                else odd_images.faulty_jpeg(picture)
            )
        with runtime.silent_stderr() as written:
            images = self.load()
            self.assert_as_commands_read(images)
            self.assertEqual(written(), b"")
        self.assertEmpty(images.skipped)

    def test_complaints_of_few(self):
        """Not all pictures are looked at again for them."""
        for i in range(8):
            picture = odd_images.noise("RGB", 8, 8)
            (self.root / f"{i}.jpg").write_bytes(
                odd_images.faulty_jpeg(picture)
                if i == 3
                else odd_images.encode(picture, "JPEG")
            )
        looks = []
        look = image_files.look
        with (
            mock.patch.object(image_folder, "_LOOKED_AT_ONCE", 2),
            mock.patch.object(
                image_files,
                "look",
                lambda content: looks.append(0) or look(content),
            ),
        ):
            images = self.load()
        self.assertLen(looks, 8 + 2)
        self.assertEqual(
            [
                os.path.basename(path)
                for split in (images.train, images.test)
                for path, _, is_faulty in split.stored.as_numpy_iterator()
                if is_faulty
            ],
            [b"3.jpg"],
        )
        self.assert_as_commands_read(images)

    @parameterized.parameters(
        (0, ""),
        (1, "1 picture has 16 bits"),
        (2, "2 pictures have 16 bits"),
    )
    def test_sixteen_bits(self, number, warning):
        for i in range(4):
            mode = "I;16" if i < number else "L"
            (self.root / f"{i}.png").write_bytes(
                odd_images.encode(odd_images.noise(mode), "PNG")
            )
        with contextlib.redirect_stderr(io.StringIO()) as written:
            self.load()
        if warning:
            warning = (
                f"warning: {warning} a component, of which the 8 highest are "
                "kept\n"
            )
        self.assertEqual(written.getvalue(), warning)

    def test_ways_to_write_a_picture(self):
        write(self.root / "progressive.jpg", progressive=True)
        write(self.root / "interlaced.png", interlace=1)
        write(self.root / "日本.png")
        images = self.load()
        self.assertEmpty(images.skipped)
        self.assert_as_commands_read(images)


class UnreadableTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        self.good = ["0.png", "1.png", "0.jpg", "1.jpg"]
        for name in self.good:
            write(self.root / name, (40, 40))

    def check(self, *skipped):
        images = self.load()
        self.assertCountEqual(images.skipped, skipped)
        self.assertEqual(
            names_of(images.train.stored) | names_of(images.test.stored),
            set(self.good),
        )
        self.read_all(images)

    def test_other_files(self):
        (self.root / "sub").mkdir()
        (self.root / "empty.png").touch()
        (self.root / "sub" / "labels.csv").write_text("a,b\n")
        (self.root / "text.jpg").write_text("<html>Not found</html>")
        write(self.root / "3.webp")
        write(self.root / "4.png", format="GIF")
        (self.root / "moving.png").write_bytes(odd_images.animation())
        # What may not be there, and what may never end.
        (self.root / "gone.png").symlink_to(self.root / "nothing")
        (self.root / "circle.png").symlink_to("circle.png")
        (self.root / "device.png").symlink_to("/dev/null")
        os.mkfifo(self.root / "pipe.png")
        # Links to folders may go in circles.
        elsewhere = self.root.parent / "elsewhere"
        write(elsewhere / "a.png")
        (self.root / "link").symlink_to(elsewhere)
        (self.root / "up").symlink_to(self.root)
        # These are not looked at, and this is no file.
        (self.root / ".DS_Store").touch()
        write(self.root / ".hidden" / "a.png", (8, 8))
        write(self.root / "folder.png" / "a.png", (40, 40))
        self.good.append("a.png")
        self.check(
            *("empty.png", "sub/labels.csv", "text.jpg", "3.webp", "4.png"),
            *("moving.png", "gone.png", "circle.png", "device.png"),
            *("pipe.png", "link", "up"),
        )

    def test_truncated(self):
        damaged = []
        for name in ("0.png", "0.jpg"):
            content = (self.root / name).read_bytes()
            for keep in (10, len(content) // 5, 9 * len(content) // 10, -13):
                damaged.append(f"{keep} of {name}")
                (self.root / damaged[-1]).write_bytes(content[:keep])
        self.check(*damaged)

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
        # No damage: something behind the picture.
        path = self.root / "1.jpg"
        path.write_bytes(path.read_bytes() + b"more")
        self.good = ["1.png", "1.jpg"]
        self.check("0.png", "0.jpg")

    def test_reasons(self):
        (self.root / "text\n.jpg").write_text("words")
        (self.root / "\udcff.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        os.mkfifo(self.root / "pipe")
        write(self.root / "large.png", (100, 100))
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 2000):
            line = image_dataset.describe_skipped(self.load().skipped)
        self.assertLen(line.splitlines(), 1)
        self.assertStartsWith(line, "4 files are left out: ")
        for part in (
            r"text\n.jpg (it is neither PNG nor JPEG)",
            r"\udcff.png (it is damaged)",
            "pipe (it is not a regular file)",
            "large.png (it is too large",
        ):
            self.assertIn(part, line)

    def fail_once(self, number):
        """Makes the system fail to open 1.png, once."""
        errors = [OSError(number, os.strerror(number))]

        def fail(path, *arguments):
            if os.path.basename(path) == "1.png" and errors:
                raise errors.pop()
            return open(path, *arguments)

        return mock.patch.object(image_files, "open", fail, create=True)

    @parameterized.parameters("EIO", "ESTALE", "ETIMEDOUT", "EMFILE")
    def test_errors_that_pass(self, name):
        """Without the picture a run could not be resumed."""
        with self.fail_once(getattr(errno, name)):
            message = self.failure()
        self.assertStartsWith(message, f"{self.root}/1.png: ")
        self.assertEndsWith(message, ": try again later")
        self.check()

    @parameterized.parameters("EACCES", "ENOENT")
    def test_errors_that_stay(self, name):
        with self.fail_once(getattr(errno, name)):
            self.assertCountEqual(self.load().skipped, ["1.png"])

    @parameterized.parameters(0, 1)
    def test_too_few(self, count):
        for name in self.good[count:]:
            (self.root / name).unlink()
        (self.root / "text.txt").touch()
        message = self.failure()
        self.assertStartsWith(message, f"{self.root}: ")
        self.assertIn(f"{count} of the {count + 1} files", message)
        self.assertIn("text.txt (", message)

    def test_subfolder_that_may_not_be_read(self):
        error = PermissionError(13, "Permission denied", "sub")
        with mock.patch.object(os, "scandir", side_effect=error):
            self.assertIn("Permission denied", self.failure())


class DamageTest(FolderTestCase):
    """What only decoding shows, or what happened since the folder was read."""

    @parameterized.parameters(
        ("undecodable", r"a\nb.png", "damaged"),
        ("gone", "2.png", "No such file"),
        ("changed", "2.png", "size has changed"),
    )
    def test_is_named(self, damage, name, reason):
        for i in range(4):
            write(self.root / f"{i}.png", (8, 8))
        if damage == "undecodable":
            content = odd_images.undecodable_png()
            (self.root / "a\nb.png").write_bytes(content)
        images = self.load()
        if damage == "gone":
            (self.root / "2.png").unlink()
        elif damage == "changed":
            write(self.root / "2.png", (8, 10))
        with self.assertRaises(DataError) as caught:
            with images.naming_damage():
                self.read_all(images)
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        for part in ("image of pictures", f"{self.root}/{name}", reason):
            self.assertIn(part, message)

    def test_is_found_without_decoding_all(self):
        for i in range(4):
            write(self.root / f"{i}.png", (8, 8))
        images = self.load()
        (self.root / "3.png").write_bytes(b"words")
        with (
            mock.patch.object(image_files, "load_image") as decode,
            mock.patch.object(
                image_files, "look", wraps=image_files.look
            ) as look,
        ):
            self.assertIn("3.png: it is neither", images.explain_damage(""))
            look.reset_mock()
            (self.root / "2.png").unlink()
            self.assertIn("2.png: No such file", images.explain_damage(""))
            look.assert_not_called()
            decode.assert_not_called()


class FingerprintTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        for i in range(6):
            write(self.root / f"{'train' if i < 4 else 'test'}/{i}.png")
        self.fingerprint = self.load().fingerprint
        self.assertRegex(self.fingerprint, "^[0-9a-f]{64}$")

    def test_what_does_not_matter(self):
        """Place, order, dates, sizes, and what is left out."""
        walk = os.walk

        def backwards(*arguments, **options):
            for folder, inside, files in walk(*arguments, **options):
                inside.reverse()
                yield folder, inside, files[::-1]

        other = self.root.rename(self.root.parent / "other")
        os.utime(other / "train" / "0.png", (1, 1))
        (other / "train" / "text.png").write_text("words")
        write(other / "not in a split.png")
        with mock.patch.object(os, "walk", backwards):
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


class SplitTest(FolderTestCase):
    def test_is_by_the_hash_of_the_name(self):
        """As in former versions: what was trained on must not be tested on."""
        content = odd_images.encode(odd_images.noise("L", 2, 2), "PNG")
        (self.root / "cats").mkdir()
        names = [f"cats/{i}.png" for i in range(200)]
        for name in names:
            (self.root / name).write_bytes(content)
        expected = {
            os.path.basename(name)
            for name in names
            if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
            < 0.1 * 2**32
        }
        self.assertBetween(len(expected), 5, 40)
        images = self.load()
        self.assertEqual(names_of(images.test.stored), expected)
        self.assertLen(names_of(images.train.stored), 200 - len(expected))
        self.assertEmpty(names_of(images.train.stored) & expected)
        # Others have no say in it.
        for name in names[::2]:
            (self.root / name).unlink()
        left = {os.path.basename(name) for name in names[1::2]}
        self.assertNotEmpty(expected & left)
        self.assertEqual(names_of(self.load().test.stored), expected & left)

    def test_each_side_has_a_picture(self):
        content = odd_images.encode(odd_images.noise("L", 2, 2), "PNG")
        for number in range(20):
            folder = self.root / str(number)
            folder.mkdir()
            for i in range(2):
                (folder / f"{number}-{i}.png").write_bytes(content)
            images = data.load(str(folder), "")
            self.assertEqual((images.num_train, images.num_test), (1, 1))

    @parameterized.parameters("test", "validation", "val")
    def test_folders_of_splits(self, split):
        for i in range(6):
            write(self.root / "train" / "cat" / f"a{i}.png", (4, 4))
        for i in range(2):
            write(self.root / split / "dog" / f"b{i}.png", (4, 4))
        write(self.root / "other" / "c.png", (100, 100))
        images = self.load()
        self.assertEqual(
            names_of(images.train.stored), {f"a{i}.png" for i in range(6)}
        )
        self.assertEqual(names_of(images.test.stored), {"b0.png", "b1.png"})
        self.assertEqual(images.image_shape, (4, 4, 3))
        # The training folder alone is split.
        (self.root / split).rename(self.root / "elsewhere")
        images = self.load()
        self.assertEqual(images.num_train + images.num_test, 6)


if __name__ == "__main__":
    tf.test.main()
