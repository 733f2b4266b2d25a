"""Data sets of what Python programs have: files of NumPy, arrays, `tf.data`."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_realnvp.data import image_dataset
from tf_realnvp.data.image_dataset import (
    ImageDataset,
    Split,
    call_method,
    default_size,
    resize,
)
from tf_realnvp.utils.checks import WholeNumber, short
from tf_realnvp.utils.errors import DataError, reason

SUFFIXES = (".npy", ".npz")
NAME = "images"  # Of data sets of a program's own images.

_TEST_SHARE = 0.1
_IMAGES_AT_ONCE = 256  # Of a pipeline.
_SHUFFLE_BYTES = 2**27
_PIPELINE = "the `tf.data.Dataset`"


def load(
    path: str, size: tuple[int, int] | None, labels: bool = False
) -> ImageDataset:
    """Loads a NumPy file.

    An `.npy` file holds the images; an `.npz` file (of `np.savez`) has them
    under `images`, or those for training under `train` and those for testing
    under `test`. Beside them `num_colors` may say how many levels there are, at
    most 256. Images are uint8, `[n, H, W]` or `[n, H, W, C]`. Where none are
    for testing, a tenth is, at random but always the same. An `.npy` file is
    mapped into memory, and read as it is needed.

    Labels are integers `[n]`, or as Keras has them `[n, 1]`, from 0 on, under
    `labels`, or under `train_labels` and `test_labels`, which are left alone
    unless they are asked for. The classes are called by their numbers.

    Args:
      path: The file; `~` is the home folder.
      size: Height and width that `data.load` gives the images, if any.
      labels: As for `data.load`.

    Returns:
      The data set, named after the file.

    Raises:
      DataError: If there is no such file, or it does not hold such images.
    """
    file = pathlib.Path(os.path.expanduser(path))
    try:
        content = np.load(file, mmap_mode="r", allow_pickle=False)
        found = {"images": content}
        if not isinstance(content, np.ndarray):
            found = {name: content[name] for name in content.files}
    except Exception as error:  # NumPy raises nearly anything.
        raise DataError(
            f"{path}: it cannot be read as a file of NumPy arrays: "
            f"{reason(error)}"
        ) from error
    num_colors = found.get("num_colors", np.array(256)).tolist()
    if num_colors not in WholeNumber(2, 256):
        raise DataError(
            f"{path}: `num_colors` must be {WholeNumber(2, 256)}, got "
            f"{short(num_colors)}"
        )
    parts = {"train": "train_labels", "test": "test_labels"}
    if "images" in found:
        parts = {"images": "labels"}
    for name in (*parts, *(parts.values() if labels else ())):
        if name not in found:
            raise DataError(
                f"{path}: it has no `{name}`: it must hold `images`, or "
                "`train` and `test`, and if there are labels `labels`, or "
                "`train_labels` and `test_labels`; there are "
                f"{', '.join(sorted(found)) or 'none'}"
            )
    images = [
        _check(found[part], num_colors, f"{path}: `{part}`") for part in parts
    ]
    return make(
        file.stem,
        images,
        num_colors,
        size or default_size(*images[0].shape[1:3]),
        [found[name] for name in parts.values()] if labels else None,
    )


def from_images(
    images: np.ndarray,
    num_colors: int = 256,
    flip: bool = False,
    labels: np.ndarray | None = None,
    num_classes: int | None = None,
) -> ImageDataset:
    """Makes a data set of images in memory, a tenth of them for testing.

    Args:
      images: uint8 `[n, H, W]` or `[n, H, W, C]` below `num_colors`.
      num_colors: Number of levels.
      flip: As for `data.load`.
      labels: Integers `[n]`, or as Keras has them `[n, 1]`, from 0 on.
        Default: there are none.
      num_classes: Number of classes. Default: as many as the labels show.

    Raises:
      DataError: If they are no such images or labels.
    """
    try:
        images = np.asarray(images)
    except ValueError as error:
        raise DataError(f"the images are no array: {error}") from error
    images = _check(images, num_colors, "the array")
    own = None if labels is None else [np.asarray(labels)]
    dataset = make(NAME, [images], num_colors, None, own, num_classes)
    return dataclasses.replace(dataset, flip=flip)


def from_tf_data(
    elements: tf.data.Dataset,
    num_colors: int = 256,
    flip: bool = False,
    num_classes: int | None = None,
) -> ImageDataset:
    """Makes a data set of a finite pipeline, a tenth of it for testing.

    It is read twice, to look at the images.

    Args:
      elements: Of images, uint8 `[H, W, C]`, of pairs of an image and its
        label, an integer, or of batches of either; the same in each pass.
      num_colors: As for `from_images`.
      flip: As for `data.load`.
      num_classes: Number of classes, if the labels are to be kept.

    Raises:
      DataError: If its elements are no such images or labels, it never ends, or
        it gives others in each pass.
    """
    spec = elements.element_spec
    is_pair = isinstance(spec, tuple) and len(spec) == 2
    image, label = spec if is_pair else (spec, None)
    if (
        not isinstance(image, tf.TensorSpec)
        or image.dtype != tf.uint8
        or image.shape.rank not in (3, 4)
        or None in image.shape[-3:].as_list()
    ):
        raise DataError(
            "the elements of a `tf.data.Dataset` must be images, uint8 "
            "[H, W, C] of a known shape, or pairs of these and labels, or "
            f"batches: map it to them, for they are {spec}"
        )
    shape = tuple(image.shape[-3:].as_list())
    _check_order(shape, _PIPELINE)
    has_labels = is_pair and num_classes is not None
    batch_rank = image.shape.rank - 3
    if has_labels and not _are_labels(label, batch_rank):
        raise DataError(
            "the labels of a `tf.data.Dataset` must be integers, one for each "
            f"image, got {label}"
        )
    if batch_rank == 1:
        elements = elements.unbatch()
    records = elements.map(lambda image, *_: image)
    if has_labels:
        pairs = elements.map(
            lambda image, label: (image, tf.reshape(label, []))
        )
    else:
        pairs = records.map(lambda image: (image, 0))
    if pairs.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError("a `tf.data.Dataset` must end, and this one repeats")
    fingerprint, labels = _look_through(pairs, num_colors)
    numbers = np.arange(len(labels))
    whole = Split(numbers, labels if has_labels else None, records)
    train, test = map(whole.choose, _split(len(labels), _PIPELINE))
    # What a shuffle holds are the images themselves.
    is_large = len(labels) * math.prod(shape) > image_dataset.MAX_CACHE_BYTES
    return ImageDataset(
        name=NAME,
        image_shape=shape,
        num_colors=num_colors,
        train=train,
        test=test,
        decode=tf.identity,
        shuffle_buffer=(
            max(1, _SHUFFLE_BYTES // math.prod(shape)) if is_large else None
        ),
        flip=flip,
        image_fingerprint=fingerprint,
        class_names=_names(num_classes if has_labels else 0),
    )


def _are_labels(spec, batch_rank):
    """Returns whether a pipeline's labels are some, perhaps as Keras's."""
    if not isinstance(spec, tf.TensorSpec) or not spec.dtype.is_integer:
        return False
    shape = spec.shape.as_list()
    return len(shape) >= batch_rank and shape[batch_rank:] in ([], [1])


def _look_through(pairs, num_colors):
    """Returns the fingerprint and the labels of a pipeline's images.

    Args:
      pairs: An image and its label in each.
      num_colors: Number of levels.
    """
    passes = []
    for _ in range(2):
        of_batches = [np.zeros([0], np.int64)]
        digest = hashlib.sha256(f"{num_colors} levels, tf.data\n".encode())
        for images, its in pairs.batch(_IMAGES_AT_ONCE).as_numpy_iterator():
            _check_levels(images, num_colors, _PIPELINE)
            digest.update(images.tobytes())
            of_batches.append(its.astype(np.int64))
        passes.append((digest.hexdigest(), np.concatenate(of_batches)))
    (fingerprint, labels), (other, other_labels) = passes
    # Test images would be trained on, by another order in each pass.
    if fingerprint != other or not np.array_equal(labels, other_labels):
        raise DataError(
            "a `tf.data.Dataset` must give the same images in each pass, and "
            "this one does not: leave out `shuffle` and whatever else is "
            "random, for training shuffles by itself, and mirrors with `flip`"
        )
    return fingerprint, labels.astype(np.int32)


def make(
    name: str,
    arrays: Sequence[np.ndarray],
    num_colors: int,
    size: tuple[int, int] | None = None,
    labels: Sequence[np.ndarray] | None = None,
    num_classes: int | None = None,
    splits: Sequence[np.ndarray] | None = None,
    fingerprint: str | None = None,
) -> ImageDataset:
    """Makes a data set of arrays of images.

    Args:
      name: Its name.
      arrays: The images for training and those for testing, uint8
        `[n, H, W, C]`; or one array of both.
      num_colors: Number of levels.
      size: Height and width that they are resized to. Default: as they are.
      labels: For each array its labels, integers from 0 on. Default: there are
        none.
      num_classes: Number of classes. Default: as many as the labels show.
      splits: For one array the numbers of the images for training and for
        testing. Default: a tenth is for testing.
      fingerprint: That of the images. Default: a hash of their splits.

    Raises:
      DataError: If these are no labels of the images, or there are too few
        images, or the arrays are of different shapes.
    """
    first, last = arrays[0], arrays[-1]
    if first.shape[1:] != last.shape[1:]:
        raise DataError(f"{name}: `train` and `test` are of different shapes")
    source = _Source(arrays)
    if len(arrays) == 2:
        splits = np.split(np.arange(source.num_images), [len(first)])
    elif splits is None:
        splits = _split(len(first), name)
    if fingerprint is None:
        digest = hashlib.sha256(f"{num_colors} levels\n".encode())
        for split, array, numbers in (
            ("train", first, splits[0]),
            ("test", last, splits[1]),
        ):
            digest.update(f"{split} {len(numbers)} {array.shape}\n".encode())
            for number in numbers:
                digest.update(source.read(number).tobytes())
        fingerprint = digest.hexdigest()
    of_all = None
    if labels is not None:
        of_all = _check_labels(labels, arrays, name)
        num_classes = num_classes or 1 + int(of_all.max())

    height, width, channels = first.shape[1:]

    def decode(number):
        image = call_method(source.read, [number], tf.uint8)
        image = tf.ensure_shape(image, [height, width, channels])
        return image if size is None else resize(image, size)

    whole = Split(np.arange(source.num_images), of_all)
    train, test = map(whole.choose, splits)
    return ImageDataset(
        name=name,
        image_shape=(*(size or (height, width)), channels),
        num_colors=num_colors,
        train=train,
        test=test,
        decode=decode,
        image_fingerprint=fingerprint,
        class_names=_names(0 if labels is None else num_classes),
    )


class _Source:
    """Reads images by their numbers, through one array after the other."""

    def __init__(self, arrays):
        self._arrays = arrays
        self.num_images = sum(map(len, arrays))

    def read(self, number):
        first, last = self._arrays[0], self._arrays[-1]
        return (
            first[number] if number < len(first) else last[number - len(first)]
        )


def _names(num_classes):
    return tuple(map(str, range(num_classes)))


def _check(array, num_colors, shown):
    """Returns images as `[n, H, W, C]`."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{shown} must be uint8 [n, H, W] or [n, H, W, C], levels from 0 "
            f"to {num_colors - 1}, got {array.dtype} {list(array.shape)}"
        )
    if array.ndim == 4:
        _check_order(array.shape[1:], shown)
    _check_levels(array, num_colors, shown)
    return array[..., np.newaxis] if array.ndim == 3 else array


def _check_order(image_shape, shown):
    """Refuses images in PyTorch's order."""
    channels, *sides = image_shape
    if channels in (1, 3, 4) and min(sides) > 4:
        raise DataError(
            f"{shown}: are these [n, C, H, W]? Give [n, H, W, C], as by "
            "np.moveaxis(images, -3, -1)"
        )


def _check_levels(images, num_colors, shown):
    if num_colors == 256:  # There are no others. To read a file takes long.
        return
    if (highest := int(images.max())) >= num_colors:
        raise DataError(
            f"{shown} must have levels from 0 to {num_colors - 1}, got one of "
            f"{highest}"
        )


def _check_labels(labels, arrays, shown):
    """Returns the labels of all arrays as integers `[n]`."""
    checked = []
    for own, images in zip(labels, arrays, strict=True):
        if own.shape[1:] == (1,):
            own = own[:, 0]
        if own.shape != images.shape[:1] or own.dtype.kind not in "iu":
            raise DataError(
                f"{shown}: labels must be integers [n], one for each of "
                f"{len(images):,} images, got {own.dtype} {list(own.shape)}"
            )
        checked.append(own)
    result = np.concatenate(checked)
    if result.min() < 0 or result.max() >= max(1000, len(result)):
        raise DataError(
            f"{shown}: labels must be numbers of classes, from 0 on, got some "
            f"from {result.min()} to {result.max()}"
        )
    return result.astype(np.int32)


def _split(num_images, shown):
    """Returns the numbers of the images for training, and for testing."""
    if num_images < 2:
        raise DataError(
            f"{shown}: training and test need an image each, got {num_images}"
        )
    # RandomState, since NumPy promises never to change its streams.
    order = np.random.RandomState(0).permutation(num_images)
    num_test = max(1, int(_TEST_SHARE * num_images))
    return np.sort(order[num_test:]), np.sort(order[:num_test])


def is_file(name: str) -> bool:
    """Returns whether a name is one of a NumPy file."""
    return name.lower().endswith(SUFFIXES)
