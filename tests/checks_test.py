"""Tests for checks."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import checks


class WholeNumberTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        2, 5, 2.0, np.int8(3), np.uint64(4), np.float32(5)
    )
    def test_whole(self, value):
        number = checks.whole_number(value, "size", 2, 5)
        self.assertIs(type(number), int)
        self.assertEqual(number, value)

    @parameterized.parameters(
        1, 6, -3, 2.5, math.nan, math.inf, True, "3", None, 3j, 10**400
    )
    def test_not_whole_or_out_of_range(self, value):
        with self.assertRaises(ValueError) as caught:
            checks.whole_number(value, "size", 2, 5)
        self.assertEqual(
            str(caught.exception),
            f"`size` must be a whole number from 2 to 5, got "
            f"{checks.short(value)}.",
        )

    def test_without_a_limit(self):
        self.assertEqual(checks.whole_number(10**400, "size", 2), 10**400)
        with self.assertRaisesRegex(
            ValueError, "`size` must be a whole number of at least 2, got 1."
        ):
            checks.whole_number(1, "size", 2)

    def test_even(self):
        self.assertEqual(checks.whole_number(4, "size", 2, even=True), 4)
        with self.assertRaisesRegex(
            ValueError, "`size` must be an even number of at least 2, got 5."
        ):
            checks.whole_number(5, "size", 2, even=True)


class TensorTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (3, "int32"),
        (2**31, "int64"),
        ([1, 2], "int32"),
        (np.uint8([1]), "uint8"),
    )
    def test_integers(self, value, dtype):
        for integer in (False, True):
            tensor = checks.tensor(value, "sizes", "numbers", integer)
            self.assertEqual(tensor.dtype, dtype)
            self.assertAllEqual(tensor, value)

    @parameterized.parameters(
        (2.5, "float32"), (np.float64(2.5), "float64"), ([1.5, 2], "float32")
    )
    def test_real_numbers(self, value, dtype):
        tensor = checks.tensor(value, "sizes", "numbers", integer=False)
        self.assertEqual(tensor.dtype, dtype)
        self.assertAllEqual(tensor, value)
        with self.assertRaisesRegex(
            TypeError, f"`sizes` must be whole, got dtype {dtype}: .*2"
        ):
            checks.tensor(value, "sizes", "whole", integer=True)

    @parameterized.parameters(True, "a", b"a", 1j)
    def test_other_dtypes(self, value):
        with self.assertRaisesRegex(
            TypeError, f"`sizes` must be numbers, got dtype .*: {value!r}."
        ):
            checks.tensor(value, "sizes", "numbers", integer=False)

    @parameterized.parameters(
        None,
        ({},),
        ([[1], [1, 2]],),
        2**70,
        (np.array([1, None]),),
        (np.array("2020-01-01", "M8"),),
    )
    def test_no_tensor(self, value):
        with self.assertRaises(TypeError) as caught:
            checks.tensor(value, "sizes", "numbers", integer=False)
        self.assertEqual(
            str(caught.exception),
            f"`sizes` must be numbers, got {checks.short(value)}.",
        )

    def test_composite_tensors(self):
        for value in (
            tf.ragged.constant([[1], [1, 2]]),
            tf.sparse.from_dense([[0, 1]]),
        ):
            with self.assertRaisesRegex(TypeError, "`sizes` must be numbers"):
                checks.tensor(value, "sizes", "numbers", integer=False)

    def test_scalar(self):
        self.assertAllEqual(checks.scalar(3, "size", "a number", True), 3)
        for value, shape in (([1, 2], "2,"), ([[1]], "1, 1")):
            with self.assertRaises(ValueError) as caught:
                checks.scalar(value, "size", "a number", integer=True)
            self.assertEqual(
                str(caught.exception),
                f"`size` must be a number, got shape ({shape}): {value}.",
            )

    def test_scalar_of_unknown_shape(self):
        for dtype in (tf.int64, tf.uint8, tf.float32, tf.float64):
            spec = tf.TensorSpec(None, dtype)

            @tf.function(input_signature=[spec], autograph=False)
            def scalar(value):
                result = checks.scalar(value, "size", "a number", False)
                self.assertEqual(result.shape, [])
                return result

            for value in (0, 3, dtype.max):
                value = tf.constant(value, dtype)
                self.assertEqual(scalar(value).dtype, dtype)
                self.assertAllEqual(scalar(value), value)
            for value in ([], [1], [1, 2], [[1]]):
                with self.assertRaisesRegex(
                    tf.errors.InvalidArgumentError,
                    r"`size` must be a number, got shape",
                ):
                    scalar(tf.constant(value, dtype))


class ShortTest(tf.test.TestCase):
    def test_is_one_short_line(self):
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

    def test_values(self):
        self.assertEqual(checks.short(2.5), "2.5")
        self.assertEqual(checks.short((4, 4)), "(4, 4)")
        self.assertIn("2.5", checks.short(tf.constant(2.5)))


if __name__ == "__main__":
    tf.test.main()
