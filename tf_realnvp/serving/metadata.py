"""`metadata.json`, the description of a SavedModel in its folder."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tf_realnvp.errors import ModelError
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import ranges

FILE = "metadata.json"
FORMAT = 4  # Formats 1 and 2 were never released, and are not read.
_OF_0_1 = 3


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the metadata of a SavedModel.

    Args:
      path: The folder that `export.save` wrote.

    Raises:
      ModelError: If there is no model, or if it is damaged or of another
        version.
    """
    path = pathlib.Path(path)
    try:
        content = dict(json.loads((path / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"there is no model in {path} ({error}): name the folder "
            "realnvp_DATASET that training wrote"
        ) from error
    check(content, path)
    return content


def check(content: Mapping[str, Any], path: pathlib.Path) -> None:
    """Checks the version, and that classes have as many names.

    Args:
      content: The parsed JSON object.
      path: The folder of the model, for messages.

    Raises:
      ModelError: As `read`.
    """
    version = content.get("format")
    # Couplings of 0.1.0 saw visible pixels among the others.
    is_old = version == _OF_0_1 and content.get("observe") != "mask"
    if version != FORMAT and not is_old:
        raise ModelError(
            f"{path} is of another program, or of another version of this one "
            f"(format {ranges.short(version)}, not {FORMAT})"
        )
    names, probs = class_names(content), content.get("class_probs", ())
    if not len({*names}) == len(names) == len(probs):
        raise ModelError(
            f"{path / FILE} is damaged: {len(probs)} classes need as many names"
        )


def digest(path: str | os.PathLike) -> str:
    """Returns a hash of a SavedModel, of its weights by their checksums."""
    result = hashlib.sha256()
    for name in (FILE, "saved_model.pb", "variables/variables.index"):
        result.update(pathlib.Path(path, name).read_bytes())
    return result.hexdigest()


def values(content: Mapping[str, Any]) -> Values:
    """Returns what the values of a model's images are.

    Args:
      content: The metadata.
    """
    return Values(content["num_colors"], content.get("dropped_bits", 0))


def class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of a model's classes, by default their indices.

    Args:
      content: The metadata.
    """
    probs = content.get("class_probs", ())
    names = content.get("class_names", range(len(probs))) if probs else ()
    return tuple(map(str, names))
