"""Tests for assertions."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import assertions, checks

IMAGES = np.zeros([2, 4, 4, 1], np.uint8)
LATENTS = np.zeros([2, 2, 2, 4], np.float32)
# What TensorFlow makes no tensor of numbers of.
NO_NUMBERS = (
    None,
    "a",
    b"a",
    True,
    {},
    1j,
    2**70,
    [[1], [1, 2]],
    np.array([1, None]),
    np.array("2020-01-01", "M8"),
    tf.ragged.constant([[1], [1, 2]]),
    tf.sparse.from_dense([[0, 1]]),
)


# The checks by the name of the argument that each is for.
CHECKS = {
    "real": lambda value: assertions.scalar(value, "real", "real", False),
    "whole": lambda value: assertions.scalar(value, "whole", "whole", True),
    "count": lambda value: assertions.count(value, "count", 100),
    "size": lambda value: assertions.non_negative(value, "size"),
    "images": lambda value: assertions.images(value, (4, 4, 1), 17),
    "latents": lambda value: assertions.latents(value, (2, 2, 4)),
    "label": lambda value: assertions.labels(value, 10, tf.constant(2)),
}


def with_value(array, value, dtype=None):
    """The array with one other component."""
    array = np.array(array, dtype or array.dtype)
    array[1, 1, 1, 0] = value
    return array


class AssertionsTest(tf.test.TestCase, parameterized.TestCase):
    def assert_refused(self, error, name, value):
        with self.subTest(name=name, value=checks.short(value)):
            with self.assertRaisesRegex(error, f"`{name}` must "):
                CHECKS[name](value)

    @parameterized.parameters(
        ("real", 3, "int32"),
        ("real", 2**31, "int64"),
        ("real", np.float64(2.5), "float64"),
        ("whole", np.uint8(3), "uint8"),
        ("count", 0, "int64"),
        ("count", np.int8(100), "int64"),
        ("size", 0, "float32"),
        ("size", np.float16(1.5), "float32"),
        ("size", np.array(1.5), "float32"),
        ("images", IMAGES + 16, "uint8"),
        ("images", IMAGES.astype(np.int64), "int64"),
        ("images", IMAGES[:0], "uint8"),
        ("latents", LATENTS, "float32"),
        ("latents", IMAGES.reshape(2, 2, 2, 4), "float32"),
        ("latents", LATENTS.astype(np.float64), "float32"),
        ("latents", LATENTS[:0], "float32"),
        ("label", np.array([0, 9], np.int64), "int32"),
        ("label", np.array([3, 1], np.uint8), "int32"),
    )
    def test_what_is_allowed(self, name, value, dtype):
        result = CHECKS[name](value)
        self.assertEqual(result.dtype, dtype)
        self.assertAllEqual(result, value)

    def test_one_label_for_all(self):
        self.assertAllEqual(CHECKS["label"](np.uint8(9)), [9, 9])
        for n in (0, 3):
            labels = assertions.labels(1, 2, tf.constant(n, tf.int64))
            self.assertAllEqual(labels, [1] * n)

    @parameterized.parameters(*CHECKS)
    def test_no_numbers(self, name):
        for value in NO_NUMBERS:
            self.assert_refused(TypeError, name, value)

    def test_message(self):
        for value, shown in (
            (2.5, "dtype float32: 2.5"),
            (None, "None"),
            ([[1]], "shape (1, 1): [[1]]"),
        ):
            with self.assertRaises((TypeError, ValueError)) as caught:
                CHECKS["whole"](value)
            self.assertEqual(
                str(caught.exception), f"`whole` must be whole, got {shown}."
            )

    def test_real_numbers_where_whole_ones_are_needed(self):
        for name, values in (
            ("whole", (2.5, 2.0, math.nan, np.float32(2))),
            ("count", (2.5, 2.0, math.nan, np.float32(2))),
            ("images", (IMAGES.astype(np.float32), IMAGES.astype(np.double))),
            ("label", (2.0, [1.0, 2.0])),
        ):
            for value in values:
                self.assert_refused(TypeError, name, value)

    def test_shapes(self):
        for name in ("real", "whole", "count", "size"):
            for value in ([1, 2], [2], [[1]]):
                self.assert_refused(ValueError, name, np.array(value))
        for name, array in (("images", IMAGES), ("latents", LATENTS)):
            for value in (
                array[0],
                array[..., 0],
                array[:, :1],
                array[0, 0, 0],
            ):
                self.assert_refused(ValueError, name, value)
            self.assert_refused(ValueError, name, array.dtype.type(3))
        self.assert_refused(TypeError, "size", 1e39)
        for value in ([1], [1, 2, 3], [[1, 2]], [[1], [2]]):
            self.assert_refused(ValueError, "label", np.array(value))

    @parameterized.parameters(
        ("count", -1, -2, 101, 2**31 - 1, 2**31, 2**32 + 1, 2**62),
        ("size", -1.0, math.nan, math.inf, -math.inf),
        ("images", *(with_value(IMAGES, i, np.int64) for i in (-1, 17, 2**40))),
        ("images", with_value(IMAGES, 255)),
        ("latents", *(with_value(LATENTS, i) for i in (math.nan, -math.inf))),
        ("latents", with_value(LATENTS, 1e300, np.float64)),
        ("label", -1, 10, [0, 10], [-1, 0], [2**40, 0]),
    )
    def test_values(self, name, *values):
        """They are seen in a run, be they known when it is traced or not."""
        error = tf.errors.InvalidArgumentError
        for value in values:
            self.assert_refused(error, name, value)
            value = tf.constant(value)
            for function in (
                tf.function(lambda v=value: CHECKS[name](v), autograph=False),
                lambda v=value: tf.function(CHECKS[name], autograph=False)(v),
            ):
                with self.assertRaisesRegex(error, f"`{name}` must "):
                    function()

    @parameterized.parameters(
        ("real", np.uint8(3), ([], [1], [1, 2], [[1]])),
        ("real", np.float64(2.5), ([], [1], [1, 2], [[1]])),
        ("count", np.int64(3), ([1], [1, 2])),
        ("size", np.float32(3), ([1], [[1]])),
        (
            "images",
            IMAGES,
            (
                IMAGES[0],
                IMAGES[:, :2],
                IMAGES.reshape(4, 2, 4, 1),
                IMAGES.reshape(2, 1, 4, 4),
                IMAGES[..., np.newaxis],
                IMAGES[np.newaxis],
                3,
            ),
        ),
        ("latents", LATENTS, (LATENTS[0], LATENTS.reshape(2, 4, 2, 2), 3)),
        ("label", np.array([3, 1]), ([1], [1, 2, 3], [[1, 2]])),
    )
    def test_shape_that_only_a_run_shows(self, name, good, wrong):
        spec = tf.TensorSpec(None, good.dtype)
        function = tf.function(CHECKS[name], [spec], autograph=False)
        self.assertAllEqual(function(good), good)
        static = function.get_concrete_function().structured_outputs.shape
        self.assertEqual(static.rank, good.ndim)
        self.assertEqual(static[1:], good.shape[1:])
        for value in wrong:
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, f"`{name}` must "
            ):
                function(tf.constant(value, good.dtype))


if __name__ == "__main__":
    tf.test.main()
