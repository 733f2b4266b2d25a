"""Tests for direction."""

import functools
import os
import re
from unittest import mock

import command_lines
import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import read_png

from tf_realnvp import data, latents
from tf_realnvp.cli import main
from tf_realnvp.images import files as image_files
from tf_realnvp.images import plots

NUM_COLORS = small_models.NUM_COLORS

call = functools.partial(command_lines.call, main.main)


class DirectionTest(command_lines.CommandTestCase, parameterized.TestCase):
    name = r"tf-realnvp direction"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path, cls.loaded = small_models.saved(), small_models.opened()

    def setUp(self):
        super().setUp()
        self.use(self.loaded)
        (self.image,) = small_models.images(1)
        self.picture = self.folder / "picture.png"
        image_files.write(self.picture, self.image, NUM_COLORS)
        self.out = self.folder / "out.png"

    @parameterized.parameters(
        ("--with a --without b --apply", "--apply"),
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
            images = self.loaded.decode(points.astype(np.float32))
            for number, image in enumerate(images):
                image_files.write(
                    names[-1] / f"{number}.png", image, NUM_COLORS
                )
        return names

    def direction(self, *folders_and_flags):
        present, absent, *flags = folders_and_flags
        return call(
            *("direction", self.path, "--with", present, "--without", absent),
            *("--out", self.out, *flags),
        )

    def rows(self, *folders_and_flags):
        """Returns the images of each row: a list of arrays."""
        with mock.patch.object(plots, "save_image_grid") as save:
            code, _, stderr = self.direction(*folders_and_flags)
        self.assertEqual(code, 0, stderr)
        _, images, num_colors, columns = save.call_args.args
        self.assertEqual(num_colors, NUM_COLORS)
        return np.split(images, len(images) // columns)

    def test_direction(self):
        present, absent = self.folders(20, 1.0, -1.0)
        (absent / "notes.txt").write_text("words")
        code, stdout, stderr = self.direction(
            *(present, absent, "--strength", "-5e-1", 1, "--steps", 4),
            *("--apply", self.picture),
        )
        self.assertEqual(code, 0)
        self.assertIn("notes.txt", stderr)
        auroc, *counts = re.findall(r"\d[\d.]*", stdout.replace("0.5", ""))[:3]
        self.assertGreater(float(auroc), 0.9)
        self.assertEqual(counts, ["4", "4"])
        means = [
            self.loaded.encode(
                np.stack(
                    [
                        image_files.read(path, (4, 4, 1), NUM_COLORS)
                        for path in folder.glob("*.png")
                    ]
                )
            ).mean(axis=0)
            for folder in (present, absent)
        ]
        (start,) = self.loaded.encode(self.image[None])
        moved = [start + s * (means[0] - means[1]) for s in (-0.5, 0, 0.5, 1)]
        images = self.loaded.decode(np.stack(moved).astype(np.float32))
        self.assertAllEqual(images[1], self.image)
        self.assertAllEqual(
            read_png(self.out), plots.image_grid(images, NUM_COLORS, 4)
        )

    def test_several_pictures(self):
        folders = self.folders(6, 1.0, -1.0)
        (*images,) = small_models.images(3)
        paths = [self.folder / f"{number}.png" for number in range(3)]
        for path, image in zip(paths, images, strict=True):
            image_files.write(path, image, NUM_COLORS)
        flags = ("--steps", 3, "--apply")
        rows = self.rows(*folders, *flags, *paths)
        self.assertLen(rows, 3)
        for path, image, row in zip(paths, images, rows, strict=True):
            self.assertAllEqual(row[1], image)
            (alone,) = self.rows(*folders, *flags, path)
            self.assertAllEqual(row, alone)

    @parameterized.parameters((9, 4), (3, 3))
    def test_no_pictures(self, num_images, num_rows):
        present, absent = self.folders(num_images, 1.0, -1.0)
        rows = self.rows(present, absent, "--steps", 3)
        self.assertLen(rows, num_rows)
        images = {
            image_files.read(
                path, small_models.IMAGE_SHAPE, NUM_COLORS
            ).tobytes()
            for path in absent.glob("*.png")
        }
        shown = {row[1].tobytes() for row in rows}
        self.assertContainsSubset(shown, images)
        self.assertLen(shown, num_rows)
        seed = ("--seed", 1)
        other = self.rows(present, absent, "--steps", 3, *seed)
        self.assertNotAllEqual(rows, other)

    def test_classes(self):
        """Of a data set: a direction from 3 to 7."""
        dataset = data.load("digits", image_size=4, labels=True)
        means = [
            self.loaded.encode(
                dataset.take(
                    "test", np.flatnonzero(dataset.test.labels == label)
                )
            ).mean(axis=0)
            for label in (7, 3)
        ]
        (start,) = self.loaded.encode(self.image[None])
        expected = self.loaded.decode((start + means[0] - means[1])[None])
        (row,) = self.rows(
            *("digits:7", "digits:3", "--apply", self.picture),
            *("--strength", 0, 1, "--steps", 2),
        )
        self.assertAllEqual(row, [self.image, expected[0]])

    @parameterized.parameters(
        ("digits:3", "DIGITS:3", "--without: it has pictures of --with"),
        ("digits:3", "digits", "--without: it has pictures of --with"),
        ("digits:3", "digits:cat", "--without: digits has no class 'cat', but"),
        ("digits:cat", "digits:3", "no class 'cat', but 0, 1, 2, 3, 4, 5"),
    )
    def test_bad_classes(self, present, absent, message):
        result = self.direction(present, absent)
        self.assert_usage_error(result, message)
        self.assertFalse(self.out.exists())

    def test_what_it_is_measured_on_has_no_part_in_it(self):
        folders = self.folders(10, 0.0, 0.0)
        with (
            mock.patch.object(
                latents, "direction", wraps=latents.direction
            ) as direction,
            mock.patch.object(
                latents, "separation", wraps=latents.separation
            ) as separation,
        ):
            _, stdout, _ = self.direction(*folders)
        rest = direction.call_args_list[0].args
        found, *apart = separation.call_args.args
        self.assertAllEqual(found, latents.direction(*rest))
        auroc = latents.separation(found, *apart)
        self.assertIn(f"AUROC {auroc:.3f} ", stdout)
        for others, some in zip(rest, apart, strict=True):
            self.assertEqual((len(others), len(some)), (8, 2))
            points = {point.tobytes() for point in (*others, *some)}
            self.assertLen(points, 10)

    def test_bad_directions(self):
        present, absent = self.folders(2, 1.0, -1.0)
        result = self.direction(present, absent, "--strength", 0, "3e38")
        self.assert_usage_error(result, "--strength", "cannot be decoded")
        result = self.direction(present, f"./{present.name}")
        self.assert_usage_error(result, "--without: it has pictures of --with")
        result = self.direction(present, f"{absent}:cat")
        self.assert_usage_error(result, "no class 'cat' and no folders")
        content = (present / "0.png").read_bytes()
        result = self.direction(present, absent, "--out", present / "0.png")
        self.assert_usage_error(result, "--out: ", "pictures of --with")
        self.assertEqual((present / "0.png").read_bytes(), content)
        (absent / "0.png").unlink()
        result = self.direction(present, absent)
        self.assert_usage_error(result, str(absent), "--without", "at least 2")
        self.assert_usage_error(self.direction(present, "none"), "none")
        self.assertFalse(self.out.exists())


class ConditionalTest(command_lines.CommandTestCase, parameterized.TestCase):
    """With a model that has classes."""

    name = r"tf-realnvp direction"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved_conditional()
        cls.loaded = small_models.opened_conditional()

    def setUp(self):
        super().setUp()
        self.use(self.loaded)
        self.enterContext(
            mock.patch.object(
                self.loaded,
                "log_prob_of_classes",
                lambda images, *_, each: (
                    9.0 * np.eye(3)[images[:, 1, 1, 0] % 3]
                ),
            )
        )
        self.images = small_models.images(140)
        for index, image in enumerate(self.images):
            folder = self.folder / ("present" if index % 2 else "absent")
            folder.mkdir(exist_ok=True)
            image_files.write(folder / f"{index}.png", image, NUM_COLORS)

    def direction(self, *argv):
        return call(
            *("direction", self.path, "--with", "present"),
            *("--without", "absent", "--steps", 3, *argv),
        )

    @parameterized.parameters("dog", None)
    def test_direction(self, name):
        """Each picture is moved within its class."""
        labels = np.full(140, 1)
        if name is None:
            labels = self.images[:, 1, 1, 0] % 3
            self.assertGreater(len(set(labels[:4])), 1)
        points = self.loaded.encode(self.images, labels)
        steps = points[1::2].mean(axis=0) - points[::2].mean(axis=0)
        expected = [
            self.loaded.decode(points[:4] + strength * steps, labels[:4])
            for strength in (-0.5, 0.0, 0.5)
        ]
        flags = () if name is None else ("--label", name)
        paths = [
            f"{'present' if index % 2 else 'absent'}/{index}.png"
            for index in range(4)
        ]
        with mock.patch.object(plots, "save_image_grid") as save:
            code, _, stderr = self.direction(
                *("--strength", -0.5, 0.5, "--apply", *paths, *flags)
            )
        self.assertEqual((code, stderr), (0, ""))
        images = save.call_args.args[1].reshape(4, 3, 4, 4, 1)
        self.assertAllEqual(images[:, 1], self.images[:4])
        self.assertAllEqual(images, np.stack(expected, axis=1))

    def test_no_such_class(self):
        result = self.direction("--label", "bird")
        self.assert_usage_error(result, "no class 'bird', but cat, dog, old")


if __name__ == "__main__":
    tf.test.main()
