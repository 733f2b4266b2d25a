"""Tests for commands."""

import csv
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
import warnings
from unittest import mock

import command_lines
import keras
import matplotlib.image
import numpy as np
import odd_pictures
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import RealNVP, data, latents, pictures, plots
from tf_realnvp.cli import commands
from tf_realnvp.errors import DataError
from tf_realnvp.serving import export, saved_model

COMMANDS = (
    "sample",
    "evaluate",
    "interpolate",
    "manifold",
    "reconstruct",
    "score",
)

# Command lines, and what the message says.
BAD_FLAGS = [
    ("nothing", "", "COMMAND"),
    ("unknown_command", "dream MODEL", "'dream'"),
    ("abbreviated_command", "samp MODEL", "'samp'"),
    *((f"{c}_without_model", c, "MODEL") for c in COMMANDS),
    *((f"{c}_flag", f"{c} MODEL a b c d --x 1", "--x") for c in COMMANDS),
    *(
        (f"{c}_out_without_suffix", f"{c} MODEL {p} --out grid", "'grid'")
        for c, p in (
            ("sample", ""),
            ("interpolate", "a b"),
            ("manifold", "a b c d"),
            ("reconstruct", "a"),
            ("score", "a"),
        )
    ),
    *(
        (f"{line}_{value}", f"{line} {value}", flag, repr(value))
        for line, flag, values in (
            ("sample M --n", "--n", "-1 0 1.5 many"),
            (
                "sample M --temperature",
                "--temperature",
                "-0.1 nan inf 1e39 hot",
            ),
            ("sample M --seed", "--seed", "-1 1.5 4294967296"),
            ("evaluate M --max_images", "--max_images", "-1 0 1 all"),
            ("evaluate M --importance_samples", "--importance_samples", "0 -1"),
            ("evaluate M --batch_size", "--batch_size", "0 -1"),
            ("interpolate M a b --steps", "--steps", "-1 0 1 x"),
            ("manifold M a b c d --size", "--size", "-1 0 1 x"),
            ("reconstruct M a --draws", "--draws", "-1 0 x"),
            ("reconstruct M a --seed", "--seed", "-1 x"),
            ("score M a --seed", "--seed", "-1 x"),
        )
        for value in values.split()
    ),
    ("sample_minus_infinity", "sample M --temperature=-inf", "-inf"),
    ("interpolate_one", "interpolate M a.png", "PICTURE"),
    ("interpolate_three", "interpolate M a.png b.png c.png", "c.png"),
    ("manifold_three", "manifold M a.png b.png c.png", "PICTURE"),
    ("manifold_five", "manifold M a b c d e.png", "e.png"),
    ("reconstruct_none", "reconstruct M", "PICTURE"),
    ("score_none", "score M", "DIR"),
]


call = functools.partial(command_lines.call, commands.main)


def read_pixels(path):
    """Pixels of a grid, `uint8` `[height, width, 3]`."""
    pixels = matplotlib.image.imread(path)
    return np.round(255 * pixels[..., :3]).astype(np.uint8)


class CommandsTestCase(command_lines.CommandTestCase):
    name = r"python -m tf_realnvp( \w+)?"


class FlagsTest(CommandsTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.load = self.enterContext(mock.patch.object(commands, "_load"))

    @parameterized.named_parameters(*BAD_FLAGS)
    def test_bad(self, line, *messages):
        self.assert_usage_error(call(*line.split()), *messages)
        self.load.assert_not_called()

    @parameterized.parameters(
        ("sample MODEL --out", "grid.png"),
        ("interpolate MODEL a b --out", "grid.png"),
        ("score MODEL a --out", "scores.csv"),
    )
    def test_out_in_a_missing_folder(self, line, name):
        path = self.folder / "missing" / name
        self.assert_usage_error(
            call(*line.split(), path), "--out", str(path.parent), "No such file"
        )
        self.assertFalse(path.parent.exists())
        self.load.assert_not_called()

    @parameterized.parameters(
        ("interpolate MODEL a b --out", "grid.png"),
        ("score MODEL a --out", "scores.csv"),
    )
    def test_out_is_a_folder(self, line, name):
        path = self.folder / name
        path.mkdir()
        self.assert_usage_error(
            call(*line.split(), path), "--out", str(path), "is a folder"
        )

    @parameterized.parameters("file.png/grid.png", "file.png/folder/")
    def test_out_inside_a_file(self, name):
        (self.folder / "file.png").write_text("")
        self.assert_usage_error(
            call("sample", "MODEL", "--out", f"{self.folder}/{name}"),
            "--out",
            "file.png",
        )

    def test_out_is_not_writable(self):
        # A mode would not keep root out.
        error = PermissionError(13, "Permission denied")
        with mock.patch("tempfile.TemporaryFile", side_effect=error):
            result = call("sample", "M", "--out", self.folder / "grid.png")
        self.assert_usage_error(
            result, "--out", str(self.folder), "Permission denied"
        )

    @parameterized.parameters(*COMMANDS)
    def test_help(self, command):
        code, stdout, stderr = call(command, "--help")
        self.assertEqual((code, stderr), (0, ""))
        example = f"example:\n  python -m tf_realnvp {command} realnvp_digits"
        self.assertIn(example, stdout)

    def test_help_lists_all(self):
        code, stdout, stderr = call("--help")
        self.assertEqual((code, stderr), (0, ""))
        for command in COMMANDS:
            self.assertRegex(stdout, rf"(?m)^    {command}\b")

    def test_failure(self):
        self.load.side_effect = OSError(28, "No space left on device", "x")
        code, stdout, stderr = call("evaluate", "MODEL")
        self.assertEqual((code, stdout), (1, ""))
        self.assertStartsWith(stderr, "python -m tf_realnvp evaluate: error: ")
        self.assertIn("No space left on device", stderr)
        self.assertEqual(stderr.count("\n"), 1)

    def test_interruption(self):
        self.load.side_effect = KeyboardInterrupt
        code, stdout, stderr = call("evaluate", "MODEL")
        self.assertEqual((code, stdout), (130, ""))
        self.assertEqual(
            stderr.strip(), "python -m tf_realnvp evaluate: interrupted"
        )


class StartTest(CommandsTestCase):
    def test_help(self):
        code, stdout, stderr = command_lines.run(
            self.folder, "-m", "tf_realnvp", "sample", "--help"
        )
        self.assertEqual((code, stderr), (0, ""))
        self.assertStartsWith(stdout, "usage: python -m tf_realnvp sample")

    def test_no_tensorflow_for_mistakes(self):
        """What ends at once must not wait for TensorFlow."""
        script = """
            import sys
            from tf_realnvp import commands
            for line in (
                "",
                "--help",
                "score --help",
                "sample . --n 0",
                "sample . --out missing/grid.png",
                "sample .",
                "evaluate missing",
            ):
                try:
                    print("code", commands.main(line.split()))
                except SystemExit as end:
                    print("code", end.code)
            print("slow", sorted({"tensorflow", "keras"} & set(sys.modules)))
        """
        lines = [line[12:] for line in script.splitlines()]
        code, stdout, stderr = command_lines.run(
            self.folder, "-c", "\n".join(lines)
        )
        self.assertEqual(code, 0, stderr)
        self.assertEqual(
            re.findall(r"^code (\d+)$", stdout, re.MULTILINE),
            ["2", "0", "0", "2", "2", "2", "2"],
        )
        self.assertIn("\nslow []\n", stdout)
        self.assertEqual(stderr.count("\n"), 5)


class CommandsTest(CommandsTestCase, parameterized.TestCase):
    """All commands on one model, of images like the digits."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.path = pathlib.Path(folder) / "model"
        keras.utils.set_random_seed(0)
        cls.model = RealNVP((8, 8, 1), 17, filters=4, num_blocks=1)
        rng = np.random.default_rng(0)
        # Off their initial values, at which every coupling is the identity.
        for variable in cls.model.variables:
            variable.assign_add(rng.normal(scale=0.2, size=variable.shape))
        export.save(cls.model, cls.path, {"dataset": "digits"})
        # Loads it once: that takes seconds.
        cls.enterClassContext(
            mock.patch.object(
                saved_model,
                "SavedModel",
                functools.cache(saved_model.SavedModel),
            )
        )
        cls.test_images = np.stack(list(data.load("digits", "").test))

    def setUp(self):
        super().setUp()
        self.images = self.test_images[:4]
        self.pictures = [self.folder / f"{name}.png" for name in "abcd"]
        for path, image in zip(self.pictures, self.images, strict=True):
            pictures.write(path, image, 17)
        self.out = self.folder / "out.png"

    def call(self, command, *argv):
        """Runs a command that must succeed; returns its output."""
        code, stdout, stderr = call(command, self.path, *argv)
        self.assertEqual((code, stderr), (0, ""))
        return stdout

    def assert_grid(self, images, columns=None):
        self.assertAllEqual(
            read_pixels(self.out), plots.image_grid(images, 17, columns)
        )

    def test_sample(self):
        stdout = self.call(
            "sample",
            *("--n", 5, "--temperature", 0.5, "--seed", 3, "--out", self.out),
        )
        self.assert_grid(self.model.sample(5, 0.5, seed=3).numpy())
        self.assertIn("seed 3\n", stdout)
        self.assertEndsWith(stdout, f"{self.out}\n")

    def test_sample_draws_a_seed_and_prints_it(self):
        stdouts = [self.call("sample", "--out", self.out) for _ in range(2)]
        seeds = [int(re.search(r"seed (\d+)\n", s)[1]) for s in stdouts]
        self.assertNotEqual(*seeds)
        self.assert_grid(self.model.sample(36, seed=seeds[1]).numpy())

    @parameterized.parameters("samples/", "new/samples/", "here")
    def test_sample_to_a_folder(self, name):
        (self.folder / "here").mkdir()
        out = f"{self.folder}/{name}"
        self.call("sample", "--n", 70, "--seed", 3, "--out", out)
        names = sorted(os.listdir(out))
        self.assertEqual(names, [f"sample_{i:04d}.png" for i in range(70)])
        # The levels of the samples, exactly.
        images = [
            pictures.read(f"{out}/{name}", (8, 8, 1), 17) for name in names
        ]
        self.assertAllEqual(images[:64], self.model.sample(64, seed=3))
        self.assertLen(np.unique(images, axis=0), 70)
        # As large as an image, and grey.
        self.assertEqual(matplotlib.image.imread(f"{out}/{names[0]}").ndim, 2)

    def expected_bits(self, num_images, batch_size, num_draws, seed):
        """Bits/dim of images: [number of draws, number of images]."""
        batches = []
        stream = 0
        for start in range(0, num_images, batch_size):
            images = self.test_images[start:num_images][:batch_size]
            draws = []
            for _ in range(num_draws):
                # The stream is the upper half of the seed.
                noise = seed + 2**32 * stream
                draws.append(self.model.log_prob(images, noise).numpy())
                stream += 1
            batches.append(draws)
        log_probs = np.concatenate(batches, axis=1).astype(np.float64)
        return -log_probs / (64 * math.log(2.0))

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
        self.assertEqual(title, "360 test images of digits, seed 0")
        bits = self.expected_bits(360, 64, 1, seed=0)
        self.assert_figure(line, "1 draw of noise", bits[0])

    def trained_on_pictures(self, *names):
        """Returns a folder of pictures, and a model that was trained on it."""
        folder = self.folder / "pictures"
        rng = np.random.default_rng(0)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(256, size=(20, 16, 1)).astype(np.uint8)
            pictures.write(folder / name, image)
        model = self.folder / "of_pictures"
        shutil.copytree(self.of_pictures(), model)
        metadata = json.loads((model / "metadata.json").read_text())
        metadata |= {"source": str(folder)}
        (model / "metadata.json").write_text(json.dumps(metadata))
        return folder, model

    @classmethod
    @functools.cache
    def of_pictures(cls):
        """Returns a model of images with all levels of pictures."""
        path = cls.path.with_name("of_pictures")
        export.save(RealNVP((8, 8, 1), 256, filters=2, num_blocks=1), path)
        return path

    def test_evaluate_on_a_folder(self):
        """Its pictures get the size of the model's images."""
        folder, path = self.trained_on_pictures(
            "train/a.png", "test/b.png", "test/c.png"
        )
        code, stdout, stderr = call("evaluate", path)
        self.assertEqual((code, stderr), (0, ""))
        self.assertIn("2 test images of pictures, seed 0\n", stdout)
        (folder / "text.png").write_text("words")
        code, stdout, stderr = call("evaluate", path)
        self.assertEqual(code, 0)
        self.assertStartsWith(stderr, "warning: 1 file is left out: text.png")
        self.assertEqual(stderr.count("\n"), 1)
        self.assertIn("2 test images of pictures, seed 0\n", stdout)

    def test_evaluate_on_one_image(self):
        _, path = self.trained_on_pictures("train/a.png", "test/b.png")
        with warnings.catch_warnings(action="error"):
            code, stdout, stderr = call(
                "evaluate", path, "--importance_samples", 2
            )
        self.assertEqual((code, stderr), (0, ""))
        self.assertIn("1 test image of pictures, seed 0\n", stdout)
        figure = (
            r"draws? of noise: \d+\.\d+ bits/dim; one image has no standard"
        )
        self.assertLen(re.findall(figure, stdout), 2)
        self.assertNotIn("nan", stdout)

    def test_evaluate_on_a_damaged_picture(self):
        folder, path = self.trained_on_pictures("train/a.png", "test/b.png")
        damaged = folder / "test" / "c.png"
        damaged.write_bytes(odd_pictures.undecodable_png())
        code, _, stderr = call("evaluate", path)
        self.assertEqual(code, 2)
        self.assertIn(f"image of pictures cannot be read: {damaged}", stderr)
        self.assertEqual(stderr.count("\n"), 1)

    def test_errors_of_the_model_are_no_damage(self):
        error = tf.errors.InvalidArgumentError(
            None, None, "Incompatible shapes"
        )
        with (
            mock.patch.object(
                saved_model.SavedModel(str(self.path)),
                "log_prob",
                side_effect=error,
            ),
            self.assertRaises(tf.errors.InvalidArgumentError),
        ):
            call("evaluate", self.path)

    def test_evaluate_on_stored_images(self):
        """Data sets hold images as they are stored, and decode them."""
        images = data.load("digits", "").test
        dataset = self.digits(
            test=images.map(tf.io.serialize_tensor),
            decode=lambda element: tf.io.parse_tensor(element, tf.uint8),
        )
        with mock.patch.object(data, "load", return_value=dataset):
            stdout = self.call("evaluate", "--max_images", 20)
        bits = self.expected_bits(20, 64, 1, seed=0)
        self.assert_figure(stdout.splitlines()[-1], "1 draw of noise", bits[0])

    def test_evaluate_with_importance_samples(self):
        stdout = self.call(
            *("evaluate", "--dataset", "DIGITS", "--max_images", 20),
            *("--importance_samples", 5, "--batch_size", 8, "--seed", 7),
        )
        *_, title, single, joint = stdout.splitlines()
        self.assertEqual(title, "20 test images of digits, seed 7")
        bits = self.expected_bits(20, 8, 5, seed=7)
        self.assert_figure(single, "1 draw of noise", bits.mean(axis=0))
        nats = -64 * math.log(2.0) * bits
        bound = np.log(np.mean(np.exp(nats - nats.max(axis=0)), axis=0))
        bound = -(bound + nats.max(axis=0)) / (64 * math.log(2.0))
        self.assert_figure(joint, "5 draws of noise", bound)
        self.assertLess(bound.mean(), bits.mean())

    def test_more_importance_samples_give_a_lower_bound(self):
        figures = []
        for num_draws in (1, 4, 16):
            stdout = self.call(
                *("evaluate", "--importance_samples", num_draws),
                *("--max_images", 64),
            )
            last = stdout.splitlines()[-1]
            figures.append(float(re.search(r": (\d+\.\d+) ", last)[1]))
        self.assertEqual(figures, sorted(figures, reverse=True))
        self.assertLess(figures[-1], figures[0])

    def digits(self, **changes):
        return dataclasses.replace(data.load("digits", ""), **changes)

    def test_evaluate_on_other_images(self):
        dataset = self.digits(
            name="CIFAR10", image_shape=(32, 32, 3), num_colors=256
        )
        with mock.patch.object(data, "load", return_value=dataset):
            result = call("evaluate", self.path, "--dataset", "CIFAR10")
        self.assert_usage_error(
            result,
            "32x32x3 with 256 levels",
            "8x8x1 with 17 levels",
            "CIFAR10",
            str(self.path),
        )

    def test_evaluate_on_images_with_other_levels(self):
        dataset = self.digits(num_colors=16)
        with mock.patch.object(data, "load", return_value=dataset):
            result = call("evaluate", self.path)
        self.assert_usage_error(result, "16 levels", "17 levels")

    def test_evaluate_without_data(self):
        result = call("evaluate", self.path, "--dataset", "moons")
        self.assert_usage_error(result, "moons", "CIFAR10, CelebA and digits")
        load = mock.Mock(side_effect=DataError("no way\nto it"))
        with mock.patch.object(data, "load", load):
            result = call("evaluate", self.path, "--data_dir", "my_data")
        self.assertEqual(
            result,
            (2, "", "python -m tf_realnvp evaluate: error: no way\nto it\n"),
        )
        load.assert_called_once_with("digits", "my_data", 8)

    def test_evaluate_on_damaged_data(self):
        path = self.folder / "images.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for image in self.images:
                writer.write(image.tobytes())
        path.write_bytes(path.read_bytes()[:-1])
        test = tf.data.TFRecordDataset(str(path)).map(
            lambda image: tf.reshape(
                tf.io.decode_raw(image, tf.uint8), (8, 8, 1)
            )
        )
        test = test.apply(tf.data.experimental.assert_cardinality(4))
        dataset = self.digits(test=test, num_test=4)
        with mock.patch.object(data, "load", return_value=dataset):
            result = call("evaluate", self.path, "--data_dir", "my_data")
        self.assert_usage_error(result, "digits", "truncated")

    def test_evaluate_needs_a_data_set(self):
        path = self.copy()
        metadata = json.loads((path / "metadata.json").read_text())
        del metadata["dataset"]
        (path / "metadata.json").write_text(json.dumps(metadata))
        result = call("evaluate", path)
        self.assert_usage_error(result, "--dataset", str(path))

    def test_interpolate(self):
        self.call(
            "interpolate", *self.pictures[:2], "--steps", 5, "--out", self.out
        )
        start, end = self.model.encode(self.images[:2]).numpy()
        images = self.model.decode(latents.slerp(start, end, 5)).numpy()
        # Its ends are the pictures.
        self.assertAllEqual(images[[0, -1]], self.images[:2])
        self.assert_grid(images, columns=5)

    def test_manifold(self):
        self.call("manifold", *self.pictures, "--size", 4, "--out", self.out)
        corners = self.model.encode(self.images).numpy()
        points = latents.manifold(corners, 4).reshape(16, 4, 4, 4)
        images = self.model.decode(points).numpy()
        # The pictures are a quarter of a turn apart.
        self.assertAllEqual(images[[0, 1, 4, 5]], self.images)
        self.assert_grid(images, columns=4)

    def test_reconstruct(self):
        def rows(*argv):
            stdout = self.call(
                *("reconstruct", *self.pictures[:3], "--draws", 2),
                *("--out", self.out, *argv),
            )
            self.assertIn("3 of 3 pictures came back exactly\n", stdout)
            pixels = read_pixels(self.out)[::12, ::12, :1]
            self.assertEqual(pixels.shape, (3 * 9 + 1, 4 * 9 + 1, 1))
            return np.stack(
                [
                    [
                        pixels[9 * i + 1 : 9 * i + 9, 9 * j + 1 : 9 * j + 9]
                        for j in range(4)
                    ]
                    for i in range(3)
                ]
            )

        first = rows()
        expected = plots.pixels(self.images[:3], 17)
        self.assertAllEqual(first[:, 0], expected)
        self.assertAllEqual(first[:, 1], expected)
        # What is drawn anew has the latents that were kept.
        levels = np.round(first[:, 2:] * (16 / 255)).astype(np.uint8)
        kept = self.model.encode(levels.reshape(6, 8, 8, 1)).numpy()
        kept = kept.reshape(3, 2, 4, 4, 4)[..., :2]
        before = self.model.encode(self.images[:3])[:, None, ..., :2].numpy()
        distance = np.abs(kept - before).mean()
        others = np.abs(kept - before[[1, 2, 0]]).mean()
        self.assertLess(distance, 0.5 * others)
        # And all draws are different ones, as those of other seeds are.
        self.assertNotAllEqual(first[:, 2], first[:, 3])
        self.assertAllEqual(rows(), first)
        other = rows("--seed", 1)
        self.assertNotAllEqual(other[:, 2:], first[:, 2:])

    def score(self, folder, *argv):
        """Scores a folder; returns standard output and error, and the rows."""
        out = self.folder / "scores.csv"
        code, stdout, stderr = call(
            "score", self.path, folder, "--out", out, *argv
        )
        self.assertEqual(code, 0, stderr)
        self.assertEndsWith(stdout, f"{out}\n")
        with out.open(newline="") as file:
            header, *rows = csv.reader(file)
        self.assertEqual(header, ["file", "log_prob", "bits_per_dim"])
        scores = {name: (float(p), float(b)) for name, p, b in rows}
        self.assertLen(scores, len(rows))
        return stdout, stderr, scores

    def test_score(self):
        folder = self.folder / "in"
        folder.mkdir()
        (folder / "inside").mkdir()
        (folder / ".hidden.png").write_text("")
        names = ["b, \u00e9.png", "a.png", "c.png", "same.png"]
        images = [*self.images[:3], self.images[2]]
        for name, image in zip(names, images, strict=True):
            pictures.write(folder / name, image, 17)
        (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (folder / "notes.txt").write_text("words")
        odd_pictures.noise("L").save(folder / "other.png", "BMP")
        os.mkfifo(folder / "pipe.png")
        (folder / "gone.png").symlink_to("nowhere")

        stdout, stderr, scores = self.score(folder)
        self.assertCountEqual(scores, names)
        for name, image in zip(names, images, strict=True):
            log_prob, bits = scores[name]
            expected = self.model.log_prob(image[np.newaxis], 0)[0]
            self.assertAllClose(log_prob, expected, rtol=1e-5)
            self.assertAllClose(bits, -log_prob / (64 * math.log(2.0)))
        order = [bits for _, bits in scores.values()]
        self.assertEqual(order, sorted(order, reverse=True))
        self.assertGreater(order[0], order[-1])
        # Those that are equally likely, by their names.
        place = list(scores).index("c.png")
        self.assertEqual(list(scores)[place + 1], "same.png")

        self.assertEqual(stderr.count("\n"), 5)
        for name, reason in (
            ("broken.png", "damaged"),
            ("notes.txt", "neither PNG nor JPEG"),
            ("other.png", "neither PNG nor JPEG"),
            ("pipe.png", "not a regular file"),
            ("gone.png", "No such file"),
        ):
            self.assertRegex(stderr, f"{folder / name}: .*{reason}")
        self.assertIn("4 pictures", stdout)
        self.assertIn("5 files could not be read", stdout)
        self.assertIn(f"mean {np.mean(order):.4f} bits/dim", stdout)

    def test_score_does_not_depend_on_other_pictures(self):
        _, _, together = self.score(self.folder)
        alone = self.folder / "alone"
        alone.mkdir()
        shutil.copy(self.pictures[3], alone)
        _, _, scores = self.score(alone)
        self.assertAllClose(scores["d.png"], together["d.png"], rtol=1e-6)
        _, _, again = self.score(alone)
        self.assertEqual(again, scores)
        _, _, other = self.score(alone, "--seed", 1)
        self.assertNotEqual(other, scores)

    def test_score_of_a_name_that_is_no_text(self):
        folder = os.fsencode(self.folder / "in")
        os.mkdir(folder)
        shutil.copy(self.pictures[0], folder + b"/\xff.png")
        out = self.folder / "scores.csv"
        result = call("score", self.path, self.folder / "in", "--out", out)
        self.assertEqual(result[0], 0)
        self.assertIn(b"\n\xff.png,", out.read_bytes())

    def test_score_of_nothing(self):
        folder = self.folder / "in"
        out = self.folder / "scores.csv"

        def score():
            return call("score", self.path, folder, "--out", out)

        self.assert_usage_error(score(), str(folder), "No such file")
        folder.mkdir()
        self.assert_usage_error(score(), str(folder), "no files")
        (folder / "notes.txt").write_text("words")
        code, stdout, stderr = score()
        self.assertEqual((code, stdout), (2, ""))
        self.assertEqual(stderr.count("\n"), 2)
        self.assertIn("none of the 1 files", stderr)
        self.assertFalse(out.exists())
        folder = self.pictures[0]
        self.assert_usage_error(score(), str(folder), "Not a directory")

    @parameterized.parameters(
        ("interpolate", 1), ("manifold", 3), ("reconstruct", 0)
    )
    def test_unreadable_picture(self, command, num_others):
        others = self.pictures[:num_others]
        out = ("--out", self.out)
        path = self.folder / "missing.png"
        result = call(command, self.path, *others, path, *out)
        self.assert_usage_error(result, str(path), "No such file")
        path.write_text("words")
        result = call(command, self.path, *others, path, *out)
        self.assert_usage_error(result, str(path), "neither PNG nor JPEG")
        self.assertFalse(self.out.exists())

    def copy(self):
        return pathlib.Path(shutil.copytree(self.path, self.folder / "copy"))

    @parameterized.parameters("sample", "evaluate", "interpolate a b")
    def test_no_model(self, line):
        command, *argv = line.split()
        result = call(command, self.folder, *argv)
        self.assert_usage_error(result, str(self.folder), "no SavedModel")
        path = self.copy()
        (path / "metadata.json").unlink()
        result = call(command, path, *argv)
        self.assert_usage_error(result, str(path), "no metadata.json")

    def test_channels_that_pictures_do_not_have(self):
        path = self.folder / "model"
        export.save(RealNVP((2, 2, 2), filters=2, num_blocks=1), path)
        result = call("sample", path, "--out", self.out)
        self.assert_usage_error(result, str(path), "1 or 3 channels", "have 2")

    def test_in_a_process_of_its_own(self):
        result = command_lines.run(
            self.folder,
            *("-m", "tf_realnvp", "interpolate", self.path, "a.png", "b.png"),
            *("--steps", "2", "--out", "out.png"),
        )
        self.assertEqual(result, (0, "out.png\n", ""))
        self.assert_grid(self.images[:2], columns=2)


if __name__ == "__main__":
    tf.test.main()
