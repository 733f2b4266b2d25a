"""Tests for hashing: what decides where an image belongs."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import hashing


class HashingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("0fff 1fff ffff", "0"),
        ("1998 199a ffff", "0"),
        ("1999 199a 0", "02"),
        ("ffff f000 fffe", "1"),
        ("1 0 1 0f", "013"),
    )
    def test_split(self, starts, test):
        """The lowest tenth, and an image at least on either side."""
        hashes = [int(f"{start:0<16}", 16) for start in starts.split()]
        sides = hashing.split(np.array(hashes, np.uint64))
        self.assertEqual("".join(map(str, sides[1])), test)
        self.assertAllEqual(np.sort(np.concatenate(sides)), range(len(hashes)))
