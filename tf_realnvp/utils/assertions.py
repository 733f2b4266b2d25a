"""Checks of the tensors that callers give to a model.

What is known of a tensor when a function is traced is checked then, by Python's
exceptions. What only a run shows is checked by operations that the returned
tensor depends on, and is a `tf.errors.InvalidArgumentError`.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_realnvp.utils.checks import short


def tensor(value: Any, name: str, kind: str, integer: bool) -> tf.Tensor:
    """Returns an argument as a tensor of numbers.

    Args:
      value: The argument.
      name: Its name.
      kind: What it must be, in words.
      integer: Whether real numbers will not do.

    Raises:
      TypeError: If it is anything else.
    """
    try:
        result = tf.convert_to_tensor(value)
    except Exception as error:  # TensorFlow raises nearly anything.
        raise TypeError(
            f"`{name}` must be {kind}, got {short(value)}."
        ) from error
    dtype = result.dtype
    if not (dtype.is_integer or (dtype.is_floating and not integer)):
        raise TypeError(
            f"`{name}` must be {kind}, got dtype {dtype.name}: {short(value)}."
        )
    return result


def scalar(value: Any, name: str, kind: str, integer: bool) -> tf.Tensor:
    """Returns an argument as a scalar tensor; otherwise as `tensor`.

    Raises:
      TypeError: If it is no number.
      ValueError: If it is no scalar.
    """
    result = tensor(value, name, kind, integer)
    if not result.shape.is_compatible_with([]):
        raise ValueError(
            f"`{name}` must be {kind}, got shape {result.shape}: "
            f"{short(value)}."
        )
    if result.shape.rank == 0:
        return result
    check = tf.debugging.Assert(
        tf.rank(result) == 0,
        [f"`{name}` must be {kind}, got shape", tf.shape(result)],
    )
    with tf.control_dependencies([check]):
        # The sum of a scalar is the scalar, and of anything else it is one:
        # TensorFlow's shape inference has nothing to object to.
        return tf.reduce_sum(result)


def count(value: Any, name: str, maximum: int) -> tf.Tensor:
    """Returns an argument as an int64 scalar from 0 to `maximum`.

    Raises:
      TypeError: If it is no integer.
      ValueError: If it is no scalar.
    """
    kind = f"a whole number from 0 to {maximum}"
    result = tf.cast(scalar(value, name, kind, integer=True), tf.int64)
    fits = (result >= 0) & (result <= maximum)
    check = tf.debugging.Assert(
        fits, [f"`{name}` must be from 0 to {maximum}, got", result]
    )
    with tf.control_dependencies([check]):
        # Where it is known, shape inference looks at it before the check does.
        return tf.where(fits, result, 0)


def non_negative(value: Any, name: str) -> tf.Tensor:
    """Returns an argument as a finite float32 scalar of at least 0.

    Raises:
      TypeError: If it is no number.
      ValueError: If it is no scalar.
    """
    kind = "a number of float32"
    result = tf.cast(scalar(value, name, kind, integer=False), tf.float32)
    check = tf.debugging.Assert(
        tf.math.is_finite(result) & (result >= 0.0),
        [f"`{name}` must be finite and at least 0, got", result],
    )
    with tf.control_dependencies([check]):
        return tf.identity(result)


def images(
    value: Any, image_shape: Sequence[int], num_colors: int
) -> tf.Tensor:
    """Returns `images` as integers `[n, *image_shape]` below `num_colors`.

    Raises:
      TypeError: If they are not integers.
      ValueError: If they are of another shape.
    """
    levels = f"in 0 ... {num_colors - 1}"
    result = tensor(value, "images", f"integers {levels}", integer=True)
    result = batch(result, image_shape, "images")
    wide = tf.cast(result, tf.int64)
    # Of no images the lowest is above the highest, which passes.
    low, high = tf.reduce_min(wide), tf.reduce_max(wide)
    check = tf.debugging.Assert(
        (low >= 0) & (high < num_colors),
        [f"`images` must be {levels}, got values from", low, "to", high],
    )
    with tf.control_dependencies([check]):
        return tf.identity(result)


def labels(value: Any, num_classes: int, n: tf.Tensor) -> tf.Tensor:
    """Returns `label` as int32 `[n]` below `num_classes`.

    Args:
      value: One for all, or one for each.
      num_classes: Number of classes.
      n: How many there must be, an integer scalar.

    Raises:
      TypeError: If they are not integers.
      ValueError: If they are of another shape.
    """
    kind = f"an integer in 0 ... {num_classes - 1}, or one for each of n"
    result = tensor(value, "label", kind, integer=True)
    wide, n = tf.cast(result, tf.int64), tf.cast(n, tf.int32)
    known = tf.get_static_value(n)
    if not any(map(wide.shape.is_compatible_with, ([], [known]))):
        raise ValueError(
            f"`label` must be {kind}, got shape {result.shape}"
            f"{'' if known is None else f' for n of {known}'}: {short(value)}."
        )
    shape = tf.shape(wide)
    # A scalar, of which the shape is empty, fits.
    fits = tf.reduce_all(tf.equal(shape, n)) & (tf.rank(wide) <= 1)
    # Of no labels the lowest is above the highest, which passes.
    low, high = tf.reduce_min(wide), tf.reduce_max(wide)
    checks = [
        tf.debugging.Assert(
            fits, [f"`label` must be {kind}, got shape", shape, "for n of", n]
        ),
        tf.debugging.Assert(
            (low >= 0) & (high < num_classes),
            [f"`label` must be {kind}, got values from", low, "to", high],
        ),
    ]
    with tf.control_dependencies(checks):
        # Behind a condition, as in `batch`.
        wide = tf.cond(
            fits,
            lambda: tf.reshape(tf.broadcast_to(wide, [n]), [n]),
            lambda: tf.zeros([n], tf.int64),
        )
    return tf.cast(wide, tf.int32)


def latents(value: Any, latent_shape: Sequence[int]) -> tf.Tensor:
    """Returns `latents` as finite float32 `[n, *latent_shape]`.

    Raises:
      TypeError: If they are not numbers.
      ValueError: If they are of another shape.
    """
    result = tensor(value, "latents", "numbers of float32", integer=False)
    result = batch(tf.cast(result, tf.float32), latent_shape, "latents")
    return tf.debugging.check_numerics(
        result, "`latents` must be finite float32 numbers."
    )


def batch(value: tf.Tensor, event_shape: Sequence[int], name: str) -> tf.Tensor:
    """Returns a tensor that is `[n, *event_shape]`.

    Args:
      value: The tensor, of any shape.
      event_shape: The shape of its elements.
      name: Its name.

    Raises:
      ValueError: If it is of another shape.
    """
    expected = ["n", *event_shape]
    message = f"`{name}` must have the shape [{', '.join(map(str, expected))}]"
    message += ", got"
    if value.shape.rank is not None and value.shape[1:].is_fully_defined():
        if value.shape.rank == 0 or value.shape[1:] != event_shape:
            raise ValueError(f"{message} {value.shape.as_list()}.")
        return value
    # Padded, so that a shape of another rank can be compared, too.
    shape = tf.concat([tf.shape(value), [-1] * len(expected)], axis=0)
    fits = tf.reduce_all(shape[1 : len(expected) + 1] == [*event_shape, -1])
    check = tf.debugging.Assert(fits, [message, tf.shape(value)], summarize=9)
    with tf.control_dependencies([check]):
        # Behind a condition, or TensorFlow's shape inference objects first and
        # names neither the argument nor the shape that it must have.
        return tf.cond(
            fits,
            lambda: tf.reshape(value, [-1, *event_shape]),
            lambda: tf.zeros([0, *event_shape], value.dtype),
        )
