"""Tests of what images may consist of: levels beyond bytes, real numbers.

From training to the commands, on a model of each kind.
"""

import contextlib
import csv
import functools
import json
import os
import pathlib
import re
import tempfile
from unittest import mock

import command_lines
import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized
from image_arrays import write_images
from PIL import Image

import tf_realnvp
from tf_realnvp import detection, restoration, significance
from tf_realnvp.cli import main
from tf_realnvp.images import files as image_files
from tf_realnvp.images import plots
from tf_realnvp.images.values import Values
from tf_realnvp.serving import weights
from tf_realnvp.utils.errors import DataError

_FOLDER = tempfile.TemporaryDirectory()  # Goes with the process.
SHAPE = (4, 4, 1)
ARCHITECTURE = {"filters": 4, "num_blocks": 1, "num_couplings": (1, 1, 2)}


def fields(number, num_colors, seed=0):
    """Smooth images `[number, 4, 4, 1]`, as data of a kind."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(number, 4, 4, 1))
    smooth = noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)
    if num_colors is None:
        return (7.0 + 0.5 * smooth).astype(np.float32)
    levels = num_colors * (0.5 + 0.08 * smooth)
    return np.clip(levels, 0, num_colors - 1).astype(np.uint16)


@functools.cache
def trained(num_colors):
    """What the command makes of 400 images: a folder, and what it printed."""
    folder = pathlib.Path(_FOLDER.name, str(num_colors))
    folder.mkdir()
    np.save(folder / "data.npy", fields(400, num_colors))
    options = "--filters 4 --num_blocks 1 --num_couplings 1,1,2 --seed 0"
    options += " --batch_size 20 --epochs 2 --run_dir run"
    with contextlib.chdir(folder):
        code, stdout, stderr = command_lines.call(
            *(main.main, "train", "--dataset", "data.npy", *options.split())
        )
    assert (code, stderr) == (0, ""), stderr
    return folder, stdout


def saved(num_colors):
    """The folder of its SavedModel."""
    return trained(num_colors)[0] / "realnvp_data"


@functools.cache
def live(num_colors):
    """The model."""
    return tf_realnvp.load(saved(num_colors))


@functools.cache
def measurer(num_colors):
    """What measures images by it, which takes seconds to trace."""
    return detection.Measurer(live(num_colors))


def results(num_colors):
    """Its test loss in the unit of its kind."""
    content = json.loads((saved(num_colors) / "metadata.json").read_text())
    return content["metrics"][f"test_{Values(num_colors).measure}"]


class ValuesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (2, np.uint8, "2 levels", "bits/dim", "bits_per_dim"),
        (256, np.uint8, "256 levels", "bits/dim", "bits_per_dim"),
        (257, np.uint16, "257 levels", "bits/dim", "bits_per_dim"),
        (65536, np.uint16, "65,536 levels", "bits/dim", "bits_per_dim"),
        (None, np.float32, "real numbers", "nats/dim", "nats_per_dim"),
    )
    def test_kinds(self, num_colors, dtype, words, unit, measure):
        values = Values(num_colors)
        self.assertEqual(values.dtype, dtype)
        self.assertEqual(str(values), words)
        self.assertEqual((values.unit, values.measure), (unit, measure))
        nats = 1.0 if num_colors is None else np.log(2.0)
        self.assertAllClose(values.from_nats(nats), 1.0)
        self.assertAllClose(values.per_dim(-48.0 * nats, 16), 3.0)


class LevelsTest(untraced.UntracedTestCase, parameterized.TestCase):
    def test_learned_noise(self):
        model = small_models.displaced(
            0.2, num_colors=65536, filters=2, dequantization="variational"
        )
        images = np.full([500, 4, 4, 1], 65535, np.uint16)
        images[:, 0] = 300
        self.assertAllInRange(model.log_prob(images, 0), -500.0, 0.0)

    def test_length_in_files(self):
        rng = np.random.default_rng(0)
        noise = rng.integers(4096, size=(2, 16, 16, 3), dtype=np.uint16)
        bits = detection.coded_bits(noise)
        self.assertAllInRange(bits, 12 * 768, 18 * 768)
        flat = detection.coded_bits(np.zeros_like(noise))
        self.assertAllLess(flat, 3000)


class AllKindsTest(tf.test.TestCase, parameterized.TestCase):
    """What a model gives, in TensorFlow and in other programs."""

    @parameterized.parameters(4096, None)
    def test_training(self, num_colors):
        """Nearer to the entropy than a Gaussian of each pixel."""
        deviation = 0.5 if num_colors is None else 0.08 * num_colors
        of_pixels = np.log(deviation * np.sqrt(3.0 * 2.0 * np.pi * np.e))
        bound = Values(num_colors).from_nats(of_pixels)
        self.assertBetween(results(num_colors), bound - 1.5, bound - 0.05)

    @parameterized.parameters(4096, None)
    def test_saved(self, num_colors):
        """What TensorFlow and `load` read gives what the model gives."""
        model = live(num_colors)
        other = small_models.loaded_from(saved(num_colors))
        images = fields(100, num_colors, seed=1)
        samples = other.sample(3, seed=1)
        self.assertEqual(samples.dtype, model.values.dtype)
        self.assertAllClose(samples, model.sample(3, seed=1), rtol=1e-6)
        log_prob = model.log_prob(images, 1)
        self.assertAllClose(other.log_prob(images, seed=1), log_prob, rtol=1e-5)
        latents = other.encode(images)
        self.assertAllClose(latents, model.encode(images), atol=1e-4)
        rtol = 0 if num_colors else 2e-6
        decoded = model.decode(latents)
        self.assertEqual(decoded.dtype, model.values.dtype)
        for found in (decoded, other.decode(latents)):
            self.assertAllClose(found, images, rtol, rtol)
        measure = model.values.measure
        expected = model.values.per_dim(log_prob, 16)
        self.assertAllClose(getattr(model, measure)(images, 1), expected)
        self.assertAllClose(getattr(other, measure)(images, seed=1), expected)
        scores = other.signatures["serving_default"](images=images)
        self.assertIn(measure, scores)
        others = "bits_per_dim" if num_colors is None else "nats_per_dim"
        self.assertFalse(hasattr(other, others))

    @parameterized.parameters(4096, None)
    def test_maps(self, num_colors):
        model, measure = live(num_colors), measurer(num_colors)
        images = fields(5, num_colors, seed=1)
        log_prob = model.log_prob_each(images, np.zeros(5, np.int64))
        self.assertAllClose(
            measure.maps(images).sum(axis=(1, 2)),
            model.values.from_nats(-log_prob.numpy()),
            rtol=1e-5,
        )
        self.assertAllClose(measure(images).log_prob, log_prob, rtol=1e-5)
        with self.assertRaisesRegex(ValueError, "must be (uint16|float32) "):
            measure(images.astype(np.uint8))

    def test_restoration(self):
        """The density is that of the latents of the images that are found."""
        model = live(None)
        images = fields(20, None, seed=3)
        mask = np.zeros([4, 4, 1], bool)
        mask[1, 1] = mask[2, 3] = True
        given = np.where(mask, 100.0, images)
        with self.assertRaisesRegex(ValueError, "^`noise` must be given"):
            restoration.restore(model, given, mask)
        found = restoration.restore(model, given, mask, noise=0.02)
        self.assertEqual(found.images.dtype, np.float32)
        errors = np.where(mask, 0.0, found.images - images)
        self.assertLess(np.square(errors).mean(), 0.02**2 * 4)
        squares = [model.encode(found.images), errors / 0.02]
        density = sum(-np.square(its).sum((1, 2, 3)) / 2 for its in squares)
        self.assertAllClose(found.log_density, density, rtol=1e-3)


class CommandsTest(command_lines.CommandTestCase, parameterized.TestCase):
    name = r"tf-realnvp( \w+)?"

    def setUp(self):
        super().setUp()
        self.out = self.folder / "out.png"
        self.enterContext(
            mock.patch.multiple(restoration, **small_models.FEW_STEPS)
        )
        fewer_draws = functools.partial(significance.compare, num_draws=50)
        self.enterContext(
            mock.patch.object(significance, "compare", fewer_draws)
        )

    def use_model(self, num_colors):
        """Lets the commands load a model, once; returns its path."""
        path = saved(num_colors)
        model = small_models.opened_from(path)
        self.use(model, live(num_colors), measurer(num_colors))
        return path

    def run_command(self, *argv):
        code, stdout, stderr = command_lines.call(main.main, *argv)
        self.assertEqual((code, stderr), (0, ""))
        return stdout

    @parameterized.parameters(4096, None)
    def test_train_and_evaluate(self, num_colors):
        folder, stdout = trained(num_colors)
        values = Values(num_colors)
        self.assertIn(str(values), stdout)
        self.assertRegex(stdout, rf"test \d+\.\d+ {values.unit}")
        for name in ("samples_data.png", "loss_data.png"):
            self.assertTrue((folder / name).exists())
        stdout = self.run_command("evaluate", self.use_model(num_colors))
        found = float(re.search(rf": (\S+) {values.unit}", stdout)[1])
        self.assertAllClose(found, results(num_colors), atol=0.05)

    @parameterized.parameters(4096, None)
    def test_sample(self, num_colors):
        options = "--n 5 --seed 3 --out"
        line = ["sample", self.use_model(num_colors), *options.split()]
        self.run_command(*line, self.out)
        with Image.open(self.out) as image:
            self.assertGreater(min(image.size), 50)
        self.run_command(*line, "many/")
        suffix = Values(num_colors).suffix
        found = [
            image_files.read(f"many/sample_{i:04d}{suffix}", SHAPE, num_colors)
            for i in range(5)
        ]
        self.assertAllClose(
            found, live(num_colors).sample(5, seed=3), rtol=1e-5
        )
        code, _, stderr = command_lines.call(main.main, *line, "many/")
        self.assertEqual(code, 2, stderr)

    @parameterized.parameters(4096, None)
    def test_latents(self, num_colors):
        path = self.use_model(num_colors)
        first, second, *_ = write_images("a", fields(2, num_colors), num_colors)
        for line in (
            ["interpolate", path, first, second],
            ["manifold", path, first, second, first, second],
            ["reconstruct", path, first],
        ):
            stdout = self.run_command(*line, "--out", self.out)
            self.assertIn(str(self.out), stdout)
            os.remove(self.out)

    @parameterized.parameters(4096, None)
    def test_score_and_detect(self, num_colors):
        values, path = Values(num_colors), self.use_model(num_colors)
        normal = fields(90, num_colors, seed=2)
        unusual = normal[:40, :, ::-1, :].copy()
        unusual[:, 1, 1] = unusual.min()
        write_images("normal", normal[40:], num_colors)
        write_images("unusual", unusual, num_colors)
        np.save("fit.npy", normal[:40])
        stdout = self.run_command("score", path, "unusual")
        self.assertIn(values.unit, stdout)
        with open("scores.csv") as file:
            rows = [*csv.DictReader(file)]
        log_prob = [float(row["log_prob"]) for row in rows]
        found = [float(row[values.measure]) for row in rows]
        self.assertAllClose(found, values.per_dim(np.array(log_prob), 16))
        self.assertEqual(found, sorted(found, reverse=True))
        options = "unusual --reference normal --maps maps --max_maps 2"
        self.run_command("score", path, *options.split())
        self.assertLen(os.listdir("maps"), 2)
        options = "--normal normal --unusual unusual --fit fit.npy --out found"
        stdout = self.run_command("detect", path, *options.split())
        is_left_out = "complexity is left out" in stdout
        self.assertEqual(is_left_out, num_colors is None)
        with open("found/table.csv") as file:
            aurocs = {
                r["method"]: float(r["auroc"]) for r in csv.DictReader(file)
            }
        self.assertEqual("complexity" in aurocs, num_colors is not None)
        self.assertGreater(aurocs["combined"], 0.8)
        options = "--with normal --without unusual"
        stdout = self.run_command(
            "direction", path, *options.split(), "--out", self.out
        )
        self.assertRegex(stdout, r"AUROC 0\.[6-9]|AUROC 1")

    def test_levels_of_fewer_bits(self):
        """A data set, or file, of fewer bits has the same levels."""
        path = self.use_model(4096)
        images = fields(60, 4096)
        np.save("dark.npy", images // 8)
        write_images("dark", images // 8, 4096)
        stdout = self.run_command("score", path, "dark")
        options = "--dataset dark.npy --max_images 5"
        other = self.run_command("evaluate", path, *options.split())
        means = [
            float(re.search(r"(\d+\.\d+) bits/dim", text)[1])
            for text in (stdout, other)
        ]
        self.assertAllClose(*means, rtol=0.2)
        np.save("bright.npy", images * 4)
        code, _, stderr = command_lines.call(
            *(main.main, "evaluate", path, "--dataset", "bright.npy")
        )
        self.assertEqual(code, 2)
        self.assertIn("16,384 levels, those of the model", stderr)

    @parameterized.parameters(
        ("export", 4096, "is not of at most 256 levels"),
        ("export", None, "is not of at most 256 levels"),
        ("restore x", None, "real numbers are restored in Python"),
        ("score images", None, "no file in images can be"),
        ("interpolate images/000.png images/000.png", None, "not an .npy file"),
        ("evaluate --dataset digits", None, "17 levels, those of the model"),
        ("evaluate --dataset reals.npy", 4096, "real numbers, those of the"),
    )
    def test_what_makes_no_sense(self, line, num_colors, message):
        path = self.use_model(num_colors)
        write_images("images", fields(1, 4096), 4096)
        np.save("reals.npy", fields(30, None))
        name, *options = line.split()
        code, _, stderr = command_lines.call(main.main, name, path, *options)
        self.assertEqual(code, 2, stderr)
        self.assertIn(message, stderr)

    def test_restore(self):
        images = fields(2, 4096, seed=3)
        paths = write_images("a", images, 4096)
        mask = np.zeros([4, 4, 1], np.uint8)
        mask[:2] = 255
        image_files.write("mask.png", mask)
        line = ["restore", self.use_model(4096), *paths, "--mask", "mask.png"]
        self.run_command(*line, "--out", "restored/")
        for number in range(2):
            found = image_files.read(
                f"restored/00{number}_restored.png", SHAPE, 4096
            )
            self.assertAllEqual(found[2:], images[number, 2:])
            self.assertGreater(found.max(), 256)


class RealNumbersTest(untraced.UntracedTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for num_colors in (4096, None):  # Not in a test that traces nothing.
            trained(num_colors)

    def test_standardization(self):
        """By the training images, to rounding; it is not trained."""
        dataset = tf_realnvp.data.arrays.from_images(fields(400, None), None)
        own = dataset.take("train", range(dataset.num_train))
        model = live(None)
        [moments] = [v for v in model.variables if v.name == "moments"]
        self.assertAllClose(moments, [[own.mean()], [own.std()]], rtol=1e-5)
        self.assertFalse(moments.trainable)

    @parameterized.parameters((1e8, 30.0), (0.0, 1e-6), (-3.0, 2.0))
    def test_moments(self, mean, deviation):
        """They are exact far from zero, up to the rounding of float32."""
        rng = np.random.default_rng(0)
        images = rng.normal(mean, deviation, (600, *SHAPE)).astype(np.float32)
        dataset = tf_realnvp.data.arrays.from_images(images, None)
        own = np.float64(dataset.take("train", range(dataset.num_train)))
        found = np.ravel(dataset.moments())
        self.assertAllClose(found, [own.mean(), own.std()], rtol=1e-9)

    @parameterized.parameters(0.0, 12.22, 1e8)
    def test_constant_channel(self, value):
        """It has no density."""
        images = np.random.default_rng(0).normal(size=(60, 4, 4, 2))
        images[..., 1] = value
        model = tf_realnvp.RealNVP((4, 4, 2), None, **ARCHITECTURE)
        with self.assertRaisesRegex(DataError, "channel 1 .* constant"):
            tf_realnvp.train(model, images, batch_size=20, progress=False)

    def test_resumed(self):
        """The same weights to the bit."""

        def train(folder, **settings):
            small_models.set_seed(0)
            model = tf_realnvp.RealNVP(SHAPE, None, **ARCHITECTURE)
            tf_realnvp.train(
                model,
                fields(60, None),
                epochs=2,
                batch_size=20,
                ema=0.9,
                run_dir=self.folder / folder,
                progress=False,
                **settings,
            )
            return model

        expected = train("whole")
        train("parts", max_steps=2)
        resumed = train("parts")
        for found in (resumed, tf_realnvp.load(self.folder / "parts")):
            self.assertTrue(small_models.same_weights(found, expected))
        header = (self.folder / "parts" / "metrics.csv").read_text()
        self.assertNotIn("bits_per_dim", header)

    def test_labels(self):
        images, labels = fields(60, None), np.arange(60) % 2
        images[labels == 1] *= 0.2
        model = tf_realnvp.RealNVP(SHAPE, None, num_classes=2, **ARCHITECTURE)
        tf_realnvp.train(
            model,
            images,
            labels=labels,
            epochs=6,
            lr=1e-2,
            batch_size=20,
            progress=False,
        )
        gain = model.log_prob(images, label=labels)
        gain -= model.log_prob(images, label=1 - labels)
        for label in range(2):
            self.assertGreater(np.mean(gain[labels == label]), 0.0)
        posterior = np.exp(model.classify(images))
        self.assertAllClose(posterior[range(60), labels], tf.sigmoid(gain))
        self.assertEqual(model.sample(2, label=1).dtype, tf.float32)

    def test_pytorch(self):
        """The file has no standardization, as it has no number of levels."""
        model = small_models.displaced(
            *(0.2, SHAPE, None), num_couplings=(3, 3, 4), filters=2
        )
        path = self.folder / "weights.npz"
        tf_realnvp.pytorch.save_weights(model, path)
        other = tf_realnvp.pytorch.load_model(path, SHAPE, None)
        for its in (model, other):
            its.standardize(7.0, 0.5)
        images = fields(3, None)
        self.assertAllEqual(model.log_prob(images), other.log_prob(images))

    def test_warm_start(self):
        larger = ARCHITECTURE | {"num_couplings": (2, 1, 2)}
        new = tf_realnvp.RealNVP(SHAPE, None, **larger)
        weights.assign_weights(new, saved(None))
        images = fields(3, None)
        self.assertAllClose(
            new.log_prob(images), live(None).log_prob(images), rtol=1e-5
        )

    @parameterized.parameters(np.float64, np.float16)
    def test_dtypes(self, dtype):
        images = fields(60, None).astype(dtype)
        expected = images.astype(np.float32)
        pipeline = tf.data.Dataset.from_tensor_slices(images).batch(7)
        for dataset in (
            tf_realnvp.data.arrays.from_images(images, None),
            tf_realnvp.data.arrays.from_tf_data(pipeline, None),
        ):
            own = dataset.take("train", range(dataset.num_train))
            self.assertEqual(own.dtype, np.float32)
            self.assertContainsSubset(own.ravel(), expected.ravel())
        model = live(None)
        self.assertAllEqual(model.log_prob(images), model.log_prob(expected))

    @parameterized.parameters(np.nan, np.inf, -np.inf, 1e40)
    def test_not_finite(self, value):
        images = fields(40, None).astype(np.float64)
        images[17, 2, 3, 0] = value
        model = tf_realnvp.RealNVP(SHAPE, None, **ARCHITECTURE)
        pipeline = tf.data.Dataset.from_tensor_slices(images)
        for data in (images, pipeline):
            with self.assertRaisesRegex(
                tf_realnvp.errors.DataError, "must be floating-point"
            ):
                tf_realnvp.train(model, data)
        with self.assertRaisesRegex(tf.errors.OpError, "must be finite"):
            model.log_prob(images)

    @parameterized.parameters(np.uint8, np.uint16, np.int64)
    def test_other_kinds(self, dtype):
        images = np.ones([40, 4, 4, 1], dtype)
        model = tf_realnvp.RealNVP(SHAPE, None, **ARCHITECTURE)
        for function in (model.log_prob, model.encode, model.nats_per_dim):
            with self.assertRaisesRegex(TypeError, "must be finite float32"):
                function(images)
        with self.assertRaisesRegex(
            tf_realnvp.errors.DataError, "must be floating-point"
        ):
            tf_realnvp.train(model, images)
        with self.assertRaisesRegex(ValueError, "nats_per_dim"):
            model.bits_per_dim(fields(2, None))

    def test_no_noise(self):
        with self.assertRaisesRegex(ValueError, "^`dequantization` must be"):
            tf_realnvp.RealNVP(SHAPE, None, dequantization="variational")
        model = live(None)
        images = fields(3, None)
        self.assertAllEqual(
            model.log_prob(images, seed=0), model.log_prob(images, seed=1)
        )

    def test_colors(self):
        images = np.linspace(-3.0, 5.0, 32).reshape(2, 4, 4, 1)
        grid = plots.image_grid(images, None)
        colors = np.unique(grid.reshape(-1, 3), axis=0)
        self.assertLen(colors, 33)  # And white.
