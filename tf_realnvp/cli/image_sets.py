"""The pictures that a flag of a command means."""

import argparse
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tf_realnvp.cli import arguments
from tf_realnvp.serving.metadata import Metadata, describe_images
from tf_realnvp.serving.saved_model import SavedModel
from tf_realnvp.utils import checks
from tf_realnvp.utils.errors import DataError, ImageError, UsageError
from tf_realnvp.utils.messages import printable

if TYPE_CHECKING:
    from tf_realnvp.data import ImageDataset

HELP = """
A set D is a folder of pictures, all of which are used, those in folders inside
as well; a NumPy file, likewise; or a name as in training, of which the test
images are used. Of what the model was trained on, a folder or not, training and
test images are kept apart so. D:CLASS is the images of D that have that label,
as in fashion_mnist:Pullover.
"""

_VERSION = re.compile(r"[\d*]+(\.[\d*]+){2}")  # As TFDS writes them.


class ImageSet(NamedTuple):
    """Some pictures, as images of a model.

    Attributes:
      title: What they are, for people.
      names: Of each, a path in its folder or a number.
      images: `uint8` `[n, H, W, C]`.
    """

    title: str
    names: list[str]
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def load(
    flags: argparse.Namespace,
    flag: str,
    metadata: Metadata,
    split: str,
    minimum: int,
) -> ImageSet:
    """Loads the pictures that a flag means.

    A folder, or a NumPy file, is taken whole, and a named data set the
    images of one split. So is whatever the model was trained on: the images
    that it has not seen must not be mixed with those that it has.
    `NAME:CLASS` is the images of such a set that have that label.

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

    name, label = _find(flags, flag, metadata)
    if name is None:
        raise UsageError(
            f"argument --{flag}: name some, for {printable(flags.model)} does "
            "not tell what it was trained on"
        )
    is_folder = is_whole(name, metadata.source) and not arrays.is_file(name)
    if is_folder:
        result = _from_folder(flags, flag, name, label, metadata)
    else:
        result = _from_dataset(flags, flag, name, label, metadata, split)
    if len(result) < minimum:
        found = f"there are {len(result)} {result.title}"
        raise UsageError(
            f"argument --{flag}: {found}, and at least {minimum} are needed"
        )
    return result


def check_disjoint(
    flags: argparse.Namespace, metadata: Metadata, splits: Mapping[str, str]
) -> None:
    """Refuses two sets that would have pictures in common.

    Args:
      flags: As for `load`.
      metadata: As for `load`.
      splits: Names of the flags, and the split that is used of each, where it
        is not taken whole.

    Raises:
      UsageError: If there are two such.
    """
    sets = {flag: _find(flags, flag, metadata) for flag in splits}
    for first, second in itertools.combinations(splits, 2):
        (name, label), (other, other_label) = sets[first], sets[second]
        if name is not None and same(name, other):
            have_same_split = splits[first] == splits[second] or is_whole(
                name, metadata.source
            )
            overlap = have_same_split and (
                None in (label, other_label)
                or arguments.find_class(label, [other_label]) is not None
            )
        else:
            overlap = any(
                _overlap(one, another)
                for one in _folders(name, label)
                for another in _folders(other, other_label)
            )
        if overlap:
            raise UsageError(
                f"argument --{second}: it has pictures of --{first}"
            )


def warn_of_seen(
    flags: argparse.Namespace, flag: str, metadata: Metadata
) -> None:
    """Warns of a folder with pictures that the model was trained on.

    What the model was trained on is split, and of other folders all is taken.

    Args:
      flags: As for `load`.
      flag: As for `load`.
      metadata: As for `load`.
    """
    from tf_realnvp.data import image_folder

    name, label = _find(flags, flag, metadata)
    if name is None or same(name, metadata.source):
        return
    seen = [
        folder
        for root in _folders(metadata.source, None)
        for folder in image_folder.folders_of(root, ["train"])
    ]
    if any(
        _overlap(path, folder)
        for path in _folders(name, label)
        for folder in seen
    ):
        print(
            f"warning: --{flag} {printable(name)} may have pictures that the "
            "model was trained on, beside which others look unusual: to leave "
            "them out, name what it was trained on, "
            f"{printable(metadata.source)}, or a class of it, FOLDER:CLASS",
            file=sys.stderr,
        )


def includes(
    flags: argparse.Namespace, flag: str, metadata: Metadata, folder: str
) -> bool:
    """Returns whether a set has the pictures of a folder.

    Args:
      flags: As for `load`.
      flag: As for `load`.
      metadata: As for `load`.
      folder: The folder.
    """
    path = pathlib.Path(os.path.realpath(folder))
    folders = _folders(*_find(flags, flag, metadata))
    return any(path.is_relative_to(outer) for outer in folders)


def check_apart(
    flags: argparse.Namespace,
    output: str,
    folder: str,
    metadata: Metadata,
    sets: Iterable[str],
) -> None:
    """Refuses to write among the pictures of a set.

    Args:
      flags: As for `load`.
      output: Name of the flag that says where to write.
      folder: The folder that is written to.
      metadata: As for `load`.
      sets: Names of the flags of the sets.

    Raises:
      UsageError: If what is written there would be one of the pictures, or
        take the place of one.
    """
    for flag in sets:
        if includes(flags, flag, metadata, folder):
            raise UsageError(
                f"argument --{output}: it is among the pictures of --{flag}"
            )


def _folders(name, label):
    """Returns the folders that pictures of a set are in, if it is of folders.

    What is inside of them is of the set as well.
    """
    from tf_realnvp import data
    from tf_realnvp.data import image_folder

    root = pathlib.Path(data.source(name or ""))
    if not root.is_absolute() or not root.is_dir():
        return []
    root = root.resolve()
    if label is None:
        return [root]
    parts = ("", *image_folder.SPLIT_FOLDERS)
    return [path for part in parts if (path := root / part / label).is_dir()]


def _overlap(one, another):
    """Returns whether one of two folders is, or is inside, the other."""
    return one.is_relative_to(another) or another.is_relative_to(one)


def _find(flags, flag, metadata):
    """Returns the data set that a flag means, and the class of its images.

    Either is `None` if there is none.
    """
    name = getattr(flags, flag)
    return (metadata.source, None) if name is None else _split_class(name)


def _split_class(name):
    """Returns the data set and the class of `NAME:CLASS`; `None` for no class.

    What is there as a file or folder has none, and neither has a name that ends
    in a version, as `mnist:3.0.1`.
    """
    dataset, colon, label = name.rpartition(":")
    if (
        not colon
        or os.path.exists(os.path.expanduser(name))
        or _VERSION.fullmatch(label)
    ):
        return name, None
    return dataset, label


def same(name: str, other: str | None) -> bool:
    """Returns whether two names are those of one data set.

    Args:
      name: As `data.load` takes it.
      other: Likewise, or `None`.
    """
    from tf_realnvp import data

    if other is None:
        return False
    sources = [data.source(name), data.source(other)]
    if all(map(os.path.isabs, sources)):  # Not names of TFDS.
        sources = [os.path.realpath(source) for source in sources]
    return sources[0] == sources[1]


def is_whole(name: str, source: str | None) -> bool:
    """Returns whether all images of a data set are taken, of both splits.

    Args:
      name: As `data.load` takes it.
      source: What the model was trained on, or `None`.
    """
    from tf_realnvp import data

    return os.path.isabs(data.source(name)) and not same(name, source)


def load_dataset(
    flags: argparse.Namespace,
    flag: str,
    name: str,
    model: Metadata | SavedModel,
    labels: bool = False,
) -> "ImageDataset":
    """Loads a data set of images like those of a model.

    They get the size of the model's, and as many bits.

    Args:
      flags: Of the command: `model`, `data_dir`.
      flag: Name of the flag that names the data set, for messages.
      name: The data set.
      model: What knows the model's images.
      labels: Whether to load labels, too.

    Raises:
      DataError: As `data.load`.
      UsageError: If the model is not of such images.
    """
    from tf_realnvp import data
    from tf_realnvp.data.image_dataset import describe_skipped

    options = {"labels": True} if labels else {}
    try:
        dataset = data.load(
            name, flags.data_dir, model.image_shape[:2], **options
        )
    except DataError as error:
        if getattr(flags, flag) is not None:
            raise
        raise UsageError(
            f"argument --{flag}: name some, for what {printable(flags.model)} "
            f"was trained on cannot be had: {error}"
        ) from error
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
    return dataset


def _from_dataset(flags, flag, name, label, metadata, split):
    """Loads images of a data set, by what `data.load` makes of it."""
    has_label = label is not None
    dataset = load_dataset(flags, flag, name, metadata, labels=has_label)
    title = f"{dataset.name}:{label}" if has_label else dataset.name
    names = dataset.class_names
    known = arguments.find_class(label, names) if has_label else None
    if has_label and known is None:
        raise UsageError(
            f"argument --{flag}: {printable(dataset.name)} has no class "
            f"{label!r}, but {printable(', '.join(names))}"
        )
    if is_whole(name, metadata.source):
        parts, kind = ["train", "test"], "images"
    else:
        parts = [split]
        kind = {"train": "training images", "test": "test images"}[split]
    numbered = [
        (part, number)
        for part in parts
        for number in _numbers(dataset, part, known)
    ]
    chosen = [numbered[index] for index in _choose(flags, len(numbered))]
    images = [
        dataset.take(part, [number for of, number in chosen if of == part])
        for part in parts
    ]
    return ImageSet(
        f"{kind} of {printable(title)}",
        [f"{part} {number}" for part, number in chosen],
        np.concatenate(images),
    )


def _numbers(dataset, part, label):
    """Returns the numbers of the images of a split, of one class if given."""
    split = dataset.splits[part]
    if label is None:
        return range(split.num_images)
    return np.flatnonzero(split.labels == dataset.class_names.index(label))


def _from_folder(flags, flag, name, label, metadata):
    """Reads the pictures of a folder and of those inside, or of a class."""
    from tf_realnvp.data import image_folder

    arguments.check_channels(flags.model, metadata.image_shape[2])
    root = pathlib.Path(os.path.expanduser(name))
    try:
        paths = image_folder.list_files(root)
    except OSError as error:
        raise UsageError(
            f"argument --{flag}: cannot read the folder {printable(name)}: "
            f"{error.strerror}"
        ) from error
    if label is not None:
        paths = _of_class(paths, label, flag, name)
    chosen = _choose(flags, len(paths))
    # Others take the places of those that are no pictures.
    others = np.setdiff1d(np.arange(len(paths)), chosen)
    others = np.random.default_rng(flags.seed).permutation(others)
    order = [root / paths[number] for number in (*chosen, *others)]
    names, images = [], []
    for path, image in itertools.islice(
        read_all(order, metadata), flags.max_images
    ):
        names.append(os.path.relpath(path, root))
        images.append(image)
    shape = (0, *metadata.image_shape)
    return ImageSet(
        f"readable pictures in {printable(getattr(flags, flag))}",
        names,
        np.stack(images) if images else np.zeros(shape, np.uint8),
    )


def _of_class(paths, label, flag, name):
    """Returns the paths of the pictures of a class, in a folder of classes."""
    from tf_realnvp.data import image_folder

    depth = image_folder.depth_of_classes(paths)
    if depth:  # What is beside them is of no split.
        parts = image_folder.SPLIT_FOLDERS
        paths = [p for p in paths if pathlib.PurePath(p).parts[0] in parts]
    found = [image_folder.class_of(path, depth) for path in paths]
    names = sorted({its for its in found if its is not None})
    known = arguments.find_class(label, names)
    if known is None:
        listed = f", but {printable(', '.join(names))}" if names else ""
        raise UsageError(
            f"argument --{flag}: {printable(name)} has no class "
            f"{label!r}{listed or ' and no folders'}"
        )
    return [
        path for path, its in zip(paths, found, strict=True) if its == known
    ]


def _choose(flags, count):
    """Returns the numbers of those that are used of a set, in order."""
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
    from tf_realnvp.images import files as image_files

    for path in paths:
        try:
            yield (
                path,
                image_files.read(path, model.image_shape, model.num_colors),
            )
        except ImageError as error:
            print(error, file=sys.stderr)
