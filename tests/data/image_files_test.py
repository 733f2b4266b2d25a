"""Tests for files."""

import contextlib
import os
from unittest import mock

import folders
import numpy as np
import odd_images
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import random_images
from PIL import ExifTags, Image, ImageOps

from tf_realnvp.data import image_files
from tf_realnvp.errors import ImageError
from tf_realnvp.flow.values import Values


class FilesTestCase(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "image.png"
        self.enterContext(contextlib.chdir(self.folder))

    def write_pixels(self, pixels):
        self.path.write_bytes(tf.io.encode_png(pixels).numpy())


class WriteTest(FilesTestCase):
    @parameterized.parameters(
        *((number, 0) for number in (2, 3, 17, 100, 255, 256, 300, 65536)),
        *((4096, 0), (4096, 4), (1024, 2), (256, 8), (16, 8)),
    )
    def test_every_level_comes_back(self, num_colors, dropped):
        dtype = np.uint8 if num_colors <= 256 else np.uint16
        image = np.arange(num_colors).astype(dtype).reshape(1, -1, 1)
        values = Values(num_colors, dropped)
        image_files.write(self.path, image, values)
        self.assertAllEqual(
            image_files.read(self.path, image.shape, values), image
        )
        with Image.open(self.path) as file:
            pixels = np.asarray(file).astype(int)
        if num_colors > 256 or dropped:
            self.assertAllEqual(pixels, image[..., 0].astype(int) << dropped)
        else:  # Black and white are at the ends.
            self.assertEqual(pixels.shape, (1, num_colors))
            self.assertAllEqual(pixels[0, [0, -1]], [0, 255])
        self.assertEqual(os.listdir(self.folder), ["image.png"])

    def test_levels_that_a_model_lacks(self):
        image = np.array([[[5], [4096]]], np.uint16)
        image_files.write(self.path, image, 65536)
        with self.assertRaisesRegex(
            ImageError, "level 4,096, .* 4,096 levels$"
        ):
            image_files.read(self.path, image.shape, 4096)
        self.write_pixels(np.zeros(image.shape, np.uint8))
        with self.assertRaisesRegex(ImageError, "8 bits, and 16 are needed"):
            image_files.read(self.path, image.shape, 4096)


class NumbersTest(FilesTestCase):
    def test_last_axis_may_be_left_out(self):
        image = random_images(4, 6) / 7
        np.save("x.npy", image)
        read = image_files.read("x.npy", (4, 6, 1), None)
        self.assertAllEqual(read[..., 0], np.float32(image))

    @parameterized.parameters(
        (np.zeros([2, 8, 8]), r"got float64 \[2, 8, 8\]"),
        (np.zeros([4, 16, 2]), r"\[4, 16, 2\]"),
        (np.zeros([8, 8, 2], int), "int64"),
        (np.full([8, 8, 2], 1e40), "finite"),
        (np.full([8, 8, 2], np.nan), "finite"),
        (np.full([8, 8, 2], np.inf, np.float16), "finite"),
        (np.array({}), "not an .npy file of numbers"),
    )
    def test_others(self, image, message):
        np.save("x.npy", image)
        with self.assertRaisesRegex(ImageError, f"image x.npy: .*{message}"):
            image_files.read("x.npy", (8, 8, 2), None)


class ReadTest(FilesTestCase):
    @parameterized.product(of_file=(1, 2, 3, 4), of_model=(1, 3))
    def test_channels(self, of_file, of_model):
        """The alpha channel is dropped."""
        pixels = random_images(4, 4, of_file)
        self.write_pixels(pixels)
        colours = pixels[..., : of_file - (of_file % 2 == 0)]
        image = image_files.read(self.path, (4, 4, of_model))
        self.assertEqual(image.dtype, np.uint8)
        if colours.shape[-1] > of_model:
            # Rec. 601, as JPEG has it.
            expected = colours @ np.array([[0.299], [0.587], [0.114]])
            self.assertAllClose(image, expected, atol=1.0)
        else:
            self.assertAllEqual(image, np.broadcast_to(colours, image.shape))

    def test_cmyk(self):
        odd = odd_images.noise("RGB", 16, 16).resize((32, 32))
        odd.convert("CMYK").save(self.path, "JPEG", quality=95)
        color, grey = (
            image_files.read(self.path, (32, 32, c)).astype(float)
            for c in (3, 1)
        )
        expected = color @ np.array([[0.299], [0.587], [0.114]])
        self.assertAllClose(grey, expected, atol=1.0)
        by_pillow = np.asarray(Image.open(self.path).convert("RGB"))
        self.assertAllClose(color, by_pillow.astype(float), atol=20)

    def test_pipe(self):
        """Nobody writes to it: it is not waited for."""
        os.mkfifo("pipe.png")
        for num_colors in (256, None):
            with self.assertRaisesRegex(ImageError, "not a regular file"):
                image_files.read("pipe.png", (4, 4, 1), num_colors)

    @parameterized.parameters(1, 5, 8)
    def test_highest_bits(self, num_bits):
        pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
        self.write_pixels(pixels)
        image = image_files.read(self.path, (16, 16, 1), 2**num_bits)
        self.assertAllEqual(image, pixels // 2 ** (8 - num_bits))

    @parameterized.product(
        kind=("PNG", "JPEG"), orientation=(0, *range(1, 9), 9)
    )
    def test_orientation(self, kind, orientation):
        image = odd_images.noise("RGB", 4, 6)
        content = odd_images.encode(image, kind, orientation)
        self.path.write_bytes(content)
        # Pillow turns what TensorFlow decoded.
        pixels = Image.fromarray(tf.io.decode_image(content).numpy())
        pixels.getexif()[ExifTags.Base.Orientation] = orientation
        expected = np.asarray(ImageOps.exif_transpose(pixels))
        self.assertAllEqual(
            image_files.read(self.path, expected.shape), expected
        )

    def test_exif_data_that_are_damaged(self):
        image = odd_images.noise("RGB", 4, 6)
        content = odd_images.encode(image, "JPEG", 6)
        start = content.index(b"Exif") + 6
        damaged = content[:start] + b"\xff" * 8 + content[start + 8 :]
        self.path.write_bytes(damaged)
        self.assertAllEqual(
            image_files.read(self.path, (4, 6, 3)), tf.io.decode_image(content)
        )


class UnreadableTest(FilesTestCase):
    @parameterized.parameters(("I;16", {262: 0}), ("RGB", {}))
    def test_tiff_that_pillow_reads_as_other_levels(self, mode, tags):
        """White is zero, or 8 of 16 bits are left."""
        path = self.folder / "image.tif"
        Image.new(mode, (8, 8)).save(path, tiffinfo=tags)
        content = path.read_bytes()
        eight, sixteen = (np.full(3, bits, "<u2") for bits in (8, 16))
        content = content.replace(eight.tobytes(), sixteen.tobytes())
        path.write_bytes(content + bytes(192))
        with Image.open(path) as image:
            self.assertEqual(image.mode, mode)
            self.assertEqual(np.asarray(image).shape[:2], (8, 8))
            self.assertEqual(image.tag_v2[258][0], 16)
        with self.assertRaisesRegex(ImageError, "TIFF that cannot be read"):
            image_files.look(path.read_bytes())

    def assert_unreadable(self, path, reason):
        with self.assertRaisesRegex(ImageError, f"image {path}: .*{reason}"):
            image_files.read(path, (8, 8, 1))

    def test_file_larger_than_the_memory(self):
        self.path.touch()
        os.truncate(self.path, 2**42)  # It takes no room on the disk.
        self.assert_unreadable(self.path, "neither PNG nor JPEG")

    def test_no_file(self):
        self.assert_unreadable(self.folder / "x.png", "No such file")
        self.assert_unreadable(self.folder, "not a regular file")

    def test_too_large(self):
        self.write_pixels(random_images(8, 8, 1))
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 31):
            self.assert_unreadable(self.path, "too large: Image size .64 pixel")

    @parameterized.parameters(
        (b"", "neither PNG nor JPEG"),
        (odd_images.encode(odd_images.noise("RGB"), "GIF"), "neither PNG"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xd9", "damaged"),
        (odd_images.undecodable_png(), "cannot be decoded"),
    )
    def test_content(self, content, reason):
        self.path.write_bytes(content)
        self.assert_unreadable(self.path, reason)
