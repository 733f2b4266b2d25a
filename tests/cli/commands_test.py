"""Tests for commands."""

import contextlib
import csv
import dataclasses
import errno
import functools
import io
import math
import os
import pathlib
import re
import warnings
from unittest import mock

import command_lines
import matplotlib.image
import numpy as np
import odd_images
import small_models
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import digits, images_of_digits, read_png

from tf_realnvp import data, latents
from tf_realnvp.cli import arguments, commands, main, streams
from tf_realnvp.data import arrays
from tf_realnvp.data.image_dataset import Split
from tf_realnvp.images import files as image_files
from tf_realnvp.images import plots
from tf_realnvp.utils.errors import DataError

NUM_COLORS = small_models.NUM_COLORS
# Command lines, and what the message names.
BAD_LINES = (
    *((c, "MODEL") for c in "sample evaluate interpolate".split()),
    *(
        (f"{line} --{flag}={value}", f"--{flag}: {value!r}")
        for line, flag, values in (
            ("sample M", "n", "-1 0 1.5 many 2147483648"),
            ("sample M", "temperature", "-0.1 nan -inf 1e39 hot"),
            ("sample M", "seed", "-1 1.5 4294967296"),
            ("sample M", "out", "grid .png d/.PNG"),
            ("evaluate M", "max_images", "-1 0 1 all"),
            ("evaluate M", "importance_samples", "0 -1"),
            ("evaluate M", "batch_size", "0 -1"),
            ("interpolate M a b", "steps", "-1 0 1 x 10001"),
            ("interpolate M a b", "out", "grid grid.jpg"),
            ("manifold M a b c d", "size", "-1 0 1 x 1001"),
            ("manifold M a b c d", "out", "grid"),
            ("reconstruct M a", "draws", "-1 0 x 10001"),
            ("reconstruct M a", "seed", "-1 x"),
            ("reconstruct M a", "out", "grid"),
            ("translate M a", "out", "grid"),
        )
        for value in values.split()
    ),
    ("sample M --temp 1", "--temp"),
    ("interpolate M a.png", "PICTURE"),
    ("interpolate M a.png b.png c.png", "c.png"),
    ("manifold M a.png b.png c.png", "PICTURE"),
    ("manifold M a b c d e.png", "e.png"),
    ("reconstruct M", "PICTURE"),
    ("translate M", "PICTURE"),
    # What is in the folder: a file `f.png` and a folder `d.png`.
    ("sample M --out missing/a.png", "--out: cannot write to missing"),
    ("interpolate M a b --out d.png", "--out: d.png is a folder"),
    ("sample M --out f.png/a.png", "--out: cannot write to f.png"),
    ("sample M --out f.png/a/", "--out: cannot write to f.png/a"),
    (f"sample M --out {'x' * 260}.png", "is too long"),
    # It would be lost.
    ("interpolate M a.png f.png --out f.png", "f.png is one of the pictures"),
    ("translate M f.png --out ./f.png", "f.png is one of the pictures"),
    ("direction M --with a --without b --apply f.png --out f.png", "is one of"),
)


call = functools.partial(command_lines.call, main.main)


class StubModel:
    """A model to which all images are equally likely."""

    def __init__(self, source=None, channels=1):
        self.image_shape, self.num_colors = (4, 6, channels), 256
        self.num_dims = 24 * channels
        self.source = source
        self.class_names = ()
        self.seen = []

    def log_prob(self, images, unused_seed):
        self.seen.extend(images)
        return np.full(len(images), -self.num_dims * math.log(256.0))


class CommandsTestCase(command_lines.CommandTestCase):
    name = r"tf-realnvp( \w+)?"


class ModelTestCase(CommandsTestCase):
    """Commands on a model that is loaded, and pictures of some images."""

    def setUp(self):
        super().setUp()
        self.load = self.use(self.loaded)
        self.pictures = [self.folder / f"{name}.png" for name in "abcd"]
        for path, image in zip(self.pictures, self.images, strict=True):
            image_files.write(path, image, NUM_COLORS)
        self.out = self.folder / "out.png"

    def call(self, command, *argv):
        """Runs a command that must succeed; returns its output."""
        code, stdout, stderr = call(command, self.path, *argv)
        self.assertEqual((code, stderr), (0, ""))
        self.load.assert_called_with(str(self.path))
        return stdout

    def samples(self, *arguments):
        """Returns what the loaded model draws, whatever the batches."""
        return np.concatenate([*self.loaded.sample(*arguments)])

    def assert_grid(self, images, columns=None):
        self.assertAllEqual(
            read_png(self.out), plots.image_grid(images, NUM_COLORS, columns)
        )


class FlagsTest(CommandsTestCase):
    def test_bad(self):
        load = self.use(None)
        (self.folder / "f.png").touch()
        (self.folder / "d.png").mkdir()
        for line, message in BAD_LINES:
            with self.subTest(line):
                self.assert_usage_error(call(*line.split()), message)
        load.assert_not_called()
        self.assertCountEqual(os.listdir(), ["f.png", "d.png"])

    def test_no_model(self):
        """Whatever is wrong with it is told in a line."""
        for line in (
            "sample .",
            "sample . --out new/samples/",
            "evaluate .",
            "interpolate . a b",
            "manifold . a b c d",
            "reconstruct . a",
            "translate . a",
        ):
            with self.subTest(line):
                result = call(*line.split())
                self.assert_usage_error(result, "no SavedModel in .")
        self.assertEmpty(os.listdir())

    def test_channels_that_pictures_do_not_have(self):
        self.use(StubModel(channels=2))
        result = call("sample", "my_model")
        self.assert_usage_error(result, "my_model", "1 or 3 channels", "have 2")


class ConditionalTest(ModelTestCase, parameterized.TestCase):
    """The commands on a model with classes."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved_conditional()
        cls.loaded = small_models.opened_conditional()
        cls.images = small_models.images(4)

    def test_sample(self):
        flags = ("--seed", 3, "--out", self.out)
        stdout = self.call("sample", "--label", "old cow", "--n", 5, *flags)
        self.assertIn("5 images of old cow, temperature", stdout)
        self.assert_grid(self.samples(5, 1.0, 3, 2))
        self.call("sample", "--n", 5, *flags)
        self.assert_grid(self.samples(5, 1.0, 3))
        stdout = self.call("sample", "--label", "all", "--n", 4, *flags)
        self.assertIn("12 images of cat, dog, old cow, temperature", stdout)
        labels = np.repeat([0, 1, 2], 4)
        self.assert_grid(self.samples(12, 1.0, 3, labels), 4)

    def evaluate(self, *argv, names=small_models.CLASS_NAMES):
        labels = np.arange(20) % len(names)
        images = small_models.images(20)
        dataset = small_models.make_dataset(
            images, images, np.concatenate([labels, labels]), names
        )
        with mock.patch.object(data, "load", return_value=dataset) as load:
            stdout = self.call("evaluate", *argv)
        self.assertTrue(load.call_args.kwargs["labels"])
        [(images, _)] = dataset.test_batches(20)
        return stdout.splitlines()[-6:], images, labels

    def test_evaluate(self):
        (*_, title, first, second, accuracy), images, labels = self.evaluate()
        self.assertEqual(
            title, "20 test images of random, 17 levels, 3 classes, seed 0"
        )
        given = self.loaded.log_prob_of_classes(images, 0)
        joint = given + self.loaded.log_prior
        mixture = np.log(np.exp(joint).sum(axis=1))
        for line, what, nats in (
            (first, "given the label", given[range(20), labels]),
            (second, "mixture of the classes", mixture),
        ):
            bits = nats.mean() / (-16 * math.log(2.0))
            self.assertRegex(
                line, rf"^1 draw of noise, {what}: \d\.\d+ bits/dim, standard"
            )
            self.assertAllClose(float(line.split()[-5]), bits, atol=1e-4)
        is_right = joint.argmax(axis=1) == labels
        self.assertEqual(
            accuracy,
            f"accuracy as a classifier: {is_right.mean():.4f} "
            f"({is_right.sum()} of 20)",
        )

    def test_evaluate_where_a_class_is_missing(self):
        """Labels go by the names of the classes."""
        lines, images, labels = self.evaluate(names=["dog", "cat"])
        given = self.loaded.log_prob_of_classes(images, 0)
        bits = given[range(20), 1 - labels].mean() / (-16 * math.log(2.0))
        self.assertIn("given the label", lines[-3])
        self.assertAllClose(float(lines[-3].split()[-5]), bits, atol=1e-4)

    def test_evaluate_with_importance_samples(self):
        lines, _, _ = self.evaluate(
            "--importance_samples", 2, "--batch_size", 8
        )
        values = [float(line.split()[-5]) for line in lines[1:5]]
        self.assertLess(values[1], values[0])
        self.assertLess(values[3], values[2])

    def test_evaluate_where_accents_are_encoded_otherwise(self):
        names = ("cat", "dog", "caf\u00e9")
        with mock.patch.object(self.loaded, "class_names", names):
            lines, _, _ = self.evaluate(names=["cat", "dog", "cafe\u0301"])
        expected, _, _ = self.evaluate()
        self.assertEqual(lines[-4:], expected[-4:])

    def test_evaluate_on_other_classes(self):
        images = small_models.images(20)
        dataset = small_models.make_dataset(
            images, images, np.zeros(40, int), "a"
        )
        with mock.patch.object(data, "load", return_value=dataset):
            result = call("evaluate", self.path)
        self.assert_usage_error(
            result, "the classes of random are a, those", "cat, dog, old cow"
        )

    @parameterized.parameters("dog", None)
    def test_pictures(self, name):
        """At the ends of a strip, on a surface and back from their latents."""
        flags = ("--out", self.out) + (
            () if name is None else ("--label", name)
        )
        points = [self.loaded.log_prob_of_classes(self.images, 0)]
        given = points[0]
        label = [
            1 if name else (part.sum(axis=0) + self.loaded.log_prior).argmax()
            for part in (given[:2], given)
        ]
        stdout = self.call("interpolate", *self.pictures[:2], *flags)
        if name is None:
            taken = small_models.CLASS_NAMES[label[0]]
            self.assertStartsWith(stdout, f"taken for {taken}\n")
        of_strip, of_surface = (np.repeat(one, 16) for one in label)
        ends = self.loaded.encode(self.images[:2], of_strip[:2])
        strip = self.loaded.decode(latents.slerp(*ends, 8), of_strip[:8])
        self.assertAllEqual(strip[[0, -1]], self.images[:2])
        self.assert_grid(strip, 8)

        self.call("manifold", *self.pictures, "--size", 4, *flags)
        corners = self.loaded.encode(self.images, of_surface[:4])
        surface = latents.manifold(corners, 4).reshape(-1, 2, 2, 4)
        self.assert_grid(self.loaded.decode(surface, of_surface), 4)

        # Each of its own class.
        given = 9.0 * np.eye(3)[[2, 0, 1, 1]]
        self.enterContext(
            mock.patch.object(
                self.loaded, "log_prob_of_classes", return_value=given
            )
        )
        own = np.array([2, 0, 1, 1] if name is None else [1] * 4)
        decode = mock.Mock(wraps=self.loaded.decode)
        with mock.patch.object(self.loaded, "decode", decode):
            stdout = self.call(
                "reconstruct", *self.pictures, "--draws", 2, *flags
            )
            self.assertIn("4 of 4 pictures came back exactly", stdout)
            _, labels = decode.call_args.args
            self.assertAllEqual(labels, np.repeat(own, 3))
            decode.reset_mock()
            stdout = self.call("translate", *self.pictures, *flags)
        self.assertIn("as cat, dog, old cow\n", stdout)
        ((decoded, labels),) = (call.args for call in decode.call_args_list)
        kept = self.loaded.encode(self.images, own)
        self.assertAllClose(decoded, np.repeat(kept, 3, axis=0))
        self.assertAllEqual(labels, [0, 1, 2] * 4)
        rows = self.loaded.decode(decoded, labels).reshape(4, 3, 4, 4, 1)
        # In its own class a picture comes back.
        self.assertAllEqual(rows[range(4), own], self.images)
        rows = np.concatenate([self.images[:, None], rows], axis=1)
        self.assert_grid(rows.reshape(16, 4, 4, 1), 4)

    def test_score(self):
        self.call("score", ".", "--seed", 3, "--out", "scores.csv")
        with open("scores.csv", newline="") as file:
            rows = {row["file"]: row for row in csv.DictReader(file)}
        expected = self.loaded.score_each(self.images, 3)
        for path, log_prob, _, label in zip(
            self.pictures, *expected, strict=True
        ):
            row = rows[path.name]
            self.assertEqual(
                [*row], ["file", "log_prob", "bits_per_dim", "likeliest_label"]
            )
            self.assertAllClose(float(row["log_prob"]), log_prob, rtol=1e-5)
            name = small_models.CLASS_NAMES[label]
            self.assertEqual(row["likeliest_label"], name)

    def test_accents_that_are_encoded_otherwise(self):
        self.assertEqual(
            arguments.find_class("caf\u00e9", ["x", "cafe\u0301"]),
            "cafe\u0301",
        )

    def test_class_that_is_not_there(self):
        for line in ("sample M", "interpolate M a.png b.png"):
            result = call(*line.split(), "--label", "bird")
            self.assert_usage_error(
                result, "--label: M has no class 'bird', but cat, dog, old cow"
            )

    def test_model_without_classes(self):
        self.use(StubModel())
        for line in ("sample M", "reconstruct M a.png"):
            result = call(*line.split(), "--label", "dog")
            self.assert_usage_error(result, "--label: M has no classes")
        result = call("translate", "M", "a.png")
        self.assert_usage_error(result, "M has no classes")


class CommandsTest(ModelTestCase, parameterized.TestCase):
    """All commands on one model, of images like small digits."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved()
        cls.loaded = small_models.opened()
        cls.images = images_of_digits()[:4]

    def test_sample(self):
        stdout = self.call(
            "sample",
            *("--n", 5, "--temperature", 0.5, "--seed", 3, "--out", self.out),
        )
        self.assert_grid(self.samples(5, 0.5, 3))
        self.assertIn("seed 3\n", stdout)
        self.assertEndsWith(stdout, f"{self.out}\n")

    def test_sample_of_no_images(self):
        """The model knows what is too hot, and the flag is named."""
        for out in ("out.png", "new/"):
            code, _, stderr = call(
                *("sample", self.path, "--temperature", "3e38", "--out", out)
            )
            self.assertEqual(code, 2)
            self.assertRegex(
                stderr, "error: argument --temperature: .* lower one"
            )
            self.assertFalse(os.path.exists(out))

    def test_sample_draws_a_seed_and_prints_it(self):
        stdouts = [self.call("sample", "--out", self.out) for _ in range(2)]
        seeds = [int(re.search(r"seed (\d+)\n", s)[1]) for s in stdouts]
        self.assertNotEqual(*seeds)
        self.assert_grid(self.samples(36, 1.0, seeds[1]))

    @parameterized.parameters("new/samples/", "here")
    def test_sample_to_a_folder(self, out):
        os.mkdir("here")
        with mock.patch.object(commands, "_MANY_BATCHES", 2):
            stdout = self.call("sample", "--n", 70, "--seed", 3, "--out", out)
        self.assertRegex(stdout, r"\nsample: 2/2 steps, [\d,]+ images/s, ")
        names = sorted(os.listdir(out))
        self.assertEqual(names, [f"sample_{i:04d}.png" for i in range(70)])
        # The levels of the samples, exactly, and of more than one batch.
        images = [
            image_files.read(f"{out}/{name}", (4, 4, 1), NUM_COLORS)
            for name in names
        ]
        self.assertAllEqual(images, self.samples(70, 1.0, 3))
        self.assertLen(np.unique(images, axis=0), 70)
        # Others would be mixed with them.
        content = pathlib.Path(out, names[0]).read_bytes()
        result = call("sample", self.path, "--n", 2, "--seed", 4, "--out", out)
        self.assert_usage_error(result, "--out:", "samples of before")
        self.assertEqual(pathlib.Path(out, names[0]).read_bytes(), content)
        # As large as an image, and grey.
        pixels = matplotlib.image.imread(f"{out}/{names[0]}")
        self.assertEqual(pixels.shape, (4, 4))

    def test_sample_to_a_folder_is_all_or_none(self):
        error = OSError(errno.ENOSPC, "No space left on device")
        argv = ("sample", self.path, "--n", 3, "--out", "new/samples/")
        with mock.patch.object(image_files, "encode", side_effect=[b"", error]):
            code, _, stderr = call(*argv)
        self.assertEqual(code, 1)
        self.assertRegex(stderr, "No space left")
        self.assertFalse(os.path.exists("new"))

    def expected_bits(self, num_images, batch_size, num_draws, seed):
        """Bits/dim of images: [number of draws, number of images]."""
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(360, num_images, replace=False))
        batches = []
        stream = 0
        for start in range(0, num_images, batch_size):
            images = images_of_digits()[drawn[start : start + batch_size]]
            draws = []
            for _ in range(num_draws):
                # The stream is the upper half of the seed.
                noise = seed + 2**32 * stream
                draws.append(self.loaded.log_prob(images, noise))
                stream += 1
            batches.append(draws)
        log_probs = np.concatenate(batches, axis=1).astype(np.float64)
        return -log_probs / (16 * math.log(2.0))

    def assert_figure(self, line, title, bits):
        numbers = r"(\d+\.\d+) bits/dim, standard error (\d+\.\d+)"
        match = re.fullmatch(rf"{title}: {numbers}", line)
        self.assertIsNotNone(match, line)
        mean, error = map(float, match.groups())
        self.assertAllClose(mean, np.mean(bits), atol=1e-4)
        deviation = np.sqrt(np.sum((bits - bits.mean()) ** 2) / (len(bits) - 1))
        self.assertAllClose(error, deviation / np.sqrt(len(bits)), atol=1e-4)

    def test_evaluate(self):
        """All test images, of the data set that the metadata name."""
        *_, title, line = self.call("evaluate").splitlines()
        self.assertEqual(title, "360 test images of digits, 17 levels, seed 0")
        bits = self.expected_bits(360, 64, 1, seed=0)
        self.assert_figure(line, "1 draw of noise", bits[0])

    def test_evaluate_with_importance_samples(self):
        stdout = self.call(
            *("evaluate", "--dataset", "DIGITS", "--max_images", 20),
            *("--importance_samples", 5, "--batch_size", 8, "--seed", 7),
        )
        *_, title, single, joint = stdout.splitlines()
        self.assertEqual(title, "20 test images of digits, 17 levels, seed 7")
        bits = self.expected_bits(20, 8, 5, seed=7)
        title = "1 draw of noise, mean of 5 such"
        self.assert_figure(single, title, bits.mean(axis=0))
        nats = -16 * math.log(2.0) * bits
        bound = np.log(np.mean(np.exp(nats - nats.max(axis=0)), axis=0))
        bound = -(bound + nats.max(axis=0)) / (16 * math.log(2.0))
        self.assert_figure(joint, "5 draws of noise", bound)
        self.assertLess(bound.mean(), bits.mean())

    def use_data(self, **changes):
        """Lets the data set be the digits, but for some changes."""
        dataset = dataclasses.replace(digits(), **changes)
        self.enterContext(mock.patch.object(data, "load", return_value=dataset))

    def test_evaluate_on_stored_images(self):
        """Data sets hold images as they are stored, and decode them."""
        self.use_data(
            test=Split(
                np.arange(360),
                records=tf.data.Dataset.from_tensor_slices(
                    images_of_digits()
                ).map(tf.io.serialize_tensor),
            ),
            decode=lambda element: tf.io.parse_tensor(element, tf.uint8),
        )
        stdout = self.call("evaluate", "--max_images", 20)
        bits = self.expected_bits(20, 64, 1, seed=0)
        self.assert_figure(stdout.splitlines()[-1], "1 draw of noise", bits[0])

    @parameterized.parameters(
        ({"image_shape": (32, 32, 3)}, "32x32x3 with 17 levels"),
        ({"num_colors": 16}, "4x4x1 with 16 levels"),
    )
    def test_evaluate_on_other_images(self, changes, message):
        self.use_data(**changes)
        result = call("evaluate", self.path)
        of_model = f"{self.path} 4x4x1 with 17 levels"
        self.assert_usage_error(result, "--dataset", message, of_model)

    def test_evaluate_of_fewer_bits(self):
        """As in training, of a data set with all of them."""
        model = StubModel()
        model.num_colors = 32
        self.use(model)
        images = np.arange(96, dtype=np.uint8).reshape(4, 4, 6, 1) * 2
        dataset = arrays.from_images(images)
        self.enterContext(mock.patch.object(data, "load", return_value=dataset))
        _, stdout, _ = call("evaluate", "any model", "--dataset", "any")
        self.assertIn("32 levels (5 bits: bits/dim are not compar", stdout)
        (tests,) = dataset.test_batches(64)
        self.assertAllEqual(model.seen, tests.numpy() // 8)

    def test_evaluate_on_damaged_data(self):
        path = self.folder / "images.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for image in self.images:
                writer.write(image.tobytes())
        path.write_bytes(path.read_bytes()[:-1])
        test = tf.data.TFRecordDataset(str(path)).map(
            lambda image: tf.reshape(
                tf.io.decode_raw(image, tf.uint8), (4, 4, 1)
            )
        )
        test = test.apply(tf.data.experimental.assert_cardinality(4))
        self.use_data(
            test=Split(np.arange(4), records=test), decode=tf.identity
        )
        result = call("evaluate", self.path)
        self.assert_usage_error(result, "digits", "truncated")

    def test_figures_that_a_full_disk_does_not_take(self):
        full = io.BufferedWriter(streams._Output("/dev/full", "w"))
        with (
            contextlib.redirect_stdout(io.TextIOWrapper(full)),
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            code = main.main(["evaluate", str(self.path)])
        self.assertEqual(code, 1)
        self.assertRegex(
            stderr.getvalue(),
            r"^tf-realnvp evaluate: error: .*No space .*standard output.*\n$",
        )

    def test_evaluate_without_data(self):
        result = call("evaluate", self.path, "--dataset", "moons")
        self.assert_usage_error(result, "moons")
        load = mock.Mock(side_effect=DataError("no way\nto it"))
        with mock.patch.object(data, "load", load):
            result = call("evaluate", self.path, "--data_dir", "my_data")
        self.assertEqual(result[0], 2)
        load.assert_called_once_with("digits", "my_data", (4, 4))
        self.use(StubModel())
        self.assert_usage_error(call("evaluate", "my_model"), "my_model")

    def test_errors_of_the_model_are_no_damage(self):
        error = tf.errors.InvalidArgumentError(None, None, "no such shapes")
        with (
            mock.patch.object(self.loaded, "log_prob", side_effect=error),
            self.assertRaises(tf.errors.InvalidArgumentError),
        ):
            call("evaluate", self.path)

    def folder_of_pictures(self, *names):
        """Returns a folder of pictures, and a model that was trained on it."""
        folder = self.folder / "pictures"
        rng = np.random.default_rng(0)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(256, size=(20, 16, 1)).astype(np.uint8)
            image_files.write(folder / name, image)
        model = StubModel(str(folder))
        self.use(model)
        return folder, model

    def test_evaluate_on_a_folder(self):
        """Its pictures get the size of the model's images."""
        folder, model = self.folder_of_pictures(
            "train/a.png", "test/b.png", "test/c.png"
        )
        (folder / "text.png").write_text("words")
        code, stdout, stderr = call("evaluate", "M")
        self.assertEqual(code, 0)
        self.assertRegex(stderr, r"^warning: 1 file .*text.png.*\n$")
        self.assertIn("2 test images of pictures, 256 levels, seed 0\n", stdout)
        self.assertIn(": 8.0000 bits/dim, standard error 0.0000\n", stdout)
        self.assertEqual(np.shape(model.seen), (2, 4, 6, 1))

    def test_evaluate_on_one_image(self):
        self.folder_of_pictures("train/a.png", "test/b.png")
        with warnings.catch_warnings(action="error"):
            code, stdout, stderr = call(
                "evaluate", "M", "--importance_samples", 2
            )
        self.assertEqual((code, stderr), (0, ""))
        self.assertIn("1 test image of pictures, 256 levels, seed 0\n", stdout)
        figure = r"\w: 8.0000 bits/dim; one image has no standard error"
        self.assertLen(re.findall(figure, stdout), 2)

    def test_evaluate_on_a_damaged_picture(self):
        folder, _ = self.folder_of_pictures("train/a.png", "test/b.png")
        damaged = folder / "test" / "c.png"
        damaged.write_bytes(odd_images.undecodable_png())
        code, _, stderr = call("evaluate", "M")
        self.assertEqual(code, 2)
        self.assertRegex(stderr, rf"^{self.name}: error: .*{damaged}.*\n$")

    def test_interpolate(self):
        self.call(
            "interpolate", *self.pictures[:2], "--steps", 5, "--out", self.out
        )
        start, end = self.loaded.encode(self.images[:2])
        images = self.loaded.decode(latents.slerp(start, end, 5))
        # Its ends are the pictures.
        self.assertAllEqual(images[[0, -1]], self.images[:2])
        self.assert_grid(images, columns=5)

    def test_manifold(self):
        self.call("manifold", *self.pictures, "--size", 4, "--out", self.out)
        corners = self.loaded.encode(self.images)
        points = latents.manifold(corners, 4)
        images = self.loaded.decode(points.reshape(16, 2, 2, 4))
        # The pictures are a quarter of a turn apart.
        self.assertAllEqual(images[[0, 1, 4, 5]], self.images)
        self.assert_grid(images, columns=4)

    def test_reconstruct(self):
        stdout = self.call(
            *("reconstruct", *self.pictures[:3], "--draws", 2, "--seed", 5),
            *("--out", self.out),
        )
        self.assertIn("3 of 3 pictures came back exactly\n", stdout)
        images = self.images[:3]
        kept = self.loaded.encode(images)
        drawn = latents.redraw_factored_out(kept, 2, seed=5)
        decoded = self.loaded.decode(drawn.reshape(6, 2, 2, 4))
        # A row: the picture, the same from all of its latents, and the draws.
        rows = np.stack([images, images, decoded[::2], decoded[1::2]], axis=1)
        self.assert_grid(rows.reshape(12, 4, 4, 1), columns=4)

    @parameterized.parameters(
        ("interpolate", 1), ("manifold", 3), ("reconstruct", 0)
    )
    def test_unreadable_picture(self, command, num_others):
        argv = command, self.path, *self.pictures[:num_others], "x.png"
        self.assert_usage_error(call(*argv), "x.png", "No such file")
        (self.folder / "x.png").write_text("words")
        self.assert_usage_error(call(*argv), "x.png", "neither PNG nor JPEG")
        self.assertLen(os.listdir(), 5)

    def test_in_a_process_of_its_own(self):
        """Nothing of TensorFlow's log is to be seen."""
        result = command_lines.run(
            self.folder,
            *("-m", "tf_realnvp", "interpolate", self.path, "a.png", "b.png"),
            *("--steps", "2", "--out", "out.png"),
        )
        self.assertEqual(result, (0, "out.png\n", ""))
        self.assert_grid(self.images[:2], columns=2)


if __name__ == "__main__":
    tf.test.main()
