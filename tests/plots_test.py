"""Tests for plots."""

import os
import pathlib
import tempfile
import warnings
from unittest import mock

import matplotlib.figure
import matplotlib.image
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import plots


def random_images(*shape, num_colors=256, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, num_colors, size=shape, dtype=np.uint8)


def read_png(path):
    """Pixels of a PNG file, `uint8` `[height, width, 3]`."""
    pixels = matplotlib.image.imread(path)
    return np.round(255 * pixels[..., :3]).astype(np.uint8)


class ImageGridTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        # Number of images, shape of an image, rows, columns, magnification.
        ("one", 1, (8, 8, 1), 1, 1, 12),
        ("square", 36, (8, 8, 1), 6, 6, 12),
        ("colour", 4, (32, 32, 3), 2, 2, 3),
        ("last_row_in_part", 5, (8, 8, 3), 2, 3, 12),
        ("two", 2, (8, 8, 1), 1, 2, 12),
        ("wide", 4, (4, 6, 3), 2, 2, 16),
        ("tall", 4, (6, 4, 3), 2, 2, 16),
        ("large", 2, (128, 128, 1), 1, 2, 1),
    )
    def test_layout(self, num_images, shape, rows, columns, zoom):
        images = random_images(num_images, *shape)
        height, width, _ = shape
        grid = plots.image_grid(images)
        self.assertEqual(grid.dtype, np.uint8)
        self.assertEqual(
            grid.shape,
            (
                zoom * (rows * (height + 1) + 1),
                zoom * (columns * (width + 1) + 1),
                3,
            ),
        )
        # Exact squares of one colour: nothing is blurred.
        pixels = grid[::zoom, ::zoom]
        self.assertAllEqual(grid, np.kron(pixels, np.ones((zoom, zoom, 1))))
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            top = 1 + row * (height + 1)
            left = 1 + column * (width + 1)
            place = pixels[top : top + height, left : left + width]
            self.assertAllEqual(place, np.broadcast_to(image, place.shape))
            place[...] = 255
        # The gaps, and the places without an image.
        self.assertAllEqual(pixels, np.full_like(pixels, 255))

    @parameterized.named_parameters(
        ("two_levels", 2, [0, 1], [0, 255]),
        # 8 * 255 / 16 is 127.5.
        ("digits", 17, [0, 1, 4, 8, 15, 16], [0, 16, 64, 128, 239, 255]),
        ("all_levels", 256, [0, 1, 127, 254, 255], [0, 1, 127, 254, 255]),
    )
    def test_levels(self, num_colors, levels, expected):
        image = np.reshape(np.array(levels, np.uint8), (1, 1, -1, 1))
        grid = plots.image_grid(image, num_colors)
        zoom = 96 // len(levels)
        line = grid[zoom, zoom:-zoom:zoom]
        self.assertAllEqual(line, np.repeat(expected, 3).reshape(-1, 3))

    @parameterized.parameters((6, 6, 1), (6, 1, 6), (6, 4, 2), (2, 5, 1))
    def test_columns(self, num_images, columns, rows):
        images = random_images(num_images, 8, 8, 3)
        pixels = plots.image_grid(images, columns=columns)[::12, ::12]
        self.assertEqual(pixels.shape, (9 * rows + 1, 9 * columns + 1, 3))
        for index, image in enumerate(images):
            top, left = (1 + 9 * i for i in divmod(index, columns))
            self.assertAllEqual(pixels[top : top + 8, left : left + 8], image)

    def test_images_stay_as_they_are(self):
        images = random_images(4, 8, 8, 1, num_colors=17)
        before = images.copy()
        plots.image_grid(images, 17)
        self.assertAllEqual(images, before)


class FilesTestCase(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "picture.png"


class SaveImageGridTest(FilesTestCase, parameterized.TestCase):
    @parameterized.parameters((36, 1, 17), (5, 3, 256))
    def test_file_holds_the_grid(self, num_images, channels, num_colors):
        images = random_images(
            num_images, 8, 8, channels, num_colors=num_colors
        )
        plots.save_image_grid(self.path, images, num_colors)
        self.assertAllEqual(
            read_png(self.path), plots.image_grid(images, num_colors)
        )
        self.assertEqual(os.listdir(self.folder), ["picture.png"])
        plots.save_image_grid(self.path, images, num_colors, columns=2)
        self.assertAllEqual(
            read_png(self.path), plots.image_grid(images, num_colors, 2)
        )

    def test_exception_leaves_nothing(self):
        def fail(path, *unused):
            pathlib.Path(path).write_text("half a picture")
            raise OSError("No space left on device")

        with mock.patch.object(matplotlib.image, "imsave", fail):
            with self.assertRaisesRegex(OSError, "No space left"):
                plots.save_image_grid(self.path, random_images(1, 8, 8, 1))
        self.assertEmpty(os.listdir(self.folder))


class SaveLossCurveTest(FilesTestCase, parameterized.TestCase):
    def save(self, curves, title="RealNVP on digits"):
        """Saves a curve, and returns the axes that were drawn."""
        figures = []
        savefig = matplotlib.figure.Figure.savefig

        def record(figure, *args, **kwargs):
            figures.append(figure)
            return savefig(figure, *args, **kwargs)

        with mock.patch.object(matplotlib.figure.Figure, "savefig", record):
            plots.save_loss_curve(self.path, curves, title)
        self.assertEqual(os.listdir(self.folder), ["picture.png"])
        (figure,) = figures
        (axes,) = figure.axes
        return axes

    def assert_curves(self, axes, curves):
        self.assertEqual(axes.get_title(), "RealNVP on digits")
        self.assertEqual(axes.get_xlabel(), "epoch")
        self.assertIn("bits/dim", axes.get_ylabel())
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        self.assertEqual(labels, list(curves))
        drawn = {line.get_label(): line for line in axes.get_lines()}
        self.assertEqual(set(drawn), set(curves))
        for label, points in curves.items():
            line = drawn[label]
            data = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
            self.assertEqual(data, points)

    def test_curves(self):
        curves = {
            "training": [(1, 3.5), (2, 3.25)],
            "test": [(0, 6.0), (1, 3.75), (2, 3.5)],
        }
        axes = self.save(curves)
        self.assert_curves(axes, curves)
        # There is no epoch 0.5.
        ticks = np.array(axes.get_xticks())
        self.assertAllEqual(ticks, np.round(ticks))
        pixels = read_png(self.path)
        # Something is drawn, in the colour of the first curve too.
        self.assertGreater(len(np.unique(pixels.reshape(-1, 3), axis=0)), 10)

    def test_before_the_first_epoch(self):
        curves = {"training": [], "test": [(0, 6.0)]}
        axes = self.save(curves)
        self.assert_curves(axes, curves)
        # A line through one point can't be seen.
        (line,) = (n for n in axes.get_lines() if n.get_label() == "test")
        self.assertNotIn(line.get_marker(), ("", "None", None))
        self.assertEqual(read_png(self.path).shape[-1], 3)

    @parameterized.parameters(
        ("cash$5_to_$9_", "cash$5_to_$9_"),
        (r"$\alpha$", r"$\alpha$"),
        ("a\udcffb", r"a\udcffb"),
        ("two\nlines\x00", r"two\nlines\x00"),
        ("%s {} ü", "%s {} ü"),
        ("日本", "日本"),
        ("x" * 300, "x" * 70 + "..."),
    )
    def test_any_title(self, title, shown):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            axes = self.save({"test": [(0, 6.0), (1, 5.0)]}, title)
        self.assertEqual(axes.get_title(), shown)
        # None of it is taken for mathematics.
        self.assertFalse(axes.title.get_parse_math())

    def test_many_epochs(self):
        points = [(epoch, 4.0 + 2.0**-epoch) for epoch in range(351)]
        curves = {"training": points[1:], "test": points}
        self.assert_curves(self.save(curves), curves)

    def test_exception_leaves_the_old_picture(self):
        self.path.write_text("old")

        def fail(unused_figure, path, **unused_kwargs):
            pathlib.Path(path).write_text("half a picture")
            raise OSError("No space left on device")

        with mock.patch.object(matplotlib.figure.Figure, "savefig", fail):
            with self.assertRaisesRegex(OSError, "No space left"):
                plots.save_loss_curve(self.path, {"test": [(0, 6.0)]}, "")
        self.assertEqual(os.listdir(self.folder), ["picture.png"])
        self.assertEqual(self.path.read_text(), "old")


if __name__ == "__main__":
    tf.test.main()
