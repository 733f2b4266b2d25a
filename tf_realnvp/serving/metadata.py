"""`metadata.json`, the description of a SavedModel in its folder."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from tf_realnvp.utils import checks, hashing
from tf_realnvp.utils.errors import DataError, ModelError
from tf_realnvp.utils.values import Values

FILE = "metadata.json"
FORMAT = 3  # Formats 1 and 2 were never released, and are not read.


@dataclasses.dataclass
class Metadata:
    """The metadata of a SavedModel.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels of a component; `None` for real numbers.
      source: The training data set, as an argument of `data.load`, or `None`.
      others: All other entries, unchecked.
      class_names: Names of the classes, if there are any; by default their
        indices.
      class_probs: Probabilities of the classes.
      training_hashes: `hashing.sketch` of the training images, parsed; empty if
        there is none, as for data sets of TFDS.
      dropped_bits: Number of lowest bits that the levels lack, of the values
        that files of 16 bits hold.
    """

    image_shape: tuple[int, int, int]
    num_colors: int | None
    source: str | None
    others: dict[str, Any]
    class_names: tuple[str, ...] = ()
    class_probs: tuple[float, ...] = ()
    training_hashes: frozenset[int] = frozenset()
    dropped_bits: int = 0

    @property
    def values(self) -> Values:
        """What the values of the images are."""
        return Values(self.num_colors)

    @property
    def num_dims(self) -> int:
        """Number of components of an image, `H * W * C`."""
        return math.prod(self.image_shape)


def read(path: str | os.PathLike) -> Metadata:
    """Reads the metadata of a SavedModel.

    Args:
      path: The folder that `export.save` wrote.

    Raises:
      ModelError: If there is no model, or if it is damaged or of another
        version.
    """
    path = pathlib.Path(path)
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"there is no SavedModel in {path}: name the folder "
            "realnvp_DATASET that training wrote"
        )
    try:
        content = json.loads((path / FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read {path / FILE}: {error}; the model is of another "
            "program, or was not copied whole"
        ) from error
    return parse(content, path)


def parse(content: Any, path: pathlib.Path) -> Metadata:
    """Reads the entries on images and classes.

    Args:
      content: The parsed JSON object.
      path: The folder of the model, for messages.

    Raises:
      ModelError: As `read`.
    """
    content = dict(content) if isinstance(content, dict) else {}
    if (version := content.pop("format", None)) != FORMAT:
        raise ModelError(
            f"{path} is of another program, or of another version of this one "
            f"(format {checks.short(version)}, not {FORMAT})"
        )
    try:
        probs = tuple(content.get("class_probs", ()))
        known = content.get("class_names", range(len(probs))) if probs else ()
        names = tuple(map(str, known))
        if not len({*names}) == len(names) == len(probs):
            raise ValueError(f"{len(probs)} classes need as many names")
        return Metadata(
            tuple(content.pop("image_shape")),
            Values(content.pop("num_colors")).num_colors,
            content.get("source", content.get("dataset")),
            content,
            names,
            probs,
            hashing.parse_sketch(content.get("training_hashes", "")),
            content.get("dropped_bits", 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: str | os.PathLike, reason: object) -> ModelError:
    """Returns the error for a model with invalid metadata."""
    return ModelError(f"{pathlib.Path(path) / FILE} is damaged: {reason}")


def check_images(dataset: Any, model: Any) -> None:
    """Checks that images have the shape and levels of those of a model.

    Args:
      dataset: The `ImageDataset`.
      model: A model, or its `Metadata`.

    Raises:
      DataError: If they do not.
    """
    its, own = (
        f"{'x'.join(map(str, of.image_shape))} with {of.values}"
        for of in (dataset, model)
    )
    if its != own:
        raise DataError(
            f"the images of {dataset.name} are {its}, those of the model {own}"
        )
