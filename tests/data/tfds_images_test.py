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
CELEBA_FILES = ("img_align_celeba.zip", "list_eval_partition.txt")


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
        return {path: path.stat().st_mtime_ns for path in paths}


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
        seen = images_of(loaded.train_batches(5, seed=0, epoch=0))
        self.assertLen(seen, 10)
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
        self.assertRegex(
            str(caught.exception),
            f"^an image of CIFAR10.*corrupted.*, in {copy}$",
        )

    def test_wrong_archive(self):
        write_cifar(self.manual)
        archive = self.manual / CIFAR_FILES[0]
        archive.write_bytes(b"<html>Not found</html>")
        self.assertIn(str(archive), self.failure("CIFAR10").splitlines()[0])


def write_idx(path, array):
    """Writes an array as MNIST and its kin have it, compressed by gzip."""
    header = (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return hashlib.sha256(header + array.tobytes()).hexdigest()[:16]


class FashionMnistTest(TfdsTestCase):
    """Archives whose contents are right, though their own hashes are not."""

    @parameterized.parameters(False, True)
    def test_compressed_anew(self, is_other):
        pixels = random_images(8, 28, 28, 1)
        splits = {"train": pixels[:5], "t10k": pixels[5:]}
        contents = {}
        for split, images in splits.items():
            for name, array in (
                (f"{split}-images-idx3-ubyte.gz", images[..., 0]),
                (f"{split}-labels-idx1-ubyte.gz", images[:, 0, 0, 0] % 10),
            ):
                contents[name] = write_idx(self.manual / name, array)
        if is_other:
            name = "train-images-idx3-ubyte.gz"
            (self.manual / name).write_bytes(gzip.compress(b"other"))
        builder = tfds.builder_cls("fashion_mnist")
        mnist = sys.modules[builder.__module__]
        with (
            mock.patch.object(mnist, "_TRAIN_EXAMPLES", 5),
            mock.patch.object(mnist, "_TEST_EXAMPLES", 3),
            mock.patch.object(tfds_images, "_CONTENTS", contents),
            mock.patch.dict(builder.url_infos),
        ):
            if is_other:
                self.assertIn("wrong checksum", self.failure("fashion_mnist"))
                return
            dataset = data.load("Fashion_MNIST", self.data_dir)
        self.assertEqual(dataset.name, "fashion_mnist")
        for split, found in (("train", "train"), ("t10k", "test")):
            size = dataset.splits[found].num_images
            images = dataset.take(found, range(size))
            self.assertEqual(as_set(images), as_set(splits[split]))
        self.download.assert_not_called()


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
        there = self.manual / "list_attr_celeba.txt"
        self.manual.mkdir()
        there.touch()
        self.accept("celeb_a")
        reason = "Name or service not known"
        if cause != "no network":
            response = requests.Response()
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
        self.assertNotIn(there.name, last)
        self.assertEndsWith(last, f" {self.manual}")
        if cause == "no network":
            self.assertLen(list(self.data_dir.iterdir()), 1)


class AnyDatasetTest(TfdsTestCase):
    def store(self, splits, image=None, key="image", name="mine", **options):
        """Has TFDS write a data set; `splits` are arrays of images."""
        shape = next(iter(splits.values())).shape[1:]
        image = image or tfds.features.Image(shape=shape)
        features = {key: image, "id": np.int64}
        with contextlib.redirect_stdout(io.StringIO()):
            tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version="1.0.0",
                features=tfds.features.FeaturesDict(features),
                split_datasets={
                    split: [
                        (i, {key: x, "id": i}) for i, x in enumerate(images)
                    ]
                    for split, images in splits.items()
                },
                data_dir=self.data_dir,
                **options,
            )

    def load(self, name="mine", **options):
        return data.load(name, str(self.data_dir), **options)

    def check(self, loaded, train, test):
        """Checks that its images are these."""
        for split, expected in (("train", train), ("test", test)):
            size = loaded.splits[split].num_images
            self.assertLen(expected, size)
            images = loaded.take(split, range(size))
            self.assertEqual(images.shape[1:], loaded.image_shape)
            self.assertEqual(as_set(images), as_set(expected))

    def test_prepared_copy(self):
        train, test = random_images(7, 4, 6, 1), random_images(3, 4, 6, 1)
        self.store({"train": train, "test": test})
        with self.assertNoLogs("absl", "WARNING"):
            loaded = self.load()
            self.check(loaded, train, test)
        self.assertEqual(loaded.name, "mine")
        self.assertEqual(loaded.num_colors, 256)
        self.assertTrue(self.load(flip=True).flip)
        with self.assertRaisesRegex(DataError, "mine: its images have no lab"):
            self.load(labels=True)

    def test_celeba(self):
        """Of which the middle is used."""
        train, test = (
            random_images(3, 218, 178, 3),
            random_images(2, 218, 178, 3),
        )
        self.store({"train": train, "test": test}, name="celeb_a")
        loaded = self.load("celeba")
        self.assertEqual(loaded.name, "CelebA")
        expected = (
            [
                resize(image[35:-35, 15:-15], (32, 32)).numpy()
                for image in images
            ]
            for images in (train, test)
        )
        self.check(loaded, *expected)

    def test_configuration(self):
        config = tfds.core.BuilderConfig(name="small")
        self.store({"train": random_images(4, 2, 2, 1)}, config=config)
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
        self.store(splits, disable_shuffling=True)
        loaded = self.load()
        self.assertEqual(loaded.fingerprint, f"mine/1.0.0 {parts}")
        expected = splits["train"], splits.get("test", splits.get("validation"))
        if len(splits) == 1:
            expected = np.split(splits["train"], [loaded.num_train])
        self.check(loaded, *expected)

    def test_several_files(self):
        images = random_images(40, 2, 2, 3)
        config = tfds.download.DownloadConfig(num_shards=4)
        self.store({"train": images}, key="photo", download_config=config)
        self.assertLen(list(self.data_dir.rglob("*.tfrecord-*-of-*4")), 4)
        loaded = self.load()
        found = [
            *loaded.take("train", range(36)),
            *loaded.take("test", range(4)),
        ]
        self.assertEqual(as_set(found), as_set(images))

    @parameterized.parameters(
        # Shape in the copy, what it tells of it, what is asked for, shape.
        ((9, 8, 3), (9, 8, 3), None, (32, 32, 3)),
        ((10, 12, 3), (None, None, 3), None, (32, 32, 3)),
        ((8, 8, 3), (8, 8, 3), (4, 6), (4, 6, 3)),
        ((4, 4, 4), (4, 4, 4), None, (4, 4, 3)),  # Opacity is dropped.
    )
    def test_size(self, shape, told, size, expected):
        images = random_images(3, *shape)
        splits = {"train": images[:2], "test": images[2:]}
        self.store(splits, tfds.features.Image(shape=told))
        loaded = self.load(image_size=size)
        self.assertEqual(loaded.image_shape, expected)
        images = images[..., :3]
        if expected != images.shape[1:]:
            images = [resize(image, expected[:2]).numpy() for image in images]
        self.check(loaded, images[:2], images[2:])

    def test_shuffle_buffer_is_bounded_in_bytes(self):
        self.store({"train": random_images(100, 16, 16, 3)})
        # Noise does not shrink: a record has some 850 bytes.
        for limit, low, high in ((2**27, 90, 90), (20_000, 18, 26), (1, 1, 1)):
            with mock.patch.object(tfds_images, "SHUFFLE_BYTES", limit):
                self.assertBetween(self.load().shuffle_buffer, low, high)

    @parameterized.parameters(
        tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8),
        tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16),
    )
    def test_no_image(self, feature):
        images = random_images(3, 2, 2, 1).astype(feature.np_dtype)
        self.store({"train": images}, feature, key="numbers")
        self.assertRegex(self.failure("mine"), "there is no image.* numbers")

    def test_no_image_is_found_before_any_download(self):
        message = self.failure("imdb_reviews")
        self.assertStartsWith(message, "imdb_reviews: there is no image")
        requests.get.assert_not_called()

    def test_no_training_images(self):
        self.store({"test": random_images(3, 2, 2, 1)})
        self.assertIn("no training images", self.failure("mine"))

    def test_image_that_cannot_be_decoded(self):
        good = tf.io.encode_png(random_images(1, 8, 8, 1)[0]).numpy()
        images = np.array([good, odd_images.undecodable_png(), good, good])
        feature = tfds.features.Image(shape=(8, 8, 1))
        self.store({"train": images, "test": images}, feature)
        with self.assertRaisesRegex(
            DataError, f"^an image of mine .*PNG.*{self.data_dir}/mine/1.0.0$"
        ):
            self.load().take("train", range(4))

    def test_what_has_to_be_fetched_by_hand(self):
        message = self.failure("imagenet2012")
        self.assertIn("ILSVRC2012_img_train.tar", message)
        self.assertIn(str(self.manual), message)

    @parameterized.parameters("svhn_croped/x:1.0.0", "x.png", "", "*", "a/b c")
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
