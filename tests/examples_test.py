"""Tests for the example, which is run as its reader runs it."""

import contextlib
import io
import math
import os
import pathlib
import re
import runpy
import sys
import tempfile

import command_lines
import matplotlib
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from tf_realnvp import data, plots

REPOSITORY = command_lines.REPOSITORY
SHORTER = {"EPOCHS": 2, "MOONS_STEPS": 200}
PICTURES = [
    "digits_data.png",
    "digits_extremes.png",
    "digits_interpolation.png",
    "digits_samples_0.7.png",
    "digits_samples_1.0.png",
    "digits_scores.png",
    "moons.png",
]


def read_png(path):
    """Pixels of a PNG file, `uint8` `[height, width, 3]`."""
    pixels = matplotlib.image.imread(path)
    return np.round(255 * pixels[..., :3]).astype(np.uint8)


class DigitsTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = (REPOSITORY / "examples" / "digits.py").read_text()
        source = cls.source
        for name, value in SHORTER.items():
            source, count = re.subn(
                rf"^{name} = \d+", f"{name} = {value}", source, flags=re.M
            )
            assert count == 1, name
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.folder = pathlib.Path(folder, "pictures")
        cls.folder.mkdir()
        path = pathlib.Path(folder, "digits.py")
        path.write_text(source)
        # In this process: TensorFlow takes seconds to import.
        cls.addClassCleanup(sys.path.__setitem__, slice(None), sys.path[:])
        cls.addClassCleanup(plt.switch_backend, matplotlib.get_backend())
        plt.switch_backend("Agg")
        cls.addClassCleanup(plt.close, "all")
        stdout = io.StringIO()
        with contextlib.chdir(cls.folder), contextlib.redirect_stdout(stdout):
            runpy.run_path(str(path))
        cls.stdout = stdout.getvalue()

    def find(self, pattern):
        """The numbers in the lines of the output that match a pattern."""
        found = re.findall(f"^{pattern}$", self.stdout, flags=re.M)
        self.assertNotEmpty(found, f"{pattern} in {self.stdout}")
        return np.array(found, float)

    def test_pictures(self):
        self.assertEqual(sorted(os.listdir(self.folder)), PICTURES)
        for name in PICTURES:
            with self.subTest(name):
                self.assertIn(f"wrote {name}\n", self.stdout)
                # A grid has all levels of the digits, or nearly so.
                pixels = read_png(self.folder / name)
                self.assertGreater(len(np.unique(pixels[..., 0])), 12)

    def test_training(self):
        lines = self.find(r"epoch (\d+): test ([\d.]+) bits/dim")
        epochs, bits = lines.T
        self.assertAllEqual(epochs, range(SHORTER["EPOCHS"] + 1))
        self.assertAllEqual(bits, sorted(bits, reverse=True))
        self.assertLess(bits[-1], math.log2(17) - 0.5)
        # It is what the scores say of the same images.
        (score,) = self.find(r"test digits: ([\d.]+) bits/dim, 0% .*")
        self.assertNear(bits[-1], score, 0.05)

    def test_samples(self):
        hot, cool = (
            self.find(rf"at temperature {t} pixels vary by ([\d.]+) levels")[0]
            for t in (1.0, 0.7)
        )
        # Images, not one and the same, nor noise of all levels alike.
        self.assertBetween(cool, 1.0, hot)
        self.assertLess(hot, np.std(np.arange(17)))

    def test_interpolations_end_at_the_pictures(self):
        self.assertIn("pixel for pixel: True\n", self.stdout)
        grid = read_png(self.folder / "digits_interpolation.png")[::12, ::12]
        rows = [
            [grid[top : top + 8, left : left + 8] for left in range(1, 91, 9)]
            for top in range(1, 46, 9)
        ]
        digits = data.load("digits")
        (pictures,) = digits.test_batches(digits.num_test)
        pictures = plots.pixels(pictures[:10].numpy(), digits.num_colors)
        ends = np.reshape([[row[0], row[-1]] for row in rows], (10, 8, 8, 3))
        self.assertAllEqual(ends, np.repeat(pictures, 3, axis=-1))
        for row in rows:
            self.assertLen({image.tobytes() for image in row}, 10)

    def test_scores(self):
        (digits,), (mirrored,), (inverted,), (noise,) = (
            self.find(rf"{kind}: ([\d.]+) bits/dim, (\d+)% worse .*")
            for kind in ("test digits", "mirrored", "inverted", "noise")
        )
        self.assertLess(digits[0], mirrored[0])
        self.assertLess(mirrored[0], min(inverted[0], noise[0]))
        # What is no digit is told from all that are.
        self.assertEqual([digits[1], inverted[1], noise[1]], [0, 100, 100])

    def test_moons(self):
        (before,) = self.find(r"moons before training: ([-\d.]+) nats a point")
        (after,) = self.find(r"moons after training: ([-\d.]+) nats a point")
        (total,) = self.find(r"the density of moons adds up to ([\d.]+)")
        self.assertGreater(after, before + 0.5)
        # No flow is better than the points' own density.
        self.assertLess(after, -0.5)
        self.assertNear(total, 1.0, 0.01)

    def test_starts_from_any_folder(self):
        """Also where the package is not installed."""
        top = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (top / "tf_realnvp").symlink_to(REPOSITORY / "tf_realnvp")
        (top / "examples").mkdir()
        elsewhere = top / "deep" / "down"
        elsewhere.mkdir(parents=True)
        head, _ = self.source.split("from tf_realnvp import runtime")
        tail = (
            "import os, tf_realnvp; print(os.path.abspath(tf_realnvp.__file__))"
        )
        path = top / "examples" / "head.py"
        path.write_text(head + tail)
        for folder in (top, path.parent, elsewhere):
            _, stdout, _ = command_lines.run(folder, path, PYTHONPATH="")
            self.assertEqual(stdout, f"{top}/tf_realnvp/__init__.py\n")


if __name__ == "__main__":
    tf.test.main()
