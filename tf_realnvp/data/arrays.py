"""Data sets from NumPy files, arrays and `tf.data` pipelines."""

import functools
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.data import image_dataset
from tf_realnvp.data.image_dataset import ImageDataset
from tf_realnvp.data.pipeline import call
from tf_realnvp.data.preprocessing import default_size, resize
from tf_realnvp.data.splits import make_splits
from tf_realnvp.errors import DataError, reason
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import hashing
from tf_realnvp.utils.named import (
    as_float32,
    by_name,
    each,
    of_entries,
    of_file,
)
from tf_realnvp.utils.ranges import FLOAT32_MAX

NAME = "images"  # Of data sets of a program's own images.

_IMAGES_AT_ONCE = 256  # Of a pipeline.
SHUFFLE_BYTES = 2**27
_MAX_CLASSES = 2**16  # Larger values are not labels.


def load(
    path: str, size: tuple[int, int] | None, labels: bool = False
) -> ImageDataset:
    """Loads a NumPy file.

    An `.npy` file holds the images. An `.npz` file (written by `np.savez`)
    holds them under `images`, or under `train` and `test`. Images are
    `[n, H, W]` or `[n, H, W, C]`: levels, which are integers, or real numbers,
    floating-point and finite. The optional entry `num_colors` is the number of
    levels. The default is 256, or as many as the highest value has bits for
    (`Values.up_to`) if that is above 255 or the dtype is uint16. Without test
    images, about a tenth is used for testing (`hashing.split`). An `.npy` file
    is memory-mapped and read on demand.

    Labels are integers `[n]`, or `[n, 1]` as in Keras, starting at 0, under
    `labels`, or under `train_labels` and `test_labels`. They are ignored unless
    `labels` is set. The class names are the integers.

    What the density of the images is conditioned on are numbers `[n, K]` or
    `[n, h, w, K]` under `context`, or several under `context_NAME`; or under
    `train_context` and `test_context`, and so on.

    Args:
      path: The file; `~` is expanded.
      size: Height and width to resize the images to, if any.
      labels: As for `data.load`.

    Returns:
      The data set, named after the file.

    Raises:
      DataError: If there is no file, or it does not hold such images.
    """
    entries = of_file(path, "images")
    prefixes = [""] if "images" in entries else ["train_", "test_"]
    names = [prefix.removesuffix("_") or "images" for prefix in prefixes]
    of_labels = [f"{prefix}labels" for prefix in prefixes] if labels else []
    for name in (*names, *of_labels):
        if name not in entries:
            raise DataError(
                f"{path}: it has no `{name}`: it must hold `images`, or "
                f"`train` and `test`; there are {', '.join(entries) or 'none'}"
            )
    contexts = [of_entries(entries, prefix) for prefix in prefixes]
    used = {p + name for p in prefixes for name in by_name(contexts[0])}
    given = {n for n in entries if re.match("(train_|test_)?context", n)}
    if wrong := sorted(used ^ given):
        raise DataError(
            f"{path}: `{wrong[0]}` is "
            f"{'missing' if wrong[0] in used else 'not used'}: the context of "
            "`images` is `context`, or several `context_NAME`; that of `train` "
            "and `test` is the same with `train_` and `test_` before"
        )
    try:
        values = _values_of([entries[name] for name in names])
        if "num_colors" in entries:
            values = Values(entries["num_colors"].tolist())
    except ValueError as error:
        raise DataError(f"{path}: {reason(error)}") from error
    images = [_check(entries[n], values, f"{path}: `{n}`") for n in names]
    return make(
        pathlib.Path(path).stem,
        images,
        values,
        size or default_size(*images[0].shape[1:3]),
        [entries[name] for name in of_labels] or None,
        contexts=contexts,
    )


def _values_of(arrays):
    """Returns what the values of arrays are, from their dtype and highest."""
    dtype, highest = arrays[0].dtype, 0
    if dtype.kind == "f":
        return Values(None)
    if dtype.kind in "iu" and dtype != np.uint8:
        highest = max(array.max(initial=0) for array in arrays)
    is_wide = highest > 255 or dtype == np.uint16
    return Values.up_to(highest) if is_wide else Values(256)


def from_images(
    images: np.ndarray,
    values: Values | int | None = 256,
    labels: np.ndarray | None = None,
    num_classes: int | None = None,
    context: Any = None,
) -> ImageDataset:
    """Makes a data set of an array of images, some of them for testing.

    Args:
      images: `[n, H, W]` or `[n, H, W, C]`, levels, which are integers, or
        real numbers, floating-point.
      values: As for `make`.
      labels: Integers `[n]`, or `[n, 1]` as in Keras, starting at 0; optional.
      num_classes: Number of classes. Default: the largest label plus one.
      context: Context of the images, `[n, K]` or `[n, h, w, K]`, or several by
        name; optional.

    Raises:
      DataError: If `images`, `labels` or `context` are invalid.
    """
    values = Values.of(values)
    images = _check(np.asarray(images), values, "the array")
    parts = None if labels is None else [np.asarray(labels)]
    return make(NAME, [images], values, None, parts, num_classes, [context])


def from_tf_data(
    elements: tf.data.Dataset,
    values: Values | int | None = 256,
    num_classes: int | None = None,
) -> ImageDataset:
    """Makes a data set of a finite pipeline, with some images for testing.

    The pipeline is read twice, to check and hash the images.

    Args:
      elements: Dataset of images `[H, W, C]`, as for `from_images`, or of pairs
        of an image and an integer label, batched or not; the same in each pass.
      values: As for `make`.
      num_classes: Number of classes; `None` to drop the labels.

    Raises:
      DataError: If the elements are invalid, if the pipeline is infinite, or if
        its elements change between passes.
    """
    spec, values = elements.element_spec, Values.of(values)
    image, *label = spec if isinstance(spec, tuple) else (spec,)
    has_labels = bool(label) and num_classes is not None
    if (
        len(label) > 1
        or not isinstance(image, tf.TensorSpec)
        or image.shape.rank not in (3, 4)
        or not image.shape[-3:].is_fully_defined()
        or (has_labels and not getattr(label[0], "dtype", tf.string).is_integer)
    ):
        raise DataError(
            "the elements of a `tf.data.Dataset` must be images [H, W, C] of a "
            f"known shape, or pairs of these and labels, integers, got {spec}"
        )
    if image.shape.rank == 4:
        elements = elements.unbatch()

    def pair(image, *label):
        return image, tf.reshape(label[0], []) if has_labels else 0

    pairs = elements.map(pair)
    if pairs.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError("a `tf.data.Dataset` must end, and this one repeats")
    hashes, labels = _look_through(pairs, values)
    shape = tuple(image.shape[-3:].as_list())
    num_bytes = math.prod(shape) * image.dtype.size
    shuffle_buffer = None
    # The shuffle buffer holds the images themselves.
    if len(labels) * num_bytes > image_dataset.MAX_CACHE_BYTES:
        shuffle_buffer = max(1, SHUFFLE_BYTES // num_bytes)
    labels = labels if has_labels else None
    records = elements.map(lambda image, *_: image)
    return ImageDataset(
        name=NAME,
        image_shape=shape,
        values=values,
        splits=make_splits(hashes, labels, records=records),
        decode=lambda image: tf.cast(image, values.dtype),
        shuffle_buffer=shuffle_buffer,
        class_names=_names(labels, num_classes),
    )


def _look_through(pairs, values):
    """Returns the hashes and the labels of a pipeline's images.

    Args:
      pairs: Dataset of pairs of an image and its label.
      values: What the values of the images are.
    """

    def read():
        parts = [(np.zeros([0], np.uint64), np.zeros([0], np.int32))]
        name = "the images of a `tf.data.Dataset`"
        for images, labels in pairs.batch(_IMAGES_AT_ONCE).as_numpy_iterator():
            images = _check(images, values, name)
            parts.append((hashing.hashes_of(images), labels.astype(np.int32)))
        return [*map(np.concatenate, zip(*parts, strict=True))]

    first, second = read(), read()
    # Otherwise an order that changes between passes would mix the splits.
    if not all(map(np.array_equal, first, second)):
        raise DataError(
            "a `tf.data.Dataset` must give the same images in each pass: "
            "leave out `shuffle` and whatever else is random"
        )
    return first


def make(
    name: str,
    arrays: Sequence[np.ndarray],
    values: Values | int | None,
    size: tuple[int, int] | None = None,
    labels: Sequence[np.ndarray] | None = None,
    num_classes: int | None = None,
    contexts: Sequence[Any] = (None,),
) -> ImageDataset:
    """Makes a data set of arrays of images.

    Args:
      name: Name of the data set.
      arrays: Training and test images `[n, H, W, C]`; or a single array, which
        is split by `hashing.split`.
      values: What their values are; or the number of levels, `None` for real
        numbers.
      size: Height and width to resize the images to. Default: no resizing.
      labels: Labels of each array, integers starting at 0; optional.
      num_classes: Number of classes. Default: the largest label plus one.
      contexts: Context of each array, if any, as for `from_images`.

    Raises:
      DataError: If the labels or contexts do not fit the images, if there are
        too few images, or if the arrays have different shapes.
    """
    values, first, last = Values.of(values), arrays[0], arrays[-1]
    size = size or first.shape[1:3]
    if first.shape[1:] != last.shape[1:]:
        raise DataError(f"{name}: `train` and `test` are of different shapes")
    images = first if len(arrays) == 1 else np.concatenate(arrays)
    num_train = len(first) if len(arrays) == 2 else None

    def joined(check, *parts):
        pairs = zip(parts, map(len, arrays), strict=True)
        return np.concatenate([check(*pair) for pair in pairs])

    check_labels = functools.partial(_check_labels, name)
    all_labels = None if labels is None else joined(check_labels, *labels)
    context = each(functools.partial(joined, as_float32), *contexts)

    def decode(index):
        image = call(np.ndarray.__getitem__, images, [index], images.dtype)
        image = tf.ensure_shape(image, images.shape[1:])
        return resize(tf.cast(image, values.dtype), size)

    return ImageDataset(
        name=name,
        image_shape=(*size, first.shape[3]),
        values=values,
        splits=make_splits(
            hashing.hashes_of(images), all_labels, num_train, None, context
        ),
        decode=decode,
        class_names=_names(all_labels, num_classes),
    )


def _names(labels, num_classes):
    """Returns the names of the classes: their indices."""
    if labels is None:
        return ()
    return tuple(map(str, range(num_classes or 1 + labels.max())))


def _check(images, values, name):
    """Returns images as `[n, H, W, C]`, levels as uint8 or uint16."""
    if values.are_real:
        kind, lowest, highest = "floating-point", -FLOAT32_MAX, FLOAT32_MAX
    else:
        kind, lowest, highest = "integers", 0, values.highest
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if not values.fits(images.dtype) or images.ndim != 4 or images.size == 0:
        got = f"{images.dtype} {list(images.shape)}"
    elif images.shape[1] in (1, 3, 4) and min(images.shape[2:]) > 4:
        got = "what seems to be [n, C, H, W]: np.moveaxis(images, -3, -1)?"
    elif not lowest <= float(images.min()) <= float(images.max()) <= highest:
        got = f"values from {images.min()} to {images.max()}"
    else:
        # TensorFlow ignores the byte order.
        native = images.dtype.newbyteorder("=")
        dtype = native if values.are_real else values.dtype
        return images.astype(dtype, copy=False)
    raise DataError(
        f"{name} must be {kind} [n, H, W] or [n, H, W, C] from {lowest:g} to "
        f"{highest:g}, got {got}"
    )


def _check_labels(name, labels, num_images):
    """Returns labels as int32 `[n]`."""
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    if (
        labels.dtype.kind not in "iu"
        or labels.shape != (num_images,)
        or labels.min() < 0
        or labels.max() > _MAX_CLASSES
    ):
        raise DataError(
            f"{name}: labels must be integers [n] from 0 to {_MAX_CLASSES}, "
            f"one for each of {num_images:,} images, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    return labels.astype(np.int32)


def is_file(name: str) -> bool:
    """Returns whether a name is the name of a NumPy file."""
    return name.lower().endswith((".npy", ".npz"))
