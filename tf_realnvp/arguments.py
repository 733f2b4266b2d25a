"""What the command lines share: values of flags, exit codes, errors."""

import argparse
import math
from collections.abc import Callable

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_FLOAT32_MAX = 3.4028234e38  # What is larger is infinite to the models.


class UsageError(Exception):
    """Something the user has to change; the message is meant for them."""


class FailureError(Exception):
    """Something that went wrong on the way; the message is meant for users."""


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line."""

    def error(self, message):
        # It quotes words that may hold line breaks.
        message = "".join(
            c if c.isprintable() else ascii(c)[1:-1] for c in message
        )
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def whole_number(
    minimum: int, maximum: int | None = None
) -> Callable[[str], int]:
    """Returns a parser of whole numbers for `argparse`.

    Args:
      minimum: The smallest number that it takes.
      maximum: The largest one. Default: there is none.
    """

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if (
            value is None
            or value < minimum
            or (maximum is not None and value > maximum)
        ):
            limits = f"of at least {minimum}"
            if maximum is not None:
                limits = f"from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number {limits}"
            )
        return value

    return parse


def positive_number(text: str) -> float:
    """Parses a finite number above 0, for `argparse`."""
    value = _number(text)
    if not 0.0 < value <= _FLOAT32_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def non_negative_number(text: str) -> float:
    """Parses a finite number of at least 0, for `argparse`."""
    value = _number(text)
    if not 0.0 <= value <= _FLOAT32_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of at least 0"
        )
    return value


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan
