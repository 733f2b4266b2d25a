"""What the commands share: values of flags, and checks before work begins."""

import argparse
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from tf_realnvp import files
from tf_realnvp.checks import OneOf, RealNumber, WholeNumber, WholeNumbers
from tf_realnvp.errors import UsageError, printable


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line."""

    def error(self, message):
        # It quotes words that may hold line breaks.
        message = printable(message)
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message}\n")


def number(allowed: WholeNumber | RealNumber) -> Callable[[str], int | float]:
    """Returns a parser of numbers for `argparse`.

    Args:
      allowed: The numbers that it takes.
    """
    convert = int if isinstance(allowed, WholeNumber) else float

    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
        return value

    return parse


def _numbers(allowed):
    """Returns a parser of whole numbers with commas between them."""

    def parse(text):
        try:
            values = tuple(map(int, text.split(",")))
        except ValueError:
            values = None
        if values not in allowed:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {allowed}, with commas between them"
            )
        return values

    return parse


def file(suffix: str) -> Callable[[str], str]:
    """Returns a parser of names of files for `argparse`.

    Args:
      suffix: What they have to end in.
    """

    def parse(text):
        if not text.lower().endswith(suffix):
            raise argparse.ArgumentTypeError(
                f"{text!r} does not end in {suffix}"
            )
        return text

    return parse


def is_folder(text: str) -> bool:
    """Returns whether a name is one of a folder, there or still to be made."""
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def add_setting(
    parser: argparse.ArgumentParser, field: dataclasses.Field, text: str
) -> None:
    """Adds the flag of a setting, which is `None` where it is not given.

    Args:
      parser: The parser.
      field: The setting's field of `TrainingConfig`.
      text: What it is for.
    """
    allowed = field.metadata.get("allowed")
    kind: dict[str, Any] = {"metavar": "DIR"}
    if field.type is bool:
        kind = {"action": "store_true", "default": None}
    elif isinstance(allowed, OneOf):
        kind = {"choices": allowed.choices}
    elif isinstance(allowed, WholeNumbers):
        metavar = ",".join("N" * allowed.length)
        kind = {"metavar": metavar, "type": _numbers(allowed)}
    elif allowed is not None:
        metavar = "N" if isinstance(allowed, WholeNumber) else "X"
        kind = {"metavar": metavar, "type": number(allowed)}
    parser.add_argument(f"--{field.name}", help=text, **kind)


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
