"""Ranges of arguments, which test, parse and describe values.

A range has these members:

*   `value in allowed`: whether the value is in the range.
*   `str(allowed)`: description of the range in words.
*   `allowed.convert(value)`: the value as a built-in type, for JSON.
*   `allowed.parse(text)`: the value of a flag; `ValueError` if malformed.
*   `allowed.metavar`: placeholder for the value in `--help`.
"""

import dataclasses
import numbers
import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_SIZE = 2**31 - 1
FLOAT32_MAX = 3.4028234e38  # Larger numbers are infinite to the models.


@dataclasses.dataclass(frozen=True)
class WholeNumber:
    """Whole numbers, of Python or NumPy types.

    Attributes:
      low: Smallest value.
      high: Largest value. Default: the largest size in TensorFlow.
      even: Whether values must be even.
    """

    convert = parse = int
    metavar = "N"

    low: int
    high: int = _MAX_SIZE
    even: bool = False

    def __str__(self):
        kind = "an even number" if self.even else "a whole number"
        return f"{kind} from {self.low} to {self.high}"

    def __contains__(self, value):
        step = 2 if self.even else 1
        return (
            _is_number(value)
            and self.low <= value <= self.high
            and value % step == 0
        )


@dataclasses.dataclass(frozen=True)
class WholeNumbers:
    """Three whole numbers.

    Attributes:
      low: Smallest value of each.
      high: Largest value of each.
    """

    metavar = "N,N,N"

    low: int
    high: int

    def convert(self, values):
        return tuple(map(int, values))

    def parse(self, text):
        return self.convert(text.split(","))

    def __str__(self):
        return f"3 whole numbers from {self.low} to {self.high}"

    def __contains__(self, values):
        return (
            isinstance(values, (tuple, list))
            and len(values) == 3
            and all(n in WholeNumber(self.low, self.high) for n in values)
        )


class ImageSize:
    """Even image sizes in pixels: the side of a square, or height and width."""

    metavar = "N[xN]"
    _side = WholeNumber(2, 4096, even=True)

    def convert(self, value):
        """Returns height and width."""
        height, width = value if isinstance(value, Sequence) else (value, value)
        return int(height), int(width)

    def parse(self, text):
        height, by, width = text.partition("x")
        return self.convert((height, width) if by else (height, height))

    def __str__(self):
        return f"{self._side}, or two of them, height and width"

    def __contains__(self, value):
        if not isinstance(value, (tuple, list)):
            return value in self._side
        return len(value) == 2 and all(side in self._side for side in value)


@dataclasses.dataclass(frozen=True)
class RealNumber:
    """Finite numbers above a limit.

    Attributes:
      low: Lower limit.
      includes_low: Whether `low` itself is allowed.
      below: Exclusive upper limit. Default: any finite float32 is allowed.
    """

    convert = parse = float
    metavar = "X"

    low: float = 0.0
    includes_low: bool = False
    below: float | None = None

    def __str__(self):
        words = "of at least" if self.includes_low else "above"
        limit = "" if self.below is None else f" and below {self.below:g}"
        return f"a finite number {words} {self.low:g}{limit}"

    def __contains__(self, value):
        return (
            _is_number(value)
            and self.low <= value <= FLOAT32_MAX
            and (self.includes_low or value != self.low)
            and (self.below is None or value < self.below)
        )


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A fixed set of strings.

    Attributes:
      choices: The allowed strings.
    """

    convert = str

    choices: tuple[str, ...]

    def __str__(self):
        return f"one of {', '.join(map(repr, self.choices))}"

    def __contains__(self, value):
        return isinstance(value, str) and value in self.choices


class Name:
    """Names and paths: any non-empty string."""

    convert = str
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
        """Expands `~`, and removes trailing slashes, which shells add."""
        return os.path.expanduser(text.rstrip(os.sep) or text)


class Switch:
    """Booleans; their flags take no value."""

    convert = bool

    def __str__(self):
        return "`True` or `False`"

    def __contains__(self, value):
        return isinstance(value, bool)


def check(value: Any, name: str, allowed: Any) -> Any:
    """Checks an argument.

    Args:
      value: The argument.
      name: Name of the argument, for messages.
      allowed: Its range, such as a `WholeNumber`.

    Returns:
      The argument. NumPy numbers are converted to Python numbers, for JSON.

    Raises:
      ValueError: If the argument is out of range.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be {allowed}, got {short(value)}.")
    return allowed.convert(value)


def differences(
    values: Mapping[str, Any], others: Mapping[str, Any]
) -> list[str]:
    """Describes each value that differs from the other of its name.

    Args:
      values: The values by name.
      others: What they are to be, by name.
    """
    return [
        f"`{name}` {short(value)} instead of {short(others[name])}"
        for name, value in values.items()
        if value != others[name]
    ]


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def short(value: Any) -> str:
    """Returns a short representation of a value on one line."""
    return " ".join(reprlib.repr(value).split())
