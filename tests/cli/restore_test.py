"""Tests for restore."""

import os
from unittest import mock

import folders
import numpy as np
import small_models
from absl.testing import parameterized
from image_arrays import read_png
from model_commands import ModelTestCase, call
from PIL import Image

from tf_realnvp import restoration
from tf_realnvp.analysis import plots, posterior
from tf_realnvp.data import image_files

HOLE = np.zeros([4, 4, 1], bool)
HOLE[1:3, :3] = True


class RestoreTest(ModelTestCase):
    def setUp(self):
        super().setUp()
        self.images = small_models.images(3)
        self.enterContext(
            mock.patch.multiple(posterior, **small_models.FEW_STEPS)
        )

    def write_mask(self, name="mask.png", hole=HOLE):
        image_files.write(name, np.uint8(hole), 2)

    def write_torn(self, name="torn.png"):
        """Writes an image whose hole is transparent, and dark in there."""
        grey = image_files.to_pixels(self.images[0], small_models.NUM_COLORS)
        alpha = np.where(HOLE, 0, 255).astype(np.uint8)
        pixels = np.concatenate([np.where(HOLE, 0, grey), alpha], axis=-1)
        Image.fromarray(pixels, "LA").save(name)

    def restored(self, name):
        return image_files.read(name, small_models.IMAGE_SHAPE, 17)

    # After `test_figure` and before `test_transparent`: each traces one model.
    @parameterized.parameters("classes", "plain")
    def test_folder(self, kind):
        """One mask serves all images of a folder."""
        self.use_model(kind)
        self.write("in", self.images)
        self.write_mask()
        flags = ("--mask", "mask.png", "--seed", 3, "--out", "out/")
        stdout, _ = self.succeed("restore", "in", "--samples", 2, *flags)
        expected = restoration.restore(
            self.model, self.images, HOLE, num_samples=2, seed=3
        )
        self.assertLen(os.listdir("out"), 3 * 5)
        for index in range(3):
            for name, image in (
                ("restored", expected.images[index]),
                ("sample_0001", expected.samples[index, 1]),
                ("mean", np.rint(expected.mean[index])),
                ("spread", np.rint(expected.std[index])),
            ):
                found = self.restored(f"out/{index:03d}_{name}.png")
                self.assertAllEqual(found, image, name)
        self.assertEqual(
            stdout.count("png: taken for"), 3 if kind == "classes" else 0
        )
        self.assertRegex(stdout, r"\nR-hat \d.*\nout/\n$")
        result = call("restore", self.path, "in", *flags)
        self.assert_usage_error(result, "--out: out/ has *_restored.png of")

    def test_transparent(self):
        """The colors of transparent pixels do not matter."""
        self.write_torn()
        for noise in ((), ("--noise", 20)):
            self.succeed("restore", "torn.png", *noise, "--out", "out/")
            expected = restoration.restore(
                self.model,
                self.images[:1],
                HOLE,
                noise=20 * 16 / 255 if noise else None,
            )
            found = self.restored("out/torn_restored.png")
            self.assertAllEqual(found, expected.images[0])
            os.remove("out/torn_restored.png")

    def test_figure(self):
        self.use_model("classes")
        self.write("in", self.images)
        self.write_mask()
        with mock.patch.object(
            plots, "save_restorations", wraps=plots.save_restorations
        ) as save:
            stdout, _ = self.succeed(
                *("restore", "in", "--mask", "mask.png"),
                *("--samples", 2, "--label", "dog", "--out", self.out),
            )
        self.assertNotIn("taken for", stdout)
        expected = restoration.restore(
            self.model, self.images, HOLE, label=1, num_samples=2
        )
        _, images, is_missing, shown, spread, _ = save.call_args.args
        self.assertAllEqual(images, self.images)
        self.assertAllEqual(is_missing, [HOLE] * 3)
        self.assertEqual([*shown], ["restored", "sample 1", "sample 2", "mean"])
        self.assertAllEqual(shown["restored"], expected.images)
        self.assertAllEqual(shown["sample 2"], expected.samples[:, 1])
        self.assertAllEqual(spread[:, ~HOLE[..., 0]], np.zeros([3, 10]))
        self.assertGreater(np.ptp(read_png(self.out)), 100)

    @parameterized.parameters(
        ("a.png", "", "nothing is missing in a.png: make what is missing"),
        ("a.png", "--mask wide.png", "--mask: wide.png is not of the size of "),
        ("a.png ./a.png", "--noise 5", "argument IMAGE: two files have the"),
        ("a.png", "--noise 5 --label cat", "--label: no class 'cat', but none"),
        ("empty", "--noise 5", "argument IMAGE: there are no files in empty"),
        ("a.png", "--noise 5 --out a.png", "--out: a.png is among the images"),
    )
    def test_bad(self, names, flags, message):
        self.write(".", self.images[:1], ["a.png"])
        (self.folder / "empty").mkdir()
        self.write_mask("wide.png", np.ones([4, 6, 1]))
        result = call("restore", self.path, *names.split(), *flags.split())
        self.assert_usage_error(result, message)

    def test_context(self):
        """A model of another context than what is seen restores nothing."""
        self.use(small_models.displaced(0.2, filters=4, context_shape=(1,)))
        self.write(".", self.images[:1], ["a.png"])
        result = call("restore", self.path, "a.png", "--noise", 5)
        self.assert_usage_error(result, "`context` must have the shape (1,)")


class MissingTest(folders.FolderTestCase, parameterized.TestCase):
    def test_resized(self):
        """A pixel is missing if a part of it is missing."""
        pixels = np.full([8, 8, 4], 255, np.uint8)
        pixels[3, 5, 3] = 0
        Image.fromarray(pixels).save(self.folder / "a.png")
        found = image_files.read_missing(self.folder / "a.png", (4, 4, 1))
        self.assertTrue(found[1, 2, 0])
        self.assertLess(found.sum(), 5)

    @parameterized.parameters(("png", np.uint8(1)), ("jpg", np.uint8(255)))
    def test_mask(self, suffix, white):
        """Masks may be of 0 and 1, or compressed as JPEG."""
        image, mask = self.folder / "a.png", self.folder / f"mask.{suffix}"
        disc = np.hypot(*np.mgrid[-14:14, -14:14]) < 6.5
        Image.new("L", disc.shape).save(image)
        Image.fromarray(disc * white).save(mask)
        found = image_files.read_missing(image, (28, 28, 1), mask)
        self.assertAllEqual(found[..., 0], disc)
