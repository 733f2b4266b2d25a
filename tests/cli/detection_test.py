"""Tests for the commands score and detect."""

import csv
import json
import math
import os
import re
from unittest import mock

import numpy as np
import small_models
from absl.testing import parameterized
from image_arrays import images_of_digits as digits
from image_arrays import read_png
from model_commands import ModelTestCase, call
from small_models import measurer

from tf_realnvp import batched, bit_maps, detection, significance
from tf_realnvp.analysis import plots
from tf_realnvp.analysis.detection import Measurer
from tf_realnvp.utils import files

LIVE = {"plain": small_models.model, "classes": small_models.distinct}
METHODS = [name for name in detection.METHODS if name != "region"]
LIKELY = ["file", "log_prob", "bits_per_dim"]


def read_csv(path):
    """Returns the header and the rows of a table."""
    with open(path, newline="", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    return header, rows


class DetectionTestCase(ModelTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for make in LIVE.values():  # Before what makes them is replaced.
            measurer(make)

    def use_model(self, kind):
        """Lets the commands load what takes seconds, too."""
        super().use_model(kind)
        self.measure = measurer(LIVE[kind])
        self.use(self.model, self.measure)

    def setUp(self):
        super().setUp()
        # A mixture takes long to fit, and is for the tests of `analysis`.
        self.enterContext(
            mock.patch.dict(detection.METHODS, scales=detection.typicality)
        )

    def saved_maps(self):
        """Returns the mock of what draws maps."""
        return self.enterContext(
            mock.patch.object(plots, "save_bit_maps", wraps=plots.save_bit_maps)
        )


class ScoreTest(DetectionTestCase):
    def score(self, *argv):
        """Returns standard output and error, the header and the rows."""
        stdout, stderr = self.succeed(
            "score", "in", "--out", "scores.csv", *argv
        )
        self.assertEndsWith(stdout, "\nscores.csv\n")
        header, rows = read_csv("scores.csv")
        self.assertLen({row[0] for row in rows}, len(rows))
        return stdout, stderr, header, {row[0]: row[1:] for row in rows}

    @parameterized.parameters("plain", "classes")
    def test_score(self, kind):
        self.use_model(kind)
        # Names need not be text.
        names = ["b, \u00e9\udcff.png", "a.png", "c.png", "same.png"]
        images = small_models.images(20)[[0, 8, 1, 1]]
        folder = self.write("in", images, names)
        (folder / "inside").mkdir()
        (folder / ".hidden.png").write_text("")
        (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (folder / "notes.txt").write_text("words")

        stdout, stderr, header, rows = self.score("--seed", 3)
        labels = ["likeliest_label"] if kind == "classes" else []
        self.assertEqual(header, LIKELY + labels)
        self.assertCountEqual(rows, names)
        expected = batched.score_each(self.model, images, 3)
        for name, log_prob, label in zip(
            names, expected.log_prob, expected.label, strict=True
        ):
            found, bits, *found_label = rows[name]
            self.assertAllClose(float(found), log_prob, rtol=1e-5)
            self.assertAllClose(
                float(bits), -log_prob / (16 * math.log(2.0)), rtol=1e-5
            )
            if labels:
                name = small_models.CLASS_NAMES[label]
                self.assertEqual(found_label, [name])
        order = [float(bits) for _, bits, *_ in rows.values()]
        self.assertEqual(order, sorted(order, reverse=True))
        self.assertGreater(order[0], order[-1])
        # Those that are equally likely, by their names.
        place = list(rows).index("c.png")
        self.assertEqual(list(rows)[place + 1], "same.png")

        self.assertEqual(stderr.count("\n"), 2)
        for name in ("broken.png", "notes.txt"):
            self.assertIn(f"in/{name}", stderr)
        self.assertIn(
            f"4 images, mean {np.mean(order):.4f} bits/dim; 2 files could not",
            stdout,
        )

    def test_reference(self):
        """Maps are in standard deviations of the half that is not fitted."""
        self.use_model("classes")
        normal, images = digits("train")[:41], digits("test")[:70]
        self.write("normal", normal)
        self.write("in", images)
        save = self.saved_maps()
        maps = ("--maps", "maps", "--max_maps", 2)
        stdout, stderr, header, rows = self.score(
            "--reference", "normal", "--seed", 3, *maps
        )
        self.assertEqual(stderr, "")
        methods = [*METHODS, "p_value"]
        self.assertEqual(header, [*LIKELY, "likeliest_label", *methods])
        self.assertRegex(
            stdout,
            rf"(?m)^p_value: of the method {detection.DEFAULT}, by 21 readable "
            "images of normal; fitted to 20 others of them$",
        )
        reference = detection.Reference(self.measure(normal, 3), 3)
        measured = self.measure(images, 3)
        expected = reference(measured)
        names = [f"{index:03d}.png" for index in range(70)]
        values = np.array([rows[name][-len(methods) :] for name in names])
        self.assertAllClose(
            values.astype(float).T, [*expected.values()], rtol=1e-4, atol=1e-4
        )
        together = reference.set_p_value(expected[detection.DEFAULT])
        self.assertIn(
            f"\np-value of all images together: {together:.2g}\n", stdout
        )
        # The most anomalous come first.
        column = header.index(detection.DEFAULT) - 1
        order = [float(row[column]) for row in rows.values()]
        self.assertEqual(order, sorted(order, reverse=True))
        names = [*rows][:2]
        first = images[[int(name[:3]) for name in names]]
        drawn = bit_maps.smooth(self.measure.maps(first, 3))
        others = self.measure.maps(normal[reference.others], 3)
        drawn = bit_maps.standardize(drawn, bit_maps.smooth(others))
        for call_, name, image, expected in zip(
            save.call_args_list, names, first, drawn, strict=True
        ):
            path, (shown,), (values,), label, *_ = call_.args
            self.assertEqual(path.name, f"map_{name}")
            self.assertAllEqual(shown, image)
            self.assertAllClose(values, expected, rtol=1e-3, atol=1e-3)
            self.assertEqual(label, "standard deviations")

    def test_maps(self):
        names = ["b, \u00e9.png", "a.png", "a.jpg"]
        images = digits()[:3]
        self.write("in", images, names)
        save = self.saved_maps()
        stdout, *_, rows = self.score("--maps", "maps", "--max_maps", 2)
        self.assertIn("\nmaps\n", stdout)
        first = [*rows][:2]
        for call_, name in zip(save.call_args_list, first, strict=True):
            path, (image,), (values,), label, *_ = call_.args
            file = {"a.jpg": "a.jpg.png"}.get(name, name)
            self.assertEqual((path.name, label), (f"map_{file}", "bits"))
            self.assertAllEqual(image, images[names.index(name)])
            expected = bit_maps.smooth(self.measure.maps(image[None], 0))[0]
            self.assertAllClose(values, expected, atol=1e-3)
        self.assertLen(os.listdir("maps"), 2)
        result = call("score", self.path, "in", "--maps", "maps")
        self.assert_usage_error(result, "--maps: maps has map_*.png of before")

    def test_copies(self):
        images = digits("train")[:41]
        self.write("normal", np.concatenate([images, images[:3]]))
        self.write("in", [*digits()[:3], images[0], images[9]])
        _, stderr, *_ = self.score("--reference", "normal")
        self.assertIn("warning: 3 of the 44 readable images of n", stderr)
        self.assertIn("warning: DIR: 2 images of --reference in it", stderr)
        (self.folder / "scores.csv").unlink()
        for index in range(3):
            (self.folder / "in" / f"{index:03d}.png").unlink()
        code, _, stderr = call(
            "score", self.path, "in", "--reference", "normal"
        )
        self.assertEqual(code, 2)
        self.assertIn("argument DIR: 2 images of --reference in it", stderr)
        self.assertFalse(os.path.exists("scores.csv"))

    def test_shards(self):
        """Shards are joined to what one process writes, bit for bit."""
        self.use_model("classes")
        self.write("normal", digits("train")[:41])
        folder = self.write("in", digits("test")[:91])
        for number in (3, 50, *range(60, 91)):  # All of the last shard.
            (folder / f"{number:03d}.png").write_bytes(b"broken")
        flags = ("--seed", 3, "--reference", "normal")
        maps = ("--maps", "maps", "--max_maps", 2)
        stdout, *_ = self.score(*flags)
        expected = (self.folder / "scores.csv").read_bytes()
        damaged = 0
        for index in (1, 2, 3):
            shard = ("--shard", f"{index}/3", "--out", "scores.csv")
            _, stderr = self.succeed("score", "in", *flags, *shard)
            damaged += stderr.count("cannot read the image")
        self.assertEqual(damaged, 33)
        for argv, name in (
            (("--seed", 3), "reference"),
            (("--reference", "normal"), "seed"),
            ((*flags, "--max_images", 30), "reference"),
        ):
            result = call("score", self.path, "in", "--merge", 3, *argv)
            self.assert_usage_error(result, f"3.csv is of another {name}:")
        other = small_models.copied(self.path, self.folder, dataset="other")
        result = call("score", other, "in", "--merge", 3, *flags)
        self.assert_usage_error(result, "is of another model:")
        (folder / "new.png").touch()
        result = call("score", self.path, "in", "--merge", 3, *flags)
        self.assert_usage_error(result, "is of another list of files")
        (folder / "new.png").unlink()
        merged, *_ = self.score(*flags, *maps, "--merge", 3)
        self.assertEqual((self.folder / "scores.csv").read_bytes(), expected)
        # How many, their mean, and the p-value of all images together.
        said = stdout.splitlines()[-3:]
        self.assertContainsSubsequence(merged.splitlines(), said)
        self.assertLen(os.listdir("maps"), 2)

    @parameterized.parameters(
        ("--fdr", 0.4, "0\\.4: with .* at least 5 of 40 images"),
        ("--alarm", 0.25, None),
    )
    def test_flagged(self, flag, rate, least):
        """One process, and shards that are merged, flag the same images."""
        normal, images = digits("train")[:40], small_models.images(40, seed=1)
        self.write("normal", normal)
        images[:20] = digits("test")[:20]
        self.write("in", images)
        flags = ("--reference", "normal", flag, rate)
        stdout, _, header, rows = self.score(*flags)
        self.assertEqual(header[-2:], ["p_value", "flagged"])
        p_values = np.array([float(row[-2]) for row in rows.values()])
        is_flagged = np.array([row[-1] == "1" for row in rows.values()])
        limit = rate
        if flag == "--fdr":
            limit = significance.highest_flagged(p_values, rate)
            self.assertRegex(stdout, least)
        self.assertAllEqual(is_flagged, p_values <= limit)
        self.assertBetween(is_flagged.sum(), 1, 39)
        self.assertIn(f"\nflagged: {is_flagged.sum()} images\n", stdout)
        expected = (self.folder / "scores.csv").read_bytes()
        for index in (1, 2):
            shard = ("--shard", f"{index}/2", "--out", "scores.csv")
            self.succeed("score", "in", *flags, *shard)
        self.score(*flags, "--merge", 2)
        self.assertEqual((self.folder / "scores.csv").read_bytes(), expected)

    @parameterized.parameters(
        ("--fdr 0.05", "--fdr: give it with --reference"),
        ("--alarm 0.05", "--alarm: give it with --reference"),
        ("--fdr 0.1 --alarm 0.1 --reference normal", "--alarm: .*without"),
        ("--alarm 0 --reference normal", "'0' is not a finite number above 0"),
        ("--alarm 0.01 --reference normal", "--reference: 198 images are"),
        ("--fdr 0.04 --reference normal", "--reference: 48 images are"),
    )
    def test_bad_decisions(self, line, message):
        self.write("normal", digits("train")[:40])
        self.write("in", digits("test")[:4])
        result = call("score", self.path, "in", *line.split())
        self.assert_usage_error(result)
        self.assertRegex(result[2], message)

    def test_tiles(self):
        """Images of any size, of which each has one score."""
        self.addCleanup(setattr, self.model, "metadata", self.model.metadata)
        self.model.metadata = {**self.model.metadata, "tiles": True}
        rng = np.random.default_rng(0)

        def images(n, *shape):
            return [*rng.integers(17, size=(n, *shape, 1), dtype=np.uint8)]

        normal, large = images(40, 9, 7), images(9, 9, 7)
        large[3][2:6, 1:5] = 16
        self.write("normal", normal)
        self.write("in", [*large, *images(1, 3, 9)])
        measure = Measurer(self.model)
        self.use(self.model, measure)
        flags = ("--reference", "normal", "--alarm", 0.1)
        maps = ("--maps", "maps", "--max_maps", 2)
        _, stderr, header, rows = self.score(*flags, *maps)
        self.assertIn("009.png: it is smaller than a tile, 4x4", stderr)
        self.assertEqual(
            header, [*LIKELY, *detection.METHODS, "p_value", "flagged"]
        )
        reference = detection.Reference(measure(normal, 0), 0)
        measured = measure(large, 0)
        expected = reference(measured)
        names = [f"{index:03d}.png" for index in range(9)]
        for place, name in enumerate(header[3:-1], 2):
            found = [float(rows[file][place]) for file in names]
            self.assertAllClose(found, expected[name], rtol=1e-4, atol=1e-4)
        bits = [float(rows[file][1]) for file in names]
        mean = measured.of_images(measured.log_prob, np.mean)
        self.assertAllClose(bits, -mean / (16 * math.log(2.0)), rtol=1e-5)
        self.assertEqual([*rows][0], "003.png")
        self.assertEqual(rows["003.png"][-1], "1")
        first = read_png(self.folder / "maps" / "map_003.png")
        self.assertEqual(first.shape[:2], (9, 7))
        self.assertLen(os.listdir("maps"), 2)
        # Their scores are the highest of more tiles.
        self.write("in", images(1, 9, 70), ["wide.png"])
        code, _, stderr = call(
            "score", self.path, "in", "--reference", "normal"
        )
        self.assertEqual(code, 2)
        self.assertIn("more than those of the reference", stderr)

    def test_bad_shards(self):
        self.write("in", digits("test")[:4])
        for line, message in {
            "--shard 0/2": "'0/2' is not one of 1/N",
            "--shard 3/2": "'3/2' is not one of 1/N",
            "--shard 1": "'1' is not one of 1/N",
            "--shard 1/5": "--shard: .* 4 shards",
            "--shard 1/2 --maps maps": "--maps: .*--merge",
            "--merge 2": "--merge: .*'scores-00001-of-00002.csv'",
        }.items():
            result = call("score", self.path, "in", *line.split())
            self.assert_usage_error(result)
            self.assertRegex(result[2], message)
        self.succeed("score", "in", "--shard", "1/2")
        argv = "score", self.path, "in", "--merge", 2
        both = call(*argv, "--shard", "1/2")
        self.assert_usage_error(both, "without --shard")
        other = self.folder / "scores-00002-of-00002.csv"
        for content in ("file,log_prob\n", "", "\n", "3\n"):
            other.write_text(content)
            self.assert_usage_error(call(*argv), "00002.csv is not of a shard")
        work = json.dumps({"model": "of others"})
        files.write_csv(other, [[work], ["file", "log_prob"]])
        self.assert_usage_error(call(*argv), "another model, seed, ")

    @parameterized.parameters(
        # Before the reference is measured.
        ("gone --reference in", "argument DIR: .*No such file .*'gone'"),
        ("empty --reference in", "argument DIR: there are no files in empty"),
        ("text", "no file in text can be read"),
        ("in --reference few", "few has 19 readable images, and at least 20 "),
    )
    def test_bad(self, line, message):
        for name, number in (("in", 1), ("few", 19), ("empty", 0), ("text", 0)):
            self.write(name, digits("train")[:number])
        (self.folder / "text" / "notes.txt").write_text("words")
        code, stdout, stderr = call("score", self.path, *line.split())
        self.assertEqual((code, stdout), (2, ""))
        self.assertRegex(stderr, message)
        if "text" in line:
            self.assertIn("text/notes.txt: it is neither PNG nor", stderr)
        self.assertFalse(os.path.exists("scores.csv"))


class DetectTest(DetectionTestCase):
    def setUp(self):
        super().setUp()
        self.noise = small_models.images(50, seed=1)
        self.write("noise/inside", self.noise)
        self.use_fewer_draws()

    def test_detect(self):
        os.mkdir("out")
        (self.folder / "out" / "notes.txt").write_text("words")
        save_maps = self.saved_maps()
        stdout, _ = self.succeed(
            *("detect", "--unusual", "noise", "--seed", 1),
            *("--max_images", 60, "--out", "out"),
        )
        for line in (
            "fit: 60 train images of digits",
            "normal: 60 test images of digits",
            "unusual: 50 readable images of noise",
        ):
            self.assertIn(f"\n{line}\n", f"\n{stdout}")
        figures = ["histograms.png", "images.png", "maps.png"]
        written = ["notes.txt", "table.csv", "scores.csv", *figures]
        self.assertCountEqual(os.listdir("out"), written)
        for name in figures:
            self.assertGreater(np.std(read_png(f"out/{name}")), 12)

        header, rows = read_csv("out/scores.csv")
        self.assertEqual(header, ["set", "image", *METHODS])
        sets = [row[0] for row in rows]
        self.assertEqual(sets, 60 * ["normal"] + 50 * ["unusual"])
        names = [row[1] for row in rows]
        numbers = [int(name.removeprefix("test ")) for name in names[:60]]
        normal = digits("test")[numbers]
        rng = np.random.default_rng(1)
        drawn = np.sort(rng.choice(len(digits("train")), 60, replace=False))
        methods = detection.fit(self.measure(digits("train")[drawn], 1))
        measured = self.measure(np.concatenate([normal, self.noise]), 1)
        expected = [method(measured) for method in methods.values()]
        scores = np.array([row[2:] for row in rows], float).T
        self.assertAllClose(scores, expected, rtol=1e-4, atol=1e-4)
        header, table = read_csv("out/table.csv")
        self.assertEqual([row[0] for row in table], METHODS)
        for (name, *values), score in zip(table, scores, strict=True):
            normal, unusual = score[:60], score[60:]
            comparison = significance.compare(normal, unusual, seed=1)
            self.assertAllClose(
                np.float64(values), np.ravel(comparison), atol=1e-6
            )
            auroc = comparison.auroc
            shown = f"{auroc.value:.3f} ({auroc.low:.3f}-{auroc.high:.3f})"
            self.assertRegex(stdout, rf"(?m)^{name} +{re.escape(shown)} ")
        self.assertGreater(auroc.value, 0.9)
        self.assertRegex(stdout, r"(?m)^\(chance\) +0.500 +0.455 +0.950$")
        # The maps are those of the most anomalous images.
        default = METHODS.index(detection.DEFAULT)
        order = np.argsort(-scores[default][60:])
        _, images, maps, *_ = save_maps.call_args.args
        self.assertAllEqual(images[8:], self.noise[order[:8]])
        expected = bit_maps.smooth(self.measure.maps(images, 1))
        self.assertAllClose(maps, expected, atol=1e-3)
        titles = 8 * ["normal"] + 8 * ["unusual"]
        self.assertEqual(save_maps.call_args.kwargs["titles"], titles)

    @parameterized.parameters(
        (8.0, "better"), (-8.0, "worse"), (2.0, "no better")
    )
    def test_than_chance(self, shift, words):
        """The test holds for few images, too."""
        self.write("normal", digits("test")[:13])
        self.write("odd", small_models.images(12, seed=2))

        def method(measured):
            n = len(measured)
            return np.arange(float(n)) + (shift if n == 12 else 0.0)

        methods = {detection.DEFAULT: method}
        with mock.patch.object(detection, "fit", return_value=methods):
            stdout, _ = self.succeed(
                *("detect", "--fit", "noise", "--normal", "normal"),
                *("--unusual", "odd"),
            )
        self.assertRegex(stdout, rf"(?m)^{detection.DEFAULT} .*\) +{words}$")

    @parameterized.parameters(
        ("noise --normal noise", "--unusual: 50 images of --normal in it"),
        ("noise --fit few", "--fit: few has 3 .*at least 20"),
        ("one", "--unusual: one has 1 readable image, .*at least 2"),
        ("none.npy", "--unusual: none.npy.*\\[0, 4, 4, 1\\]"),
    )
    def test_bad_sets(self, line, message):
        self.write("one", digits("test")[:1])
        self.write("few", digits("test")[:3])
        np.save("none.npy", np.zeros([0, 4, 4], np.uint8))
        result = call("detect", self.path, "--unusual", *line.split())
        self.assert_usage_error(result)
        self.assertRegex(result[2], message)
