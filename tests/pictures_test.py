"""Tests for pictures."""

import os
import pathlib
import socket
import tempfile
import warnings
from unittest import mock

import matplotlib.image
import numpy as np
import odd_pictures
import tensorflow as tf
from absl.testing import parameterized
from PIL import ExifTags, Image, ImageOps

from tf_realnvp import pictures, runtime
from tf_realnvp.errors import PictureError


def random_image(*shape, num_colors=256, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(num_colors, size=shape).astype(np.uint8)


class PicturesTestCase(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "picture.png"

    def write_pixels(self, pixels):
        self.path.write_bytes(tf.io.encode_png(pixels).numpy())


class WriteTest(PicturesTestCase):
    @parameterized.product(num_colors=(2, 3, 17, 100, 255, 256))
    def test_every_level_comes_back(self, num_colors):
        image = np.arange(num_colors, dtype=np.uint8).reshape(1, -1, 1)
        pictures.write(self.path, image, num_colors)
        self.assertAllEqual(
            pictures.read(self.path, image.shape, num_colors), image
        )

    @parameterized.parameters(1, 3)
    def test_pixel_for_pixel(self, channels):
        image = random_image(6, 4, channels)
        pictures.write(self.path, image)
        # Another library reads it: no colour for grey, no magnification.
        pixels = matplotlib.image.imread(self.path)
        self.assertAllEqual(
            np.round(255 * pixels.reshape(6, 4, channels)), image
        )
        self.assertEqual(os.listdir(self.folder), ["picture.png"])

    def test_black_and_white(self):
        image = np.array([[[0], [16]]], np.uint8)
        pictures.write(self.path, image, 17)
        self.assertAllEqual(matplotlib.image.imread(self.path), [[0.0, 1.0]])


class ReadTest(PicturesTestCase):
    def test_grey_for_a_colour_model(self):
        grey = random_image(4, 4, 1)
        self.write_pixels(grey)
        self.assertAllEqual(
            pictures.read(self.path, (4, 4, 3)), np.repeat(grey, 3, axis=-1)
        )

    def test_colour_for_a_grey_model(self):
        colour = random_image(4, 4, 3)
        self.write_pixels(colour)
        image = pictures.read(self.path, (4, 4, 1))
        self.assertEqual(image.dtype, np.uint8)
        # Rec. 601, as JPEG has it.
        expected = colour @ np.array([[0.299], [0.587], [0.114]])
        self.assertAllClose(image, expected, atol=1.0)

    @parameterized.parameters(2, 4)
    def test_opacity_is_left_out(self, channels):
        pixels = random_image(4, 4, channels)
        self.write_pixels(pixels)
        self.assertAllEqual(
            pictures.read(self.path, (4, 4, channels - 1)), pixels[..., :-1]
        )

    def test_sixteen_bits(self):
        pixels = np.array([[[0], [65535], [128 * 257]]], np.uint16)
        self.write_pixels(pixels)
        self.assertAllEqual(
            pictures.read(self.path, (1, 3, 1)), [[[0], [255], [128]]]
        )

    @parameterized.parameters((1, 1), (1, 3), (3, 1), (3, 3))
    def test_jpeg(self, of_picture, of_model):
        pixels = np.full((8, 8, of_picture), 100, np.uint8)
        path = self.folder / "picture.jpeg"
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
        image = pictures.read(path, (8, 8, of_model))
        self.assertEqual(image.shape, (8, 8, of_model))
        self.assertAllClose(image, np.full(image.shape, 100), atol=2.0)

    @parameterized.named_parameters(
        # Shape of the picture and of the image, and the middle in the picture:
        # its top, left, height and width.
        ("wide", (4, 8), (4, 4), (0, 2, 4, 4)),
        ("tall", (8, 4), (4, 4), (2, 0, 4, 4)),
        ("odd", (4, 7), (4, 4), (0, 1, 4, 4)),
        ("wide_model", (8, 8), (4, 8), (2, 0, 4, 8)),
        ("tall_model", (8, 8), (8, 4), (0, 2, 8, 4)),
    )
    def test_crop(self, picture_shape, shape, middle):
        pixels = random_image(*picture_shape, 3)
        self.write_pixels(pixels)
        top, left, height, width = middle
        self.assertAllEqual(
            pictures.read(self.path, (*shape, 3)),
            pixels[top : top + height, left : left + width],
        )

    def test_resize_is_antialiased(self):
        # Stripes of a pixel: without a filter they would be black or white.
        pixels = np.zeros((64, 96, 1), np.uint8)
        pixels[:, ::2] = 255
        self.write_pixels(pixels)
        image = pictures.read(self.path, (8, 8, 1))
        self.assertEqual(image.shape, (8, 8, 1))
        self.assertAllInRange(image, 112, 143)
        # With fewer levels the middle one: rounded, not cut off.
        self.assertAllEqual(
            pictures.read(self.path, (8, 8, 1), 17), np.full((8, 8, 1), 8)
        )

    @parameterized.product(
        kind=("PNG", "JPEG"), orientation=(0, *range(1, 9), 9)
    )
    def test_orientation(self, kind, orientation):
        picture = odd_pictures.noise("RGB", 4, 6)
        content = odd_pictures.encode(picture, kind, orientation)
        self.path.write_bytes(content)
        # Pillow turns what TensorFlow decoded.
        pixels = Image.fromarray(tf.io.decode_image(content).numpy())
        pixels.getexif()[ExifTags.Base.Orientation] = orientation
        expected = np.asarray(ImageOps.exif_transpose(pixels))
        self.assertAllEqual(pictures.read(self.path, expected.shape), expected)

    def test_exif_data_that_are_damaged(self):
        picture = odd_pictures.noise("RGB", 4, 6)
        content = odd_pictures.encode(picture, "JPEG", 6)
        start = content.index(b"Exif") + 6
        damaged = content[:start] + b"\xff" * 8 + content[start + 8 :]
        self.path.write_bytes(damaged)
        self.assertAllEqual(
            pictures.read(self.path, (4, 6, 3)), tf.io.decode_image(content)
        )

    @parameterized.parameters(1, 3)
    def test_colours_of_print(self, channels):
        picture = odd_pictures.noise("CMYK")
        self.path.write_bytes(odd_pictures.encode(picture, "JPEG"))
        decoded = Image.open(self.path).convert("L" if channels == 1 else "RGB")
        self.assertAllClose(
            pictures.read(self.path, (12, 12, channels)),
            np.asarray(decoded).reshape(12, 12, channels),
            atol=5,
        )

    @parameterized.product(mode=("L", "RGB", "CMYK"), channels=(1, 3))
    def test_faults_that_are_recovered_from(self, mode, channels):
        picture = odd_pictures.noise(mode)
        good = odd_pictures.encode(picture, "JPEG")
        self.path.write_bytes(odd_pictures.faulty_jpeg(picture))
        shape = (12, 12, channels)
        with runtime.silent_stderr() as written:
            image = pictures.read(self.path, shape)
            self.assertEqual(written(), b"")
        # What is at fault comes behind the pixels.
        self.path.write_bytes(good)
        self.assertAllClose(image, pictures.read(self.path, shape), atol=20)

    def test_no_warnings(self):
        """Python's would be a line that names no picture."""
        self.write_pixels(random_image(8, 8, 3))
        with (
            mock.patch.object(Image, "MAX_IMAGE_PIXELS", 50),
            self.assertNoLogs(),
            warnings.catch_warnings(action="error"),
        ):
            pictures.read(self.path, (8, 8, 3))

    @parameterized.parameters((1, 1), (3, 5), (8, 6), (20, 1), (1, 20))
    def test_any_size(self, *size):
        self.write_pixels(np.full((*size, 3), 255, np.uint8))
        self.assertAllEqual(
            pictures.read(self.path, (4, 6, 3), 17),
            np.full((4, 6, 3), 16),
        )


class UnreadableTest(PicturesTestCase):
    def assert_unreadable(self, path, reason):
        with self.assertRaises(PictureError) as context:
            pictures.read(path, (8, 8, 1))
        message = str(context.exception)
        self.assertStartsWith(message, f"cannot read the picture {path}: ")
        self.assertIn(reason, message)
        self.assertNotIn("\n", message)

    def test_missing(self):
        self.assert_unreadable(self.folder / "x.png", "No such file")

    def test_folder(self):
        self.assert_unreadable(self.folder, "Is a directory")

    def test_links_that_lead_nowhere(self):
        self.path.symlink_to("nowhere")
        self.assert_unreadable(self.path, "No such file")
        circle = self.folder / "circle.png"
        circle.symlink_to(circle)
        self.assert_unreadable(circle, "symbolic links")

    def test_no_permission(self):
        self.path.touch()
        error = PermissionError(13, "Permission denied", str(self.path))
        # A mode would not keep root out.
        with mock.patch.object(pathlib.Path, "read_bytes", side_effect=error):
            self.assert_unreadable(self.path, "Permission denied")

    def test_what_may_never_end(self):
        pipe = self.folder / "pipe.png"
        os.mkfifo(pipe)
        self.assert_unreadable(pipe, "not a regular file")
        self.path.symlink_to("/dev/null")
        self.assert_unreadable(self.path, "not a regular file")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{self.folder}/socket")
            self.assert_unreadable(self.folder / "socket", "not a regular file")

    @parameterized.parameters("a\nb.png", "\udcff.png")
    def test_name_that_is_no_line_of_text(self, name):
        with self.assertRaises(PictureError) as context:
            pictures.read(self.folder / name, (8, 8, 1))
        self.assertNotIn("\n", str(context.exception))
        str(context.exception).encode()

    def test_too_large(self):
        self.write_pixels(random_image(8, 8, 1))
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 31):
            self.assert_unreadable(self.path, "too large: more than 62 pixels")

    @parameterized.parameters("BMP", "GIF", "WEBP", "TIFF")
    def test_other_formats(self, kind):
        odd_pictures.noise("RGB").save(self.path, kind)
        self.assert_unreadable(self.path, "neither PNG nor JPEG")

    def test_animation(self):
        frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        frames[0].save(self.path, save_all=True, append_images=frames[1:])
        self.assert_unreadable(self.path, "animated")

    @parameterized.parameters(b"", b"words", b"\x89PNG\n")
    def test_no_picture(self, content):
        self.path.write_bytes(content)
        self.assert_unreadable(self.path, "neither PNG nor JPEG")

    @parameterized.parameters(
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        odd_pictures.undecodable_png(),
    )
    def test_nothing_in_it(self, content):
        self.path.write_bytes(content)
        self.assert_unreadable(self.path, "it is damaged")

    @parameterized.parameters(tf.io.encode_png, tf.io.encode_jpeg)
    def test_cut_off(self, encode):
        content = encode(random_image(64, 64, 3)).numpy()
        for size in (30, len(content) // 2, len(content) - 30):
            self.path.write_bytes(content[:size])
            with runtime.silent_stderr() as written:
                self.assert_unreadable(self.path, "damaged")
                self.assertEqual(written(), b"")


if __name__ == "__main__":
    tf.test.main()
