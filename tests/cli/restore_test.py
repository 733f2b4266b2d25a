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
from small_models import random_images

from tf_realnvp import restoration
from tf_realnvp.analysis import plots
from tf_realnvp.data import image_files

HOLE = np.zeros([4, 4, 1], bool)
HOLE[1:3, :3] = True


class RestoreTest(ModelTestCase):
    """What restores images is for `restoration_test`."""

    def setUp(self):
        super().setUp()
        self.images, self.results = small_models.images(3), []
        self.enterContext(
            mock.patch.object(restoration, "restore", self.answer)
        )

    def answer(self, model, images, is_missing, label, n, seed, **_):
        """Returns any restorations of the right shapes."""
        self.asked = images, is_missing, label, n, seed
        rng, shape = np.random.default_rng(0), images.shape
        mean, std = rng.uniform(4.0, 12.0, size=(2, *shape))
        samples = random_images(shape[0] * n, 2)
        samples = samples.reshape(shape[0], n, *shape[1:])
        labels = None if not model.num_classes else np.arange(len(images)) % 3
        restored = random_images(len(images), 1)
        self.result = restoration.Restoration(
            restored, samples, mean, std, labels
        )
        self.results.append(self.result)
        return self.result

    def use_model(self, kind):
        """As one that observes masks; a context takes no part in this."""
        super().use_model(kind)
        self.path = small_models.copied(self.path, self.folder, observe="mask")
        self.enterContext(mock.patch.object(self.model, "observe", "mask"))

    def write_mask(self, name="mask.png", hole=HOLE):
        image_files.write(name, np.uint8(hole), 2)

    def restored(self, name):
        return image_files.read(name, small_models.IMAGE_SHAPE, 17)

    @parameterized.parameters("classes", "plain")
    def test_folder(self, kind):
        """One mask serves all images of a folder."""
        self.use_model(kind)
        self.write("in", self.images)
        self.write_mask()
        flags = ("--mask", "mask.png", "--seed", 3, "--out", "out/")
        stdout, _ = self.succeed("restore", "in", "--samples", 2, *flags)
        images, is_missing, *others = self.asked
        self.assertAllEqual(images, self.images)
        self.assertAllEqual(is_missing, [HOLE] * 3)
        self.assertEqual(others, [None, 2, 3])
        self.assertLen(os.listdir("out"), 3 * 5)
        for index in range(3):
            for name, image in (
                ("restored", self.result.images[index]),
                ("sample_0001", self.result.samples[index, 1]),
                ("mean", np.rint(self.result.mean[index])),
                ("spread", np.rint(self.result.std[index])),
            ):
                found = self.restored(f"out/{index:03d}_{name}.png")
                self.assertAllEqual(found, image, name)
        names = small_models.CLASS_NAMES if kind == "classes" else ()
        taken = [f"00{k}.png: taken for {name}" for k, name in enumerate(names)]
        self.assertEqual(stdout.splitlines(), [*taken, "out/"])
        result = call("restore", self.path, "in", *flags)
        self.assert_usage_error(result, "--out: out/ has *_restored.png of")

    def test_transparent(self):
        """What is transparent is missing."""
        grey = image_files.to_pixels(self.images[0], small_models.NUM_COLORS)
        alpha = np.where(HOLE, 0, 255).astype(np.uint8)
        pixels = np.concatenate([grey, alpha], axis=-1)
        Image.fromarray(pixels, "LA").save("torn.png")
        stdout, _ = self.succeed("restore", "torn.png", "--out", "out/")
        self.assertEqual(stdout, "out/\n")
        self.assertIn("torn_restored.png", os.listdir("out"))
        _, is_missing, *others = self.asked
        self.assertAllEqual(is_missing, [HOLE])
        self.assertEqual(others, [None, 16, 0])

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
        self.assertEqual(self.asked[2], 1)
        _, images, is_missing, shown, spread, _ = save.call_args.args
        self.assertAllEqual(images, self.images)
        self.assertAllEqual(is_missing, [HOLE] * 3)
        self.assertEqual([*shown], ["restored", "sample 1", "sample 2", "mean"])
        self.assertAllEqual(shown["restored"], self.result.images)
        self.assertAllEqual(shown["sample 2"], self.result.samples[:, 1])
        std = self.result.std[..., 0] * 255 / 16
        self.assertAllClose(spread, std)
        self.assertGreater(np.ptp(read_png(self.out)), 100)

    @parameterized.parameters(
        ("a.png", "", "nothing is missing in a.png: make what is missing"),
        ("a.png", "--mask wide.png", "--mask: wide.png is not of the size of "),
        ("a.png ./a.png", "", "argument IMAGE: two files have the"),
        ("a.png", "--label cat", "--label: no class 'cat', but none"),
        ("empty", "", "argument IMAGE: there are no files in empty"),
        ("a.png", "--out a.png", "--out: a.png is among the images"),
        ("a.png", "--reference r --out r/a.png", "is among the images: r"),
    )
    def test_bad(self, names, flags, message):
        self.write(".", self.images[:1], ["a.png"])
        (self.folder / "empty").mkdir()
        self.write_mask("wide.png", np.ones([4, 6, 1]))
        result = call("restore", self.path, *names.split(), *flags.split())
        self.assert_usage_error(result, message)

    def test_intervals(self):
        """They are by images of which the same is hidden."""
        model = small_models.shared(observe="mask")
        normal = small_models.images(40, seed=1)
        self.write("normal", normal)
        self.write("in", self.images)
        self.write_mask()
        flags = ("--samples", 2, "--interval", 0.8, "--out", "out/")
        flags += ("--mask", "mask.png", "--reference", "normal")
        stdout, _ = self.succeed("restore", "in", *flags)
        images, is_missing, *_ = self.asked
        self.assertAllEqual(images, normal)
        self.assertAllEqual(is_missing, np.tile(HOLE, [40, 1, 1, 1]))
        found, others = self.results
        factor = restoration.interval_factor(
            model.values, others, normal, 0.8, is_missing
        )
        self.assertIn(f"intervals of {factor:.2f} times the spread", stdout)
        self.assertIn("80% of the missing values of 40 readable", stdout)
        ends = restoration.interval(model.values, found, factor, HOLE)
        for name, images in zip(("lower", "upper"), ends, strict=True):
            for number, image in enumerate(images):
                written = self.restored(f"out/{number:03d}_{name}.png")
                self.assertAllEqual(written, image)
        self.succeed("restore", "in", *flags, "--out", "rows.png")
        self.assertGreater(np.ptp(read_png("rows.png")), 100)


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
