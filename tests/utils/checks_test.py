"""Tests for checks."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import checks
from tf_realnvp.utils.checks import OneOf, RealNumber, WholeNumber


class ChecksTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        # What may be, what is so, what is not.
        (
            WholeNumber(2, 5),
            (2, 5, 2.0, np.int8(3), np.uint64(4), np.float32(5)),
            (1, 6, -3, 2.5, math.nan, math.inf, True, "3", None, 3j, 10**400),
        ),
        (WholeNumber(2), (2, 2**31 - 1), (1, 2**31, 10**400, math.inf)),
        (WholeNumber(2, even=True), (2, 4.0), (3, 0)),
        (
            RealNumber(),
            (1e-30, 1, np.float32(2.5), 3.4e38),
            (0, -1.0, math.nan, math.inf, 3.5e38, 10**400, True, "1", None, 1j),
        ),
        (RealNumber(1.0, includes_low=True), (1, 1.5), (0.99,)),
        (RealNumber(below=1.0), (0.5,), (0.0, 1.0, math.nan)),
        (OneOf(("a", "b")), ("a", "b"), ("c", "", None, 1, ["a"])),
    )
    def test_kind(self, kind, good, wrong):
        for value in good:
            checks.check(value, "size", kind)
        for value in wrong:
            with self.assertRaises(ValueError) as caught:
                checks.check(value, "size", kind)
            self.assertEqual(
                str(caught.exception),
                f"`size` must be {kind}, got {checks.short(value)}.",
            )

    def test_kinds_in_words(self):
        for kind, words in (
            (WholeNumber(2, 5), "a whole number from 2 to 5"),
            (
                WholeNumber(2, even=True),
                "an even number of at least 2 and below 2**31",
            ),
            (RealNumber(), "a finite number above 0"),
            (RealNumber(below=1.0), "a finite number above 0 and below 1"),
            (
                RealNumber(1.5, includes_low=True),
                "a finite number of at least 1.5",
            ),
            (OneOf(("a", "b")), "one of 'a', 'b'"),
        ):
            self.assertEqual(str(kind), words)

    def test_whole_number(self):
        for value in (3, 3.0, np.uint64(3), np.float32(3)):
            number = checks.check(value, "size", WholeNumber(2, 5))
            self.assertIs(type(number), int)
            self.assertEqual(number, 3)

    def test_short_is_one_short_line(self):
        for value in (
            np.zeros([100, 3]),
            tf.zeros([100, 3]),
            "a" * 1000,
            list(range(1000)),
            object(),
        ):
            text = checks.short(value)
            self.assertBetween(len(text), 1, 60)
            self.assertNotIn("\n", text)
        self.assertEqual(checks.short((4, 4)), "(4, 4)")
        self.assertIn("2.5", checks.short(tf.constant(2.5)))


if __name__ == "__main__":
    tf.test.main()
