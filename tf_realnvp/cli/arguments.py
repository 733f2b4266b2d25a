"""Declaration of commands and their arguments, and early checks.

Nothing here imports TensorFlow, which takes seconds, before a command that is
in order opens its model.
"""

import argparse
import contextlib
import functools
import importlib
import inspect
import os
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tf_realnvp.errors import UsageError
from tf_realnvp.serving import metadata
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.console import printable
from tf_realnvp.utils.named import of_entries, of_file
from tf_realnvp.utils.ranges import Folder, Name, OneOf, Switch, WholeNumber

if TYPE_CHECKING:
    from tf_realnvp.flow.real_nvp import RealNVP

# The name of an argument, and its options for `argparse`.
Argument = tuple[str, dict[str, Any]]
Check = Callable[[argparse.Namespace], None]
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


class ImageSet(Name):
    """Range of names of sets of images: see `image_sets`."""

    metavar = "D"


def command(
    home: str, example: str, *arguments: Argument, notes: str = ""
) -> Callable[[Check], Callable[[Subparsers], None]]:
    """Decorator that turns a function into a command on a saved model.

    The function makes the checks for which nothing slow has to be imported. Its
    docstring is the `--help`, with the texts of arguments in the section
    "Flags". The function of the same name in the module `home` then does the
    work, with the flags and the model.

    Args:
      home: The module, beside this one.
      example: Arguments of an example in `--help`.
      *arguments: Arguments of the command, in addition to the model.
      notes: Text to append to the docstring in `--help`.

    Returns:
      A decorator that maps the function to a function that adds the command to
      the subparsers of a program.
    """

    def declare(check):
        name = check.__name__

        def run(flags):
            check(flags)
            model = open_model(flags.model)
            module = importlib.import_module(f"tf_realnvp.cli.{home}")
            getattr(module, name)(flags, model)

        def add(subparsers):
            text, _, section = (inspect.getdoc(check) or "").partition(
                "\n\nFlags:\n"
            )
            _, *parts = re.split(r"(?m)^  (\w+): ", section)
            texts = dict(zip(parts[::2], parts[1::2], strict=True))
            title = text.partition("\n")[0].removesuffix(".")
            parser = subparsers.add_parser(
                name,
                help=title[:1].lower() + title[1:],
                description=f"{text}\n{notes}",
            )
            parser.epilog = f"example:\n  {parser.prog} {example}"
            for flag, options in (_MODEL, *arguments):
                own = texts.get(flag.removeprefix("--"), options["help"])
                if (default := options["default"]) is not None:
                    own = f"{own.strip()} (default: {default})"
                parser.add_argument(flag, **options | {"help": own})
            parser.set_defaults(run=run, prog=parser.prog)

        return add

    return declare


def argument(
    name: str,
    allowed: Any = _NAME,
    default: Any = None,
    text: str = "",
    **options: Any,
) -> Argument:
    """Declares an argument of a command.

    Args:
      name: Name of the argument; flags begin with `--`.
      allowed: Range of the value: see `utils.ranges`.
      default: The default, which a command appends to the text.
      text: Help text, unless the docstring of the command has another.
      **options: Further options of `argparse`.
    """
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
    "model",
    Folder(),
    text="folder of the model, realnvp_DATASET",
    metavar="MODEL",
)
DATA_DIR = argument(
    "--data_dir",
    Folder(),
    "datasets",
    "folder or bucket for data sets of TensorFlow Datasets",
)
CONTEXT = argument(
    "--context",
    Folder(),
    text="NumPy file with the context: one for all images or, in sample, a row "
    "for each",
    metavar="FILE",
)
SEED = WholeNumber(0, 2**32 - 1)


def images(name: str = "images", nargs: int | str = "+") -> Argument:
    """Declares an argument for image files."""
    text = "PNG, JPEG or TIFF files, or .npy files of real numbers"
    return argument(name, Folder(), text=text, nargs=nargs, metavar="IMAGE")


def open_model(path: str) -> "RealNVP":
    """Loads the model that a command names.

    Args:
      path: Its folder.

    Raises:
      ModelError: If there is no model, or it cannot be loaded.
    """
    metadata.read(path)  # Before TensorFlow is imported.
    runtime.configure(is_command=True)
    from tf_realnvp.serving import weights

    return weights.load_model(path)


def read_context(path: str | None) -> Any:
    """Returns the argument `context` of a NumPy file, if one is given.

    Args:
      path: A `.npy` file, or an `.npz` file with entries as for training.

    Raises:
      UsageError: If it cannot be read.
    """
    with naming("--context"):
        context = path and of_entries(of_file(path, "context"))
        if path and context is None:
            raise UsageError(
                f"{path} has no array named context, or context_NAME"
            )
        return context


def list_files(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files in a folder, without hidden files and sub-folders.

    Args:
      folder: The folder.

    Raises:
      OSError: If it cannot be read.
      UsageError: If it has no files.
    """
    names = sorted(  # There may be millions: paths take longer to sort.
        entry.name
        for entry in os.scandir(os.fspath(folder))
        if not entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise UsageError(f"there are no files in {folder} itself")
    return [pathlib.Path(folder, name) for name in names]


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
    as_folder: bool = False,
    new: str = "",
) -> None:
    """Checks that an output can be written, before it is computed.

    Args:
      path: The file or folder.
      flag: Flag that the path was given with, for messages.
      inputs: Files and folders of images, and names of other data sets.
      as_folder: Whether `path` is a folder even if it is not there and does not
        end like one. It is created for the check and removed again.
      new: Glob pattern of files that must not be in the folder yet.

    Raises:
      UsageError: If `path` cannot be written, if it is or lies in an input,
        which might be overwritten, or if there are such files.
    """
    real, as_folder = os.path.realpath(path), as_folder or is_folder(path)
    folder = pathlib.Path(path) if as_folder else pathlib.Path(path).parent
    make = files.created if as_folder else contextlib.nullcontext
    with naming(flag):
        for name in map(os.path.expanduser, filter(None, inputs)):
            # Data sets may have a class, as in `my_images:CLASS`.
            for of_set in {name, name.rpartition(":")[0] or name}:
                if pathlib.Path(real).is_relative_to(os.path.realpath(of_set)):
                    raise UsageError(f"{path} is among the images: {name}")
        try:
            with make(folder):
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(
                f"cannot write to {folder}: {error.strerror}"
            ) from error
        if as_folder and new and any(folder.glob(new)):
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
