"""Tests for preprocessing."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import random_images

from tf_realnvp.data import preprocessing


def triangle(size, new_size):
    """The matrix of an antialiased bilinear filter."""
    scale = size / new_size
    centers = (np.arange(new_size) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centers[:, np.newaxis])
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


class ResizeTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        # Of the image; what is asked for; and top, left, height and width of
        # what is cut out.
        ((20, 13, 3), (4, 4), (3, 0, 13, 13)),
        ((5, 5, 3), (8, 8), (0, 0, 5, 5)),
        ((20, 13, 3), (4, 8), (6, 0, 7, 13)),  # Of 6.5 rows.
        ((20, 13, 3), (8, 4), (0, 1, 20, 10)),
        ((2, 50, 1), (64, 2), (0, 24, 2, 1)),
    )
    def test_central_part_by_an_antialiased_filter(self, shape, size, part):
        image = random_images(*shape)
        top, left, height, width = part
        part = image[top : top + height, left : left + width]
        rows, columns = triangle(height, size[0]), triangle(width, size[1])
        exact = np.einsum("ih,jw,hwc->ijc", rows, columns, part)
        resized = preprocessing.resize(tf.constant(image), size)
        self.assertEqual(resized.dtype, tf.uint8)
        self.assertEqual(resized.shape, (*size, shape[2]))
        self.assertAllClose(tf.cast(resized, tf.float32), exact, atol=0.51)
