"""Loading image data sets by name.

`load` returns an `ImageDataset`. digits is part of scikit-learn. NumPy files
are read by `arrays`, folders by `image_folder`, and CIFAR10, CelebA and other
data sets of TensorFlow Datasets (TFDS) by `tfds_images`, which is imported on
demand.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.config import DATASETS, canonical
from tf_realnvp.data import arrays, image_folder
from tf_realnvp.data.image_dataset import ImageDataset
from tf_realnvp.errors import DataError
from tf_realnvp.utils import ranges


def load(
    name: str | os.PathLike,
    data_dir: str = "datasets",
    image_size: int | Sequence[int] | None = None,
    flip: bool = False,
    num_bits: int | None = None,
    labels: bool = False,
    tiles: int | Sequence[int] | None = None,
) -> ImageDataset:
    """Loads a data set; downloads and prepares it first if necessary.

    A folder holds JPEG, PNG and TIFF images, optionally in sub-folders: see
    `image_folder.load`. A `.npy` or `.npz` file holds arrays of images: see
    `arrays.load`. All other data sets except digits come from TFDS, which looks
    for them in this order: a prepared copy in `data_dir`; archives in
    `data_dir/manual`; a download into `data_dir`. digits, folders and NumPy
    files need neither `data_dir` nor a network.

    Args:
      name: One of `DATASETS`, in upper or lower case; a folder that exists or
        whose name begins like a path (`/`, `./`, `../` or `~`); a NumPy file;
        or the TFDS name of an image data set, such as `svhn_cropped`.
      data_dir: Folder, or bucket (`gs://…`), in the layout of TFDS. It is
        written to only if a copy has to be prepared.
      image_size: Side of the images in pixels, or height and width. The largest
        central crop with these proportions (for CelebA, of the central 148x148
        pixels) is resized to it by an antialiased bilinear filter. By default,
        images are not resized if all have the same even size of at most 64
        pixels per side; others, and CelebA, are resized to 32.
      flip: Whether training images are mirrored left to right at random.
      num_bits: Number of highest bits to keep of each component, for images
        with 256 levels or more. Default: all.
      labels: Whether to load labels, too: the TFDS feature `label`, the labels
        of digits or of the NumPy file, or the names of sub-folders.
      tiles: Side in pixels, or height and width, of tiles to take from the
        images of a folder, which are not resized. Training images are at random
        places; all others cover their images.

    Returns:
      The data set. Images are read and decoded on demand.

    Raises:
      DataError: If there is no such data set, if its images cannot be obtained,
        if `num_bits` is given for images without as many, or if `labels` are
        requested and there are none; or if `tiles` are of no folder.
      ValueError: If `image_size`, `tiles` or `num_bits` is out of range.
    """
    name, size, tile = os.fspath(name), None, None
    if image_size is not None:
        size = ranges.check(image_size, "image_size", ranges.ImageSize())
    known = canonical(name)
    is_path = known not in DATASETS and is_folder(name)
    if tiles is not None:
        tile = ranges.check(tiles, "tiles", ranges.ImageSize())
        if not is_path or arrays.is_file(name) or size is not None:
            raise DataError("`tiles` are of a folder, without an `image_size`")
    if known == "digits":
        dataset = _load_digits(size, labels)
    elif arrays.is_file(name):
        dataset = arrays.load(name, size, labels)
    elif is_path:
        dataset = image_folder.load(name, size, labels, tile)
    else:
        from tf_realnvp.data import tfds_images

        dataset = tfds_images.load(known, data_dir, size, labels)
    if num_bits is not None:
        num_bits = ranges.check(num_bits, "num_bits", ranges.WholeNumber(1, 16))
        dataset = dataset.keep_bits(num_bits)
    settings = dict(dataset=known, image_size=image_size, num_bits=num_bits)
    if tiles is not None:
        settings["tiles"] = tiles
    return dataclasses.replace(
        dataset, flip=flip, load_settings=settings, source=source(name)
    )


def for_model(
    model: Any,
    data: "np.ndarray | tf.data.Dataset | ImageDataset",
    labels: np.ndarray | None = None,
    flip: bool = False,
    context: Any = None,
    observe: Callable[[tf.Tensor, tf.Tensor], Any] | None = None,
) -> ImageDataset:
    """Returns a program's images as a data set with the classes of a model.

    Args:
      model: The `RealNVP`.
      data: As for `tf_realnvp.train`.
      labels: As for `tf_realnvp.train`.
      flip: Whether training images are mirrored left to right at random; an
        `ImageDataset` may say so itself.
      context: As for `tf_realnvp.train`.
      observe: As for `tf_realnvp.train`.

    Raises:
      DataError: If the data, labels or context are invalid, or the shape, the
        levels, the context or the classes are not those of the model.
    """
    num_classes = model.num_classes
    model_names = tuple(map(str, model.metadata.get("class_names", ())))
    is_array = not isinstance(data, (ImageDataset, tf.data.Dataset))
    if labels is not None and (num_classes is None or not is_array):
        raise DataError("`labels` are for an array, and a model with classes")
    if context is not None and not is_array:
        raise DataError("`context` is for an array of images")
    if isinstance(data, ImageDataset):
        dataset = data
    elif isinstance(data, tf.data.Dataset):
        dataset = arrays.from_tf_data(data, model.values, num_classes)
    else:
        rest = labels, num_classes, context
        dataset = arrays.from_images(data, model.values, *rest)
    flip, observe = flip or dataset.flip, observe or dataset.observe
    dataset = dataclasses.replace(dataset, flip=flip, observe=observe)
    dataset.check_fits(model)
    if num_classes is None:
        return dataset.relabel(()) if dataset.class_names else dataset
    names = dataset.class_names
    if not isinstance(data, ImageDataset) and len(names) == len(model_names):
        # Labels without names are indices into the model's classes.
        dataset = dataclasses.replace(dataset, class_names=model_names)
    elif both := set(names) & set(model_names):
        if len(both) < len(names):
            raise DataError(
                f"the images are of {', '.join(names)}, the model of "
                f"{', '.join(model_names)}: classes that both have need the "
                "same label"
            )
        dataset = dataset.relabel(model_names)
    if len(dataset.class_names) != num_classes:
        raise DataError(
            f"the images have {len(names) or 'no'} classes, the model "
            f"{num_classes}: give `labels` with an array, a `tf.data.Dataset` "
            "of pairs, or `data.load(name, labels=True)`"
        )
    return dataset


def source(name: str) -> str:
    """Returns a name that `load` resolves independently of the current folder.

    Args:
      name: As for `load`.

    Returns:
      One of `DATASETS`, an absolute path, or a TFDS name.
    """
    name = canonical(name)
    if name in DATASETS or not (is_folder(name) or arrays.is_file(name)):
        return name
    return os.path.abspath(os.path.expanduser(name))


def is_folder(name: str) -> bool:
    """Returns whether a name is a folder rather than a TFDS name.

    TFDS names may contain slashes.

    Args:
      name: As for `load`.
    """
    is_path = name.startswith((os.sep, "~", ".")) or name.endswith(os.sep)
    return is_path or os.path.isdir(name)


def _load_digits(size, labels):
    """Returns scikit-learn's 8x8 digits, with 80 % for training."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    # RandomState, since NumPy guarantees that its streams never change.
    order = np.random.RandomState(0).permutation(len(images))
    splits = np.split(order, [int(0.8 * len(images))])
    parts = [images[split] for split in splits]
    numbers = [digits.target[split] for split in splits] if labels else None
    return arrays.make("digits", parts, 17, size, numbers)
