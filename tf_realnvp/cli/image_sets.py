"""Resolves flags that name a set of images."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp import data
from tf_realnvp.cli import arguments
from tf_realnvp.data import ImageDataset, arrays, image_files, image_folder
from tf_realnvp.errors import ImageError, UsageError
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import hashing
from tf_realnvp.utils.console import counted, warn

MIN_IMAGES = 20  # Of a reference: half of them may be fitted to.

_VERSION = re.compile(r"[\d*]+(\.[\d*]+){2}")  # As TFDS writes versions.


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A set of images in the shape and levels of a model.

    Attributes:
      title: Human-readable description of the set.
      names: Names of the images: the path in the folder, or split and index.
      images: `[n, H, W, C]`; or of whole images, for a model of tiles, a
        sequence of `[H, W, C]`, which are read when they are asked for.
    """

    title: str
    names: list[str]
    images: Any

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """Hashes of the pixels of the images."""
        return hashing.hashes_of(self.images)


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loads sets of images in the shape and levels of a model.

    Attributes:
      model: The model.
      data_dir: As for `data.load`.
      max_images: Largest number of images per set.
      seed: Seed of the sampling.
      whole: As for `read`.
    """

    model: RealNVP
    data_dir: str
    max_images: int = 0
    seed: int = 0
    whole: bool = False

    @functools.cached_property
    def _training_hashes(self):
        """Hashes in the sketch of the training images; empty if unknown."""
        sketch = self.model.metadata.get("training_hashes", "")
        return hashing.parse_sketch(sketch)

    def load(
        self, flag: str, name: str | None, split: str, minimum: int = 2
    ) -> ImageSet:
        """Loads the images that a flag names.

        Of a folder or NumPy file all images are used, of a named data set those
        of one split. A folder or file with training images of the model is also
        split, so that these are not mixed with images that the model has not
        seen. A warning is printed if the test images include training images.

        Args:
          flag: Name of the flag, for messages.
          name: Value of the flag: a data set, or `NAME:CLASS` for the images of
            one class. Default: the model's own data set.
          split: "train" or "test".
          minimum: Smallest number of images required.

        Raises:
          UsageError: If the images cannot be loaded, or there are too few.
        """
        with arguments.naming(f"--{flag}"):
            source = self._named(name)
            path, label = _split_class(source)
            is_path = name or self._has_tiles
            is_path = is_path and os.path.isabs(data.source(path))
            is_file = arrays.is_file(path)
            if is_path and label is None and not is_file:
                parts = self._from_folder(path, split)
            else:
                parts = self._from_dataset(path, label, split, is_path)
            kind, names, images = parts
            if len(names) < minimum:
                note = "; training images do not count" * (kind == "test")
                raise UsageError(
                    f"{source} has {counted(len(names), f'{kind} image')}, and "
                    f"at least {minimum} are needed{note}"
                )
        title = f"{kind} images of {source}"
        is_known = (
            split == "test"
            and not self._has_tiles
            and self._is_known(map(hashing.hash_of, images))
        )
        if is_known:
            warn(f"the model was trained on {title}")
        return ImageSet(title, names, images)

    def load_dataset(
        self, name: str | None, labels: bool = False
    ) -> ImageDataset:
        """Loads a data set at the size and number of bits of the model.

        Args:
          name: The data set. Default: the model's own data set.
          labels: As for `data.load`.

        Raises:
          UsageError: If it cannot be loaded, or does not fit the model.
        """
        model = self.model
        name, sizes = self._named(name), [model.image_shape[:2], None]
        if model.metadata.get("tiles"):
            sizes.reverse()
        size, tiles = sizes
        dataset = data.load(
            name, self.data_dir, size, labels=labels, tiles=tiles
        )
        if model.values.num_bits and not dataset.values.are_real:
            # As `--num_bits` does. Levels of 16 bits have as many bits as the
            # highest of them; in the model's data set, they had these.
            whole = model.values.whole
            lowest = min(whole.highest, 511)
            if lowest <= dataset.values.highest <= whole.highest:
                dataset = dataclasses.replace(dataset, values=whole)
                dataset = dataset.keep_bits(model.values.num_bits)
        dataset.check_fits(model)
        return dataclasses.replace(dataset, observe=model.observation)

    @property
    def _has_tiles(self):
        """Whether the images of a set are larger than those of the model."""
        return self.whole and self.model.metadata.get("tiles", False)

    def _named(self, name):
        """Returns a name, by default that of the model's own data set."""
        metadata = self.model.metadata
        if name is None:
            name = metadata.get("source", metadata.get("dataset"))
        if name is None:
            raise UsageError("name one: the model does not tell its data set")
        return name

    def check_unseen(self, dataset: ImageDataset) -> None:
        """Warns if the model was trained on test images of a data set.

        This happens if the data set or that of the model came with a split, if
        there are copies of images, or if images were encoded anew.
        """
        hashes = dataset.splits["test"].hashes.tolist()
        some = range(min(dataset.num_test, hashing.SKETCH_SIZE))
        hashes += map(hashing.hash_of, dataset.take("test", some))
        if self._is_known(hashes):
            warn(f"the model was trained on test images of {dataset.name}")

    def _is_known(self, hashes):
        """Returns whether the model was trained on any of some images."""
        known = self._training_hashes
        return bool(known) and not known.isdisjoint(hashes)

    def _from_dataset(self, name, label, split, is_path):
        """Loads images of a data set, with `data.load`.

        All splits are used of a path without any training images.

        Returns:
          The names of the splits and of the images, and the images.
        """
        dataset = self.load_dataset(name, labels=label is not None)
        splits, parts = [split], dataset.splits
        hashes = np.concatenate([part.hashes for part in parts.values()])
        if is_path and not self._is_known(hashes.tolist()):
            splits = ["train", "test"]
        pairs = []
        for split in splits:
            positions = np.arange(parts[split].num_images)
            if label is not None:
                number = arguments.class_number(label, dataset.class_names)
                positions = positions[parts[split].labels == number]
            pairs += [(split, position) for position in positions]
        chosen = [pairs[index] for index in self._choose(len(pairs))]
        images = [
            dataset.take(split, [n for name, n in chosen if name == split])
            for split in splits
        ]
        names = [f"{split} {position}" for split, position in chosen]
        return " and ".join(splits), names, np.concatenate(images)

    def _from_folder(self, name, split):
        """Reads the images of a folder and its sub-folders in any shape.

        Like `_from_dataset`, which loads it if there are training images. Of a
        model of tiles only the images of the split are taken then.
        """
        kind = "readable"
        root = pathlib.Path(os.path.expanduser(name))
        paths = image_folder.list_files(root)
        files = [root / path for path in paths]
        if self._is_known(map(_hash_of, files)):
            if not self._has_tiles:
                return self._from_dataset(name, None, split, is_path=True)
            kind, splits = split, self.load_dataset(name).splits
            own = set(splits[split].hashes.tolist())
            files = [path for path in files if _hash_of(path) in own]
        chosen = self._choose(len(files))
        # Other files replace those that cannot be read.
        others = np.setdiff1d(np.arange(len(files)), chosen)
        others = np.random.default_rng(self.seed).permutation(others)
        order = (files[index] for index in (*chosen, *others))
        readable = read_readable(order, self.model, self.whole)
        kept, images = [], []
        for path, image in itertools.islice(readable, self.max_images):
            kept.append(path)
            images += [] if self._has_tiles else [image]
        names = [os.path.relpath(path, root) for path in kept]
        if self._has_tiles:
            return kind, names, _Files(kept, self.model)
        return kind, names, np.array(images)

    def _choose(self, count):
        """Returns the indices of the images to use of a set, in order."""
        number = min(count, self.max_images)
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(count, number, replace=False))


def _hash_of(path):
    """Returns the hash of an image file, as in `Split.hashes`, if it is one."""
    with contextlib.suppress(ImageError, OSError):
        return hashing.hash_of(image_files.load(path))


def _split_class(name):
    """Returns the data set and the class of `NAME:CLASS`; `None` for no class.

    Existing files and folders have no class, nor have names that end in a
    version, such as `mnist:3.0.1`.
    """
    dataset, colon, label = name.rpartition(":")
    is_there = os.path.exists(os.path.expanduser(name))
    if not colon or is_there or _VERSION.fullmatch(label):
        return name, None
    return dataset, label


def check_distinct(sets: Mapping[str, ImageSet]) -> None:
    """Refuses two sets that are largely the same; warns of images in both.

    Args:
      sets: The sets, keyed by the names of their flags.

    Raises:
      UsageError: If two sets share most images of the smaller set.
    """
    for first, second in itertools.combinations(sets, 2):
        smaller, larger = sorted((sets[first], sets[second]), key=len)
        shared = int(np.isin(smaller.hashes, larger.hashes).sum())
        check_shared(shared, len(smaller), f"--{first}", f"--{second}")


def check_shared(shared: int, total: int, first: str, second: str) -> None:
    """Refuses a set that is largely in another; warns of images in both.

    Args:
      shared: Number of images in both.
      total: Number of images in the smaller one.
      first: The argument that names one of them.
      second: That which names the other.

    Raises:
      UsageError: If most are in both.
    """
    message = f"{counted(shared, 'image')} of {first} in it"
    if shared > total / 2:
        raise UsageError(f"argument {second}: {message}")
    if shared:
        warn(f"{second}: {message}")


def read_readable(
    paths: Iterable[pathlib.Path], model: RealNVP, whole: bool = False
) -> Iterator[tuple[pathlib.Path, np.ndarray]]:
    """Reads images like `read`; warns about files that cannot be read.

    Args:
      paths: Paths of the files.
      model: As for `read`.
      whole: As for `read`.

    Yields:
      The path of each image that can be read, and the image.
    """
    for path in paths:
        try:
            yield path, read(path, model, whole)
        except ImageError as error:
            warn(error)


def read(
    path: str | os.PathLike, model: RealNVP, whole: bool = False
) -> np.ndarray:
    """Reads an image in the shape and levels of a model.

    Args:
      path: As for `images.files.read`.
      model: The model.
      whole: Whether a model of tiles gets the whole image, of any size, rather
        than the tile in its middle.

    Returns:
      `[H, W, C]`.

    Raises:
      ImageError: If the file cannot be read.
    """
    has_tiles = model.metadata.get("tiles", False)
    shape, values = model.image_shape, model.values
    image = image_files.read(path, shape, values, has_tiles=has_tiles)
    if has_tiles and not whole:
        middle = tf.image.resize_with_crop_or_pad(image, *shape[:2])
        return middle.numpy()
    return image


class _Files(Sequence):
    """The images of files, which may be too large for the memory together."""

    def __init__(self, paths, model):
        self._paths, self._model = paths, model

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        if np.ndim(index) or isinstance(index, slice):
            return _Files(np.array(self._paths)[index], self._model)
        return read(self._paths[index], self._model, whole=True)
