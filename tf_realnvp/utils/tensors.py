"""Checks of the tensors that callers pass to a model.

Dtype and shape are checked while a function is traced, by Python exceptions.
Values, and what is not known of a shape, are checked at run time, by operations
that the returned tensor depends on. They raise
`tf.errors.InvalidArgumentError`.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_SEED = "a signed 64-bit integer, two integers, or None"
_SEEDS = "signed 64-bit integers, one for each image"


def tensor(
    value: Any,
    name: str,
    kind: str,
    *shapes: Sequence,
    integer: bool = False,
    real: bool = False,
) -> tf.Tensor:
    """Returns an argument as a tensor of numbers.

    Args:
      value: The argument.
      name: Name of the argument.
      kind: Description of valid values, for messages.
      *shapes: Allowed shapes. An axis may be a tensor, or `None` for any size.
      integer: Whether only integers are allowed.
      real: Whether only floating-point numbers are allowed.

    Raises:
      TypeError: If `value` does not consist of numbers.
      ValueError: If it has the wrong shape.
    """
    result = tf.convert_to_tensor(value)
    dtype, shape = result.dtype, result.shape
    must_be = f"`{name}` must be {kind}, got {dtype.name} of shape {shape}."
    is_integer = dtype.is_integer and not real
    if not (is_integer or (dtype.is_floating and not integer)):
        raise TypeError(must_be)
    known = [[tf.get_static_value(size) for size in s] for s in shapes]
    if not any(map(shape.is_compatible_with, known)):
        raise ValueError(must_be)

    def is_certain(axes):
        return len(axes) == shape.rank and all(
            n is None or (size is not None and size == tf.get_static_value(n))
            for n, size in zip(axes, shape, strict=True)
        )

    if any(map(is_certain, shapes)):
        return result
    # Left unchecked, other shapes might be broadcast.
    size, fits = tf.shape(result), tf.constant(False)
    for axes in shapes:
        whole = [-1 if n is None else n for n in axes]
        whole = tf.convert_to_tensor(whole, tf.int32)
        fits |= (tf.size(size) == len(axes)) & tf.reduce_all(
            (size == whole) | (whole == -1)
        )
    return where_valid(result, fits, name, kind, "shape", size)


def count(value: Any, name: str, maximum: int) -> tf.Tensor:
    """Returns an argument as an int64 scalar from 0 to `maximum`."""
    kind = f"a whole number from 0 to {maximum}"
    result = tf.cast(tensor(value, name, kind, [], integer=True), tf.int64)
    is_valid = (result >= 0) & (result <= maximum)
    return where_valid(result, is_valid, name, kind, result)


def non_negative(value: Any, name: str) -> tf.Tensor:
    """Returns an argument as a finite float32 scalar of at least 0."""
    kind = "a finite number of at least 0"
    result = tf.cast(tensor(value, name, kind, []), tf.float32)
    is_valid = tf.math.is_finite(result) & (result >= 0.0)
    return where_valid(result, is_valid, name, kind, result)


def images(
    value: Any, image_shape: Sequence[int], num_colors: int | None
) -> tf.Tensor:
    """Returns `images` as integers `[n, *image_shape]` below `num_colors`.

    If that is `None`, returns them as finite float32.
    """
    if num_colors is None:
        return finite(value, "images", image_shape, real=True)
    kind = f"integers in 0 ... {num_colors - 1} of shape {_batch(image_shape)}"
    shape = [None, *image_shape]
    result = tensor(value, "images", kind, shape, integer=True)
    return _in_range(result, num_colors, "images", kind)


def labels(value: Any, num_classes: int | None, n: tf.Tensor) -> tf.Tensor:
    """Returns `label` as int32 `[n]` below `num_classes`.

    Args:
      value: One label for all images, or one per image.
      num_classes: Number of classes, if there are any.
      n: Number of images, an int32 scalar.
    """
    if num_classes is None:
        raise ValueError("`label` must not be given: the model has no classes.")
    kind = f"an integer in 0 ... {num_classes - 1}, or one for each of n"
    result = tensor(value, "label", kind, [], [n], integer=True)
    result = _in_range(result, num_classes, "label", kind)
    return tf.cast(tf.broadcast_to(result, [n]), tf.int32)


def stateless_seed(seed: Any = None) -> tf.Tensor:
    """Returns a seed for TensorFlow's stateless random operations.

    TFP's `sanitize_seed` is no substitute: it draws the stateless seed of an
    `int` from a stateful generator, so that the same `int` gives different
    numbers in each call.

    Args:
      seed: A signed 64-bit integer, a scalar; two integers, `[2]`, of which the
        lowest 32 bits are used; or `None` for a random seed.

    Returns:
      Int32 `Tensor` of shape `[2]`.
    """
    if seed is None:
        limits = tf.int32
        return tf.random.uniform([2], limits.min, limits.max, tf.int32)
    result = tensor(seed, "seed", _SEED, [], [2], integer=True)
    if result.shape.rank == 0:
        return tf.bitcast(tf.cast(result, tf.int64), tf.int32)
    return tf.cast(result, tf.int32)


def stateless_seeds(seeds: Any, n: tf.Tensor) -> tf.Tensor:
    """Returns `stateless_seed` of each of `n` seeds, int32 `[n, 2]`."""
    result = tensor(seeds, "seeds", _SEEDS, [n], integer=True)
    wide = tf.cast(result, tf.int64)
    # Like `tf.bitcast`, which XLA does not support for unknown sizes.
    halves = [wide, tf.bitwise.right_shift(wide, 32)]
    return tf.stack([tf.cast(half, tf.int32) for half in halves], axis=-1)


def finite(
    value: Any, name: str, shape: Sequence[int], real: bool = False
) -> tf.Tensor:
    """Returns an argument as finite float32 numbers `[n, *shape]`."""
    kind = f"finite float32 numbers of shape {_batch(shape)}"
    result = tensor(value, name, kind, [None, *shape], real=real)
    return finite_float32(result, name, kind)


def finite_float32(value: tf.Tensor, name: str, kind: str) -> tf.Tensor:
    """Returns numbers as float32, and checks that they are finite."""
    return tf.debugging.check_numerics(
        tf.cast(value, tf.float32), f"`{name}` must be {kind}."
    )


def _in_range(value, limit, name, kind):
    """Returns integers, and checks that they are in 0 ... limit - 1."""
    wide = tf.cast(value, tf.int64)
    # An empty tensor passes: its minimum is the largest int64, and vice versa.
    low, high = tf.reduce_min(wide), tf.reduce_max(wide)
    is_valid = (low >= 0) & (high < limit)
    shown = "values from", low, "to", high
    return where_valid(value, is_valid, name, kind, *shown)


def where_valid(value, is_valid, name, kind, *shown):
    """Returns `value`, and checks at run time that it is valid."""
    message = f"`{name}` must be {kind}, got"
    check = tf.debugging.Assert(is_valid, [message, *shown])
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _batch(event_shape):
    return f"[n, {', '.join(map(str, event_shape))}]"
