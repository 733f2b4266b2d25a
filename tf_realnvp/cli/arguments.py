"""What the commands share: how they are declared, and early checks."""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import os
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tf_realnvp.cli import streams
from tf_realnvp.utils import files
from tf_realnvp.utils.checks import OneOf, RealNumber, Switch, WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import printable


class Parser(argparse.ArgumentParser):
    """Reports a bad command line without its usage."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Before Python 3.14 it takes -1e3 and -2. for flags.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message):
        text = printable(f"{self.prog}: error: {message}")
        self.exit(UsageError.exit_code, f"{text}\n")


# The name of an argument, and what `argparse` is to know of it.
Argument = tuple[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command on a saved model.

    Attributes:
      run: Does the work, given the flags. Its docstring is what `--help` says.
      example: Arguments to show.
      arguments: What it takes beside the model.
      notes: More for `--help`.
    """

    run: Callable[[argparse.Namespace], None]
    example: str
    arguments: tuple[Argument, ...]
    notes: str

    def add_to(self, subparsers: "argparse._SubParsersAction") -> None:
        """Adds the command to those of a program."""
        text = inspect.getdoc(self.run) or ""
        title = text.partition("\n")[0].removesuffix(".")
        parser = subparsers.add_parser(
            self.run.__name__,
            help=title[:1].lower() + title[1:],
            description=f"{text}\n{self.notes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.epilog = f"example:\n  {parser.prog} {self.example}"
        for name, options in (_MODEL, *self.arguments):
            parser.add_argument(name, **options)

        def run_and_check(flags, _):
            self.run(flags)
            streams.check_written()

        parser.set_defaults(run=run_and_check, prog=parser.prog)


def command(
    example: str, *arguments: Argument, notes: str = ""
) -> Callable[[Callable[[argparse.Namespace], None]], Command]:
    """Makes a command of a function, which has its name.

    Args:
      example: As for `Command`.
      *arguments: As for `Command`.
      notes: As for `Command`.
    """
    return lambda run: Command(run, example, arguments, notes)


def argument(
    name: str,
    text: str,
    kind: Callable[[str], Any] | WholeNumber | RealNumber = str,
    default: Any = None,
    **options: Any,
) -> Argument:
    """Declares an argument of a command.

    Args:
      name: Its name; that of a flag begins with `--`.
      text: What it is for.
      kind: Parses its value, or the numbers that it takes.
      default: Its default, which `text` need not mention.
      **options: Others of `argparse`.
    """
    if default is not None:
        text = f"{text} (default: {default})"
    if isinstance(kind, (WholeNumber, RealNumber)):
        options = {"metavar": kind.metavar} | options
        kind = number(kind)
    return name, {"type": kind, "default": default, "help": text, **options}


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
        is_right = pathlib.Path(text).suffix.lower() == suffix
        if not is_right and not (or_folder and is_folder(result)):
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


_MODEL = argument(
    "model", "folder of the model, realnvp_DATASET", path, metavar="MODEL"
)
DATA_DIR = argument(
    "--data_dir",
    "folder of TensorFlow Datasets' copies",
    path,
    "datasets",
    metavar="DIR",
)
LABEL = argument(
    "--label",
    "class of the images, of a model that has classes (default: the likeliest "
    "of each)",
    metavar="NAME",
)


def images(number: int | str) -> Argument:
    """Declares the image files that a command takes."""
    return argument(
        "images", "PNG or JPEG file", path, nargs=number, metavar="IMAGE"
    )


def seed(of_what: str, default: int | None = 0) -> Argument:
    """Declares the flag `--seed`."""
    drawn = " (default: one is drawn and printed)" if default is None else ""
    return argument(
        "--seed", f"seed {of_what}{drawn}", WholeNumber(0, 2**32 - 1), default
    )


def out(text: str, default: str) -> Argument:
    """Declares the flag `--out` of a file, with the suffix of its default."""
    kind = file(pathlib.Path(default).suffix)
    return argument("--out", text, kind, default, metavar="PATH")


def check_out(out: str, images: Iterable[str] = ()) -> None:
    """Finds out whether a file can be written before it is computed.

    Args:
      out: The value of `--out`.
      images: Files that it must not take the place of.

    Raises:
      UsageError: If it cannot.
    """
    if os.path.realpath(out) in map(os.path.realpath, images):
        raise UsageError(f"argument --out: {out} is one of the images")
    if is_folder(out):
        raise UsageError(f"argument --out: {out} is a folder, not a file")
    check_writable(pathlib.Path(out).parent, "--out", make=False)


def check_new_files(folder: str, flag: str, pattern: str) -> None:
    """Finds out whether files can be written to a folder that has none of them.

    Args:
      folder: The folder, there or still to be made.
      flag: What it was given by, for the message.
      pattern: The names of the files, for `glob`.

    Raises:
      UsageError: If they cannot, or some are there.
    """
    check_writable(pathlib.Path(folder), flag)
    if any(pathlib.Path(folder).glob(pattern)):
        raise UsageError(
            f"argument {flag}: {folder} has {pattern} of before, which would "
            "be mixed with these: give another folder, or remove them"
        )


def check_writable(folder: pathlib.Path, flag: str, make: bool = True) -> None:
    """Finds out whether a folder can be written to before that is needed.

    Args:
      folder: The folder.
      flag: What it was given by, for the message.
      make: Whether it may be missing. It is made then, and goes again.

    Raises:
      UsageError: If it cannot be written to, or is (in) a saved model.
    """
    real = pathlib.Path(os.path.realpath(folder))
    for outer in (real, *real.parents):
        if os.path.exists(outer / "saved_model.pb"):
            raise UsageError(
                f"argument {flag}: {outer} is a model, which as a whole may be "
                "replaced: give another folder"
            )
    try:
        with files.made(folder) if make else contextlib.nullcontext():
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UsageError(
            f"argument {flag}: cannot write to {folder}: {error.strerror}"
        ) from error


def find_label(label: str | None, class_names: tuple[str, ...]) -> int | None:
    """Returns the number of the class that `--label` names, if any.

    Args:
      label: The value of the flag.
      class_names: Names of the classes of the model.

    Raises:
      UsageError: If the model has no such class.
    """
    if label is None:
        return None
    if not class_names:
        raise UsageError("argument --label: the model has no classes")
    try:
        return class_names.index(find_class(label, class_names))
    except UsageError as error:
        raise UsageError(f"argument --label: the model has {error}") from error


def find_class(label: str, names: Collection[str]) -> str:
    """Returns which of some names of classes a user means.

    Args:
      label: The name, whose accents may be encoded otherwise than there, as in
        a folder's that a Mac has copied.
      names: Names of classes.

    Raises:
      UsageError: If it is none of them.
    """
    composed = functools.partial(unicodedata.normalize, "NFC")
    for name in names:
        if composed(name) == composed(label):
            return name
    raise UsageError(f"no class {label!r}, but {', '.join(names) or 'none'}")
