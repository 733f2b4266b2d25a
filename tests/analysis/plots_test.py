"""Tests for plots."""

import os
import warnings
from unittest import mock

import folders
import matplotlib.figure
import matplotlib.image
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import random_images, read_png

from tf_realnvp.analysis import plots


def count_colours(pixels):
    """How many there are; of rows `np.unique` takes long to tell."""
    return len(np.unique(pixels @ [1, 2**8, 2**16]))


class ImageGridTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        # Number of images, shape of an image, the columns that are asked for,
        # rows, columns, magnification.
        (1, (8, 8, 1), None, 1, 1, 12),
        (5, (8, 8, 3), None, 2, 3, 12),
        (2, (128, 128, 1), None, 1, 2, 1),
        (2, (8, 8, 3), 5, 1, 5, 12),
    )
    def test_layout(self, num_images, shape, asked, rows, columns, zoom):
        images = random_images(num_images, *shape)
        before = images.copy()
        height, width, _ = shape
        grid = plots.image_grid(images, columns=asked)
        self.assertAllEqual(images, before)
        self.assertEqual(grid.dtype, np.uint8)
        sides = np.array([rows * (height + 1) + 1, columns * (width + 1) + 1])
        self.assertAllEqual(grid.shape, (*zoom * sides, 3))
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

    @parameterized.parameters((2, 1), (4, 3), (7, 3))
    def test_other_channels(self, channels, num_shown):
        images = random_images(5, 8, 8, channels)
        shown = plots.image_grid(images[..., :num_shown])
        self.assertAllEqual(plots.image_grid(images), shown)
        # As `RealNVP.sample` gives them.
        self.assertAllEqual(plots.image_grid(tf.constant(images)), shown)

    def test_real_numbers(self):
        """Each has a colour of its own."""
        images = np.linspace(-3.0, 5.0, 32).reshape(2, 4, 4, 1)
        self.assertEqual(count_colours(plots.image_grid(images, None)), 33)

    def test_many(self):
        """They are magnified less, so that programs can open the file."""
        grid = plots.image_grid(np.zeros([20_000, 8, 8, 1], np.uint8))
        self.assertBetween(grid.size / 3, 2**25, 2**26)


class FilesTest(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "figure.png"

    def figure_of(self, draw, *arguments):
        """Returns the figure that a function of plots has drawn."""
        figure = matplotlib.figure.Figure
        with mock.patch.object(
            figure, "savefig", autospec=True, side_effect=figure.savefig
        ) as save:
            draw(self.path, *arguments)
        self.assertEqual(os.listdir(self.folder), ["figure.png"])
        return save.call_args.args[0]

    def test_histograms(self):
        scores = {"a": (np.zeros(9), np.ones(7)), "b": (np.ones(9), np.ones(7))}
        figure = self.figure_of(plots.save_histograms, scores, ("good", "bad"))
        first = figure.axes[0]
        self.assertEqual(first.get_title(), "a")
        labels = [bars[0].get_label() for bars in first.containers]
        self.assertEqual(labels, ["good", "bad"])
        for bars, place in zip(first.containers, (0, -1), strict=True):
            heights = [bar.get_height() for bar in bars]
            self.assertGreater(heights[place], 0.0)
            self.assertEqual(np.count_nonzero(heights), 1)

    def test_maps_are_beside_their_images(self):
        images = random_images(3, 8, 8, 3)
        maps = np.arange(3 * 64.0).reshape(3, 8, 8)
        figure = self.figure_of(plots.save_bit_maps, images, maps, "bits")
        panels = [axes.images[0].get_array() for axes in figure.axes[:6]]
        for image, values, left, right in zip(
            images, maps, panels[::2], panels[1::2], strict=True
        ):
            self.assertAllEqual(left, np.broadcast_to(image, left.shape))
            self.assertAllEqual(right, values)
        self.assertGreater(count_colours(read_png(self.path)), 50)

    def test_real_numbers(self):
        """Their colours have a bar beside the images."""
        images = np.linspace(-3.0, 5.0, 32).reshape(2, 4, 4, 1)
        maps = np.zeros([2, 4, 4])
        for draw, arguments, number in (
            (plots.save_image_grid, (images, None), 2),
            (plots.save_bit_maps, (images, maps, "nats", None), 6),
        ):
            self.assertLen(self.figure_of(draw, *arguments).axes, number)

    def test_settings_of_users(self):
        """Astronomers put the origin at the bottom, and use TeX."""
        images = random_images(4, 8, 8, 1)
        maps = np.linspace(0, 5, 4 * 64).reshape(4, 8, 8)
        rc = {"image.origin": "lower", "text.usetex": True, "axes.grid": True}
        for draw in (
            lambda: plots.save_image_grid(self.path, images),
            lambda: plots.save_bit_maps(self.path, images, maps, "bits"),
        ):
            draw()
            expected = read_png(self.path)
            with matplotlib.rc_context(rc):
                draw()
            self.assertAllEqual(read_png(self.path), expected)

    @parameterized.named_parameters(
        ("both", {"training": [(1, 3.5), (2, 3.25)], "test": [(0, 6.0)]}),
        ("before_the_first_epoch", {"training": [], "test": [(0, 6.0)]}),
    )
    def test_curves(self, curves):
        figure = self.figure_of(plots.save_loss_curve, curves, "title")
        (axes,) = figure.axes
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        self.assertEqual(labels, list(curves))
        for line, points in zip(axes.lines, curves.values(), strict=True):
            self.assertAllEqual(line.get_xydata(), np.reshape(points, [-1, 2]))
            # A line through one point can't be seen.
            if len(points) == 1:
                self.assertNotIn(line.get_marker(), ("", "None", None))
        if curves.get("training") != []:
            # There is no epoch 0.5.
            ticks = np.array(axes.get_xticks())
            self.assertAllEqual(ticks, np.round(ticks))
        # Something is drawn, in the colour of the first curve too.
        self.assertGreater(count_colours(read_png(self.path)), 10)

    @parameterized.parameters(
        (r"$\alpha$ %s {} 日本", r"$\alpha$ %s {} 日本"),
        ("a\udcffb\x00", r"a\udcffb\x00"),
    )
    def test_any_title(self, title, shown):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            curves = {"test": [(0, 6.0), (1, 5.0)]}
            figure = self.figure_of(plots.save_loss_curve, curves, title)
        (axes,) = figure.axes
        self.assertEqual(axes.get_title(), shown)
        # None of it is taken for mathematics.
        self.assertFalse(axes.title.get_parse_math())
