"""What the command lines share: values of flags, exit codes, errors."""

import argparse
import math
import pathlib
import sys
import tempfile
from collections.abc import Callable

from tf_realnvp import files

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
        message = printable(message)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def printable(text: object) -> str:
    """Returns a name for people: line breaks and what is no text as escapes.

    Args:
      text: The name, or a path.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def exit_code(name: str, command: Callable[[], None]) -> int:
    """Runs a command, and tells its errors in one line on standard error.

    Args:
      name: What the command is called.
      command: Does the work.

    Returns:
      0; 1 if it failed; 2 if the user has to change something.
    """
    # Names of files need not be text, nor fit the encoding of a terminal.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
    except UsageError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, FailureError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def check_writable(folder: pathlib.Path, flag: str, make: bool = True) -> None:
    """Finds out whether a folder can be written to before that is needed.

    Args:
      folder: The folder.
      flag: What it was given by, for the message.
      make: Whether to make the folder if it is missing.

    Raises:
      UsageError: If it cannot be written to.
    """
    try:
        if make:
            files.make_directory(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"argument {flag}: cannot write to {printable(folder)}: "
            f"{error.strerror}"
        ) from error


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


def decay(text: str) -> float:
    """Parses a number above 0 and below 1, for `argparse`."""
    value = _number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number above 0 and below 1"
        )
    return value


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan
