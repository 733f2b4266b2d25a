"""Tests for tfds_images."""

import contextlib
import io
import itertools
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import odd_images
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from absl.testing import parameterized
from image_arrays import as_set, labels_of, random_images
from tensorflow_datasets.core.download import checksums

from tf_realnvp import data
from tf_realnvp.data import tfds_images
from tf_realnvp.data.preprocessing import resize
from tf_realnvp.errors import DataError


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
        self.request = self.enter_context(
            mock.patch.object(requests.Session, "request", side_effect=error)
        )

    def failure(self, name):
        """The message with which `load` fails."""
        with self.assertRaises(DataError) as caught:
            data.load(name, str(self.data_dir))
        return str(caught.exception)

    def assert_images(self, loaded, train, test):
        """Asserts that the images of a data set are these."""
        for split, expected in (("train", train), ("test", test)):
            size = loaded.splits[split].num_images
            self.assertLen(expected, size)
            images = loaded.take(split, range(size))
            self.assertEqual(images.shape[1:], loaded.image_shape)
            self.assertEqual(as_set(images), as_set(expected))

    def snapshot(self):
        paths = [self.data_dir, *self.data_dir.rglob("*")]
        return {path: path.stat().st_mtime_ns for path in paths}


class EightImages(tfds.core.GeneratorBasedBuilder):
    """A data set of TFDS whose splits are downloaded as arrays of NumPy."""

    VERSION = tfds.core.Version("3.0.1")
    url_infos = {}  # The tests fill it in.

    def _info(self):
        image = tfds.features.Image(shape=(28, 28, 1))
        label = tfds.features.ClassLabel(num_classes=10)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        train, test = dl_manager.download([*self.url_infos])
        return {
            "train": self._generate_examples(train),
            "test": self._generate_examples(test),
        }

    def _generate_examples(self, path):
        for number, image in enumerate(np.load(path)):
            yield number, {"image": image, "label": image[0, 0, 0] % 10}


class ArchivesTest(TfdsTestCase):
    def setUp(self):
        super().setUp()
        pixels = random_images(8, 28, 28, 1)
        self.images = {"train": pixels[:5], "test": pixels[5:]}
        self.manual.mkdir()
        infos = {}
        for split, images in self.images.items():
            path = self.manual / f"{split}.npy"
            np.save(path, images)
            url = f"https://example.com/{split}.npy"
            infos[url] = checksums.compute_url_info(path)
        self.enter_context(mock.patch.dict(EightImages.url_infos, infos))
        self.copy = self.data_dir / "eight_images" / "3.0.1"

    def load(self, **options):
        return data.load("eight_images", str(self.data_dir), **options)

    def check(self, loaded, version="3.0.1"):
        self.assertEqual(loaded.name, "eight_images")
        self.assertEqual(
            loaded.fingerprint, f"eight_images/{version} train 5 test 3"
        )
        self.assertEqual(loaded.image_shape, (28, 28, 1))
        self.assertEqual(loaded.num_colors, 256)
        self.assert_images(loaded, **self.images)

    def test_archives_then_prepared_copy(self):
        with self.assertNoLogs("absl", "WARNING"):
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                self.check(self.load())
        self.assertEmpty(stdout.getvalue())
        self.request.assert_not_called()

        shutil.rmtree(self.manual)
        shutil.rmtree(self.data_dir / "downloads")
        before = self.snapshot()
        self.check(self.load())
        self.assertEqual(self.snapshot(), before)

    def test_labels(self):
        loaded = self.load(labels=True)
        self.assertLen(loaded.class_names, 10)
        expected = {
            image.tobytes(): image[0, 0, 0] % 10
            for image in (*self.images["train"], *self.images["test"])
        }
        self.assertEqual(labels_of(loaded), expected)

    def test_other_archive(self):
        archive = self.manual / "train.npy"
        archive.write_bytes(b"other")
        self.assertRegex(
            self.failure("eight_images"), f"^.*{archive}.* wrong checksum"
        )

    def test_older_version_and_home_folder(self):
        self.load()
        older = self.copy.rename(self.copy.with_name("3.0.0"))
        info = older / "dataset_info.json"
        info.write_text(info.read_text().replace("3.0.1", "3.0.0"))
        with mock.patch.dict(os.environ, {"HOME": str(self.data_dir.parent)}):
            loaded = data.load("eight_images", f"~/{self.data_dir.name}")
        self.check(loaded, version="3.0.0")

    def test_bucket(self):
        """TFDS gets the name of a bucket as it is."""
        stop = DataError("no network")
        with mock.patch.object(tfds, "builder", side_effect=stop) as builder:
            with self.assertRaisesRegex(DataError, "no network"):
                data.load("eight_images", "gs://bucket/tfds")
        folder = builder.call_args.kwargs["data_dir"]
        self.assertEqual(os.fspath(folder), "gs://bucket/tfds")

    @parameterized.parameters("info", "empty")
    def test_damaged_copy(self, damage):
        self.load()
        if damage == "info":
            (self.copy / "dataset_info.json").write_text("{")
        else:
            shutil.rmtree(self.copy)
            self.copy.mkdir()
        before = self.snapshot()
        first, second, *_ = self.failure("eight_images").splitlines()
        self.assertStartsWith(first, "eight_images: ")
        self.assertIn(f"delete {self.copy.parent}", second)
        self.assertEqual(self.snapshot(), before)

    def test_damage_inside_a_record_appears_while_reading(self):
        self.load()
        (record,) = self.copy.glob("*train*")
        content = bytearray(record.read_bytes())
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
        loaded = self.load()
        with self.assertRaisesRegex(
            DataError,
            f"^an image of eight_images.*corrupted.*, in {self.copy}$",
        ):
            with loaded.naming_damage():
                list(loaded.train_batches(5, seed=0, epoch=0))


class NothingThereTest(TfdsTestCase):
    @parameterized.parameters(
        (None, None, "Name or service not known"),
        (403, "Quota exceeded", "403 Client Error: Quota"),
        (200, None, "Name or service not known"),  # It breaks off.
    )
    def test_help(self, status, words, reason):
        """The message names the homepage and the missing files."""
        self.manual.mkdir()
        there = self.manual / "list_eval_partition.txt"
        if status is None:
            there.touch()
        else:
            response = requests.Response()
            response.status_code, response.reason = status, words
            errors = itertools.repeat(self.request.side_effect)
            self.request.side_effect = itertools.chain([response], errors)
        first, *_, last = self.failure("CelebA").splitlines()
        self.assertEqual(self.request.call_count > 1, status == 200)
        self.assertStartsWith(first, "CelebA: ")
        self.assertIn(reason, first)
        self.assertIn("mmlab.ie.cuhk.edu.hk/projects/", last)
        self.assertIn("img_align_celeba.zip", last)
        self.assertEqual(there.name in last, status is not None)
        self.assertEndsWith(last, f" {self.manual}")
        if status is None:
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

    def test_no_labels(self):
        self.store({"train": random_images(4, 2, 2, 1)})
        with self.assertRaisesRegex(DataError, "mine: its images have no lab"):
            self.load(labels=True)

    def test_celeba(self):
        """The central part of each image is used."""
        train, test = (random_images(n, 218, 178, 3) for n in (3, 2))
        self.store({"train": train, "test": test}, name="celeb_a")
        for name in ("celeba", "celeb_a", "CelebA:1.0.0"):
            loaded = self.load(name)
            self.assertStartsWith(loaded.name, "CelebA")
        self.assert_images(
            loaded,
            *(resize(x[:, 35:-35, 15:-15], (32, 32)) for x in (train, test)),
        )

    def test_version_and_configuration(self):
        config = tfds.core.BuilderConfig(name="small")
        self.store({"train": random_images(4, 2, 2, 1)}, config=config)
        for name in ("mine/small", "mine/small:1.0.0"):
            loaded = self.load(name)
            self.assertEqual(
                loaded.fingerprint, "mine/small/1.0.0 train[:-1] 3 train[-1:] 1"
            )
            self.assertRegex(loaded.name, "^mine_small[^/]*$")
        self.store({"train": random_images(4, 2, 2, 1)}, name="cifar10")
        with self.assertRaisesRegex(DataError, "CIFAR10:2.0.0: .*cifar10"):
            self.load("cifar10:2.0.0")

    @parameterized.parameters(
        # Images in each split, and what is for training and for testing.
        ({"train": 4, "validation": 3}, "train 4 validation 3"),
        ({"train": 4, "test": 2, "validation": 3}, "train 4 test 2"),
        ({"train": 25}, "train[:-2] 23 train[-2:] 2"),
    )
    def test_splits(self, sizes, parts):
        splits = {
            name: random_images(size, 2, 2, 3) for name, size in sizes.items()
        }
        # Each in two files.
        config = tfds.download.DownloadConfig(num_shards=2)
        self.store(splits, disable_shuffling=True, download_config=config)
        loaded = self.load()
        self.assertEqual(loaded.fingerprint, f"mine/1.0.0 {parts}")
        expected = splits["train"], splits.get("test", splits.get("validation"))
        if len(splits) == 1:
            expected = np.split(splits["train"], [loaded.num_train])
        self.assert_images(loaded, *expected)

    @parameterized.parameters(
        # Shape in the copy, what it tells of it, what is asked for, shape.
        ((9, 8, 3), (9, 8, 3), None, (32, 32, 3)),
        ((10, 12, 3), (None, None, 3), None, (32, 32, 3)),
        ((8, 8, 3), (8, 8, 3), (4, 6), (4, 6, 3)),
        ((4, 4, 4), (4, 4, 4), None, (4, 4, 3)),  # Opacity is dropped.
        ((2, 2, 1), (2, 2, 1), None, (2, 2, 1), 65536),
        ((8, 8, 1), (8, 8, 1), (4, 4), (4, 4, 1), 65536),
    )
    def test_size(self, shape, told, size, expected, num_colors=256):
        images = random_images(3, *shape, num_colors=num_colors)
        splits = {"train": images[:2], "test": images[2:]}
        feature = tfds.features.Image(shape=told, dtype=images.dtype)
        self.store(splits, feature, "photo")
        loaded = self.load(image_size=size)
        self.assertEqual(loaded.image_shape, expected)
        self.assertEqual(loaded.num_colors, num_colors)
        images = images[..., :3]
        if expected != images.shape[1:]:
            images = [resize(image, expected[:2]).numpy() for image in images]
        self.assert_images(loaded, images[:2], images[2:])

    def test_shuffle_buffer_is_bounded_in_bytes(self):
        self.store({"train": random_images(100, 16, 16, 3)})
        # Noise does not shrink: a record has some 850 bytes.
        for limit, low, high in ((2**27, 90, 90), (20_000, 18, 26), (1, 1, 1)):
            with mock.patch.object(tfds_images, "SHUFFLE_BYTES", limit):
                self.assertBetween(self.load().shuffle_buffer, low, high)

    @parameterized.parameters(
        tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8),
        tfds.features.Image(shape=(2, 2, 1), dtype=np.float32),
    )
    def test_no_image(self, feature):
        images = random_images(3, 2, 2, 1).astype(feature.np_dtype)
        self.store({"train": images}, feature, key="numbers")
        self.assertRegex(self.failure("mine"), "there is no image.* numbers")

    def test_no_image_is_found_before_any_download(self):
        message = self.failure("imdb_reviews")
        self.assertStartsWith(message, "imdb_reviews: there is no image")
        self.request.assert_not_called()

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
