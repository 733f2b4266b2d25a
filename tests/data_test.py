"""Tests for data."""

import contextlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from unittest import mock

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from absl.testing import parameterized
from tensorflow_datasets.core.download import checksums, downloader

from tf_realnvp import data

REPOSITORY = pathlib.Path(__file__).parents[1]

CIFAR_FILES = ("cifar-10-binary.tar.gz",)
CELEBA_FILES = (
    "img_align_celeba.zip",
    "list_eval_partition.txt",
    "list_attr_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "identity_CelebA.txt",
)


def images_of(batches):
    """All images of some batches, [N, H, W, C]."""
    return np.concatenate([batch.numpy() for batch in batches])


def as_set(images):
    return {image.tobytes() for image in np.asarray(images)}


def numbered(count):
    """A data set in which image i is filled with i, and its decode count."""
    decoded = tf.Variable(0)

    def decode(i):
        decoded.assign_add(1)
        return tf.fill([2, 2, 1], tf.cast(i, tf.uint8))

    images = tf.data.Dataset.range(count).map(decode)
    return data._image_dataset("numbered", 256, images, images), decoded


def order(batches):
    return images_of(batches)[:, 0, 0, 0].tolist()


class DigitsTest(tf.test.TestCase):
    def test_images(self):
        digits = data.load("digits", "/nowhere")
        self.assertEqual(digits.name, "digits")
        self.assertEqual(digits.image_shape, (8, 8, 1))
        self.assertEqual(digits.num_colors, 17)
        self.assertEqual((digits.num_train, digits.num_test), (1437, 360))
        for split, count in ((digits.train, 1437), (digits.test, 360)):
            self.assertEqual(split.element_spec.dtype, tf.uint8)
            self.assertEqual(split.element_spec.shape, (8, 8, 1))
            images = np.stack(list(split.as_numpy_iterator()))
            self.assertEqual(images.shape, (count, 8, 8, 1))
            self.assertEqual((images.min(), images.max()), (0, 16))

    def test_split_is_fixed_and_complete(self):
        from sklearn import datasets

        first, second = data.load("digits", ""), data.load("DIGITS", "")
        train = images_of(first.train.batch(2000))
        test = images_of(first.test_batches(100))
        self.assertAllEqual(test, images_of(second.test_batches(7)))
        # No picture occurs twice, so that sets tell whether splits overlap.
        self.assertLen(as_set(train) | as_set(test), 1797)
        everything = datasets.load_digits().images.astype(np.uint8)
        self.assertEqual(as_set(train) | as_set(test), as_set(everything))

    def test_without_scikit_learn(self):
        with mock.patch.dict(sys.modules, {"sklearn": None}):
            with self.assertRaisesRegex(data.DataError, "pip install scikit"):
                data.load("digits", "")


class BatchesTest(tf.test.TestCase, parameterized.TestCase):
    def test_train_batches_shape(self):
        batches = data.load("digits", "").train_batches(64, seed=0, epoch=0)
        self.assertLen(batches, 1437 // 64)
        self.assertEqual(batches.element_spec.dtype, tf.uint8)
        self.assertEqual(batches.element_spec.shape, (64, 8, 8, 1))

    def test_each_image_at_most_once(self):
        images, _ = numbered(100)
        seen = order(images.train_batches(8, seed=0, epoch=0))
        self.assertLen(seen, 96)
        self.assertLen(set(seen), 96)
        self.assertNotEqual(seen, sorted(seen))

    def test_order_depends_on_seed_and_epoch_alone(self):
        first, _ = numbered(100)
        tf.random.set_seed(1)
        expected = order(first.train_batches(8, seed=3, epoch=5))
        second, _ = numbered(100)
        tf.random.set_seed(2)
        after = tf.random.uniform([])
        tf.random.set_seed(2)
        repeated = second.train_batches(8, seed=3, epoch=5)
        self.assertEqual(order(repeated), expected)
        self.assertEqual(order(repeated), expected)
        # Nor does it disturb the global seed.
        self.assertEqual(tf.random.uniform([]), after)

    def test_orders_differ(self):
        images, _ = numbered(100)
        keys = [(s, e) for s in (0, 1, 2**32, 2**64) for e in range(3)]
        orders = {tuple(order(images.train_batches(8, *key))) for key in keys}
        self.assertLen(orders, len(keys))

    def test_same_order_in_another_process(self):
        code = (
            "import hashlib\n"
            "import numpy as np\n"
            "from tf_realnvp import data\n"
            'batches = data.load("digits", "").train_batches(100, 7, 2)\n'
            "images = np.concatenate([batch.numpy() for batch in batches])\n"
            "print(hashlib.sha256(images.tobytes()).hexdigest())\n"
        )
        here, there = io.StringIO(), None
        with contextlib.redirect_stdout(here):
            exec(code, {})
        there = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        self.assertEqual(there, here.getvalue())

    @parameterized.parameters(0, 1, 5, 12)
    def test_skip_goes_on(self, skip):
        images, _ = numbered(100)
        expected = order(images.train_batches(8, seed=0, epoch=1))
        batches = images.train_batches(8, seed=0, epoch=1, skip=skip)
        self.assertLen(batches, 12 - skip)
        rest = [i for b in batches for i in b.numpy()[:, 0, 0, 0].tolist()]
        self.assertEqual(rest, expected[8 * skip :])

    def test_shuffle_buffer_limits_how_far_images_move(self):
        images, _ = numbered(100)
        with mock.patch.object(data, "SHUFFLE_BUFFER", 10):
            seen = order(images.train_batches(10, seed=0, epoch=0))
        self.assertCountEqual(seen, range(100))
        for place, i in enumerate(seen):
            self.assertLess(i, place + 10)

    @parameterized.parameters((8, [8] * 12 + [4]), (50, [50, 50]), (300, [100]))
    def test_test_batches_are_complete(self, batch_size, sizes):
        images, _ = numbered(100)
        batches = list(images.test_batches(batch_size))
        self.assertEqual([len(batch) for batch in batches], sizes)
        self.assertEqual(order(batches), list(range(100)))

    def test_images_are_decoded_once(self):
        images, decoded = numbered(100)
        with mock.patch.object(data, "SHUFFLE_BUFFER", 10):
            # These stop early, and leave no half of a cache.
            list(images.train_batches(8, seed=0, epoch=0).take(1))
            list(images.train.take(1))
            decoded.assign(0)
            # Stops before the end is reached, as a loop over steps does.
            list(images.train_batches(8, seed=0, epoch=0).take(12))
            self.assertEqual(decoded, 100)
            for epoch in range(1, 4):
                seen = order(images.train_batches(8, seed=0, epoch=epoch))
                self.assertLen(set(seen), 96)
            self.assertLen(list(images.train), 100)
            self.assertEqual(decoded, 100)
        list(images.test_batches(30))
        list(images.test_batches(20))
        self.assertEqual(decoded, 200)


class TfdsTestCase(tf.test.TestCase, parameterized.TestCase):
    """Has no network, as far as TFDS and `data` can tell."""

    def setUp(self):
        super().setUp()
        folder = self.enter_context(tempfile.TemporaryDirectory())
        self.data_dir = pathlib.Path(folder)
        self.manual = self.data_dir / "manual"
        error = requests.ConnectionError("Name or service not known")
        self.enter_context(
            mock.patch.object(requests, "get", side_effect=error)
        )
        self.download = self.enter_context(
            mock.patch.object(
                downloader._Downloader, "_sync_download", side_effect=error
            )
        )

    def accept(self, builder_name):
        """Makes TFDS take the files in `manual` for the official ones."""
        cls = tfds.builder_cls(builder_name)
        infos = dict(cls.url_infos)
        for url, info in infos.items():
            path = self.manual / info.filename
            if path.exists():
                infos[url] = checksums.compute_url_info(path)
        self.enter_context(mock.patch.object(cls, "url_infos", infos))

    def failure(self, name):
        """The message with which `load` fails."""
        with self.assertRaises(data.DataError) as caught:
            data.load(name, str(self.data_dir))
        return str(caught.exception)

    def snapshot(self):
        paths = [self.data_dir, *self.data_dir.rglob("*")]
        return {path: path.stat().st_mtime_ns for path in sorted(paths)}


def write_cifar(manual):
    """Writes a CIFAR-10 archive of 10 + 3 images and returns those."""
    manual.mkdir(parents=True, exist_ok=True)
    images = np.random.RandomState(0).randint(
        256, size=[13, 32, 32, 3], dtype=np.uint8
    )
    planes = images.transpose(0, 3, 1, 2).reshape(13, -1)
    rows = np.insert(planes, 0, np.arange(13) % 10, axis=1)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    files = dict(zip(names, np.split(rows, [2, 4, 6, 8, 10]), strict=True))
    files = {name: part.tobytes() for name, part in files.items()}
    files["batches.meta.txt"] = "\n".join("abcdefghij").encode()
    with tarfile.open(manual / CIFAR_FILES[0], "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return images[:10], images[10:]


class CifarTest(TfdsTestCase):
    def prepare(self):
        images = write_cifar(self.manual)
        self.accept("cifar10")
        data.load("CIFAR10", str(self.data_dir))
        return images

    def check(self, loaded, train, test):
        self.assertEqual(loaded.name, "CIFAR10")
        self.assertEqual(loaded.image_shape, (32, 32, 3))
        self.assertEqual(loaded.num_colors, 256)
        self.assertEqual((loaded.num_train, loaded.num_test), (10, 3))
        seen = images_of(loaded.train_batches(5, seed=0, epoch=0))
        self.assertEqual(seen.dtype, np.uint8)
        self.assertEqual(as_set(seen), as_set(train))
        seen = images_of(loaded.test_batches(2))
        self.assertLen(seen, 3)
        self.assertEqual(as_set(seen), as_set(test))

    def test_archive_then_prepared_copy(self):
        train, test = write_cifar(self.manual)
        self.accept("cifar10")
        out = io.StringIO()
        with self.assertNoLogs("absl", "WARNING"):
            with contextlib.redirect_stdout(out):
                loaded = data.load("cifar10", str(self.data_dir))
        self.assertEmpty(out.getvalue())
        self.check(loaded, train, test)
        self.download.assert_not_called()

        shutil.rmtree(self.manual)
        shutil.rmtree(self.data_dir / "downloads")
        for path in self.snapshot():
            path.chmod(path.stat().st_mode & ~0o222)
        before = self.snapshot()
        self.check(data.load("CIFAR10", str(self.data_dir)), train, test)
        self.assertEqual(self.snapshot(), before)

    def test_relative_folder_and_home(self):
        images = self.prepare()
        self.enter_context(contextlib.chdir(self.data_dir.parent))
        self.check(data.load("CIFAR10", self.data_dir.name), *images)
        with mock.patch.dict(os.environ, {"HOME": str(self.data_dir.parent)}):
            self.check(data.load("CIFAR10", f"~/{self.data_dir.name}"), *images)

    def test_copy_of_another_version(self):
        images = self.prepare()
        shutil.rmtree(self.manual)
        copy = (self.data_dir / "cifar10" / "3.0.2").rename(
            self.data_dir / "cifar10" / "3.0.1"
        )
        info = copy / "dataset_info.json"
        info.write_text(info.read_text().replace("3.0.2", "3.0.1"))
        self.check(data.load("CIFAR10", str(self.data_dir)), *images)

    @parameterized.parameters("cut", "record", "info", "no info", "empty")
    def test_damaged_copy(self, damage):
        self.prepare()
        copy = self.data_dir / "cifar10" / "3.0.2"
        record = copy / "cifar10-train.tfrecord-00000-of-00001"
        if damage == "cut":
            os.truncate(record, record.stat().st_size - 1)
        elif damage == "record":
            record.unlink()
        elif damage == "info":
            (copy / "dataset_info.json").write_text("{")
        elif damage == "no info":
            (copy / "dataset_info.json").unlink()
        elif damage == "empty":
            shutil.rmtree(copy)
            copy.mkdir()
        before = self.snapshot()
        first, second, *rest = self.failure("CIFAR10").splitlines()
        self.assertIn(str(copy.parent), first)
        self.assertIn(f"delete {self.data_dir / 'cifar10'}", second)
        self.assertIn(str(self.manual), rest[-1])
        self.assertEqual(self.snapshot(), before)

    def test_damage_inside_a_record_appears_while_reading(self):
        self.prepare()
        record = next((self.data_dir / "cifar10").rglob("*train*"))
        content = bytearray(record.read_bytes())
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
        loaded = data.load("CIFAR10", str(self.data_dir))
        with self.assertRaises(tf.errors.DataLossError):
            list(loaded.train_batches(5, seed=0, epoch=0))

    def test_wrong_archive(self):
        self.manual.mkdir()
        archive = self.manual / CIFAR_FILES[0]
        archive.write_bytes(b"<html>Not found</html>")
        first, *rest = self.failure("CIFAR10").splitlines()
        self.assertIn(f"{archive}, has wrong checksum", first)
        self.assertIn("  cifar-10-binary.tar.gz", rest)

    def test_broken_archive(self):
        write_cifar(self.manual)
        archive = self.manual / CIFAR_FILES[0]
        os.truncate(archive, archive.stat().st_size // 2)
        self.accept("cifar10")
        first = self.failure("CIFAR10").splitlines()[0]
        self.assertIn(str(archive), first)
        # The next attempt has a good one.
        train, test = write_cifar(self.manual)
        self.accept("cifar10")
        self.check(data.load("CIFAR10", str(self.data_dir)), train, test)


def write_celeba(manual):
    """Writes CelebA's files with 6 pictures; returns those for train, test."""
    manual.mkdir(parents=True, exist_ok=True)
    module = sys.modules[tfds.builder_cls("celeb_a").__module__]
    random = np.random.RandomState(0)
    pictures = {}
    with zipfile.ZipFile(manual / CELEBA_FILES[0], "w") as archive:
        for i in range(1, 7):
            coarse = random.randint(256, size=[28, 23, 3])
            picture = tf.image.resize(coarse, [218, 178], "bicubic")
            picture = tf.cast(tf.clip_by_value(picture, 0, 255), tf.uint8)
            jpeg = tf.io.encode_jpeg(picture).numpy()
            archive.writestr(f"img_align_celeba/{i:06}.jpg", jpeg)
            pictures[f"{i:06}.jpg"] = tf.io.decode_jpeg(jpeg).numpy()

    partitions = dict(zip(pictures, (0, 0, 0, 1, 2, 2), strict=True))

    def write(name, headings, values):
        lines = [f"{picture} {values}" for picture in pictures]
        if headings:
            lines = [str(len(pictures)), " ".join(headings), *lines]
        (manual / name).write_text("\n".join(lines) + "\n")

    (manual / CELEBA_FILES[1]).write_text(
        "".join(f"{name} {part}\n" for name, part in partitions.items())
    )
    write(CELEBA_FILES[2], module.ATTR_HEADINGS, " ".join(["1", "-1"] * 20))
    write(CELEBA_FILES[3], module.LANDMARK_HEADINGS, " ".join(["9"] * 10))
    write(CELEBA_FILES[4], None, "17")
    return (
        [pictures[n] for n, part in partitions.items() if part == 0],
        [pictures[n] for n, part in partitions.items() if part == 2],
    )


def shrunk(picture):
    """The 32x32 image of a CelebA picture, in NumPy."""
    crop = picture[35:183, 15:163].astype(np.float64)
    scale = 148 / 32
    centers = (np.arange(32) + 0.5) * scale
    distance = np.abs(np.arange(148) + 0.5 - centers[:, np.newaxis]) / scale
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.tensordot(weights, crop, axes=(1, 0))
    return np.rint(np.einsum("jw,iwc->ijc", weights, rows))


class CelebaTest(TfdsTestCase):
    def check(self, loaded, train, test):
        self.assertEqual(loaded.name, "CelebA")
        self.assertEqual(loaded.image_shape, (32, 32, 3))
        self.assertEqual(loaded.num_colors, 256)
        self.assertEqual((loaded.num_train, loaded.num_test), (3, 2))
        for batch, pictures in (
            (images_of(loaded.train_batches(3, seed=0, epoch=0)), train),
            (images_of(loaded.test_batches(10)), test),
        ):
            self.assertEqual(batch.dtype, np.uint8)
            self.assertEqual(batch.shape, (len(pictures), 32, 32, 3))
            matches = []
            for image in batch:
                errors = [np.abs(image - shrunk(p)).max() for p in pictures]
                self.assertLessEqual(min(errors), 1)
                matches.append(np.argmin(errors))
            self.assertCountEqual(matches, range(len(pictures)))

    def test_archive_then_prepared_copy(self):
        train, test = write_celeba(self.manual)
        self.accept("celeb_a")
        self.check(data.load("celeba", str(self.data_dir)), train, test)
        shutil.rmtree(self.manual)
        shutil.rmtree(self.data_dir / "downloads")
        before = self.snapshot()
        self.check(data.load("CelebA", str(self.data_dir)), train, test)
        self.assertEqual(self.snapshot(), before)
        self.download.assert_not_called()

    def test_some_files_are_missing(self):
        write_celeba(self.manual)
        self.accept("celeb_a")
        missing = CELEBA_FILES[2:4]
        for name in missing:
            (self.manual / name).unlink()
        first, *rest = self.failure("CelebA").splitlines()
        self.assertIn(f"{missing[0]} cannot be downloaded", first)
        for name in CELEBA_FILES:
            mark = " (missing)" if name in missing else ""
            self.assertIn(f"  {name}{mark}", rest)

    def test_archive_lacks_a_picture(self):
        write_celeba(self.manual)
        with open(self.manual / CELEBA_FILES[1], "a") as partitions:
            partitions.write("000007.jpg 0\n")
        self.accept("celeb_a")
        self.assertIn("000007.jpg", self.failure("CelebA").splitlines()[0])


class NothingThereTest(TfdsTestCase):
    HOMEPAGES = (
        ("CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar.html", CIFAR_FILES),
        (
            "CelebA",
            "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
            CELEBA_FILES,
        ),
    )

    def check_help(self, message, homepage, files):
        self.assertIn(homepage, message)
        for name in files:
            self.assertIn(f"\n  {name} (missing)\n", message)
        self.assertEndsWith(message, f" {self.manual}")

    @parameterized.parameters(*HOMEPAGES)
    def test_no_network(self, name, homepage, files):
        message = self.failure(name)
        self.assertStartsWith(message, f"{name}: ")
        self.assertIn("Name or service not known", message.splitlines()[0])
        self.check_help(message, homepage, files)
        self.download.assert_not_called()
        self.assertEmpty(list(self.data_dir.iterdir()))

    @parameterized.parameters(*HOMEPAGES)
    def test_server_refuses(self, name, homepage, files):
        response = requests.Response()
        response.status_code, response.reason = 403, "Quota exceeded"
        response.raw = io.BytesIO()
        with mock.patch.object(requests, "get", return_value=response):
            message = self.failure(name)
        self.assertIn("403 Client Error: Quota", message.splitlines()[0])
        self.check_help(message, homepage, files)

    @parameterized.parameters(*HOMEPAGES)
    def test_download_breaks_off(self, name, homepage, files):
        response = requests.Response()
        response.status_code, response.raw = 200, io.BytesIO()
        with mock.patch.object(requests, "get", return_value=response):
            message = self.failure(name)
        self.download.assert_called()
        self.assertIn("Name or service not known", message.splitlines()[0])
        self.check_help(message, homepage, files)

    @parameterized.parameters("CIFAR10", "CelebA")
    def test_without_tfds(self, name):
        with mock.patch.dict(sys.modules, {"tensorflow_datasets": None}):
            self.assertIn("pip install tensorflow-data", self.failure(name))

    def test_unknown_name(self):
        message = self.failure("cifar100")
        self.assertIn("'cifar100'", message)
        for name in data.DATASETS:
            self.assertIn(name, message)


if __name__ == "__main__":
    tf.test.main()
