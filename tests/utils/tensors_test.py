"""Tests for assertions."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import ranges, tensors

IMAGES = np.zeros([2, 4, 4, 1], np.uint8)
LATENTS = np.zeros([2, 2, 2, 4], np.float32)
INVALID = tf.errors.InvalidArgumentError

# The checks by the name of the argument that each is for.
CHECKS = {
    "count": lambda value: tensors.count(value, "count", 100),
    "size": lambda value: tensors.non_negative(value, "size"),
    "images": lambda value: tensors.images(value, (4, 4, 1), 17),
    "latents": lambda value: tensors.finite(value, "latents", (2, 2, 4)),
    "label": lambda value: tensors.labels(value, 10, tf.constant(2)),
    "seed": tensors.stateless_seed,
    "seeds": lambda value: tensors.stateless_seeds(value, tf.constant(2)),
}


def with_value(array, value, dtype=None):
    """The array with one other component."""
    array = np.array(array, dtype or array.dtype)
    array[1, 1, 1, 0] = value
    return array


class AssertionsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("count", 0, "int64"),
        ("count", np.int8(100), "int64"),
        ("size", 0, "float32"),
        ("size", np.float16(1.5), "float32"),
        ("images", IMAGES + 16, "uint8"),
        ("images", IMAGES.astype(np.int64), "int64"),
        ("images", IMAGES[:0], "uint8"),
        ("latents", IMAGES.reshape(2, 2, 2, 4), "float32"),
        ("latents", LATENTS.astype(np.float64), "float32"),
        ("latents", LATENTS[:0], "float32"),
        ("label", np.array([0, 9], np.int64), "int32"),
        ("label", np.array([3, 1], np.uint8), "int32"),
        ("seed", np.array([1, -2]), "int32"),
    )
    def test_what_is_allowed(self, name, value, dtype):
        result = CHECKS[name](value)
        self.assertEqual(result.dtype, dtype)
        self.assertAllEqual(result, value)

    def test_one_label_for_all(self):
        for n in (0, 3):
            labels = tensors.labels(np.uint8(9), 10, tf.constant(n))
            self.assertAllEqual(labels, [9] * n)

    def test_halves_of_seeds(self):
        """Both functions split 64 bits into two halves."""
        seeds = np.array([-(2**63), 2**40 + 3])
        expected = seeds.view(np.int32).reshape(2, 2)
        in_graph = tf.function(
            CHECKS["seeds"], [tf.TensorSpec([None], tf.int64)]
        )
        for function in (CHECKS["seeds"], in_graph):
            self.assertAllEqual(function(seeds), expected)
        for seed, pair in zip(seeds, expected, strict=True):
            self.assertAllEqual(tensors.stateless_seed(seed), pair)
        # As TensorFlow makes pairs, of more bits than its users give it.
        pair = tensors.stateless_seed([2**32 + 1, -5])
        self.assertAllEqual(pair, [1, -5])
        unsigned = np.array([1, 2**63 - 1], np.uint64)
        self.assertAllEqual(CHECKS["seeds"](unsigned)[1], [-1, 2**31 - 1])

    @parameterized.parameters(*CHECKS)
    def test_no_numbers(self, name):
        for value in ("a", True):
            with self.assertRaisesRegex(TypeError, f"`{name}` must "):
                CHECKS[name](value)

    @parameterized.parameters(
        # Of real numbers.
        (TypeError, "count", 2.5, 2.0, math.nan),
        (TypeError, "images", IMAGES.astype(np.float32)),
        (TypeError, "label", 2.0, [1.0, 2.0]),
        (TypeError, "seed", 1.5, [1.0, 2.0]),
        (TypeError, "seeds", [0.0, 1.0]),
        # Of shapes.
        (ValueError, "count", [1, 2], [2]),
        (ValueError, "size", [2], [[1]]),
        (ValueError, "images", IMAGES[0], IMAGES[:, :1], IMAGES[0, 0, 0], 3),
        (ValueError, "latents", LATENTS[0], LATENTS.reshape(2, 4, 2, 2), 3),
        (ValueError, "label", [1], [1, 2, 3], [[1, 2]], [[1], [2]]),
        (ValueError, "seed", [1], [1, 2, 3], [[1, 2]]),
        (ValueError, "seeds", 0, [[0], [1]], [0], [0, 1, 2]),
    )
    def test_types_and_shapes(self, error, name, *values):
        for value in values:
            value = tf.constant(value)
            with self.subTest(value=ranges.short(value)):
                with self.assertRaisesRegex(error, f"`{name}` must "):
                    CHECKS[name](value)
                if error is ValueError:  # Of a shape that only a run shows.
                    spec = tf.TensorSpec(None, value.dtype)
                    function = tf.function(CHECKS[name], [spec])
                    with self.assertRaisesRegex(INVALID, f"`{name}` must "):
                        function(value)

    @parameterized.parameters(
        ("count", -1, 101, 2**31, 2**62),
        ("size", -1.0, math.nan, math.inf),
        ("images", *(with_value(IMAGES, i, np.int64) for i in (-1, 17, 2**40))),
        ("images", with_value(IMAGES, 255)),
        ("latents", *(with_value(LATENTS, i) for i in (math.nan, -math.inf))),
        ("latents", with_value(LATENTS, 1e300, np.float64)),
        ("label", -1, 10, [0, 10], [-1, 0], [2**40, 0]),
    )
    def test_values(self, name, *values):
        """Values are checked at run time, even if they are constants."""
        for value in values:
            value = tf.constant(value)
            for function in (
                lambda v=value: CHECKS[name](v),
                tf.function(lambda v=value: CHECKS[name](v), autograph=False),
                lambda v=value: tf.function(CHECKS[name], autograph=False)(v),
            ):
                with self.assertRaisesRegex(INVALID, f"`{name}` must "):
                    function()

    def test_number_of_labels_that_only_a_run_shows(self):
        specs = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int32)
        function = tf.function(
            lambda value, n: tensors.labels(value, 10, n), specs
        )
        self.assertAllEqual(function([3, 1], 2), [3, 1])
        for n in (1, 3):
            with self.assertRaisesRegex(INVALID, "`label` must be an integer"):
                function([3, 1], n)
        with self.assertRaisesRegex(INVALID, "`label` must be an integer"):
            function([3], 2)
