"""Tests for tiling."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import tiling


class CornersTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        size=[(8, 6), (9, 8), (20, 33), (64, 17)], overlap=[0.0, 0.1, 0.5]
    )
    def test_cover_the_image(self, size, overlap):
        corners = tiling.corners(size, (8, 6), overlap)
        count = np.zeros(size, int)
        for top, left in corners:
            self.assertEqual(count[top : top + 8, left : left + 6].size, 48)
            count[top : top + 8, left : left + 6] += 1
        self.assertGreater(count.min(), 0)
        for axis, side in enumerate((8, 6)):
            steps = np.diff(np.unique(corners[:, axis]))
            self.assertLessEqual(np.ptp(steps) if steps.size else 0, 1)
            most = max(steps, default=0)
            self.assertLessEqual(most, side - int(overlap * side))
        if size == (8, 6):
            self.assertAllEqual(corners, [[0, 0]])

    def test_join(self):
        """The mean where tiles overlap, and nothing else changes."""
        image = np.random.default_rng(0).normal(size=(30, 43, 1))
        parts = tiling.cut(image, (8, 6))
        self.assertLen(parts, len(tiling.corners((30, 43), (8, 6), 0.1)))
        joined = tiling.join(parts[..., 0], (30, 43))
        self.assertAllClose(joined, image[..., 0], atol=1e-6)
        numbers = np.arange(len(parts)) % 2  # Of each tile one number.
        maps = np.broadcast_to(numbers[:, None, None], parts.shape[:3])
        joined = tiling.join(maps, (30, 43))
        self.assertAllEqual(np.unique(joined[:5, :4]), [0.0])
        self.assertGreater(len(np.unique(joined)), 2)
