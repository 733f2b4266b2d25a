"""Tests for checks."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import ranges


class ChecksTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        # What may be, what is so, what is not.
        (
            ranges.WholeNumber(2, 5),
            (2, 5, 2.0, np.int8(3), np.uint64(4), np.float32(5)),
            (1, 6, -3, 2.5, math.nan, math.inf, True, "3", None, 3j, 10**400),
        ),
        (ranges.WholeNumber(2), (2, 2**31 - 1), (1, 2**31, 10**400, math.inf)),
        (ranges.WholeNumber(2, even=True), (2, 4.0), (3, 0)),
        (
            ranges.WholeNumbers(1, 9),
            ((1, 9, 2), [2.0, 3, 3]),
            ((1, 1), (0, 1, 1), 3, "123"),
        ),
        (
            ranges.ImageSize(),
            (4, 8.0, (4, 6), [2, 4096]),
            (0, 3, 4098, (4,), (4, 5), (4, 4, 4)),
        ),
        (
            ranges.RealNumber(),
            (1e-30, 1, np.float32(2.5), 3.4e38),
            (0, -1.0, math.nan, math.inf, 3.5e38, 10**400, True, "1", None, 1j),
        ),
        (ranges.RealNumber(1.0, includes_low=True), (1, 1.5), (0.99,)),
        (ranges.RealNumber(below=1.0), (0.5,), (0.0, 1.0, math.nan)),
        (ranges.OneOf(("a", "b")), ("a", "b"), ("c", "", None, 1, ["a"])),
        (ranges.Name(), ("a", "\udcff"), ("", None, 1)),
        (ranges.Switch(), (True, False), (0, 1, None, "yes")),
    )
    def test_range(self, allowed, good, wrong):
        for value in good:
            ranges.check(value, "size", allowed)
        for value in wrong:
            with self.assertRaisesRegex(ValueError, "^`size` must be .* got "):
                ranges.check(value, "size", allowed)

    def test_numbers_are_those_of_python(self):
        for value in (3, 3.0, np.uint64(3), np.float32(3)):
            number = ranges.check(value, "size", ranges.WholeNumber(2, 5))
            self.assertIs(type(number), int)
            self.assertEqual(number, 3)
        self.assertEqual(ranges.ImageSize().convert(np.int64(4)), (4, 4))
