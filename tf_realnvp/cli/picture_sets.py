"""The pictures that a flag of a command means."""

import argparse
import os
import pathlib
import sys
from typing import TYPE_CHECKING, NamedTuple

from tf_realnvp.errors import PictureError, UsageError, printable

if TYPE_CHECKING:
    import numpy as np

    from tf_realnvp.data import ImageDataset
    from tf_realnvp.serving.metadata import Metadata
    from tf_realnvp.serving.saved_model import SavedModel


class PictureSet(NamedTuple):
    """Some pictures, as images of a model.

    Attributes:
      title: What they are, for people.
      names: Of each, a path in its folder or a number.
      images: `uint8` `[n, H, W, C]`.
    """

    title: str
    names: list[str]
    images: "np.ndarray"

    def __len__(self) -> int:
        return len(self.names)


def load(
    flags: argparse.Namespace,
    flag: str,
    metadata: "Metadata",
    split: str,
    minimum: int,
) -> PictureSet:
    """Loads the pictures that a flag means.

    A folder, or a file of NumPy, is taken whole, and a named data set the
    images of one split. So is whatever the model was trained on: the images
    that it has not seen must not be mixed with those that it has.

    Args:
      flags: Of the command: `model`, `data_dir`, `max_images`, `seed`.
      flag: Name of the flag. Where it is not given, the data set is what the
        model was trained on.
      metadata: Those of the model.
      split: "train" or "test".
      minimum: The fewest pictures that will do.

    Returns:
      At most `max_images` of them, drawn by the seed.

    Raises:
      UsageError: If they cannot be had, or are too few.
    """
    from tf_realnvp.data import arrays

    name = getattr(flags, flag) or metadata.source
    if name is None:
        raise UsageError(
            f"argument --{flag}: name some, for {printable(flags.model)} does "
            "not tell what it was trained on"
        )
    if is_whole(name, metadata.source) and not arrays.is_file(name):
        result = _from_folder(flags, flag, name, metadata)
    else:
        result = _from_dataset(flags, flag, name, metadata, split)
    if len(result) < minimum:
        found = f"there are {len(result)} {result.title}"
        raise UsageError(
            f"argument --{flag}: {found}, and at least {minimum} are needed"
        )
    return result


def same(name: str, other: str | None) -> bool:
    """Returns whether two names are those of one data set.

    Args:
      name: As `data.load` takes it.
      other: Likewise, or `None`.
    """
    from tf_realnvp import data

    if other is None:
        return False
    first, second = data.source(name), data.source(other)
    both_known = _is_known(first) and _is_known(second)
    return first == second or (both_known and first.lower() == second.lower())


def is_whole(name: str, source: str | None) -> bool:
    """Returns whether all images of a data set are taken, of both splits.

    Args:
      name: As `data.load` takes it.
      source: What the model was trained on, or `None`.
    """
    from tf_realnvp import data
    from tf_realnvp.data import arrays

    is_local = data.is_folder(name) or arrays.is_file(name)
    return is_local and not _is_known(name) and not same(name, source)


def _is_known(name):
    """Returns whether `data.load` knows a name, whatever folders there are."""
    from tf_realnvp import data

    return name.lower() in (known.lower() for known in data.DATASETS)


def load_dataset(
    flags: argparse.Namespace,
    flag: str,
    name: str,
    model: "Metadata | SavedModel",
    labels: bool = False,
) -> "ImageDataset":
    """Loads a data set of images like those of a model.

    They get the size of the model's, and as many bits.

    Args:
      flags: Of the command: `model`, `data_dir`.
      flag: Name of the flag that names the data set, for messages.
      name: The data set.
      model: What knows the model's images.
      labels: Whether to load labels, too, which are to be those of the model.

    Raises:
      DataError: As `data.load`.
      UsageError: If the model is not of such images, or classes.
    """
    from tf_realnvp import checks, data
    from tf_realnvp.data.image_dataset import describe_skipped
    from tf_realnvp.serving.metadata import describe_images

    height, width, _ = model.image_shape
    options = {"labels": True} if labels else {}
    dataset = data.load(
        name, flags.data_dir, height if height == width else None, **options
    )
    if dataset.skipped:
        print(f"warning: {describe_skipped(dataset.skipped)}", file=sys.stderr)
    num_bits = checks.bits_of_levels(model.num_colors)
    if dataset.num_colors == 256 and num_bits is not None:
        dataset = dataset.keep_bits(num_bits)  # As `--num_bits` in training.
    theirs = describe_images(dataset.image_shape, dataset.num_colors)
    own = describe_images(model.image_shape, model.num_colors)
    if theirs != own:
        raise UsageError(
            f"argument --{flag}: the images of {printable(dataset.name)} are "
            f"{theirs}, those of {printable(flags.model)} {own}"
        )
    if labels and dataset.class_names != model.class_names:
        theirs, own = (
            ", ".join(names)
            for names in (dataset.class_names, model.class_names)
        )
        raise UsageError(
            printable(
                f"argument --{flag}: the classes of {dataset.name} are "
                f"{theirs}, those of {flags.model} {own}"
            )
        )
    return dataset


def _from_dataset(flags, flag, name, metadata, split):
    """Loads images of a data set, by what `data.load` makes of it."""
    import numpy as np

    dataset = load_dataset(flags, flag, name, metadata)
    counts = {"train": dataset.num_train, "test": dataset.num_test}
    kind = "images"
    if not is_whole(name, metadata.source):
        counts = {split: counts[split]}
        kind = {"train": "training images", "test": "test images"}[split]
    chosen = _choose(flags, sum(counts.values()))
    names, images, start = [], [], 0
    for part, count in counts.items():
        numbers = chosen[(chosen >= start) & (chosen < start + count)] - start
        names += [f"{part} {number}" for number in numbers]
        images.append(dataset.take(part, numbers))
        start += count
    title = f"{kind} of {printable(dataset.name)}"
    return PictureSet(title, names, np.concatenate(images))


def _from_folder(flags, flag, name, metadata):
    """Reads the pictures of a folder, and of those inside."""
    import numpy as np

    from tf_realnvp.cli import arguments
    from tf_realnvp.data import image_folder

    arguments.check_channels(flags.model, metadata.image_shape[2])
    root = pathlib.Path(name).expanduser()
    try:
        paths = image_folder.list_files(root)
    except OSError as error:
        raise UsageError(
            f"argument --{flag}: cannot read the folder {printable(name)}: "
            f"{error.strerror}"
        ) from error
    paths = [paths[number] for number in _choose(flags, len(paths))]
    names, images = [], []
    for path, image in read_all([root / path for path in paths], metadata):
        names.append(os.path.relpath(path, root))
        images.append(image)
    shape = (0, *metadata.image_shape)
    return PictureSet(
        f"readable pictures in {printable(name)}",
        names,
        np.stack(images) if images else np.zeros(shape, np.uint8),
    )


def _choose(flags, count):
    """Returns the numbers of those that are used of a set, in order."""
    import numpy as np

    number = min(count, flags.max_images)
    rng = np.random.default_rng(flags.seed)
    return np.sort(rng.choice(count, number, replace=False)) if count else []


def read_all(paths, model):
    """Reads pictures; names those that cannot be read, and leaves them out.

    Args:
      paths: Of the files.
      model: Anything with the `image_shape` and `num_colors` of a model.

    Yields:
      The path of each picture, and the image `uint8` `[H, W, C]`.
    """
    from tf_realnvp import pictures

    for path in paths:
        try:
            yield (
                path,
                pictures.read(path, model.image_shape, model.num_colors),
            )
        except PictureError as error:
            print(error, file=sys.stderr)
