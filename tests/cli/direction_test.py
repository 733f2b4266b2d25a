"""Tests for direction."""

import functools
import os
import re
from unittest import mock

import command_lines
import matplotlib.image
import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import pictures, plots
from tf_realnvp.cli import main
from tf_realnvp.serving import saved_model

NUM_COLORS = small_models.NUM_COLORS

call = functools.partial(command_lines.call, main.main)


class DirectionTest(command_lines.CommandTestCase, parameterized.TestCase):
    name = r"tf-realnvp direction"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path, cls.model = small_models.saved(), small_models.model()
        with mock.patch.object(
            tf.saved_model, "load", return_value=small_models.loaded()
        ):
            cls.loaded = saved_model.SavedModel(cls.path)

    def setUp(self):
        super().setUp()
        self.enterContext(  # To load it takes seconds.
            mock.patch.object(
                saved_model, "SavedModel", return_value=self.loaded
            )
        )
        (self.image,) = small_models.images(1)
        self.picture = self.folder / "picture.png"
        pictures.write(self.picture, self.image, NUM_COLORS)
        self.out = self.folder / "out.png"

    @parameterized.parameters(
        ("--with a --without b", "--apply"),
        ("--without b --apply c", "--with"),
        ("--with a --without b --apply c --strength 1", "--strength"),
        ("--with a --without b --apply c --strength nan 1", "'nan'"),
        ("--with a --without b --apply c --steps 1", "--steps: '1'"),
        ("--with a --without b --apply c --max_images 1", "--max_images: '1'"),
        ("--with a --without b --apply c --out grid", "--out: 'grid'"),
        ("--with a --without b --apply c --out no/a.png", "--out: cannot"),
        ("--with a --without b --apply c.png", "c.png"),
    )
    def test_bad(self, line, message):
        result = call("direction", self.path, *line.split())
        self.assert_usage_error(result, message)
        self.assertEqual(os.listdir(), ["picture.png"])

    def folders(self, num_images, *signs):
        """Writes folders of images whose latents differ by `signs`."""
        rng = np.random.default_rng(0)
        names = []
        for index, sign in enumerate(signs):
            names.append(self.folder / f"side_{index}")
            names[-1].mkdir()
            shape = (num_images, *small_models.LATENT_SHAPE)
            points = 0.3 * (rng.normal(size=shape) + sign)
            images = self.model.decode(points.astype(np.float32)).numpy()
            for number, image in enumerate(images):
                pictures.write(names[-1] / f"{number}.png", image, NUM_COLORS)
        return names

    def direction(self, *folders_and_flags):
        present, absent, *flags = folders_and_flags
        return call(
            *("direction", self.path, "--with", present, "--without", absent),
            *("--apply", self.picture, "--out", self.out, *flags),
        )

    def test_direction(self):
        present, absent = self.folders(20, 1.0, -1.0)
        (absent / "notes.txt").write_text("words")
        code, stdout, stderr = self.direction(
            *(present, absent, "--strength", -0.5, 1, "--steps", 4)
        )
        self.assertEqual(code, 0)
        self.assertIn("notes.txt", stderr)
        auroc, *counts = re.findall(r"\d[\d.]*", stdout.replace("0.5", ""))[:3]
        self.assertGreater(float(auroc), 0.9)
        self.assertEqual(counts, ["4", "4"])
        means = [
            np.mean(
                [
                    self.model.encode(
                        pictures.read(path, (4, 4, 1), NUM_COLORS)[None]
                    )[0]
                    for path in folder.glob("*.png")
                ],
                axis=0,
            )
            for folder in (present, absent)
        ]
        (start,) = self.model.encode(self.image[None]).numpy()
        moved = [start + s * (means[0] - means[1]) for s in (-0.5, 0, 0.5, 1)]
        images = self.model.decode(np.stack(moved).astype(np.float32)).numpy()
        self.assertAllEqual(images[1], self.image)
        pixels = matplotlib.image.imread(self.out)[..., :3]
        self.assertAllEqual(
            np.round(255 * pixels), plots.image_grid(images, NUM_COLORS, 4)
        )

    def test_direction_that_means_nothing(self):
        _, stdout, _ = self.direction(*self.folders(100, 0.0, 0.0))
        auroc = float(re.search(r"AUROC ([\d.]+)", stdout)[1])
        self.assertBetween(auroc, 0.3, 0.7)

    def test_bad_directions(self):
        present, absent = self.folders(2, 1.0, -1.0)
        result = self.direction(present, absent, "--strength", 0, "3e38")
        self.assert_usage_error(result, "--strength", "cannot be decoded")
        (absent / "0.png").unlink()
        result = self.direction(present, absent)
        self.assert_usage_error(result, str(absent), "--without", "at least 2")
        self.assert_usage_error(self.direction(present, "none"), "none")
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    tf.test.main()
