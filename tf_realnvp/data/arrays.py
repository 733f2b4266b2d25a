"""Data sets of what Python programs have: files of NumPy, arrays, `tf.data`."""

import hashlib
import math
import os
import pathlib

import numpy as np
import tensorflow as tf

from tf_realnvp.data import image_dataset
from tf_realnvp.data.image_dataset import (
    DECODING,
    ImageDataset,
    Split,
    call_method,
    default_size,
    resize,
)
from tf_realnvp.utils.checks import WholeNumber, short
from tf_realnvp.utils.errors import DataError
from tf_realnvp.utils.messages import printable

SUFFIXES = (".npy", ".npz")
NAME = "images"  # Of data sets of a program's own images.

_TEST_SHARE = 0.1
_BYTES_AT_ONCE = 2**26
_IMAGES_AT_ONCE = 256  # Of a pipeline.
_SHUFFLE_BYTES = 2**27


def load(
    path: str,
    size: tuple[int, int] | None,
    flip: bool,
    labels: bool = False,
) -> ImageDataset:
    """Loads a NumPy file.

    An `.npy` file holds the images; an `.npz` file (of `np.savez`) has them
    under `images`, or those for training under `train` and those for testing
    under `test`. Beside them `num_colors` may say how many levels there are, at
    most 256. Images are uint8, `[n, H, W]` or `[n, H, W, C]`. Where none are
    for testing, a tenth is, at random but always the same. An `.npy` file is
    mapped into memory, and read as it is needed.

    Labels are integers `[n]`, or as Keras has them `[n, 1]`, from 0 on, under
    `labels`, or under `train_labels` and
    `test_labels`, which are left alone unless they are asked for. The classes
    are called by their numbers.

    Args:
      path: The file; `~` is the home folder.
      size: Height and width that `data.load` gives the images, if any.
      flip: As for `data.load`.
      labels: As for `data.load`.

    Returns:
      The data set, named after the file.

    Raises:
      DataError: If there is no such file, or it does not hold such images.
    """
    file = pathlib.Path(os.path.expanduser(path))
    shown = printable(path)
    if not os.path.isfile(file):
        raise DataError(f"{shown}: there is no such file")
    try:
        content = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            arrays = {"images": content}
        else:
            with content:
                arrays = {name: content[name] for name in content.files}
    except MemoryError:
        raise
    except Exception as error:  # NumPy raises nearly anything.
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{shown}: {error.strerror}") from error
        raise DataError(
            f"{shown}: it is no file of NumPy arrays, or damaged: give what "
            "np.save or np.savez writes, without objects"
        ) from error
    found = {
        name.removesuffix("labels"): arrays.pop(name)
        for name in ("labels", "train_labels", "test_labels")
        if name in arrays
    }
    splits, num_colors = _check_arrays(arrays, shown)
    height, width = splits["train"][0].shape[1:3]
    dataset = _from_splits(
        file.stem,
        splits,
        num_colors,
        size or default_size(height, width),
        flip,
    )
    if not labels:
        return dataset
    whole = found.get("") if "images" in arrays else None
    of_splits = {split: found.get(f"{split}_", whole) for split in splits}
    return _with_labels(dataset, splits, of_splits, shown)


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
    arrays = {"images": images, "num_colors": num_colors}
    splits, num_colors = _check_arrays(arrays, "the array")
    dataset = _from_splits(NAME, splits, num_colors, None, flip)
    if labels is None:
        return dataset
    found = dict.fromkeys(splits, np.asarray(labels))
    return _with_labels(dataset, splits, found, "the array", num_classes)


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
    shown = "the `tf.data.Dataset`"
    spec = elements.element_spec
    has_labels = isinstance(spec, tuple) and len(spec) == 2
    image = spec[0] if has_labels else spec
    if not isinstance(image, tf.TensorSpec) or image.dtype != tf.uint8:
        raise DataError(
            "the elements of a `tf.data.Dataset` must be images, uint8 "
            "[H, W, C], or pairs of these and labels: map it to them, for they "
            f"are {spec}"
        )
    if image.shape.rank not in (3, 4) or None in image.shape[-3:].as_list():
        raise DataError(
            "the images of a `tf.data.Dataset` must have a known shape "
            f"[H, W, C], got {image.shape}"
        )
    _check_order(
        image.shape[-3:],
        shown,
        "by a `map` with tf.experimental.numpy.moveaxis(image, -3, -1)",
    )
    takes_labels = has_labels and num_classes is not None
    if not takes_labels:
        elements = elements.map(lambda image, *_: (image,))
    elif _are_labels(spec[1], image.shape.rank - 3):
        elements = elements.map(
            lambda image, label: (
                image,
                tf.reshape(label, tf.shape(image)[:-3]),
            )
        )
    else:
        raise DataError(
            "the labels of a `tf.data.Dataset` must be integers, one for each "
            f"image, got {spec[1]}"
        )
    if image.shape.rank == 4:
        elements = elements.unbatch()
    image_shape = tuple(image.shape[-3:].as_list())
    if elements.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError("a `tf.data.Dataset` must end, and this one repeats")
    num_images, fingerprint, labels = _look_through(elements, num_colors)
    _, test = _split(num_images, shown)
    is_test = np.zeros([num_images], bool)
    is_test[test] = True
    images = Split(elements.map(lambda image, *_: image), num_images)
    num_bytes = num_images * math.prod(image_shape)
    dataset = ImageDataset(
        name=NAME,
        image_shape=image_shape,
        num_colors=num_colors,
        train=images.choose(~is_test),
        test=images.choose(is_test),
        # What it stores are the images themselves.
        shuffle_buffer=(
            max(1, _SHUFFLE_BYTES // math.prod(image_shape))
            if num_bytes > image_dataset.MAX_CACHE_BYTES
            else None
        ),
        flip=flip,
        fingerprint=fingerprint,
    )
    if num_classes is None or not takes_labels:
        return dataset
    return _with_numbers(
        dataset, num_classes, labels[~is_test], labels[is_test], shown
    )


def _are_labels(spec, rank):
    """Returns whether a pipeline's labels are some, perhaps as Keras's."""
    return (
        isinstance(spec, tf.TensorSpec)
        and spec.dtype.is_integer
        and spec.shape.rank in (rank, rank + 1)
        and (spec.shape.rank == rank or spec.shape[-1] == 1)
    )


def _look_through(elements, num_colors):
    """Returns how many images a pipeline gives, their fingerprint, and labels.

    Args:
      elements: Of tuples: an image, and perhaps its label.
      num_colors: Number of levels.
    """
    passes = []
    for _ in range(2):
        of_batches = [np.zeros([0], np.int64)]
        num_images = 0
        digest = hashlib.sha256(f"{num_colors} levels, tf.data\n".encode())
        for images, *its in elements.batch(_IMAGES_AT_ONCE).as_numpy_iterator():
            _check_levels(images, "the `tf.data.Dataset`", num_colors)
            digest.update(images.tobytes())
            of_batches += [labels.astype(np.int64) for labels in its]
            num_images += len(images)
        passes.append((digest.hexdigest(), np.concatenate(of_batches)))
    (fingerprint, labels), (other, other_labels) = passes
    # Test images would be trained on, by another order in each pass.
    if fingerprint != other or not np.array_equal(labels, other_labels):
        raise DataError(
            "a `tf.data.Dataset` must give the same images in each pass, and "
            "this one does not: leave out `shuffle` and whatever else is "
            "random, for training shuffles by itself, and mirrors with `flip`"
        )
    return num_images, fingerprint, labels


def _check_arrays(arrays, shown):
    """Returns the images of each split, with their numbers, and their levels.

    Args:
      arrays: By their names, as `load` has them.
      shown: What they are, for messages.
    """
    num_colors = _num_colors(arrays.pop("num_colors", 256), shown)
    if arrays.keys() not in ({"images"}, {"train", "test"}):
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{shown}: it must hold `images`, or `train` and `test`, got "
            f"{printable(found)}"
        )
    checked = {
        name: _check(array, f"{shown}: `{name}`", num_colors)
        for name, array in arrays.items()
    }
    if "images" in checked:
        images = checked["images"]
        train, test = _split(len(images), shown)
        return {"train": (images, train), "test": (images, test)}, num_colors
    if checked["train"].shape[1:] != checked["test"].shape[1:]:
        raise DataError(f"{shown}: `train` and `test` are of different shapes")
    return {
        name: (checked[name], np.arange(len(checked[name])))
        for name in ("train", "test")
    }, num_colors


def _from_splits(name, splits, num_colors, size, flip):
    """Makes a data set.

    Args:
      name: Its name.
      splits: For "train" and "test" an array of images, and their numbers.
      num_colors: Number of levels.
      size: Height and width that they are resized to; as they are if `None`.
      flip: As for `data.load`.
    """
    shape = splits["train"][0].shape[1:]
    if size is not None:
        shape = (*size, shape[2])

    def stored(split):
        _, numbers = splits[split]
        is_test = np.full(len(numbers), split == "test")
        elements = tf.data.Dataset.from_tensor_slices((numbers, is_test))
        return Split(elements, len(numbers))

    source = _Source(splits)

    def decode(element):
        with tf.name_scope(DECODING):
            image = call_method(source.read, element, tf.uint8)
            image = tf.ensure_shape(image, [None, None, shape[2]])
            return image if size is None else resize(image, size)

    return ImageDataset(
        name=name,
        image_shape=shape,
        num_colors=num_colors,
        train=stored("train"),
        test=stored("test"),
        decode=decode,
        flip=flip,
        fingerprint=_fingerprint(splits, num_colors),
    )


class _Source:
    """Where a data set reads its images.

    Args:
      splits: As for `_from_splits`.
    """

    def __init__(self, splits):
        self._splits = splits

    def read(self, number, is_test):
        images, _ = self._splits["test" if is_test else "train"]
        return images[number]


def _with_labels(dataset, splits, labels, shown, num_classes=None):
    """Adds labels to a data set.

    Args:
      dataset: What `_from_splits` gave for `splits`.
      splits: As for `_from_splits`.
      labels: For each split the labels of its array of images.
      shown: What they are, for messages.
      num_classes: Number of classes; as many as there are if `None`.
    """
    for split, (images, _) in splits.items():
        own = labels[split]
        if own is None:
            raise DataError(
                f"{shown}: it has no labels: add `labels` beside `images`, or "
                "`train_labels` and `test_labels` beside `train` and `test`"
            )
        if own.shape[1:] == (1,):
            labels[split] = own = own[:, 0]
        if own.shape != images.shape[:1] or own.dtype.kind not in "iu":
            raise DataError(
                f"{shown}: labels must be integers [n], one for each of "
                f"{len(images):,} images, got {own.dtype} {list(own.shape)}"
            )
        if own.min() < 0:
            raise DataError(
                f"{shown}: labels must be from 0 on, got {own.min()}"
            )
    if num_classes is None:
        num_classes = 1 + max(int(own.max()) for own in labels.values())
    num_images = sum(len(numbers) for _, numbers in splits.values())
    if num_classes > max(1000, num_images):
        raise DataError(
            f"{shown}: labels must be numbers of classes, from 0 on, got "
            f"{num_classes - 1} as the largest of {num_images:,} images"
        )
    train, test = (labels[split][splits[split][1]] for split in splits)
    return _with_numbers(dataset, num_classes, train, test, shown)


def _with_numbers(dataset, num_classes, train, test, shown):
    """Adds labels of classes that are called by their numbers."""
    names = [str(label) for label in range(num_classes)]
    try:
        return dataset.with_labels(names, train, test)
    except DataError as error:
        raise DataError(f"{shown}: {error}") from error


def _num_colors(value, shown):
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if value not in WholeNumber(2, 256):
        raise DataError(
            f"{shown}: `num_colors` must be {WholeNumber(2, 256)}, got "
            f"{short(value)}"
        )
    return int(value)


def _check(array, shown, num_colors):
    """Returns images as `[n, H, W, C]`."""
    if array.dtype != np.uint8:
        raise DataError(
            f"{shown} must be uint8, levels from 0 to {num_colors - 1}, got "
            f"{array.dtype}"
        )
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{shown} must have the shape [n, H, W] or [n, H, W, C], got "
            f"{list(array.shape)}"
        )
    if array.ndim == 4:
        _check_order(array.shape[1:], shown, "images.transpose(0, 2, 3, 1)")
    step = max(1, _BYTES_AT_ONCE // array[0].size)
    for i in range(0, len(array), step):
        _check_levels(array[i : i + step], shown, num_colors)
    return array[..., np.newaxis] if array.ndim == 3 else array


def _check_order(image_shape, shown, remedy):
    """Refuses images in PyTorch's order."""
    channels, *sides = image_shape
    if channels in (1, 3, 4) and min(sides) > 4:
        raise DataError(
            f"{shown}: are these [n, C, H, W]? Give [n, H, W, C], {remedy}"
        )


def _check_levels(images, shown, num_colors):
    if num_colors == 256:  # There are no others. To read a file takes long.
        return
    if (highest := int(images.max())) >= num_colors:
        raise DataError(
            f"{shown} must have levels from 0 to {num_colors - 1}, got one of "
            f"{highest}"
        )


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


def _fingerprint(splits, num_colors):
    digest = hashlib.sha256(f"{num_colors} levels\n".encode())
    for split, (images, numbers) in splits.items():
        digest.update(f"{split} {len(numbers)} {images.shape}\n".encode())
        step = max(1, _BYTES_AT_ONCE // images[0].size)
        for i in range(0, len(numbers), step):
            digest.update(images[numbers[i : i + step]].tobytes())
    return digest.hexdigest()


def is_file(name: str) -> bool:
    """Returns whether a name is one of a NumPy file."""
    return os.fspath(name).lower().endswith(SUFFIXES)
