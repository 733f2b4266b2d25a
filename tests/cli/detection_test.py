"""Tests for the commands score and detect."""

import contextlib
import csv
import functools
import io
import json
import math
import os
import re
import shutil
from unittest import mock

import command_lines
import matplotlib.image
import numpy as np
import odd_images
import small_models
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import images_of_digits as digits
from small_models import measurer

from tf_realnvp import bit_maps, detection
from tf_realnvp.cli import detection as commands
from tf_realnvp.cli import main
from tf_realnvp.images import files as image_files
from tf_realnvp.images import plots
from tf_realnvp.serving import weights

NUM_COLORS = small_models.NUM_COLORS
LIKELY = ["log_prob", "bits_per_dim"]
# Command lines, and what the message names.
BAD_LINES = (
    ("score", "MODEL"),
    ("score M", "DIR"),
    ("detect", "MODEL"),
    ("detect M", "--unusual"),
    *(
        (f"{line} --{flag}={value}", f"--{flag}: {value!r}")
        for line, flag, values in (
            ("score M a", "seed", "-1 x"),
            ("score M a", "out", "scores scores.png"),
            ("score M a", "max_images", "19 x"),
            ("score M a", "max_maps", "0 x"),
            ("detect M --unusual a", "seed", "-1 x"),
            ("detect M --unusual a", "max_images", "19 1.5"),
        )
        for value in values.split()
    ),
    # What is in the folder: a file `f.png` and a folder `d`.
    ("score M a --out missing/a.csv", "--out: cannot write to missing"),
    ("score M d --maps f.png", "--maps: cannot write to f.png"),
    ("score M d --maps d", "--maps: it is the folder of the pictures"),
    ("detect M --unusual a --out f.png", "--out: cannot write to f.png"),
    ("detect M --unusual a --out f.png/d", "--out: cannot write to f.png/d"),
    ("score M d --max_images 30", "--max_images: it is for --reference"),
    ("score M d --max_maps 3 --reference d", "--max_maps: it is for --maps"),
)

call = functools.partial(command_lines.call, main.main)


def read_csv(path):
    """Returns the header and the rows of a table."""
    with open(path, newline="", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    return header, rows


class FlagsTest(command_lines.CommandTestCase):
    name = r"tf-realnvp( \w+)?"

    def test_bad(self):
        (self.folder / "f.png").touch()
        (self.folder / "d").mkdir()
        for line, message in BAD_LINES:
            with self.subTest(line):
                self.assert_usage_error(call(*line.split()), message)
        self.assertCountEqual(os.listdir(), ["f.png", "d"])

    def test_no_model(self):
        for line in (
            "score . a",
            "score . a --reference a",
            "detect . --unusual a",
        ):
            with self.subTest(line):
                result = call(*line.split())
                self.assert_usage_error(result, "no SavedModel in .")


class DetectionTestCase(command_lines.CommandTestCase):
    name = r"tf-realnvp( \w+)?"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved()
        cls.model = small_models.model()

    def setUp(self):
        super().setUp()
        self.use(small_models.opened())
        for module, name, value in (
            (weights, "load_model", self.model),
            (detection, "Measurer", measurer(small_models.model)),
        ):
            self.enterContext(
                mock.patch.object(module, name, return_value=value)
            )

    def write(self, folder, images, names=None):
        """Writes pictures into a folder."""
        folder = self.folder / folder
        folder.mkdir(parents=True, exist_ok=True)
        names = names or [f"{index:03d}.png" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            image_files.write(folder / name, image, NUM_COLORS)
        return folder


class ScoreTest(DetectionTestCase):
    def setUp(self):
        super().setUp()
        self.images = digits("test")[:4]
        self.write(".", self.images, [f"{name}.png" for name in "abcd"])
        self.pictures = [self.folder / f"{name}.png" for name in "abcd"]

    def score(self, folder, *argv):
        """Scores a folder; returns standard output and error, and the rows."""
        out = self.folder / "scores.csv"
        code, stdout, stderr = call(
            "score", self.path, folder, "--out", out, *argv
        )
        self.assertEqual(code, 0, stderr)
        self.assertEndsWith(stdout, f"{out}\n")
        header, rows = read_csv(out)
        self.assertEqual(header, ["file", *LIKELY])
        scores = {name: (float(p), float(b)) for name, p, b in rows}
        self.assertLen(scores, len(rows))
        return stdout, stderr, scores

    def test_name_too_long_for_a_map(self):
        name = "x" * 245 + ".png"
        self.write("in", self.images[:1], [name])
        result = call(
            *("score", self.path, self.folder / "in", "--maps", "maps"),
        )
        self.assert_usage_error(result, "--maps", "too long", "rename it")

    def test_score(self):
        folder = self.folder / "in"
        folder.mkdir()
        (folder / "inside").mkdir()
        (folder / ".hidden.png").write_text("")
        # Names need not be text.
        names = ["b, \u00e9\udcff.png", "a.png", "c.png", "same.png"]
        images = [*self.images[:3], self.images[2]]
        for name, image in zip(names, images, strict=True):
            image_files.write(folder / name, image, NUM_COLORS)
        (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (folder / "notes.txt").write_text("words")
        odd_images.noise("L").save(folder / "other.png", "BMP")
        os.mkfifo(folder / "pipe.png")
        (folder / "gone.png").symlink_to("nowhere")

        stdout, stderr, scores = self.score(folder)
        self.assertCountEqual(scores, names)
        for name, image in zip(names, images, strict=True):
            log_prob, bits = scores[name]
            expected = self.model.log_prob(image[np.newaxis], 0)[0]
            self.assertAllClose(log_prob, expected, rtol=1e-5)
            self.assertAllClose(bits, -log_prob / (16 * math.log(2.0)))
        order = [bits for _, bits in scores.values()]
        self.assertEqual(order, sorted(order, reverse=True))
        self.assertGreater(order[0], order[-1])
        # Those that are equally likely, by their names.
        place = list(scores).index("c.png")
        self.assertEqual(list(scores)[place + 1], "same.png")

        self.assertEqual(stderr.count("\n"), 5)
        for name in "broken.png notes.txt other.png pipe.png gone.png".split():
            self.assertIn(str(folder / name), stderr)
        self.assertIn("score: 9/9 steps", stdout)
        self.assertIn("4 pictures", stdout)
        self.assertIn("5 files could not be read", stdout)
        self.assertIn(f"mean {np.mean(order):.4f} bits/dim", stdout)

    def test_score_does_not_depend_on_other_pictures(self):
        _, _, together = self.score(self.folder)
        alone = self.folder / "alone"
        alone.mkdir()
        shutil.copy(self.pictures[3], alone)
        _, _, scores = self.score(alone)
        self.assertEqual(scores["d.png"], together["d.png"])
        _, _, other = self.score(alone, "--seed", 1)
        self.assertNotEqual(other, scores)

    def test_score_of_nothing(self):
        folder = self.folder / "in"
        argv = ("score", self.path, folder, "--out", "scores.csv")
        self.assert_usage_error(call(*argv), str(folder), "No such file")
        folder.mkdir()
        self.assert_usage_error(call(*argv), str(folder), "no files")
        (folder / "notes.txt").write_text("words")
        code, stdout, stderr = call(*argv)
        self.assertEqual((code, stdout), (2, ""))
        self.assertEqual(stderr.count("\n"), 2)
        self.assertIn("none of the 1 files", stderr)
        self.assertFalse(os.path.exists("scores.csv"))

    def score_with_reference(self, folder, *argv):
        """Returns standard output, the header, and the rows by their names."""
        code, stdout, stderr = call(
            *("score", self.path, folder, "--reference", "usual", *argv)
        )
        self.assertEqual((code, stderr), (0, ""))
        header, rows = read_csv("scores.csv")
        return stdout, header, {row[0]: row[1:] for row in rows}

    def test_score_with_reference(self):
        self.write("usual", digits("train")[:41])
        self.write("in", digits("test")[:70])
        stdout, header, rows = self.score_with_reference("in", "--seed", 3)
        self.assertEqual(
            header,
            ["file", *LIKELY, *detection.METHODS, "p_value"],
        )
        self.assertLen(rows, 70)
        self.assertRegex(stdout, rf"(?m)^p_value: .*\b{detection.DEFAULT}\b")
        measure = measurer(small_models.model)
        reference = detection.Reference(measure(digits("train")[:41], 3), 3)
        expected = reference(measure(digits("test")[:70], 3))
        values = np.array(
            [rows[f"{index:03d}.png"] for index in range(70)], float
        )
        self.assertAllClose(
            values[:, 2:].T, list(expected.values()), rtol=1e-4, atol=1e-4
        )
        together = reference.set_p_value(expected[detection.DEFAULT])
        self.assertIn(
            f"\np-value of all pictures together: {together:.2g}\n", stdout
        )
        # The most unusual come first.
        column = header.index(detection.DEFAULT) - 1
        order = [float(row[column]) for row in rows.values()]
        self.assertEqual(order, sorted(order, reverse=True))
        # As without a reference.
        _, _, scores = self.score(self.folder / "in", "--seed", 3)
        for name, row in rows.items():
            self.assertAllClose(np.float64(row[:2]), scores[name], rtol=1e-5)

    def test_copies_in_the_reference(self):
        images = digits("train")[:41]
        self.write("usual", np.concatenate([images, images[:3]]))
        self.write("in", digits("test")[:2])
        argv = ("score", self.path, "in", "--reference", "usual")
        code, _, stderr = call(*argv)
        self.assertEqual(code, 0)
        self.assertIn("warning: 3 of the 44 readable pictures in u", stderr)

    def test_score_draws_maps(self):
        names = ["b, \u00e9.png", "a.png", "c.png"]
        folder = self.write("in", self.images[:3], names)
        argv = ("--maps", "maps", "--max_maps", 2)
        with mock.patch.object(
            plots, "save_bit_maps", wraps=plots.save_bit_maps
        ) as save:
            stdout, _, scores = self.score(folder, *argv)
        self.assertIn("maps\n", stdout)
        # Each beside its own picture, and under its name.
        for call_, name in zip(save.call_args_list, scores, strict=False):
            path, (image,), (values,), *_ = call_.args
            self.assertEqual(path.name, f"map_{name}.png")
            self.assertAllEqual(image, self.images[names.index(name)])
            own = measurer(small_models.model).maps(image[None], 0)
            self.assertAllClose(values, bit_maps.smooth(own)[0], atol=1e-3)
        first = [f"map_{name}.png" for name in list(scores)[:2]]
        self.assertCountEqual(os.listdir("maps"), first)
        pixels = matplotlib.image.imread(f"maps/{first[0]}")
        self.assertGreater(np.std(pixels), 0.1)
        self.write("usual", digits("train")[:30])
        with (
            mock.patch.object(plots, "save_bit_maps") as save,
            mock.patch.object(
                bit_maps, "standardize", wraps=bit_maps.standardize
            ) as standardize,
        ):
            result = call("score", self.path, folder, *argv)
            self.assert_usage_error(result, "--maps: maps has maps of before")
            save.assert_not_called()
            shutil.rmtree("maps")
            self.score_with_reference("in", *argv)
        self.assertEqual(save.call_count, 2)
        maps, usual = standardize.call_args.args
        self.assertEqual((maps.shape, usual.shape), ((2, 4, 4), (15, 4, 4)))
        # By the half that no method was fitted to, smoothed like the maps.
        measure, images = measurer(small_models.model), digits("train")[:30]
        others = detection.Reference(measure(images)).others
        expected = bit_maps.smooth(measure.maps(images[others]))
        self.assertAllClose(usual, expected, rtol=1e-4, atol=1e-4)

    def test_pictures_that_the_model_has_seen(self):
        shutil.copytree(self.path, "model")
        path = self.folder / "model" / "metadata.json"
        content = json.loads(path.read_text())
        content["source"] = str(self.folder / "parts")
        path.write_text(json.dumps(content))
        self.write("parts/good", digits("train")[:1])
        self.write("in", digits("test")[:1])
        fit = ("--fit", "in", "--unusual", "digits")
        for flag, argv in (
            ("reference", ("score", "model", "in")),
            ("normal", ("detect", "model", *fit)),
        ):
            with self.subTest(flag):
                # It stops for another reason: there are too few pictures.
                _, _, stderr = call(*argv, f"--{flag}", "parts/good")
                self.assertIn(f"warning: --{flag} parts/good ", stderr)

    def test_bad_references(self):
        for name, images in (("few", digits("train")[:19]), ("empty", [])):
            self.write(name, images)
        (self.folder / "text").mkdir()
        (self.folder / "text" / "notes.txt").write_text("words")
        for name, message in (
            ("few", "there are 19 readable pictures in few, and at least 20"),
            ("empty", "there are 0 "),
            ("./missing", "cannot read the folder ./missing"),
        ):
            with self.subTest(name):
                result = call("score", self.path, ".", "--reference", name)
                self.assert_usage_error(result, message)
        code, _, stderr = call("score", self.path, ".", "--reference", "text")
        self.assertEqual(code, 2)
        self.assertIn("text/notes.txt: it is neither PNG nor JPEG", stderr)
        self.assertIn("there are 0 ", stderr)
        for folder, name in (("few", "few"), ("few", "."), ("few/in", "few")):
            self.write("few/in", digits("train")[:2])
            result = call("score", self.path, folder, "--reference", name)
            self.assert_usage_error(result, f"has the pictures of {folder}")
        result = call("score", self.path, "empty", "--reference", "few")
        self.assert_usage_error(result, "no files in empty")
        self.write("other", digits("train")[:1])
        argv = ("score", self.path, "other", "--reference", "few")
        result = call(*argv, "--maps", "few/in/maps")
        self.assert_usage_error(result, "--maps: ", "of --reference")
        self.assertFalse(os.path.exists("few/in/maps"))
        self.assertFalse(os.path.exists("scores.csv"))


class ConditionalTest(DetectionTestCase):
    """With a model that has classes."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved_conditional()

    def setUp(self):
        self.measure = measurer(small_models.distinct)
        super().setUp()
        detection.Measurer.return_value = self.measure
        self.write("usual", digits("train")[:30])
        self.images = small_models.images(11)
        self.write("in", self.images)

    def call(self, *argv):
        code, stdout, stderr = call(*argv)
        self.assertEqual((code, stderr), (0, ""))
        return stdout

    def test_score(self):
        save = self.enterContext(mock.patch.object(plots, "save_bit_maps"))
        flags = ("--reference", "usual", "--maps", "maps", "--max_maps", 2)
        self.call("score", self.path, "in", "--seed", 5, *flags)
        header, rows = read_csv("scores.csv")
        self.assertEqual(header[:4], ["file", *LIKELY, "likeliest_label"])
        self.assertEqual(header[4:], [*detection.METHODS, "p_value"])
        measured = self.measure(self.images, 5)
        self.assertGreater(len(set(measured.label)), 1)
        for name, log_prob, _, label, likelihood, *_ in rows:
            index = int(name.removesuffix(".png"))
            self.assertAllClose(float(log_prob), measured.log_prob[index])
            self.assertAllClose(float(likelihood), -measured.log_prob[index])
            self.assertEqual(
                label, small_models.CLASS_NAMES[measured.label[index]]
            )
        self.assertEqual(save.call_count, 2)

        maps = ("--maps", "maps", "--max_maps", 1)
        self.call("score", self.path, "in", *maps)
        header, _ = read_csv("scores.csv")
        self.assertEqual(header, ["file", *LIKELY, "likeliest_label"])
        self.assertEqual(save.call_count, 3)


class DetectTest(DetectionTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        noise = rng.integers(NUM_COLORS, size=(50, 4, 4, 1)).astype(np.uint8)
        self.write("noise/inside", noise)
        fewer_draws = functools.partial(detection.compare, num_draws=50)
        self.enterContext(mock.patch.object(detection, "compare", fewer_draws))

    def detect(self, *argv):
        code, stdout, stderr = call(
            *("detect", self.path, "--unusual", "noise"),
            *("--max_images", 60, "--seed", 1, *argv),
        )
        self.assertEqual((code, stderr), (0, ""))
        return stdout

    def test_detect(self):
        os.mkdir("out")
        (self.folder / "out" / "notes.txt").write_text("words")
        with (
            mock.patch.object(
                plots, "save_rows", wraps=plots.save_rows
            ) as save_rows,
            mock.patch.object(
                plots, "save_bit_maps", wraps=plots.save_bit_maps
            ) as save_maps,
        ):
            stdout = self.detect("--out", "out")
        for line in (
            "fit: 60 training images of digits",
            "normal: 60 test images of digits",
            "unusual: 50 readable pictures in noise",
        ):
            self.assertIn(f"\n{line}\n", f"\n{stdout}")
        self.assertCountEqual(
            os.listdir("out"),
            [
                *("notes.txt", "table.csv", "scores.csv"),
                *("histograms.png", "pictures.png", "maps.png"),
            ],
        )
        for name in ("histograms", "pictures", "maps"):
            pixels = matplotlib.image.imread(f"out/{name}.png")
            self.assertGreater(np.std(pixels), 0.05)

        header, rows = read_csv("out/scores.csv")
        self.assertEqual(header, ["set", "picture", *detection.METHODS])
        sets = [row[0] for row in rows]
        self.assertEqual(sets, 60 * ["normal"] + 50 * ["unusual"])
        self.assertLen({row[1] for row in rows}, 110)
        self.assertIn("inside/007.png", [row[1] for row in rows])
        scores = np.array([row[2:] for row in rows], float).T
        header, table = read_csv("out/table.csv")
        self.assertEqual([row[0] for row in table], [*detection.METHODS])
        best = 0.0
        for (name, *values), score in zip(table, scores, strict=True):
            comparison = detection.compare(score[:60], score[60:], seed=1)
            figures = np.ravel(comparison)
            self.assertAllClose(np.float64(values), figures, atol=1e-6)
            auroc = comparison.auroc
            best = max(best, auroc.value)
            shown = f"{auroc.value:.3f} ({auroc.low:.3f}-{auroc.high:.3f})"
            self.assertRegex(
                stdout, rf"(?m)^{name} +{re.escape(shown)} .*(better|worse)$"
            )
        self.assertGreater(best, 0.9)
        # By the order of the scores, and by their own maps.
        combined = scores[list(detection.METHODS).index(detection.DEFAULT)]
        shown = save_rows.call_args.args[1]
        read = [row[1] for row in rows[60:]]
        order = np.argsort(combined[60:])
        for title, index in (("least", order[0]), ("most", order[-1])):
            image = image_files.read(
                f"noise/{read[index]}", (4, 4, 1), NUM_COLORS
            )
            self.assertAllEqual(
                shown[f"unusual: the {title} unusual"][0], image
            )
        _, images, drawn, *_ = save_maps.call_args.args
        own = measurer(small_models.model).maps(images, 1)
        self.assertAllClose(drawn, bit_maps.smooth(own), atol=1e-3)
        self.assertRegex(stdout, rf"(?m)^\w+ +{best:.3f} .*\) +better$")
        self.assertIn(f"AUROC {best:.3f}; ", stdout)
        # The noise has no seed of its own.
        index = [row[1] for row in rows].index("inside/007.png")
        image = image_files.read("noise/inside/007.png", (4, 4, 1), NUM_COLORS)
        log_prob = self.model.log_prob(image[np.newaxis], 1)[0]
        self.assertAllClose(scores[0, index], -log_prob, rtol=1e-5)

    def test_than_chance(self):
        """By a test that holds for few pictures, too."""
        normal = np.arange(12.0)
        shifts = {"a": 8.0, "b": -8.0, detection.DEFAULT: 2.0}
        both = {name: (normal, normal + s) for name, s in shifts.items()}
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            commands._print_table(
                {name: detection.compare(*of) for name, of in both.items()},
                {name: detection.set_p_value(*of) for name, of in both.items()},
                0.5,
            )
        for name, words in zip(
            shifts, ("better", "worse", "no better"), strict=True
        ):
            self.assertRegex(stdout.getvalue(), rf"(?m)^{name} .*\) +{words}$")

    def test_named_sets(self):
        self.write("good", digits("test")[:30])
        self.write("better", digits("test")[40:70])
        with mock.patch.object(
            detection, "compare", wraps=detection.compare
        ) as compare:
            stdout = self.detect("--normal", "good", "--fit", "better")
        self.assertIn("fit: 30 readable pictures in better\n", stdout)
        self.assertIn("normal: 30 readable pictures in good\n", stdout)
        # The methods have seen one of them alone.
        measure = measurer(small_models.model)
        fitted = detection.fit(measure(digits("test")[40:70], 1))
        measured = measure(digits("test")[:30], 1)
        for score, called in zip(
            fitted.values(), compare.call_args_list, strict=True
        ):
            self.assertAllClose(
                called.args[0], score(measured), rtol=1e-4, atol=1e-4
            )

    def test_bad_sets(self):
        self.write("one", digits("test")[:1])
        self.write("few", digits("test")[:3])
        np.save("colour.npy", np.zeros([30, 4, 4, 3], np.uint8))
        np.save("wide.npy", np.zeros([30, 8, 12], np.uint8))
        np.save("none.npy", np.zeros([0, 4, 4], np.uint8))
        good = "--fit noise --normal few"
        for line, *messages in (
            (
                "--unusual noise --normal noise",
                "--unusual: ",
                "pictures of --normal",
            ),
            (
                "--unusual noise --fit ./noise",
                "--unusual: ",
                "pictures of --fit",
            ),
            ("--unusual DIGITS", "--unusual: ", "pictures of --normal"),
            ("--unusual digits:3", "--unusual: ", "pictures of --normal"),
            ("--unusual noise --fit few", "--fit: there are 3 ", "at least 20"),
            (f"{good} --unusual ./gone", "--unusual: cannot read", "./gone"),
            (f"{good} --unusual one", "--unusual: there are 1 ", "at least 2"),
            (
                f"{good} --unusual colour.npy",
                "--unusual: ",
                "4x4x3 with 256 levels",
            ),
            (
                f"{good} --unusual wide.npy",
                "--unusual: ",
                "4x4x1 with 256 levels",
            ),
            (f"{good} --unusual none.npy", "none.npy", "[0, 4, 4]"),
            (f"{good} --unusual=", "No data set and no folder is called ''"),
            ("--unusual noise --out noise", "--out: ", "pictures of --unusual"),
            ("--unusual few --fit noise --out noise/in", "--out: ", "of --fit"),
        ):
            with self.subTest(line):
                result = call("detect", self.path, *line.split())
                self.assert_usage_error(result, *messages)
        self.assertFalse(os.path.exists("noise/in"))


if __name__ == "__main__":
    tf.test.main()
