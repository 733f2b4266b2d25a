"""What the commands share: how they are declared, and early checks."""

import argparse
import contextlib
import functools
import inspect
import os
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tf_realnvp.cli import streams
from tf_realnvp.utils import files
from tf_realnvp.utils.checks import Folder, Name, OneOf, Switch, WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import printable

# The name of an argument, and what `argparse` is to know of it.
Argument = tuple[str, dict[str, Any]]
Run = Callable[[argparse.Namespace], None]
Subparsers = argparse._SubParsersAction
_NAME = Name()


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations; reports a bad command line without its usage."""

    def __init__(self, **options):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )
        # Before Python 3.14 it takes -1e3 and -2. for flags.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message):
        text = printable(f"{self.prog}: error: {message}")
        self.exit(UsageError.exit_code, f"{text}\n")


class File(Name):
    """Files whose names end in a suffix, perhaps also folders."""

    metavar = "PATH"

    def __init__(self, suffix: str, or_folder: bool = False):
        """Makes the range.

        Args:
          suffix: What the files end in.
          or_folder: Whether folders will do, too.
        """
        self._suffix, self._or_folder = suffix, or_folder

    def parse(self, text):
        return os.path.expanduser(text)

    def __str__(self):
        kinds = "a folder, or a file" if self._or_folder else "a file"
        return f"{kinds} whose name ends in {self._suffix}"

    def __contains__(self, value):
        if is_folder(value):
            return self._or_folder
        return pathlib.Path(value).suffix.lower() == self._suffix


def is_folder(text: str) -> bool:
    """Returns whether a name is one of a folder, there or still to be made."""
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def command(
    example: str, *arguments: Argument, notes: str = ""
) -> Callable[[Run], Callable[[Subparsers], None]]:
    """Makes a command on a saved model of a function, which has its name.

    Args:
      example: Arguments to show.
      *arguments: What it takes beside the model.
      notes: What `--help` says after the docstring of the function.

    Returns:
      Maps the function to what adds the command to those of a program.
    """

    def declare(run):
        def run_and_check(flags):
            run(flags)
            streams.check_written()

        def add(subparsers):
            text = inspect.getdoc(run) or ""
            title = text.partition("\n")[0].removesuffix(".")
            parser = subparsers.add_parser(
                run.__name__,
                help=title[:1].lower() + title[1:],
                description=f"{text}\n{notes}",
            )
            parser.epilog = f"example:\n  {parser.prog} {example}"
            for name, options in (_MODEL, *arguments):
                parser.add_argument(name, **options)
            parser.set_defaults(run=run_and_check, prog=parser.prog)

        return add

    return declare


def argument(
    name: str,
    text: str,
    allowed: Any = _NAME,
    default: Any = None,
    **options: Any,
) -> Argument:
    """Declares an argument of a command.

    Args:
      name: Its name; that of a flag begins with `--`.
      text: What it is for.
      allowed: Its range: see `utils.checks`.
      default: Its default, which `text` need not mention.
      **options: Others of `argparse`.
    """
    if default is not None:
        text = f"{text} (default: {default})"
    kind: dict[str, Any]
    if isinstance(allowed, Switch):
        kind = {"action": "store_true"}
    elif isinstance(allowed, OneOf):
        kind = {"choices": allowed.choices}
    else:
        parse = functools.partial(_parse, allowed)
        kind = {"type": parse, "metavar": allowed.metavar}
    return name, {"default": default, "help": text, **kind, **options}


def _parse(allowed, text):
    """Returns the value of an argument, for `argparse`."""
    with contextlib.suppress(ValueError):
        if (value := allowed.parse(text)) in allowed:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")


_MODEL = argument(
    "model", "folder of the model, realnvp_DATASET", Folder(), metavar="MODEL"
)
DATA_DIR = argument(
    "--data_dir", "folder of TensorFlow Datasets' copies", Folder(), "datasets"
)


def images(number: int | str) -> Argument:
    """Declares the image files that a command takes."""
    text = "PNG or JPEG file"
    return argument("images", text, Folder(), nargs=number, metavar="IMAGE")


def label(default: str) -> Argument:
    """Declares the flag `--label`.

    Args:
      default: What holds without it, in words.
    """
    text = "class of the images, of a model that has classes"
    return argument("--label", f"{text} (default: {default})")


def seed(of_what: str, default: int | None = 0) -> Argument:
    """Declares the flag `--seed`."""
    drawn = " (default: one is drawn and printed)" if default is None else ""
    return argument(
        "--seed", f"seed {of_what}{drawn}", WholeNumber(0, 2**32 - 1), default
    )


def out(text: str, default: str) -> Argument:
    """Declares the flag `--out` of a file, with the suffix of its default."""
    return argument("--out", text, File(pathlib.Path(default).suffix), default)


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Lets errors name the argument that is to be changed.

    Args:
      name: Its name.

    Raises:
      UsageError: If there was one, or an `OSError`.
    """
    try:
        yield
    except (OSError, UsageError) as error:
        raise UsageError(f"argument {name}: {error}") from error


def check_output(
    path: str,
    flag: str = "--out",
    inputs: Iterable[str | None] = (),
    is_folder: bool = False,
) -> None:
    """Finds out whether something can be written before it is computed.

    Args:
      path: The file or folder.
      flag: What it was given by, for the message.
      inputs: Files and folders of images, and names of other data sets.
      is_folder: Whether it is a folder, which then may be missing. It is made,
        and goes again.

    Raises:
      UsageError: If it cannot be written, or is (in) a saved model or one of
        the inputs, which might be replaced.
    """
    real = pathlib.Path(os.path.realpath(path))
    folder = pathlib.Path(path) if is_folder else pathlib.Path(path).parent
    with about(flag):
        for outer in (real, *real.parents):
            if os.path.exists(outer / "saved_model.pb"):
                raise UsageError(
                    f"{outer} is a model, which as a whole may be replaced: "
                    "give another folder"
                )
        for name in map(os.path.expanduser, filter(None, inputs)):
            if real.is_relative_to(os.path.realpath(name)):
                raise UsageError(f"{path} is among the images: {name}")
        try:
            with files.made(folder) if is_folder else contextlib.nullcontext():
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(
                f"cannot write to {folder}: {error.strerror}"
            ) from error


def check_new_files(
    folder: str, flag: str, pattern: str, inputs: Iterable[str | None] = ()
) -> None:
    """Finds out whether files can be written to a folder that has none of them.

    Args:
      folder: The folder, there or still to be made.
      flag: As for `check_output`.
      pattern: The names of the files, for `glob`.
      inputs: As for `check_output`.

    Raises:
      UsageError: If they cannot, or some are there.
    """
    check_output(folder, flag, inputs, is_folder=True)
    if any(pathlib.Path(folder).glob(pattern)):
        raise UsageError(
            f"argument {flag}: {folder} has {pattern} of before, which would "
            "be mixed with these: give another folder, or remove them"
        )


def find_label(label: str | None, class_names: Sequence[str]) -> int | None:
    """Returns the number of the class that `--label` names, if any.

    Args:
      label: The value of the flag.
      class_names: Names of the classes of the model.

    Raises:
      UsageError: If the model has no such class.
    """
    with about("--label"):
        return None if label is None else class_number(label, class_names)


def class_number(label: str, names: Sequence[str]) -> int:
    """Returns the number of the class that a user means.

    Args:
      label: The name, whose accents may be encoded otherwise than there, as in
        a folder's that a Mac has copied.
      names: Names of classes.

    Raises:
      UsageError: If it is none of them.
    """
    composed = functools.partial(unicodedata.normalize, "NFC")
    try:
        return [*map(composed, names)].index(composed(label))
    except ValueError:
        known = ", ".join(names) or "none"
        raise UsageError(f"no class {label!r}, but {known}") from None
