"""`metadata.json`, the description of a SavedModel in its folder."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from tf_realnvp.utils import checks, files, hashing
from tf_realnvp.utils.checks import WholeNumber, WholeNumbers, check
from tf_realnvp.utils.errors import ModelError
from tf_realnvp.utils.messages import counted
from tf_realnvp.utils.values import Values

FILE = "metadata.json"
FORMAT = 3  # Formats 1 and 2 were never released, and are not read.


@dataclasses.dataclass(frozen=True)
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
    if reason := files.why_tensorflow_cannot(path):
        raise ModelError(f"cannot read {path}: {reason}")
    try:
        content = json.loads((path / FILE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot read {path / FILE}: {error}; the model is of another "
            "program, or was not copied whole"
        ) from error
    return parse(content, path)


def parse(content: Any, path: pathlib.Path) -> Metadata:
    """Checks the entries on images and classes.

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
        image_shape = check(
            content.pop("image_shape", None),
            "image_shape",
            WholeNumbers(3, 1, 2**31 - 1),
        )
        num_colors = Values(content.pop("num_colors", 0)).num_colors
        source = content.get("source", content.get("dataset"))
        if not isinstance(source, str | None):
            raise ValueError(f"`source` must be text, got {source!r}.")
        names, probs = _classes(content)
        sketch = hashing.parse_sketch(str(content.get("training_hashes", "")))
        dropped = content.get("dropped_bits", 0)
        check(dropped, "dropped_bits", WholeNumber(0, 15))
        others = content, names, probs, sketch, dropped
        return Metadata(image_shape, num_colors, source, *others)
    except (TypeError, ValueError) as error:
        raise damaged(path, error) from error


def _classes(content):
    """Returns the names and probabilities of the classes."""
    number = content.get("num_classes")
    if number is None:
        return (), ()
    names = tuple(map(str, content.get("class_names", range(number))))
    probs = tuple(content.get("class_probs", ()))
    if not len(set(names)) == len(names) == len(probs) == number:
        raise ValueError(f"{number} classes must have as many different names.")
    if min(probs) < 0.0 or not math.isclose(sum(probs), 1.0, abs_tol=1e-6):
        raise ValueError(f"`class_probs` must have a sum of 1, got {probs}.")
    return names, probs


def damaged(path: str | os.PathLike, reason: object) -> ModelError:
    """Returns the error for a model with invalid metadata."""
    return ModelError(f"{pathlib.Path(path) / FILE} is damaged: {reason}")


def describe_images(
    image_shape: tuple[int, ...], num_colors: int | None
) -> str:
    """Returns a human-readable description of images."""
    return f"{'x'.join(map(str, image_shape))} with {Values(num_colors)}"


def describe_levels(num_colors: int | None) -> str:
    """Describes what values are, and the effect of levels on bits/dim."""
    words = str(Values(num_colors))
    if num_colors != 256 and (bits := checks.bits_of_levels(num_colors)):
        words += f" ({counted(bits, 'bit')}: bits/dim are not comparable with "
        words += "those of 8)"
    return words
