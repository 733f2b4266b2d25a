"""Ranges of arguments: each tests, parses and describes its values.

A range has these members:

*   `value in allowed`: whether it is one of them.
*   `str(allowed)`: what they are, in words.
*   `allowed.convert(value)`: the value as Python and JSON have it.
*   `allowed.parse(text)`: the value of a flag; `ValueError` if it has none.
*   `allowed.format(value)`: the text that gives the value.
*   `allowed.metavar`: what stands for the value in `--help`.
"""

import dataclasses
import numbers
import os
import reprlib
from collections.abc import Sequence
from typing import Any

_MAX_SIZE = 2**31 - 1
FLOAT32_MAX = 3.4028234e38  # What is larger is infinite to the models.


@dataclasses.dataclass(frozen=True)
class WholeNumber:
    """Whole numbers, of Python or of NumPy.

    Attributes:
      low: The least of them.
      high: The greatest. Default: what TensorFlow's sizes can be.
      even: Whether they are even.
    """

    convert = parse = int
    format = str
    metavar = "N"

    low: int
    high: int = _MAX_SIZE
    even: bool = False

    def __str__(self):
        kind = "an even number" if self.even else "a whole number"
        if self.high == _MAX_SIZE:
            return f"{kind} of at least {self.low} and below 2**31"
        return f"{kind} from {self.low} to {self.high}"

    def __contains__(self, value):
        return (
            is_whole(value)
            and self.low <= value <= self.high
            and not (self.even and value % 2)
        )


@dataclasses.dataclass(frozen=True)
class WholeNumbers:
    """Sequences of whole numbers.

    Attributes:
      length: How many they are.
      low: The least that each may be.
      high: The most that each may be.
    """

    length: int
    low: int
    high: int

    @property
    def metavar(self):
        return ",".join("N" * self.length)

    def convert(self, values):
        return tuple(map(int, values))

    def parse(self, text):
        return self.convert(text.split(","))

    def format(self, values):
        return ",".join(map(str, values))

    def __str__(self):
        return f"{self.length} whole numbers from {self.low} to {self.high}"

    def __contains__(self, values):
        return (
            isinstance(values, (tuple, list))
            and len(values) == self.length
            and all(n in WholeNumber(self.low, self.high) for n in values)
        )


@dataclasses.dataclass(frozen=True)
class ImageSize:
    """Sizes of images in pixels: the side of squares, or height and width.

    Attributes:
      low: The least that they may be.
      high: The most that they may be.
    """

    metavar = "N[xN]"

    low: int
    high: int = _MAX_SIZE

    def convert(self, value):
        """Returns one number for squares, however they are given."""
        height, width = map(int, sides(value))
        return height if height == width else (height, width)

    def parse(self, text):
        height, by, width = text.partition("x")
        return int(height) if not by else (int(height), int(width))

    def format(self, value):
        return "x".join(map(str, sides(value)))

    def __str__(self):
        number = WholeNumber(self.low, self.high, even=True)
        return f"{number}, or two of them, height and width"

    def __contains__(self, value):
        number = WholeNumber(self.low, self.high, even=True)
        if not isinstance(value, (tuple, list)):
            return value in number
        return len(value) == 2 and all(side in number for side in value)


def sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Returns the height and width of a size, in which squares have one."""
    if isinstance(image_size, Sequence):
        height, width = image_size
    else:
        height = width = image_size
    return height, width


@dataclasses.dataclass(frozen=True)
class RealNumber:
    """Finite numbers above a limit.

    Attributes:
      low: The limit.
      includes_low: Whether `low` is one of them.
      below: What they are below, if anything but infinity.
    """

    convert = parse = float
    format = "{:.12g}".format
    metavar = "X"

    low: float = 0.0
    includes_low: bool = False
    below: float | None = None

    def __str__(self):
        words = "of at least" if self.includes_low else "above"
        limit = "" if self.below is None else f" and below {self.below:g}"
        return f"a finite number {words} {self.low:g}{limit}"

    def __contains__(self, value):
        is_real = isinstance(value, numbers.Real)
        if not is_real or isinstance(value, bool):
            return False
        is_above = value > self.low or (self.includes_low and value == self.low)
        if self.below is None:
            return is_above and value <= FLOAT32_MAX
        return is_above and value < self.below


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Some strings.

    Attributes:
      choices: The allowed strings.
    """

    convert = format = str

    choices: tuple[str, ...]

    def __str__(self):
        return f"one of {', '.join(map(repr, self.choices))}"

    def __contains__(self, value):
        return isinstance(value, str) and value in self.choices


class Name:
    """Names and paths: any string but the empty one."""

    convert = format = str
    metavar = "NAME"

    def parse(self, text):
        return text

    def __str__(self):
        return "a name"

    def __contains__(self, value):
        return isinstance(value, str) and value != ""


class Folder(Name):
    """Paths of folders."""

    metavar = "DIR"

    def parse(self, text):
        """Returns a path without the slash that shells add at its end."""
        return os.path.expanduser(text.rstrip(os.sep) or text)


class Switch:
    """What is so or not: a flag without a value."""

    convert = bool

    def __str__(self):
        return "`True` or `False`"

    def __contains__(self, value):
        return isinstance(value, bool)


def check(value: Any, name: str, allowed: Any) -> Any:
    """Checks an argument.

    Args:
      value: The argument.
      name: Its name.
      allowed: What it may be, such as a `WholeNumber`.

    Returns:
      The argument; a number of NumPy as one of Python, which JSON knows.

    Raises:
      ValueError: If it is anything else.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be {allowed}, got {short(value)}.")
    return allowed.convert(value)


def bits_of_levels(num_levels: int) -> int | None:
    """Returns how many bits have so many levels, or `None` if no number has."""
    num_bits = num_levels.bit_length() - 1
    return num_bits if num_levels == 2**num_bits else None


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number, of Python or of NumPy."""
    return not isinstance(value, bool) and (
        isinstance(value, numbers.Integral)
        or (isinstance(value, numbers.Real) and float(value).is_integer())
    )


def short(value: Any) -> str:
    """Returns what a value looks like, on one line."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    return " ".join(reprlib.repr(value).split())
