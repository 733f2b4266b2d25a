"""Tests for tfds_images."""

import contextlib
import gzip
import hashlib
import io
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import zipfile
from unittest import mock

import numpy as np
import odd_images
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from absl.testing import parameterized
from image_arrays import as_set, images_of, labels_of, random_images
from tensorflow_datasets.core.download import checksums, downloader

from tf_realnvp import data
from tf_realnvp.data import tfds_images
from tf_realnvp.data.image_dataset import resize
from tf_realnvp.utils.errors import DataError

CIFAR_FILES = ("cifar-10-binary.tar.gz",)
CELEBA_FILES = (
    "img_align_celeba.zip",
    "list_eval_partition.txt",
    "list_attr_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "identity_CelebA.txt",
)


class TfdsTestCase(tf.test.TestCase, parameterized.TestCase):
    """Has no network, as far as TFDS and `data` can tell."""

    def setUp(self):
        super().setUp()
        # After a failure TFDS's threads may still be writing there.
        folder = self.enter_context(
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        )
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
        with self.assertRaises(DataError) as caught:
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

    def check(self, loaded, train, test, version="3.0.2"):
        self.assertEqual(loaded.name, "CIFAR10")
        self.assertEqual(
            loaded.fingerprint, f"cifar10/{version} train 10 test 3"
        )
        self.assertEqual(loaded.image_shape, (32, 32, 3))
        self.assertEqual(loaded.num_colors, 256)
        self.assertEqual((loaded.num_train, loaded.num_test), (10, 3))
        seen = images_of(loaded.train_batches(5, seed=0, epoch=0))
        self.assertEqual(seen.dtype, np.uint8)
        self.assertEqual(as_set(seen), as_set(train))
        seen = images_of(loaded.test_batches(2))
        self.assertLen(seen, 3)
        self.assertEqual(as_set(seen), as_set(test))

    def test_labels(self):
        train, test = self.prepare()
        loaded = data.load("CIFAR10", str(self.data_dir), labels=True)
        self.assertEqual(loaded.class_names, tuple("abcdefghij"))
        expected = {
            image.tobytes(): number % 10
            for number, image in enumerate([*train, *test])
        }
        self.assertEqual(labels_of(loaded), expected)

    def test_no_labels(self):
        with self.assertRaisesRegex(
            DataError, "celeb_a: its images have no labels: .*attributes"
        ):
            data.load("CelebA", str(self.data_dir), labels=True)

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

    def test_older_version_and_home_folder(self):
        images = self.prepare()
        shutil.rmtree(self.manual)
        copy = (self.data_dir / "cifar10" / "3.0.2").rename(
            self.data_dir / "cifar10" / "3.0.1"
        )
        info = copy / "dataset_info.json"
        info.write_text(info.read_text().replace("3.0.2", "3.0.1"))
        with mock.patch.dict(os.environ, {"HOME": str(self.data_dir.parent)}):
            loaded = data.load("CIFAR10", f"~/{self.data_dir.name}")
        self.check(loaded, *images, version="3.0.1")

    @parameterized.parameters("cut", "record", "info", "empty")
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
        else:
            shutil.rmtree(copy)
            copy.mkdir()
        before = self.snapshot()
        first, second, *_ = self.failure("CIFAR10").splitlines()
        self.assertStartsWith(first, "CIFAR10: ")
        self.assertIn(f"delete {self.data_dir / 'cifar10'}", second)
        self.assertEqual(self.snapshot(), before)

    def test_damage_inside_a_record_appears_while_reading(self):
        self.prepare()
        record = next((self.data_dir / "cifar10").rglob("*train*"))
        content = bytearray(record.read_bytes())
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
        loaded = data.load("CIFAR10", str(self.data_dir))
        with self.assertRaises(DataError) as caught:
            with loaded.naming_damage():
                list(loaded.train_batches(5, seed=0, epoch=0))
        copy = self.data_dir / "cifar10" / "3.0.2"
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        for part in ("CIFAR10", "corrupted", f", in {copy}"):
            self.assertIn(part, message)

    @parameterized.parameters("other", "cut")
    def test_wrong_archive(self, fault):
        write_cifar(self.manual)
        archive = self.manual / CIFAR_FILES[0]
        if fault == "other":
            archive.write_bytes(b"<html>Not found</html>")
        else:
            os.truncate(archive, archive.stat().st_size // 2)
            self.accept("cifar10")
        self.assertIn(str(archive), self.failure("CIFAR10").splitlines()[0])


def write_idx(path, array):
    """Writes an array as MNIST and its kin have it, compressed by gzip."""
    header = (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return hashlib.sha256(header + array.tobytes()).hexdigest()


class FashionMnistTest(TfdsTestCase):
    """Archives whose contents are right, though their own hashes are not."""

    @parameterized.parameters(None, "other", "cut")
    def test_compressed_anew(self, fault):
        pixels = random_images(8, 28, 28, 1)
        splits = {"train": pixels[:5], "t10k": pixels[5:]}
        contents = {}
        for split, images in splits.items():
            for name, array in (
                (f"{split}-images-idx3-ubyte.gz", images[..., 0]),
                (f"{split}-labels-idx1-ubyte.gz", images[:, 0, 0, 0] % 10),
            ):
                digest = write_idx(self.manual / name, array)
                contents[name] = digest[:16]
        mnist = sys.modules[tfds.builder_cls("fashion_mnist").__module__]
        for target, name, value in (
            (mnist, "_TRAIN_EXAMPLES", 5),
            (mnist, "_TEST_EXAMPLES", 3),
            (tfds_images, "_CONTENTS", contents),
        ):
            self.enter_context(mock.patch.object(target, name, value))
        url_infos = tfds.builder_cls("fashion_mnist").url_infos
        self.enter_context(mock.patch.dict(url_infos))
        path = self.manual / "train-images-idx3-ubyte.gz"
        if fault is not None:
            content = path.read_bytes()[:-20]
            if fault == "other":
                content = gzip.compress(b"other")
            path.write_bytes(content)
            self.assertIn("wrong checksum", self.failure("fashion_mnist"))
            return
        dataset = data.load("Fashion_MNIST", self.data_dir)
        self.assertEqual(dataset.name, "fashion_mnist")
        for images, batches in (
            (splits["train"], dataset.train_batches(5, seed=0, epoch=0)),
            (splits["t10k"], dataset.test_batches(2)),
        ):
            self.assertEqual(as_set(images_of(batches)), as_set(images))
        self.download.assert_not_called()


def write_celeba(manual):
    """Writes CelebA's files with 6 images; returns those for train, test."""
    manual.mkdir(parents=True, exist_ok=True)
    module = sys.modules[tfds.builder_cls("celeb_a").__module__]
    random = np.random.RandomState(0)
    images = {}
    with zipfile.ZipFile(manual / CELEBA_FILES[0], "w") as archive:
        for i in range(1, 7):
            coarse = random.randint(256, size=[28, 23, 3])
            image = tf.image.resize(coarse, [218, 178], "bicubic")
            image = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
            jpeg = tf.io.encode_jpeg(image).numpy()
            archive.writestr(f"img_align_celeba/{i:06}.jpg", jpeg)
            images[f"{i:06}.jpg"] = tf.io.decode_jpeg(jpeg).numpy()

    partitions = dict(zip(images, (0, 0, 0, 1, 2, 2), strict=True))

    def write(name, headings, values):
        lines = [f"{image} {values}" for image in images]
        if headings:
            lines = [str(len(images)), " ".join(headings), *lines]
        (manual / name).write_text("\n".join(lines) + "\n")

    (manual / CELEBA_FILES[1]).write_text(
        "".join(f"{name} {part}\n" for name, part in partitions.items())
    )
    write(CELEBA_FILES[2], module.ATTR_HEADINGS, " ".join(["1", "-1"] * 20))
    write(CELEBA_FILES[3], module.LANDMARK_HEADINGS, " ".join(["9"] * 10))
    write(CELEBA_FILES[4], None, "17")
    return (
        [images[n] for n, part in partitions.items() if part == 0],
        [images[n] for n, part in partitions.items() if part == 2],
    )


class CelebaTest(TfdsTestCase):
    def test_archive(self):
        train, test = write_celeba(self.manual)
        self.accept("celeb_a")
        loaded = data.load("celeba", str(self.data_dir))
        self.assertEqual(loaded.name, "CelebA")
        self.assertEqual(loaded.image_shape, (32, 32, 3))
        for batches, images in (
            (loaded.train_batches(3, seed=0, epoch=0), train),
            (loaded.test_batches(10), test),
        ):
            expected = [
                resize(image[35:-35, 15:-15], (32, 32)).numpy()
                for image in images
            ]
            self.assertEqual(as_set(images_of(batches)), as_set(expected))
        self.download.assert_not_called()

    def test_some_files_are_missing(self):
        write_celeba(self.manual)
        self.accept("celeb_a")
        missing = CELEBA_FILES[2:4]
        for name in missing:
            (self.manual / name).unlink()
        *_, last = self.failure("CelebA").splitlines()
        self.assertIn(f"get {', '.join(missing)} from http", last)

    def test_archive_lacks_an_image(self):
        write_celeba(self.manual)
        with open(self.manual / CELEBA_FILES[1], "a") as partitions:
            partitions.write("000007.jpg 0\n")
        self.accept("celeb_a")
        self.assertIn("000007.jpg", self.failure("CelebA").splitlines()[0])


class NothingThereTest(TfdsTestCase):
    @parameterized.product(
        dataset=[
            ("CIFAR10", "www.cs.toronto.edu/~kriz/cifar", CIFAR_FILES),
            ("CelebA", "mmlab.ie.cuhk.edu.hk/projects/", CELEBA_FILES),
            ("svhn_cropped", "ufldl.stanford.edu", ("train_32x32.mat",)),
        ],
        cause=["no network", "refused", "broken off"],
    )
    def test_help(self, dataset, cause):
        name, homepage, files = dataset
        reason = "Name or service not known"
        if cause != "no network":
            response = requests.Response()
            response.raw = io.BytesIO()
            response.status_code = 200
            if cause == "refused":
                response.status_code, response.reason = 403, "Quota exceeded"
                reason = "403 Client Error: Quota"
            self.enter_context(
                mock.patch.object(requests, "get", return_value=response)
            )
        first, *_, last = self.failure(name).splitlines()
        self.assertEqual(self.download.called, cause == "broken off")
        self.assertStartsWith(first, f"{name}: ")
        self.assertIn(reason, first)
        for part in (homepage, *files):
            self.assertIn(part, last)
        self.assertEndsWith(last, f" {self.manual}")
        if cause == "no network":
            self.assertEmpty(list(self.data_dir.iterdir()))


def store(data_dir, name, splits, image=None, key="image", **options):
    """Has TFDS write a data set; `splits` are arrays of images."""
    shape = next(iter(splits.values())).shape[1:]
    image = image or tfds.features.Image(shape=shape)
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict({key: image, "id": np.int64}),
            split_datasets={
                split: [(i, {key: x, "id": i}) for i, x in enumerate(images)]
                for split, images in splits.items()
            },
            data_dir=data_dir,
            **options,
        )


class AnyDatasetTest(TfdsTestCase):
    def load(self, name="mine", **options):
        return data.load(name, str(self.data_dir), **options)

    def check(self, loaded, train, test):
        self.assertEqual((loaded.num_train, loaded.num_test), (train, test))
        seen = images_of(loaded.train_batches(1, seed=0, epoch=0))
        self.assertEqual(seen.shape, (train, *loaded.image_shape))
        rest = images_of(loaded.test_batches(2))
        self.assertEqual(rest.shape, (test, *loaded.image_shape))
        return as_set(seen), as_set(rest)

    def test_prepared_copy(self):
        train, test = random_images(7, 4, 6, 1), random_images(3, 4, 6, 1)
        store(self.data_dir, "mine", {"train": train, "test": test})
        with self.assertNoLogs("absl", "WARNING"):
            loaded = self.load()
            seen = self.check(loaded, 7, 3)
        self.assertEqual(loaded.name, "mine")
        self.assertEqual(loaded.num_colors, 256)
        self.assertEqual(loaded.image_shape, (4, 6, 1))
        self.assertEqual(seen, (as_set(train), as_set(test)))
        self.assertTrue(self.load(flip=True).flip)

    def test_configuration(self):
        config = tfds.core.BuilderConfig(name="small")
        splits = {"train": random_images(4, 2, 2, 1)}
        store(self.data_dir, "mine", splits, config=config)
        for name in ("mine/small", "mine/small:1.0.0"):
            loaded = self.load(name)
            self.assertEqual(
                loaded.fingerprint, "mine/small/1.0.0 train[:-1] 3 train[-1:] 1"
            )
            self.assertRegex(loaded.name, "^mine_small[^/]*$")

    @parameterized.parameters(
        # Images in each split, and what is for training and for testing.
        ({"train": 4, "validation": 3}, "train 4 validation 3"),
        ({"train": 4, "test": 2, "validation": 3}, "train 4 test 2"),
        ({"train": 2}, "train[:-1] 1 train[-1:] 1"),
        ({"train": 25}, "train[:-2] 23 train[-2:] 2"),
    )
    def test_splits(self, sizes, parts):
        splits = {
            name: random_images(size, 2, 2, 3) for name, size in sizes.items()
        }
        store(self.data_dir, "mine", splits, disable_shuffling=True)
        loaded = self.load()
        self.assertEqual(loaded.fingerprint, f"mine/1.0.0 {parts}")
        expected = splits["train"], splits.get("test", splits.get("validation"))
        if len(splits) == 1:
            expected = np.split(splits["train"], [loaded.num_train])
        train, test = map(len, expected)
        seen = self.check(loaded, train, test)
        self.assertEqual(seen, tuple(map(as_set, expected)))

    def test_several_files(self):
        images = random_images(40, 2, 2, 3)
        config = tfds.download.DownloadConfig(num_shards=4)
        store(
            self.data_dir,
            "mine",
            {"train": images},
            key="photo",
            download_config=config,
        )
        self.assertLen(list(self.data_dir.rglob("*.tfrecord-*-of-*4")), 4)
        train, test = self.check(self.load(), 36, 4)
        self.assertEqual(train | test, as_set(images))

    @parameterized.parameters(
        # Shape in the copy, what it tells of it, what is asked for, shape.
        ((9, 8, 3), (9, 8, 3), None, (32, 32, 3)),
        ((10, 12, 3), (None, None, 3), None, (32, 32, 3)),
        ((8, 8, 3), (8, 8, 3), (4, 6), (4, 6, 3)),
        ((4, 4, 4), (4, 4, 4), None, (4, 4, 3)),  # Opacity is dropped.
    )
    def test_size(self, shape, told, size, expected):
        images = random_images(3, *shape)
        feature = tfds.features.Image(shape=told)
        store(self.data_dir, "mine", {"train": images}, feature)
        loaded = self.load(image_size=size)
        self.assertEqual(loaded.image_shape, expected)
        images = images[..., :3]
        if expected != images.shape[1:]:
            images = [resize(image, expected[:2]).numpy() for image in images]
        train, test = self.check(loaded, 2, 1)
        self.assertEqual(train | test, as_set(images))

    def test_shuffle_buffer_is_bounded_in_bytes(self):
        store(self.data_dir, "mine", {"train": random_images(100, 16, 16, 3)})
        self.assertEqual(self.load().shuffle_buffer, 90)
        # Noise does not shrink: a record has some 850 bytes.
        with mock.patch.object(tfds_images, "SHUFFLE_BYTES", 20_000):
            self.assertBetween(self.load().shuffle_buffer, 18, 26)
        with mock.patch.object(tfds_images, "SHUFFLE_BYTES", 1):
            self.assertEqual(self.load().shuffle_buffer, 1)

    @parameterized.parameters(
        tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8),
        tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16),
    )
    def test_no_image(self, feature):
        images = random_images(3, 2, 2, 1).astype(feature.np_dtype)
        store(self.data_dir, "mine", {"train": images}, feature, key="numbers")
        first = self.failure("mine").splitlines()[0]
        self.assertIn("mine: there is no image", first)
        self.assertIn("numbers", first)

    def test_no_image_is_found_before_any_download(self):
        message = self.failure("imdb_reviews")
        self.assertStartsWith(message, "imdb_reviews: there is no image")
        requests.get.assert_not_called()

    def test_no_training_images(self):
        store(self.data_dir, "mine", {"test": random_images(3, 2, 2, 1)})
        self.assertIn("no training images", self.failure("mine"))

    def test_image_that_cannot_be_decoded(self):
        good = tf.io.encode_png(random_images(1, 8, 8, 1)[0]).numpy()
        images = np.array([good, odd_images.undecodable_png(), good, good])
        store(
            self.data_dir,
            "mine",
            {"train": images},
            tfds.features.Image(shape=(8, 8, 1)),
        )
        loaded = self.load()
        with self.assertRaises(DataError) as caught:
            with loaded.naming_damage():
                list(loaded.train_batches(1, seed=0, epoch=0))
                list(loaded.test_batches(1))
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        for part in ("image of mine", "PNG", f"{self.data_dir}/mine/1.0.0"):
            self.assertIn(part, message)

    def test_what_has_to_be_fetched_by_hand(self):
        message = self.failure("imagenet2012")
        self.assertIn("ILSVRC2012_img_train.tar", message)
        self.assertIn(str(self.manual), message)

    @parameterized.parameters(
        *("svhn_croped", "svhn_croped/x:1.0.0", "x.png", "a b", "gs://a", ""),
        *("*", "no-no", "a/b c"),
    )
    def test_unknown_name(self, name):
        message = self.failure(name)
        for part in (repr(name), "CIFAR10", "digits", "folders"):
            self.assertIn(part, message)
        self.assertEqual("svhn_cropped" in message, "svhn" in name)

    @parameterized.parameters("mnist/nothing", "mnist:9.0.0")
    def test_unknown_version(self, name):
        message = self.failure(name)
        self.assertStartsWith(message, f"{name}: ")
        self.assertLen(message.splitlines(), 1)


if __name__ == "__main__":
    tf.test.main()
