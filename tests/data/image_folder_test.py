"""Tests for image_folder."""

import hashlib
import os
import pathlib
import tempfile
import zlib
from unittest import mock

import numpy as np
import odd_pictures
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from tf_realnvp import data, pictures, runtime
from tf_realnvp.data import image_dataset, image_folder
from tf_realnvp.errors import DamagedImageError, DataError


def write(path, mode="RGB", size=(12, 12), seed=None, **options):
    """Writes a picture of noise; `size` is (width, height)."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode()) if seed is None else seed
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "P": 1, "CMYK": 4}[mode]
    pixels = np.random.RandomState(seed).randint(
        256, size=[size[1], size[0], channels], dtype=np.uint8
    )
    picture = Image.fromarray(pixels.squeeze(), "L" if mode == "P" else mode)
    if mode == "P":
        picture = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(path, **options)
    return pixels


def images_of(batches):
    """All images of some batches, [N, H, W, C]."""
    return np.concatenate([batch.numpy() for batch in batches])


def names_of(paths):
    """Names of the pictures in `ImageDataset.train` or `test`."""
    return {os.path.basename(path).decode() for path in paths_of(paths)}


def paths_of(stored):
    """Paths of the pictures in `ImageDataset.train` or `test`."""
    return [path for path, *_ in stored.as_numpy_iterator()]


def looked_at(name):
    """What is known of a picture of this name."""
    return image_folder._Picture(name, pictures.Header(2, 2, True), b"")


class FolderTestCase(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enter_context(tempfile.TemporaryDirectory())
        self.root = pathlib.Path(folder).resolve() / "pictures"
        self.root.mkdir()

    def load(self, **options):
        return data.load(str(self.root), "/nowhere", **options)

    def failure(self, **options):
        with self.assertRaises(DataError) as caught:
            self.load(**options)
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        return message


class PicturesTest(FolderTestCase):
    def test_small_pictures_stay_as_they_are(self):
        pixels = [
            write(self.root / f"{i}.png", size=(6, 4)).tobytes()
            for i in range(20)
        ]
        images = self.load()
        self.assertEqual(images.name, "pictures")
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assertEqual(images.num_colors, 256)
        self.assertEmpty(images.skipped)
        self.assertEqual(images.num_train + images.num_test, 20)
        seen = [*images_of(images.train_batches(1, seed=0, epoch=0))]
        seen += [*images_of(images.test_batches(3))]
        self.assertCountEqual([image.tobytes() for image in seen], pixels)

    @parameterized.parameters(
        ((6, 5), (6, 5)), ((66, 66), (66, 66)), ((6, 4), (4, 6))
    )
    def test_other_pictures_become_squares(self, first, second):
        write(self.root / "a.png", size=first)
        write(self.root / "b.png", size=second)
        images = self.load()
        self.assertEqual(images.image_shape, (32, 32, 3))
        self.assertEqual(
            images_of(images.test_batches(1)).shape, (1, 32, 32, 3)
        )

    def test_image_size(self):
        # A white square in the middle of a black picture.
        pixels = np.zeros([20, 30, 3], np.uint8)
        pixels[:, 5:25] = 255
        for name in "ab":
            Image.fromarray(pixels).save(self.root / f"{name}.png")
        images = self.load(image_size=8)
        self.assertEqual(images.image_shape, (8, 8, 3))
        self.assertAllEqual(
            images_of(images.test_batches(1)), np.full([1, 8, 8, 3], 255)
        )

    def test_grey_pictures_have_one_channel(self):
        pixels = write(self.root / "a.png", "L")
        write(self.root / "b.png", "LA", seed=1)
        write(self.root / "c.jpg", "L")
        images = self.load()
        self.assertEqual(images.image_shape, (12, 12, 1))
        both = list(images.train_batches(1, 0, 0)) + list(
            images.test_batches(1)
        )
        self.assertIn(pixels.tobytes(), [b.numpy().tobytes() for b in both])

    @parameterized.parameters("RGB", "P", "RGBA")
    def test_one_colour_picture_gives_all_three_channels(self, mode):
        grey = write(self.root / "grey.png", "L")
        write(self.root / "colour.png", mode)
        images = self.load()
        self.assertEqual(images.image_shape, (12, 12, 3))
        both = list(images.train_batches(1, 0, 0)) + list(
            images.test_batches(1)
        )
        self.assertIn(
            np.repeat(grey, 3, axis=2).tobytes(),
            [batch.numpy().tobytes() for batch in both],
        )

    def test_alpha_is_dropped(self):
        pixels = write(self.root / "a.png", "RGBA", seed=0)
        write(self.root / "b.png", "RGBA", seed=0)
        images = self.load()
        self.assertAllEqual(
            images_of(images.test_batches(1))[0], pixels[..., :3]
        )

    def test_jpeg(self):
        for name in ("a.JPG", "b.jpeg", "c.picture"):
            write(self.root / name, size=(16, 16), seed=0, format="JPEG")
        expected = tf.io.decode_jpeg((self.root / "a.JPG").read_bytes())
        for batch in self.load().test_batches(1):
            self.assertAllEqual(batch[0], expected)

    def test_odd_kinds_can_be_decoded(self):
        write(self.root / "cmyk.jpg", "CMYK", format="JPEG")
        write(self.root / "progressive.jpg", "RGB", progressive=True)
        write(self.root / "palette.png", "P")
        write(self.root / "interlaced.png", "RGB", interlace=1)
        deep = np.arange(144, dtype=np.uint16).reshape(12, 12) * 400
        Image.fromarray(deep).save(self.root / "deep.png")
        Image.new("1", (12, 12)).save(self.root / "two.png")
        images = self.load()
        self.assertEmpty(images.skipped)
        self.assertEqual(images.num_train + images.num_test, 6)
        list(images.train_batches(1, seed=0, epoch=0))
        list(images.test_batches(1))

    @parameterized.parameters("PNG", "JPEG")
    def test_pictures_that_were_turned_are_of_one_size(self, kind):
        for orientation in range(1, 9):
            shape = (4, 6) if orientation < 5 else (6, 4)
            path = self.root / f"{orientation}.picture"
            path.write_bytes(
                odd_pictures.encode(
                    odd_pictures.noise("RGB", *shape), kind, orientation
                )
            )
        images = self.load()
        self.assertEqual(images.image_shape, (4, 6, 3))
        self.assert_as_commands_read(images)

    @parameterized.parameters(
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("PNG", "I;16"),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    )
    def test_commands_read_the_same(self, kind, mode):
        for i, size in enumerate((12, 12, 20)):
            content = odd_pictures.encode(
                odd_pictures.noise(mode, 12, size), kind, 1 + 5 * (i == 1)
            )
            (self.root / f"{i}.png").write_bytes(content)
        self.assert_as_commands_read(self.load(image_size=12))

    @parameterized.parameters("L", "RGB", "CMYK")
    def test_faults_that_are_recovered_from(self, mode):
        """They are trained on, without a word from the JPEG library."""
        for i in range(3):
            picture = odd_pictures.noise(mode, 12, 12)
            (self.root / f"{i}.jpg").write_bytes(
                odd_pictures.encode(picture, "JPEG")
                if i
                else odd_pictures.faulty_jpeg(picture)
            )
        with runtime.silent_stderr() as written:
            images = self.load()
            self.assert_as_commands_read(images)
            self.assertEqual(written(), b"")
        self.assertEmpty(images.skipped)

    def assert_as_commands_read(self, images):
        batches = [
            *images.train_batches(1, seed=0, epoch=0),
            *images.test_batches(1),
        ]
        expected = [
            pictures.read(path, images.image_shape)
            for path in sorted(self.root.iterdir())
        ]
        self.assertNotEmpty(expected)
        self.assertCountEqual(
            [batch.numpy().tobytes() for batch in batches],
            [image.tobytes() for image in expected],
        )

    def test_flip(self):
        for i in range(20):
            write(self.root / f"{i}.png")
        plain, flipped = self.load(), self.load(flip=True)
        first = images_of(plain.train_batches(1, seed=0, epoch=0))
        second = images_of(flipped.train_batches(1, seed=0, epoch=0))
        mirrored = (first != second).any(axis=(1, 2, 3))
        self.assertBetween(mirrored.sum(), 1, len(mirrored) - 1)
        self.assertAllEqual(second[mirrored], first[mirrored][:, :, ::-1])


class UnreadableTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        self.good = [f"{i}.png" for i in range(4)]
        self.good += [f"{i}.jpg" for i in range(4)]
        for name in self.good:
            write(self.root / name, size=(40, 40))

    def check(self, *skipped):
        images = self.load()
        self.assertCountEqual(images.skipped, skipped)
        self.assertEqual(
            names_of(images.train) | names_of(images.test), set(self.good)
        )
        list(images.train_batches(1, seed=0, epoch=0))
        list(images.test_batches(1))

    def test_other_files(self):
        (self.root / "sub").mkdir()
        (self.root / "empty.png").touch()
        (self.root / "sub" / "labels.csv").write_text("a,b\n")
        (self.root / "text.jpg").write_text("<html>Not found</html>")
        for name in ("1.bmp", "2.gif", "3.webp", "4.png"):
            kind = "GIF" if name == "4.png" else None
            write(self.root / name, format=kind)
        self.check(
            "1.bmp",
            "2.gif",
            "3.webp",
            "4.png",
            "empty.png",
            os.path.join("sub", "labels.csv"),
            "text.jpg",
        )

    def test_animation(self):
        frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        frames[0].save(
            self.root / "moving.png", save_all=True, append_images=frames[1:]
        )
        self.check("moving.png")

    @parameterized.product(
        name=("0.png", "0.jpg"), keep=(1, 10, 0.2, 0.5, 0.9, -13)
    )
    def test_truncated(self, name, keep):
        self.good.remove(name)
        path = self.root / name
        content = path.read_bytes()
        size = int(keep * len(content)) if 0 < keep < 1 else keep
        path.write_bytes(content[:size])
        self.check(name)

    def test_damage_inside_a_png(self):
        path = self.root / self.good.pop(0)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        self.check(path.name)

    def test_damage_in_the_tables_of_a_jpeg(self):
        path = self.root / self.good.pop(-1)
        content = bytearray(path.read_bytes())
        # More codes than a Huffman table can have.
        start = content.index(b"\xff\xc4") + 5
        content[start : start + 16] = b"\xff" * 16
        path.write_bytes(content)
        self.check(path.name)

    def test_jpeg_with_something_behind_it(self):
        path = self.root / "0.jpg"
        path.write_bytes(path.read_bytes() + b"more")
        self.check()

    def test_file_that_may_not_be_read(self):
        link = self.root / "gone.png"
        link.symlink_to(self.root / "nothing")
        self.check("gone.png")

    def test_what_may_never_end(self):
        os.mkfifo(self.root / "pipe.png")
        (self.root / "device.png").symlink_to("/dev/null")
        self.check("pipe.png", "device.png")

    def test_links_to_folders_and_in_circles(self):
        elsewhere = self.root.parent / "elsewhere"
        write(elsewhere / "a.png")
        (self.root / "link").symlink_to(elsewhere)
        (self.root / "up").symlink_to(self.root)
        (self.root / "circle.png").symlink_to("circle.png")
        self.check("link", "up", "circle.png")

    def test_folder_that_is_called_a_picture(self):
        write(self.root / "folder.png" / "a.png")
        self.good.append("a.png")
        self.check()

    def test_too_large(self):
        write(self.root / "large.png", size=(100, 100))
        write(self.root / "large.jpg", size=(100, 100))
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 2000):
            images = self.load()
        for name in ("large.jpg", "large.png"):
            self.assertIn("too large", images.skipped.pop(name))
        self.assertEmpty(images.skipped)

    def test_each_has_its_reason(self):
        (self.root / "text\n.jpg").write_text("words")
        (self.root / "\udcff.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        os.mkfifo(self.root / "pipe")
        line = image_dataset.describe_skipped(self.load().skipped)
        self.assertStartsWith(line, "3 files are left out: ")
        for part in (
            "text\\n.jpg (it is neither PNG nor JPEG)",
            "\\udcff.png (it is damaged)",
            "pipe (it is not a regular file)",
        ):
            self.assertIn(part, line)

    def test_hidden_files_are_not_looked_at(self):
        (self.root / ".DS_Store").touch()
        write(self.root / ".hidden" / "a.png", size=(8, 8))
        self.check()

    @parameterized.parameters(0, 1)
    def test_too_few(self, count):
        for name in self.good[count:]:
            (self.root / name).unlink()
        (self.root / "text.txt").touch()
        message = self.failure()
        self.assertStartsWith(message, f"{self.root}: ")
        self.assertIn(f"{count} of the {count + 1} files", message)
        self.assertIn("text.txt (it is neither PNG nor JPEG)", message)

    def test_subfolder_that_may_not_be_read(self):
        error = PermissionError(13, "Permission denied", "sub")
        with mock.patch.object(os, "scandir", side_effect=error):
            self.assertIn("Permission denied", self.failure())


class DamageTest(FolderTestCase):
    """What only decoding shows, or what happened since the folder was read."""

    def setUp(self):
        super().setUp()
        for i in range(4):
            write(self.root / f"{i}.png", size=(8, 8))

    def assert_named(self, images, *messages):
        with self.assertRaises(DamagedImageError) as caught:
            with images.naming_damage():
                list(images.train_batches(1, seed=0, epoch=0))
                list(images.test_batches(1))
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        for part in ("image of pictures", *messages):
            self.assertIn(part, message)

    def test_pixels_that_cannot_be_decoded(self):
        path = self.root / "a\nb.png"
        path.write_bytes(odd_pictures.undecodable_png())
        self.assert_named(self.load(), f"{self.root}/a\\nb.png", "damaged")

    def test_picture_that_is_gone(self):
        images = self.load()
        (self.root / "2.png").unlink()
        self.assert_named(images, f"{self.root}/2.png", "No such file")

    def test_picture_that_has_changed(self):
        images = self.load()
        write(self.root / "2.png", size=(8, 10))
        self.assert_named(images, f"{self.root}/2.png", "size has changed")


class FingerprintTest(FolderTestCase):
    def setUp(self):
        super().setUp()
        for i in range(6):
            write(self.root / f"{'train' if i < 4 else 'test'}/{i}.png")
        self.fingerprint = self.load().fingerprint

    def test_is_a_hash(self):
        self.assertRegex(self.fingerprint, "^[0-9a-f]{64}$")

    def test_place_and_order_do_not_matter(self):
        walk = os.walk

        def backwards(*arguments, **options):
            for folder, folders, files in walk(*arguments, **options):
                folders.reverse()
                yield folder, folders, files[::-1]

        other = self.root.rename(self.root.parent / "other")
        os.utime(other / "train" / "0.png", (1, 1))
        with mock.patch.object(os, "walk", backwards):
            images = data.load(str(other), image_size=4, flip=True)
        self.assertEqual(images.fingerprint, self.fingerprint)

    def test_what_is_left_out_does_not_matter(self):
        (self.root / "train" / "text.png").write_text("words")
        write(self.root / "not in a split.png")
        self.assertEqual(self.load().fingerprint, self.fingerprint)

    @parameterized.parameters("name", "content", "split", "swap", "less")
    def test_change(self, change):
        first = self.root / "train" / "0.png"
        if change == "name":
            first.rename(first.with_name("7.png"))
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
    def test_share_of_many(self):
        names = [f"{i}.png" for i in range(3000)]
        found = [looked_at(name) for name in names]
        train, test = image_folder._split(found)
        self.assertCountEqual(train + test, found)
        # 300 are expected, with a standard deviation of 16.
        self.assertBetween(len(test), 220, 380)

        # Others in another order have no influence.
        some = found[::-2] + [looked_at("new")]
        _, test_of_some = image_folder._split(some)
        self.assertEqual(set(test_of_some) & set(found), set(test) & set(some))

    def test_split_is_that_of_former_versions(self):
        # A model would otherwise be tested on what it was trained on.
        names = [f"cats/{i}.jpg" for i in range(30)]
        _, test = image_folder._split([looked_at(name) for name in names])
        expected = [
            name
            for name in names
            if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
            < 0.1 * 2**32
        ]
        self.assertNotEmpty(expected)
        self.assertCountEqual([p.name for p in test], expected)

    def test_each_side_has_a_picture(self):
        for number in range(100):
            found = [looked_at(f"{number}-{i}.png") for i in range(2)]
            train, test = image_folder._split(found)
            self.assertEqual((len(train), len(test)), (1, 1))

    def test_split_is_the_same_in_each_load(self):
        for i in range(30):
            write(self.root / f"{i % 3}" / f"{i}.png", size=(4, 4))
        first, second = self.load(), self.load()
        self.assertEqual(paths_of(first.train), paths_of(second.train))
        self.assertEqual(paths_of(first.test), paths_of(second.test))
        self.assertEmpty(names_of(first.train) & names_of(first.test))

    @parameterized.parameters("test", "validation", "val")
    def test_folders_of_splits(self, split):
        for i in range(6):
            write(self.root / "train" / "cat" / f"a{i}.png", size=(4, 4))
        for i in range(2):
            write(self.root / split / "dog" / f"b{i}.png", size=(4, 4))
        write(self.root / "other" / "c.png", size=(100, 100))
        images = self.load()
        self.assertEqual(
            names_of(images.train), {f"a{i}.png" for i in range(6)}
        )
        self.assertEqual(names_of(images.test), {f"b{i}.png" for i in range(2)})
        self.assertEqual(images.image_shape, (4, 4, 3))

    def test_training_folder_alone(self):
        for i in range(6):
            write(self.root / "train" / f"a{i}.png", size=(4, 4))
        write(self.root / "other" / "c.png", size=(4, 4))
        images = self.load()
        self.assertEqual(images.num_train + images.num_test, 6)

    def test_tfds_layout(self):
        import tensorflow_datasets as tfds

        for split, count in (("train", 5), ("test", 3)):
            for i in range(count):
                for label in ("cat", "dog"):
                    write(self.root / split / label / f"{i}.png", size=(4, 4))
        builder = tfds.ImageFolder(str(self.root))
        images = self.load()
        for split, paths in (("train", images.train), ("test", images.test)):
            examples = builder.as_dataset(split=split)
            self.assertCountEqual(
                [e["image/filename"].numpy() for e in examples],
                paths_of(paths),
            )

    def test_names_that_are_not_ascii(self):
        for name in ("ä 1.png", "日本.png"):
            write(self.root / name, size=(4, 4))
        images = self.load()
        list(images.train_batches(1, seed=0, epoch=0))
        self.assertLen(list(images.test_batches(1)), 1)


if __name__ == "__main__":
    tf.test.main()
