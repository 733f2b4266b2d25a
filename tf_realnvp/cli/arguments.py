"""Declaration of commands and their arguments, and early checks."""

import argparse
import contextlib
import functools
import inspect
import os
import pathlib
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_realnvp.errors import UsageError, reason
from tf_realnvp.serving import metadata
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.console import printable
from tf_realnvp.utils.named import of_entries, of_file
from tf_realnvp.utils.ranges import Folder, Name, OneOf, Switch, WholeNumber

if TYPE_CHECKING:
    from tf_realnvp import RealNVP

# The name of an argument, and its options for `argparse`.
Argument = tuple[str, dict[str, Any]]
Run = Callable[[argparse.Namespace], None]
Subparsers = argparse._SubParsersAction
_NAME = Name()


class Parser(argparse.ArgumentParser):
    """Parser without abbreviations, whose errors do not print the usage."""

    def __init__(self, **options):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message):
        text = printable(f"{self.prog}: error: {message}")
        self.exit(UsageError.exit_code, f"{text}\n")


class File(Name):
    """Range of files with given suffixes, and optionally of folders."""

    metavar = "PATH"

    def __init__(self, *suffixes: str, or_folder: bool = False):
        """Creates the range.

        Args:
          *suffixes: The suffixes of the files.
          or_folder: Whether folders are allowed as well.
        """
        self._suffixes, self._or_folder = suffixes, or_folder

    def parse(self, text):
        return os.path.expanduser(text)

    def __str__(self):
        kinds = "a folder, or a file" if self._or_folder else "a file"
        return f"{kinds} whose name ends in {' or '.join(self._suffixes)}"

    def __contains__(self, value):
        is_file = pathlib.Path(value).suffix.lower() in self._suffixes
        return self._or_folder if is_folder(value) else is_file


def is_folder(text: str) -> bool:
    """Returns whether a name is an existing folder, or ends like a folder."""
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def command(
    example: str, *arguments: Argument, notes: str = ""
) -> Callable[[Run], Callable[[Subparsers], None]]:
    """Decorator that turns a function into a command on a saved model.

    The command has the name of the function. Its `--help` shows the docstring.

    Args:
      example: Arguments of an example in `--help`.
      *arguments: Arguments of the command, in addition to the model.
      notes: Text to append to the docstring in `--help`.

    Returns:
      A decorator that maps the function to a function that adds the command to
      the subparsers of a program.
    """

    def declare(run):
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
            parser.set_defaults(run=run, prog=parser.prog)

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
      name: Name of the argument; flags begin with `--`.
      text: Help text.
      allowed: Range of the value: see `utils.checks`.
      default: The default, which is appended to `text`.
      **options: Further options of `argparse`.
    """
    if default is not None:
        text = f"{text} (default: {default})"
    if isinstance(allowed, Switch):
        options["action"] = "store_true"
    elif isinstance(allowed, OneOf):
        options["choices"] = allowed.choices
    else:
        options.setdefault("metavar", allowed.metavar)
        options["type"] = functools.partial(_parse, allowed)
    return name, {"default": default, "help": text, **options}


def _parse(allowed, text):
    """Parses and checks the value of an argument, for `argparse`."""
    with contextlib.suppress(ValueError):
        if (value := allowed.parse(text)) in allowed:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")


_MODEL = argument(
    "model", "folder of the model, realnvp_DATASET", Folder(), metavar="MODEL"
)
_DATA_DIR = "folder or bucket for data sets of TensorFlow Datasets"
DATA_DIR = argument("--data_dir", _DATA_DIR, Folder(), "datasets")
IMAGE_FILES = "PNG, JPEG or TIFF files, or .npy files of real numbers"


def images(
    name: str = "images", text: str = IMAGE_FILES, nargs: int | str = "+"
) -> Argument:
    """Declares an argument for image files."""
    return argument(name, text, Folder(), nargs=nargs, metavar="IMAGE")


def label(default: str) -> Argument:
    """Declares the flag `--label`.

    Args:
      default: Description of the default.
    """
    text = "class of the images, for a model with classes"
    return argument("--label", f"{text} (default: {default})")


CONTEXT = argument(
    "--context",
    "NumPy file with the context: one for all images or, in sample, a row for "
    "each",
    Folder(),
    metavar="FILE",
)


def open_model(path: str) -> "RealNVP":
    """Loads the model that a command names.

    Raises:
      ModelError: If there is no model, or it cannot be loaded.
    """
    metadata.read(path)  # Before TensorFlow is imported, which takes seconds.
    runtime.configure()
    from tf_realnvp.serving import weights

    return weights.load_model(path)


def read_context(path: str | None) -> Any:
    """Returns the argument `context` of a NumPy file, if one is given.

    Args:
      path: A `.npy` file, or an `.npz` file with entries as for training.

    Raises:
      UsageError: If it cannot be read.
    """
    if path is None:
        return None
    with naming("--context"):
        return of_entries(of_file(path, "context"))


def check_context(
    model: "RealNVP", context: Any = None, n: int = 1, observes: bool = False
) -> None:
    """Checks the context of `n` images.

    Args:
      model: The model.
      context: The context that a flag names, if any.
      n: Number of images.
      observes: Whether the command makes the context of a model that observes
        images.

    Raises:
      UsageError: If the model needs another one.
    """
    import tensorflow as tf

    has_default = model.observe == "mask" or (observes and model.observe)
    if context is None and model.context_shape is not None and not has_default:
        raise UsageError(
            f"the model needs a context of shape {model.context_shape}, which "
            "only `sample` and `score` take (--context), and Python"
        )
    try:
        if context is not None:
            model.condition(np.zeros([n]), context=context)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise UsageError(f"argument --context: {reason(error)}") from error


def seed(of_what: str, default: int | None = 0) -> Argument:
    """Declares the flag `--seed`."""
    drawn = " (default: drawn at random and printed)" if default is None else ""
    return argument(
        "--seed", f"seed {of_what}{drawn}", WholeNumber(0, 2**32 - 1), default
    )


def out(
    text: str, default: str, in_folder: str | None = None, *suffixes: str
) -> Argument:
    """Declares the flag `--out` for a file with the suffix of the default.

    Args:
      text: Help text.
      default: The default.
      in_folder: What is written to a folder, if one is allowed as well.
      *suffixes: Other suffixes that are allowed.
    """
    suffix, or_folder = pathlib.Path(default).suffix, in_folder is not None
    allowed = File(suffix, *suffixes, or_folder=or_folder)
    if in_folder is not None:
        text += f"; or a folder, such as new/, for {in_folder}"
    return argument("--out", text, allowed, default)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Adds the name of an argument to errors about it.

    Args:
      name: Name of the argument.

    Raises:
      UsageError: If a `UsageError` or `OSError` was raised inside.
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
    new: str = "",
) -> None:
    """Checks that an output can be written, before it is computed.

    Args:
      path: The file or folder.
      flag: Flag that the path was given with, for messages.
      inputs: Files and folders of images, and names of other data sets.
      is_folder: Whether `path` is a folder. It may be missing; it is created
        for the check and removed again.
      new: Glob pattern of files that must not be in the folder yet.

    Raises:
      UsageError: If `path` cannot be written, if it is or lies in an input,
        which might be overwritten, or if there are such files.
    """
    real = pathlib.Path(os.path.realpath(path))
    folder = pathlib.Path(path) if is_folder else pathlib.Path(path).parent
    make = files.created if is_folder else contextlib.nullcontext
    with naming(flag):
        for name in map(os.path.expanduser, filter(None, inputs)):
            if real.is_relative_to(os.path.realpath(name)):
                raise UsageError(f"{path} is among the images: {name}")
        try:
            with make(folder):
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(
                f"cannot write to {folder}: {error.strerror}"
            ) from error
        if is_folder and new and any(folder.glob(new)):
            raise UsageError(f"{path} has {new} of before: give another folder")


def find_label(label: str | None, class_names: Sequence[str]) -> int | None:
    """Returns the index of the class given by `--label`, if any.

    Args:
      label: The value of the flag.
      class_names: Names of the classes of the model.

    Raises:
      UsageError: If the model has no such class.
    """
    with naming("--label"):
        return None if label is None else class_number(label, class_names)


def class_number(label: str, names: Sequence[str]) -> int:
    """Returns the index of a class by its name.

    Args:
      label: The name. Its case and its Unicode normalization may differ from
        those in `names`, the latter as in folder names copied from macOS.
      names: Names of the classes.

    Raises:
      UsageError: If there is no such class.
    """
    normalized = [unicodedata.normalize("NFC", n) for n in (label, *names)]
    for fold in (str, str.casefold):
        key, *keys = map(fold, normalized)
        if key in keys:
            return keys.index(key)
    raise UsageError(f"no class {label!r}, but {', '.join(names) or 'none'}")
