"""Checks of arguments: errors that name the argument and what it must be."""

import numbers
import reprlib
from typing import Any

import tensorflow as tf


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number, of Python or of NumPy."""
    return not isinstance(value, bool) and (
        isinstance(value, numbers.Integral)
        or (isinstance(value, numbers.Real) and float(value).is_integer())
    )


def whole_number(
    value: Any, name: str, low: int, high: int | None = None, even: bool = False
) -> int:
    """Returns an argument that has to be a whole number.

    Args:
      value: The argument.
      name: Its name.
      low: The least that it may be.
      high: The most that it may be, if there is a limit.
      even: Whether it must be even.

    Raises:
      ValueError: If it is anything else.
    """
    if (
        not is_whole(value)
        or value < low
        or (high is not None and value > high)
        or (even and value % 2)
    ):
        kind = "an even number" if even else "a whole number"
        limits = (
            f"of at least {low}" if high is None else f"from {low} to {high}"
        )
        raise ValueError(
            f"`{name}` must be {kind} {limits}, got {short(value)}."
        )
    return int(value)


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
      tf.errors.InvalidArgumentError: If only a run shows that it is none.
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


def short(value: Any) -> str:
    """Returns what a value looks like, on one line."""
    if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
        value = value.numpy()
    return " ".join(reprlib.repr(value).split())
