"""What a SavedModel says of itself, in `metadata.json` beside it."""

import dataclasses
import json
import math
import os
import pathlib
import reprlib
from typing import Any

from tf_realnvp.config import ARCHITECTURE
from tf_realnvp.utils import checks, files
from tf_realnvp.utils.checks import RealNumber, WholeNumber
from tf_realnvp.utils.errors import ModelError
from tf_realnvp.utils.messages import counted, printable

FILE = "metadata.json"
# In format 1 there was no number, and up to 2 each weight was a variable.
FORMAT = 3

# Arguments of `RealNVP` that once had no other value, and were not written.
_BEFORE: dict[str, Any] = {
    "num_scales": 2,
    "num_couplings": [3, 3, 4],
    "dequantization": "uniform",
    "num_classes": None,
}


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The metadata of a SavedModel.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels of a component.
      source: The data set that it was trained on, as `data.load` finds it, or
        `None`.
      others: All that there is beside these, unchecked.
      class_names: Names of the classes, if there are any; where none are told,
        their numbers.
      class_probs: Their probabilities.
    """

    image_shape: tuple[int, int, int]
    num_colors: int
    source: str | None
    others: dict[str, Any]
    class_names: tuple[str, ...] = ()
    class_probs: tuple[float, ...] = ()


def read(path: str | os.PathLike) -> Metadata:
    """Reads the metadata of a SavedModel.

    Args:
      path: The folder that `export.save` wrote.

    Raises:
      ModelError: If there is no such model, or it is damaged, or of a version
        to come.
    """
    path = pathlib.Path(path)
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"there is no SavedModel in {printable(path)}: name the folder "
            "realnvp_DATASET that training wrote"
        )
    if reason := files.why_tensorflow_cannot(path):
        raise ModelError(f"{reason}: rename the folder of the model")
    file = path / FILE
    if not file.is_file():
        raise ModelError(
            f"{printable(path)} has no {FILE}: it is of another program, or "
            "was not copied whole"
        )
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {printable(file)}: {error}") from error
    return parse(content, path)


def parse(content: Any, path: pathlib.Path) -> Metadata:
    """Checks the metadata of a SavedModel.

    Args:
      content: What JSON gives back.
      path: The folder of the model, for messages.

    Raises:
      ModelError: As `read`.
    """
    if not isinstance(content, dict):
        raise other_model(path)
    version = content.pop("format", 1)
    if version not in (1, 2, FORMAT):
        raise ModelError(
            f"{printable(path)} is of another version of this program (format "
            f"{reprlib.repr(version)}, not {FORMAT}): use it with that version"
        )
    if not {"image_shape", "num_colors"} <= content.keys():
        raise other_model(path)
    source = "source" if "source" in content else "dataset"
    _check(path, content, "image_shape", _is_image_shape)
    _check(path, content, "num_colors", _is_num_colors)
    _check(path, content, source, _is_source)
    return Metadata(
        tuple(content.pop("image_shape")),
        content.pop("num_colors"),
        content.get(source),
        content,
        *_classes(path, content),
    )


def _classes(path, content):
    """Returns names and probabilities of the classes, which are checked."""
    number = content.get("num_classes")
    if number is None:
        return (), ()
    _check(path, content, "num_classes", WholeNumber(1).__contains__)

    def are_names(value):
        return (
            isinstance(value, list)
            and all(isinstance(name, str) for name in value)
            and len(set(value)) == len(value) == number
        )

    def are_probs(value):
        return (
            isinstance(value, list)
            and len(value) == number
            and all(prob in RealNumber(includes_low=True) for prob in value)
            and math.isclose(sum(value), 1.0, abs_tol=1e-6)
        )

    numbers = [str(label) for label in range(number)]
    content = {"class_names": numbers} | content
    _check(path, content, "class_names", are_names)
    _check(path, content, "class_probs", are_probs)
    return tuple(content["class_names"]), tuple(content["class_probs"])


def architecture(metadata: Metadata, path: str | os.PathLike) -> dict[str, Any]:
    """Returns the arguments of `RealNVP` that make such a model.

    Args:
      metadata: Those of a SavedModel.
      path: Its folder, for messages.

    Raises:
      ModelError: If they are damaged.
    """
    others = _BEFORE | metadata.others
    for name, allowed in ARCHITECTURE.items():
        _check(path, others, name, allowed.__contains__)
    return {
        "image_shape": metadata.image_shape,
        "num_colors": metadata.num_colors,
        **{name: others[name] for name in ARCHITECTURE},
        "num_couplings": tuple(others["num_couplings"]),
        "num_classes": others["num_classes"],
        "class_probs": metadata.class_probs or None,
    }


def _check(path, content, name, is_good):
    """Raises `ModelError` unless a value of the metadata is good."""
    value = content.get(name)
    if not is_good(value):
        file = pathlib.Path(path) / FILE
        raise ModelError(
            f"{printable(file)} is damaged: {name} is {reprlib.repr(value)}"
        )


def other_model(path: str | os.PathLike) -> ModelError:
    """Returns the error of a SavedModel that this package did not write."""
    return ModelError(
        f"{printable(path)} holds a SavedModel of another program"
    )


def describe_images(image_shape: tuple[int, ...], num_colors: int) -> str:
    """Returns what images are, for people."""
    return f"{'x'.join(map(str, image_shape))} with {num_colors} levels"


def describe_levels(num_colors: int) -> str:
    """Returns how many levels there are, and what that does to bits/dim."""
    words = f"{num_colors} levels"
    if num_colors < 256 and (bits := checks.bits_of_levels(num_colors)):
        words += f" ({counted(bits, 'bit')}: bits/dim are not comparable with "
        words += "those of 8)"
    return words


def _is_image_shape(value):
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(size) is int and size >= 1 for size in value)
        and math.prod(value) < 2**31
    )


def _is_num_colors(value):
    return type(value) is int and value in WholeNumber(2, 256)


def _is_source(value):
    """Returns whether a value is a data set's name, or a path, or `None`."""
    if not isinstance(value, str):
        return value is None
    try:  # Paths need not be text, and then have some surrogates.
        name = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return name != b"" and b"\0" not in name
