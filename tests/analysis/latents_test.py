"""Tests for latents."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import latents


def random_latents(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(np.float32)


class SlerpTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(1e-3, 0.1, 1.0, math.pi / 2, 3.0)
    def test_arc(self, angle):
        """The points are those of a rotation."""
        start, across = 7.0 * np.linalg.qr(random_latents(16, 2))[0].T

        def rotated(angle):
            return math.cos(angle) * start + math.sin(angle) * across

        points = latents.slerp(start, rotated(angle), 5)
        self.assertEqual(points.dtype, np.float32)
        self.assertAllEqual(points[0], np.float32(start))
        self.assertAllEqual(points[-1], np.float32(rotated(angle)))
        expected = [rotated(angle * i / 4) for i in range(5)]
        self.assertAllClose(points, expected, rtol=1e-5, atol=1e-5)

    @parameterized.named_parameters(
        # Factors on the same latents.
        ("same_direction", 1.0, 3.0),
        ("opposite", 1.0, -1.0),
        ("from_origin", 0.0, 1.0),
    )
    def test_without_an_arc(self, first, second):
        steps = [first + (second - first) * i / 4 for i in range(5)]
        for z in random_latents(20, 2, 2, 4):  # Rounded up, and down.
            points = latents.slerp(first * z, second * z, 5)
            self.assertAllClose(points, np.multiply.outer(steps, z))


class ManifoldTest(tf.test.TestCase):
    def test_equation(self):
        size = 3
        z = random_latents(4, 2, 3)
        points = latents.manifold(z, size)
        self.assertEqual(points.dtype, np.float32)
        self.assertEqual(points.shape, (size, size, 2, 3))
        for row in range(size):
            for column in range(size):
                a, b = (2 * math.pi * i / size for i in (row, column))
                upper = math.cos(b) * z[0] + math.sin(b) * z[1]
                lower = math.cos(b) * z[2] + math.sin(b) * z[3]
                self.assertAllClose(
                    points[row, column],
                    math.cos(a) * upper + math.sin(a) * lower,
                )


class RedrawTest(tf.test.TestCase):
    def test_keeps_the_first_half(self):
        z = random_latents(3, 2, 2, 12)
        before = z.copy()
        points = latents.redraw_factored_out(z, 5, seed=1)
        self.assertEqual(points.dtype, np.float32)
        self.assertEqual(points.shape, (3, 5, 2, 2, 12))
        for draw in range(5):
            self.assertAllEqual(points[:, draw, ..., :6], z[..., :6])
        self.assertAllEqual(z, before)
        again, other = (latents.redraw_factored_out(z, 5, s) for s in (1, 2))
        self.assertAllEqual(again, points)
        self.assertNotAllClose(other, points)
        drawn = points[..., 6:]  # 360 numbers, all of them different draws.
        self.assertLen(np.unique(drawn), drawn.size)
        self.assertAllClose(drawn.mean(), 0.0, atol=0.2)
        self.assertAllClose(drawn.std(), 1.0, atol=0.2)


class DirectionTest(tf.test.TestCase):
    def test_separation_counts_pairs(self):
        direction = random_latents(2, 2, 4, seed=1)
        present = random_latents(7, 2, 2, 4, seed=2)
        absent = random_latents(9, 2, 2, 4, seed=3)
        absent[0] = present[0]  # A pair of the same counts half.
        order = [
            (np.sum(p * direction) > np.sum(a * direction))
            + 0.5 * np.array_equal(p, a)
            for p in present
            for a in absent
        ]
        auroc = latents.separation(direction, present, absent)
        self.assertAllClose(auroc, np.mean(order))
