"""What the commands share: values of flags, and checks before work begins."""

import argparse
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tf_realnvp.utils import files
from tf_realnvp.utils.checks import OneOf, RealNumber, Switch, WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import printable


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Before Python 3.14 it takes -1e3 and -2. for flags.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message):
        # It quotes words that may hold line breaks.
        message = printable(message)
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message}\n")


def number(allowed: Any) -> Callable[[str], Any]:
    """Returns a parser of values for `argparse`.

    Args:
      allowed: Their range: see `utils.checks`.
    """

    def parse(text):
        try:
            value = allowed.parse(text)
        except ValueError:
            value = None
        if value not in allowed:
            form = allowed.metavar
            details = f": write {form}" if len(form) > 1 else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {allowed}{details}"
            )
        return value

    return parse


def path(text: str) -> str:
    """Parses the path of a file or folder; `~` is the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return os.path.expanduser(text)


def file(suffix: str, or_folder: bool = False) -> Callable[[str], str]:
    """Returns a parser of names of files for `argparse`.

    Args:
      suffix: What they have to end in.
      or_folder: Whether folders will do, too.
    """
    others = " nor, as a new folder, in /" if or_folder else ""

    def parse(text):
        result = path(text)
        if or_folder and is_folder(result):
            return result
        if pathlib.Path(text).suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no name that ends in {suffix}{others}"
            )
        return result

    return parse


def is_folder(text: str) -> bool:
    """Returns whether a name is one of a folder, there or still to be made."""
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def add_setting(
    parser: argparse.ArgumentParser, field: dataclasses.Field
) -> None:
    """Adds the flag of a setting, which is `None` where it is not given.

    Args:
      parser: The parser.
      field: The setting's field of `TrainingConfig`.
    """
    allowed = field.metadata["allowed"]
    if isinstance(allowed, Switch):
        kind: dict[str, Any] = {"action": "store_true", "default": None}
    elif isinstance(allowed, OneOf):
        kind = {"choices": allowed.choices}
    else:
        kind = {"metavar": allowed.metavar, "type": number(allowed)}
    parser.add_argument(f"--{field.name}", help=field.metadata["help"], **kind)


def add_number(
    parser: argparse.ArgumentParser,
    name: str,
    allowed: WholeNumber | RealNumber,
    default: int | float | None,
    text: str,
) -> None:
    """Adds the flag of a number.

    Args:
      parser: The parser.
      name: Name of the flag.
      allowed: The numbers that it takes.
      default: Its default, if it has one.
      text: What it is for.
    """
    parser.add_argument(
        f"--{name}",
        type=number(allowed),
        default=default,
        metavar=allowed.metavar,
        help=text if default is None else f"{text} (default: {default:g})",
    )


def add_seed(
    parser: argparse.ArgumentParser, default: int | None, of_what: str
) -> None:
    """Adds the flag `--seed`.

    Args:
      parser: The parser.
      default: Its default; `None` for one that is drawn.
      of_what: What it is the seed of.
    """
    drawn = " (default: one is drawn and printed)" if default is None else ""
    seeds = WholeNumber(0, 2**32 - 1)
    add_number(parser, "seed", seeds, default, f"seed {of_what}{drawn}")


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds the flag `--data_dir`.

    Args:
      parser: The parser.
    """
    parser.add_argument(
        "--data_dir",
        default="datasets",
        metavar="DIR",
        type=path,
        help="folder of TensorFlow Datasets' copies (default: datasets)",
    )


def add_label(
    parser: argparse.ArgumentParser,
    text: str = (
        "class of the pictures, of a model that has classes (default: the "
        "likeliest of each)"
    ),
) -> None:
    """Adds the flag `--label`.

    Args:
      parser: The parser.
      text: What it is the class of.
    """
    parser.add_argument("--label", metavar="NAME", help=text)


def add_out(
    parser: argparse.ArgumentParser,
    default: str | None,
    text: str,
    parse: Callable[[str], str],
) -> None:
    """Adds the flag `--out`.

    Args:
      parser: The parser.
      default: Its default, if it has one.
      text: What is written there.
      parse: Parses its value.
    """
    parser.add_argument(
        "--out",
        type=parse,
        default=default,
        metavar="PATH",
        help=text if default is None else f"{text} (default: {default})",
    )


def check_out(
    out: str, may_be_folder: bool, pictures: Iterable[str] | None = None
) -> None:
    """Finds out whether a result can be written before it is computed.

    Args:
      out: The value of `--out`.
      may_be_folder: Whether it may be a folder, which may still be missing.
      pictures: Files that it must not take the place of.

    Raises:
      UsageError: If it cannot.
    """
    for picture in pictures or ():
        if os.path.realpath(picture) == os.path.realpath(out):
            raise UsageError(
                f"argument --out: {printable(out)} is one of the pictures"
            )
    names_folder = is_folder(out)
    if names_folder and not may_be_folder:
        raise UsageError(
            f"argument --out: {printable(out)} is a folder, not a file"
        )
    path = pathlib.Path(out)
    if names_folder:
        check_writable(path, "--out")
        return
    check_writable(path.parent, "--out", make=False)


def check_writable(folder: pathlib.Path, flag: str, make: bool = True) -> None:
    """Finds out whether a folder can be written to before that is needed.

    Args:
      folder: The folder.
      flag: What it was given by, for the message.
      make: Whether it may be missing. It is made then, and goes again.

    Raises:
      UsageError: If it cannot be written to, or is (in) a saved model.
    """
    for outer in (
        real := pathlib.Path(os.path.realpath(folder)),
        *real.parents,
    ):
        if os.path.exists(outer / "saved_model.pb"):
            raise UsageError(
                f"argument {flag}: {printable(outer)} is a model, which as a "
                "whole may be replaced: give another folder"
            )
    try:
        with files.made(folder) if make else contextlib.nullcontext():
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UsageError(
            f"argument {flag}: cannot write to {printable(folder)}: "
            f"{error.strerror}"
        ) from error


def check_channels(model: str, channels: int) -> None:
    """Finds out whether pictures can be images of a model.

    Args:
      model: Folder of the model, for the message.
      channels: Number of channels of its images.

    Raises:
      UsageError: If they cannot.
    """
    if channels not in (1, 3):
        raise UsageError(
            "pictures have 1 or 3 channels, and the images of "
            f"{printable(model)} have {channels}"
        )


def find_label(
    flags: argparse.Namespace, class_names: tuple[str, ...]
) -> int | None:
    """Returns the label that `--label` names; `None` if there is no such flag.

    Args:
      flags: Of the command: `model`, `label`.
      class_names: Names of the classes of the model.

    Raises:
      UsageError: If the model has no such class.
    """
    if flags.label is None:
        return None
    of = printable(flags.model)
    if not class_names:
        raise UsageError(f"argument --label: {of} has no classes")
    found = find_class(flags.label, class_names)
    if found is None:
        names = printable(", ".join(class_names))
        raise UsageError(
            f"argument --label: {of} has no class {flags.label!r}, but {names}"
        )
    return class_names.index(found)


def find_class(label: str, names: Collection[str]) -> str | None:
    """Returns which of some names a user means; `None` if it is none of them.

    Args:
      label: The name, whose accents may be encoded otherwise than there.
      names: Names of classes.
    """
    if label in names:
        return label
    composed = functools.partial(unicodedata.normalize, "NFC")
    return next((n for n in names if composed(n) == composed(label)), None)
