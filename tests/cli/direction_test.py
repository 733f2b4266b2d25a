"""Tests for direction."""

import functools
import re

import numpy as np
import small_models
from absl.testing import parameterized
from image_arrays import read_png
from model_commands import ModelTestCase, call

from tf_realnvp import batched, latents
from tf_realnvp.analysis import plots

NUM_COLORS = small_models.NUM_COLORS


class DirectionTest(ModelTestCase):
    def decoded(self, num_images, shift):
        """Returns images whose latents are shifted."""
        rng = np.random.default_rng(int(2 + shift))
        shape = (num_images, *small_models.LATENT_SHAPE)
        points = 0.3 * (rng.normal(size=shape) + shift)
        return batched.decode(
            self.model, points.astype(np.float32), np.zeros(num_images, int)
        )

    def flags(self, present="present", absent="absent"):
        return "--with", present, "--without", absent, "--out", self.out

    @parameterized.parameters(
        ("plain", None), ("classes", None), ("classes", "dog")
    )
    def test_direction(self, kind, name):
        """Images stay in their classes."""
        self.use_model(kind)
        # So alike that it counts which ones the direction is taken from.
        sides = self.decoded(20, 0.1), self.decoded(20, -0.1)
        self.write("present", sides[0])
        self.write("absent", sides[1])
        (self.folder / "absent" / "notes.txt").write_text("words")
        images = small_models.images(20)[[0, 8, 1]]
        self.write("apply", images)
        label = None if name is None else 1
        encode = functools.partial(batched.encode_likeliest, self.model)
        points = [encode(side, label)[0] for side in sides]
        step = points[0].mean(axis=0) - points[1].mean(axis=0)
        starts, labels = encode(images, label)
        if kind == "classes" and name is None:
            self.assertLen(set(labels), 2)
        rows = np.stack(
            [
                batched.decode(
                    self.model, starts + np.float32(s) * step, labels
                )
                for s in (-0.5, 0.0, 0.5, 1.0)
            ],
            axis=1,
        )
        self.assertAllEqual(rows[:, 1], images)
        stdout, stderr = self.succeed(
            *("direction", *self.flags()),
            *("--strength", "-0.5", 1, "--steps", 4),
            *("--apply", *(f"apply/{k:03d}.png" for k in range(3))),
            *(("--label", name) if name else ()),
        )
        self.assertIn("notes.txt", stderr)
        self.assertAllEqual(
            read_png(self.out),
            plots.image_grid(np.concatenate(rows), NUM_COLORS, 4),
        )
        # What it is measured on had no part in it.
        rng = np.random.default_rng(0)
        order = [rng.permutation(side) for side in sides]
        points = [encode(side, label)[0] for side in order]
        direction = latents.direction(*(side[4:] for side in points))
        auroc = latents.separation(direction, *(side[:4] for side in points))
        self.assertRegex(
            stdout,
            rf"^AUROC {auroc:.3f} \(chance: 0.5\) .*: 4 with it, 4 without\n"
            rf"{re.escape(str(self.out))}\n$",
        )

    @parameterized.parameters((9, 4, 0), (9, 4, 1), (3, 3, 0))
    def test_no_images_to_move(self, num_images, num_rows, seed):
        """Some of the images of --without are moved."""
        absent = self.decoded(num_images, -1.0)
        self.write("present", self.decoded(num_images, 1.0))
        self.write("absent", absent)
        strengths = ("--strength", 0, 1, "--steps", 2, "--seed", seed)
        self.succeed("direction", *self.flags(), *strengths)
        rng = np.random.default_rng(seed)
        rng.permutation(num_images)  # That of the others.
        shown = absent[rng.permutation(num_images)[:num_rows]]
        # The first column, where nothing is moved.
        column = plots.image_grid(shown, NUM_COLORS, 1)[:, :5]
        self.assertAllEqual(read_png(self.out)[:, :5], column)

    def test_classes_of_a_data_set(self):
        flags = self.flags("digits:3", "digits:7")
        stdout, _ = self.succeed("direction", *flags)
        self.assertIn(": 6 with it, 8 without\n", stdout)

    @parameterized.parameters(
        ("present", "./present", "--without: 5 images of --with in it"),
        ("present", "few", "--without: few has 1 readable image, an"),
        ("present", "absent --label cat", "--label: no class 'cat'"),
    )
    def test_bad(self, present, absent, message):
        for folder, number in (("present", 5), ("absent", 6), ("few", 1)):
            self.write(folder, self.decoded(number, float(number)))
        absent, *flags = absent.split()
        flags = (*self.flags(present, absent), *flags)
        code, stdout, stderr = call("direction", self.path, *flags)
        self.assertEqual((code, stdout), (2, ""))
        self.assertRegex(stderr, rf"^{self.name}: error: .*{message}")
        self.assertFalse(self.out.exists())
