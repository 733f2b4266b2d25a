"""Image data sets by their names.

`load` gives an `ImageDataset`: digits comes from scikit-learn, files of NumPy
are read by `arrays`, folders by `image_folder`, and CIFAR10, CelebA and
whatever else TensorFlow Datasets (TFDS) knows by `tfds_images`; each of the
last two is imported only when asked for.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from tf_realnvp.data import arrays
from tf_realnvp.data.image_dataset import ImageDataset, Split
from tf_realnvp.utils import checks

__all__ = ["DATASETS", "ImageDataset", "Split", "load"]

DATASETS = ("CIFAR10", "CelebA", "digits", "fashion_mnist")


def load(
    name: str | os.PathLike,
    data_dir: str = "datasets",
    image_size: int | Sequence[int] | None = None,
    flip: bool = False,
    num_bits: int | None = None,
    labels: bool = False,
) -> ImageDataset:
    """Loads a data set, and prepares it first if `data_dir` has none.

    A folder is a folder of JPEG and PNG images, with sub-folders or without:
    see `image_folder.load`. A file whose name ends in `.npy` or `.npz` holds
    arrays of images: see `arrays.load`. All other data sets but digits are
    TFDS's. They are looked for in this order: a copy that TFDS prepared in
    `data_dir`; the archives in `data_dir/manual`; the network, which TFDS
    downloads from into `data_dir`. digits, folders and files need neither
    `data_dir` nor a network.

    Args:
      name: One of `DATASETS`, in upper or lower case; or a folder, which is
        there or whose name begins like a path (`/`, `./`, `../` or `~`); or a
        NumPy file; or TFDS's name of a data set with images, such as
        `svhn_cropped`.
      data_dir: Local folder, in TFDS's layout. It is written to only when a
        copy has to be prepared.
      image_size: Side of the images in pixels, or height and width: the largest
        central part of that shape (for CelebA, of the central 148x148 pixels)
        is resized to it by an antialiased bilinear filter. By default CelebA's
        images get 32, and all others stay as they are if they are known to be
        all of one size, with even sides of at most 64 pixels; else they get 32.
      flip: Whether training images are mirrored left to right at random.
      num_bits: Number of bits to keep of each component, the highest ones, of
        images that have 256 levels. Default: all.
      labels: Whether to load labels, too: TFDS's, by its feature `label`;
        digits'; those of a NumPy file; and in a folder the sub-folders that
        images are in.

    Returns:
      The data set. Images are read and decoded as they are asked for.

    Raises:
      DataError: If there is no such data set, or no way to its images, if there
        are no bits to leave out, or if there are no labels and some are asked
        for.
      ValueError: If `image_size` or `num_bits` is out of its range.
    """
    name, size = os.fspath(name), None
    if image_size is not None:
        allowed = checks.ImageSize(2)
        size = checks.sides(checks.check(image_size, "image_size", allowed))
    if num_bits is not None:
        num_bits = checks.check(num_bits, "num_bits", checks.WholeNumber(1, 8))
    known = _known(name)
    if known == "digits":
        dataset = _load_digits(size, labels)
    elif known not in DATASETS and arrays.is_file(name):
        dataset = arrays.load(name, size, labels)
    elif known not in DATASETS and is_folder(name):
        from tf_realnvp.data import image_folder

        dataset = image_folder.load(name, size, labels)
    else:
        from tf_realnvp.data import tfds_images

        dataset = tfds_images.load(known, data_dir, size, labels)
    if num_bits is not None:
        dataset = dataset.keep_bits(num_bits)
    settings = {
        "dataset": known,
        "image_size": image_size,
        "num_bits": num_bits,
    }
    return dataclasses.replace(
        dataset, flip=flip, load_settings=settings, source=source(name)
    )


def _known(name):
    """Returns a name as `DATASETS` has it, if it is one of them."""
    return {known.lower(): known for known in DATASETS}.get(name.lower(), name)


def source(name: str) -> str:
    """Returns a name with which `load` finds a data set from any folder.

    Args:
      name: As for `load`.

    Returns:
      One of `DATASETS`, an absolute path or a name of TFDS.
    """
    name = _known(name)
    if name in DATASETS or not (is_folder(name) or arrays.is_file(name)):
        return name
    return os.path.abspath(os.path.expanduser(name))


def is_folder(name: str) -> bool:
    """Tells folders from names of TFDS, which can have slashes inside.

    Args:
      name: As for `load`.
    """
    return (
        os.path.isdir(os.path.expanduser(name))
        or os.path.isabs(name)
        or name.startswith(("~", "."))
        or name.endswith(os.sep)
    )


def _load_digits(size, labels):
    """Returns scikit-learn's 8x8 digits, 80 % of them for training."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    # RandomState, since NumPy promises never to change its streams.
    order = np.random.RandomState(0).permutation(len(images))
    splits = np.split(order, [int(0.8 * len(images))])
    return arrays.make(
        "digits",
        [images[split] for split in splits],
        num_colors=17,
        size=size,
        labels=[digits.target[split] for split in splits] if labels else None,
        fingerprint="digits train 1437 test 360",
    )
