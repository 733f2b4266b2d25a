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

import command_lines
import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized
from image_arrays import write_images
from PIL import Image

import tf_realnvp
from tf_realnvp import detection
from tf_realnvp.cli import main
from tf_realnvp.data import image_files
from tf_realnvp.errors import DataError
from tf_realnvp.flow.values import Values
from tf_realnvp.serving import metadata, weights

_FOLDER = tempfile.TemporaryDirectory()  # Goes with the process.
UMASK = 0o002  # For the work of a group.
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
    """Trains on 400 images; returns the folder and the output."""
    folder = pathlib.Path(_FOLDER.name, str(num_colors))
    folder.mkdir()
    np.save(folder / "data.npy", fields(400, num_colors))
    options = "--filters 4 --num_blocks 1 --num_couplings 1,1,2 --seed 0"
    options += " --batch_size 20 --epochs 2 --run_dir run --precision bfloat16"
    umask = os.umask(UMASK)
    with contextlib.chdir(folder):
        code, stdout, stderr = command_lines.call(
            *(main.main, "train", "--dataset", "data.npy", *options.split())
        )
    os.umask(umask)
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


class LevelsTest(untraced.UntracedTestCase, parameterized.TestCase):
    def test_learned_noise(self):
        model = small_models.displaced(
            0.2, num_colors=65536, filters=2, dequantization="variational"
        )
        images = np.full([500, 4, 4, 1], 65535, np.uint16)
        images[:, 0] = 300
        self.assertAllInRange(model.log_prob(images, 0), -500.0, 0.0)

    def test_dropped_bits(self):
        """A model knows them from its data set, as its metadata do."""
        np.save(self.folder / "a.npy", fields(60, 4096))
        dataset = tf_realnvp.data.load(self.folder / "a.npy", num_bits=10)
        self.assertEqual(dataset.values, Values(1024, dropped_bits=2))
        model = tf_realnvp.RealNVP(SHAPE, 1024, **ARCHITECTURE)
        model.metadata = dataset.metadata
        content = model.get_config() | dataset.metadata
        for values in (model.values, metadata.values(content)):
            self.assertEqual(values, dataset.values)
        array = tf_realnvp.data.for_model(model, fields(60, 1024))
        self.assertEqual(array.metadata["dropped_bits"], 2)
        again = dataset.keep_bits(9)
        self.assertEqual(again.values, Values(512, dropped_bits=3))

    def test_length_in_files(self):
        rng = np.random.default_rng(0)
        noise = rng.integers(4096, size=(2, 16, 16, 3), dtype=np.uint16)
        bits = detection.coded_bits(noise)
        self.assertAllInRange(bits, 12 * 768, 18 * 768)
        flat = detection.coded_bits(np.zeros_like(noise))
        self.assertAllLess(flat, 3000)


class AllKindsTest(tf.test.TestCase, parameterized.TestCase):
    """Tests models of each kind, live and saved."""

    @parameterized.parameters(4096, None)
    def test_saved(self, num_colors):
        """The SavedModel gives the same results as the model."""
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


class CommandsTest(command_lines.CommandTestCase, parameterized.TestCase):
    """Tests what commands print and write of each kind, and refuse."""

    name = r"tf-realnvp( \w+)?"

    def setUp(self):
        super().setUp()
        self.use_fewer_draws()

    def call(self, num_colors, name, *options):
        """Runs a command on a model, which is loaded once."""
        path = saved(num_colors)
        self.use(live(num_colors), measurer(num_colors))
        return command_lines.call(main.main, name, path, *options)

    def run_command(self, num_colors, line):
        code, stdout, stderr = self.call(num_colors, *line.split())
        self.assertEqual((code, stderr), (0, ""))
        return stdout

    @parameterized.parameters(4096, None)
    def test_train_and_evaluate(self, num_colors):
        folder, stdout = trained(num_colors)
        values = Values(num_colors)
        self.assertIn(str(values), stdout)
        self.assertRegex(stdout, rf"test \d+\.\d+ {values.unit}")
        results = ("realnvp_data", "samples_data.png", "loss_data.png")
        written = [folder / name for name in (*results, "metrics_data.csv")]
        for path in written:
            self.assertIn(f"\n  {path.name}\n", stdout)
        inside = [*written[0].rglob("*"), *(folder / "run").rglob("*")]
        for path in (*written, *inside):
            mode = 0o777 if path.is_dir() else 0o666
            self.assertEqual(path.stat().st_mode & 0o777, mode & ~UMASK, path)
        header = written[-1].read_text().partition("\n")[0]
        self.assertEqual("bits_per_dim" in header, num_colors is not None)
        content = json.loads((written[0] / "metadata.json").read_text())
        found = content["metrics"][f"test_{values.measure}"]
        # It is lower than that of independent Gaussian pixels.
        deviation = 0.5 if num_colors is None else 0.08 * num_colors
        of_pixels = np.log(deviation * np.sqrt(3.0 * 2.0 * np.pi * np.e))
        bound = values.from_nats(of_pixels)
        self.assertBetween(found, bound - 1.5, bound - 0.05)
        stdout = self.run_command(num_colors, "evaluate")
        loss = float(re.search(rf": (\S+) {values.unit}", stdout)[1])
        self.assertAllClose(loss, found, atol=0.05)

    @parameterized.parameters(4096, None)
    def test_images(self, num_colors):
        """Samples are files that other commands read."""
        values = Values(num_colors)
        self.run_command(num_colors, "sample --n 2 --seed 3 --out many/")
        paths = [f"many/sample_000{i}{values.suffix}" for i in range(2)]
        expected = live(num_colors).sample(2, seed=3)
        images = [image_files.read(path, SHAPE, values) for path in paths]
        self.assertAllClose(images, expected, rtol=1e-5)
        line = ["reconstruct", *paths, "--out out.png"]
        self.run_command(num_colors, " ".join(line))
        with Image.open("out.png") as image:
            self.assertGreater(min(image.size), 50)

    @parameterized.parameters(4096, None)
    def test_score_and_detect(self, num_colors):
        values = Values(num_colors)
        normal = fields(60, num_colors, seed=2)
        unusual = normal[:30, :, ::-1, :].copy()
        unusual[:, 1, 1] = unusual.min()
        write_images("normal", normal[30:], num_colors)
        write_images("unusual", unusual, num_colors)
        np.save("fit.npy", normal[:30])
        stdout = self.run_command(num_colors, "score unusual")
        self.assertIn(values.unit, stdout)
        with open("scores.csv") as file:
            rows = [*csv.DictReader(file)]
        log_prob = [float(row["log_prob"]) for row in rows]
        found = [float(row[values.measure]) for row in rows]
        self.assertAllClose(found, values.per_dim(np.array(log_prob), 16))
        self.assertEqual(found, sorted(found, reverse=True))
        options = "--normal normal --unusual unusual --fit fit.npy --out out"
        stdout = self.run_command(num_colors, f"detect {options}")
        is_left_out = "complexity is left out" in stdout
        self.assertEqual(is_left_out, num_colors is None)
        table = pathlib.Path("out", "table.csv").read_text()
        self.assertEqual("\ncomplexity," in table, num_colors is not None)
        auroc = float(re.search(r"\ncombined,([^,]+)", table)[1])
        self.assertGreater(auroc, 0.8)

    @parameterized.parameters(
        ("export", 4096, "only models of at most 256"),
        ("export", None, "only models of at most 256"),
        ("restore x", None, "real numbers are restored in Python"),
        ("score images", None, "no file in images can be"),
    )
    def test_what_makes_no_sense(self, line, num_colors, message):
        write_images("images", fields(1, 4096), 4096)
        code, _, stderr = self.call(num_colors, *line.split())
        self.assertEqual(code, 2, stderr)
        self.assertIn(message, stderr)


class RealNumbersTest(untraced.UntracedTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        trained(None)  # Not in a test that traces nothing.

    def test_standardization(self):
        """The moments are those of the training images, in the run as well."""
        dataset = tf_realnvp.data.arrays.from_images(fields(400, None), None)
        train = dataset.take("train", range(dataset.num_train))
        [moments] = [v for v in live(None).variables if v.name == "moments"]
        expected = [[train.mean()], [train.std()]]
        self.assertAllClose(moments, expected, rtol=1e-5)
        self.assertFalse(moments.trainable)
        run = tf_realnvp.load(trained(None)[0] / "run")
        self.assertTrue(small_models.same_weights(run, live(None)))

    def test_pytorch(self):
        """PyTorch's files have no standardization."""
        model = small_models.displaced(
            *(0.2, SHAPE, None), num_couplings=(3, 3, 4), filters=2
        )
        path = self.folder / "weights.npz"
        tf_realnvp.pytorch.save_weights(model, path)
        other = tf_realnvp.pytorch.load_model(path, SHAPE, None)
        for each in (model, other):
            each.standardize(7.0, 0.5)
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

    @parameterized.parameters(np.uint8, np.uint16, np.int64)
    def test_other_kinds(self, dtype):
        images = np.ones([40, 4, 4, 1], dtype)
        model = live(None)
        for function in (model.log_prob, model.encode, model.nats_per_dim):
            with self.assertRaisesRegex(TypeError, "must be finite float32"):
                function(images)
        with self.assertRaisesRegex(DataError, "must be floating-point"):
            tf_realnvp.train(model, images)
        with self.assertRaisesRegex(ValueError, "nats_per_dim"):
            model.bits_per_dim(fields(2, None))

    def test_density(self):
        """It is of any floating-point dtype, without noise, and finite."""
        with self.assertRaisesRegex(ValueError, "^`dequantization` must be"):
            tf_realnvp.RealNVP(SHAPE, None, dequantization="variational")
        log_prob, images = live(None).log_prob, fields(3, None)
        self.assertAllEqual(log_prob(images, seed=0), log_prob(images, seed=1))
        for dtype in (np.float64, np.float16):
            other = images.astype(dtype)
            expected = log_prob(other.astype(np.float32))
            self.assertAllEqual(log_prob(other), expected)
        for value in (np.nan, np.inf, -np.inf, 1e40):
            other = images.astype(np.float64)
            other[1, 2, 3] = value
            with self.assertRaisesRegex(tf.errors.OpError, "must be finite"):
                log_prob(other)
