"""Folders of images as data sets."""

import errno
import multiprocessing.pool
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_realnvp.data import image_files
from tf_realnvp.data.image_dataset import ImageDataset
from tf_realnvp.data.preprocessing import default_size, resize
from tf_realnvp.data.splits import make_splits
from tf_realnvp.data.tiles import Tiles
from tf_realnvp.errors import DataError, ImageError
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import hashing, runtime
from tf_realnvp.utils.console import counted, warn

_TEST_FOLDERS = ("test", "validation", "val")
# Errors of files that will be there when they are read again.
_PERMANENT = (
    *(errno.ENOENT, errno.EISDIR, errno.ELOOP),
    *(errno.EACCES, errno.EPERM),
)
_IS_SMALL = "it is smaller than a tile"
# The smallest and largest numbers of tiles: a photograph may have a million.
_NUM_TILES = {"train": (2000, 100_000), "test": (1, 10_000)}
_NUM_NAMED = 5  # Skipped files to name in a message.
# Other names of splits, in lower case, reduced to their letters.
_TRAIN_NAMES = {"train", "training", "trainset", "trainingset"}
_TEST_NAMES = {"test", "testing", "testset", "val", "valid", "validation"}


class _Image(NamedTuple):
    """An image that can be read.

    Attributes:
      name: Path of the file relative to the folder.
      header: What is known without decoding it.
      hash: Hash of the file.
    """

    name: str
    header: image_files.Header
    hash: int


def load(
    folder: str,
    size: tuple[int, int] | None,
    labels: bool = False,
    tile: tuple[int, int] | None = None,
) -> ImageDataset:
    """Loads a folder of JPEG, PNG and TIFF images.

    The format of a file is detected by its content. Other formats and damaged
    files are skipped, with a warning on standard error, and listed in
    `ImageDataset.skipped`.
    Hidden files and folders (names that start with a dot) are ignored. All
    files are read and checked by `images.files.look` without decoding them
    fully, which takes about 0.3 ms of CPU time for a small JPEG and less for a
    PNG. Symbolic links to files are followed; links to folders are skipped.

    If the folder has sub-folders `train` and `test` (or `validation`, or
    `val`), as for `tfds.ImageFolder`, they hold the training and test images,
    and all other images are ignored. If there is only `train`, other images are
    ignored as well, and `train` is split. Images are split by the hashes of
    their files: see `hashing.split`.

    Images have one channel if all are grey, else three. Alpha channels are
    dropped. Images are rotated upright as their EXIF data say. If all have
    components of 16 bits, their values are the levels, of which there are as
    many as the highest value has bits for (`Values.up_to`). If only some have,
    the 8 highest bits are kept, with a warning on standard error.

    The class of an image is its sub-folder of the folder, or of `train` or
    `test`. Deeper folders do not matter.

    Args:
      folder: Path of the folder; `~` is expanded.
      size: Height and width to resize the images to, if any.
      labels: As for `data.load`.
      tile: Height and width of tiles to take instead of whole images, which
        stay of their size. Smaller images are skipped.

    Returns:
      The data set, named after the folder.

    Raises:
      DataError: If there is no such folder, if it has fewer than two images, or
        none in `train`, or if `labels` are requested and an image has none.
      OSError: If a disk or network fails.
    """
    root = pathlib.Path(os.path.expanduser(folder))
    name = os.path.basename(os.path.abspath(root)) or "images"
    root = root.resolve()
    if not os.path.isdir(root):
        raise DataError(f"{folder}: there is no such folder of images")
    names = list_files(root)
    readable, skipped = _look(root, names)
    if tile is not None:
        small = {
            image.name: _IS_SMALL
            for image in readable
            if image.header.height < tile[0] or image.header.width < tile[1]
        }
        skipped |= small
        readable = [image for image in readable if image.name not in small]
    images, num_train = _find_splits(root, folder, readable)
    reason = "it is beside the folder `train`"
    used = set(images)
    skipped |= {image.name: reason for image in readable if image not in used}
    if len(images) < 2 or num_train == 0:
        raise DataError(
            f"{folder}: training and test need a JPEG, PNG or TIFF image each, "
            f"and {len(readable)} of the {len(names)} files there can be read"
            + (f"; {_describe_skipped(skipped)}" if skipped else "")
        )
    class_names, indices = _labels_of(folder, images) if labels else ((), None)
    headers = [image.header for image in images]
    values = _values_of(headers)
    sizes = [header[:2] for header in headers]
    of_all = sizes[0] if len(set(sizes)) == 1 else (None, None)
    size = tile or size or default_size(*of_all)
    channels = 1 if all(header.is_grey for header in headers) else 3
    paths = [root / image.name for image in images]

    def explain_damage(reason):
        for path in paths:  # It takes long, but training has ended anyway.
            try:
                image_files.read_pixels(path, channels)
            except (ImageError, OSError) as error:
                return f"{path}: {error}"
        return reason

    if skipped:
        warn(_describe_skipped(skipped))
    hashes = np.array([image.hash for image in images], np.uint64)
    splits = make_splits(hashes, indices, num_train)
    if tile is None:
        shape = *of_all, channels
        decode = _decoder(paths, headers, shape, values, size)
    else:
        tiles = Tiles(paths, sizes, tile, channels, values)
        decode = tiles.decode
        splits = {
            name: tiles.split(split, *_NUM_TILES[name])
            for name, split in splits.items()
        }
    return ImageDataset(
        name=name,
        image_shape=(*size, channels),
        values=values,
        splits=splits,
        decode=decode,
        are_tiles=tile is not None,
        skipped=skipped,
        class_names=class_names,
        explain_damage=explain_damage,
    )


def _find_splits(root, folder, images):
    """Returns training and test images, and the number of training images.

    It is `None` if the images are yet to be split.
    """

    def inside(split):
        return [i for i in images if i.name.startswith(f"{split}{os.sep}")]

    if not (root / "train").is_dir():
        _check_folders(folder, images)
        return images, None
    train = inside("train")
    for test in filter(None, map(inside, _TEST_FOLDERS)):
        return train + test, len(train)
    return train, None


def _labels_of(folder, images):
    """Returns the names of the classes, and the labels of the images."""
    has_splits = images[0].name.startswith(f"train{os.sep}")
    paths = [pathlib.PurePath(image.name) for image in images]
    folders = [path.parts[has_splits:-1] for path in paths]
    if () in folders:
        raise DataError(
            f"{folder}: {paths[folders.index(())]} has no label: put the "
            "images of each class into a folder of its own, named after the "
            f"class{', inside of `train` and `test`' * has_splits}"
        )
    names, labels = np.unique([first for first, *_ in folders], False, True)
    return tuple(names.tolist()), labels.astype(np.int32)


def _values_of(headers):
    """Returns what the values of the images are."""
    wide = [h.highest for h in headers if h.highest is not None]
    if len(wide) == len(headers):
        return Values.up_to(max(wide))
    if wide:
        warn(
            f"{counted(len(wide), 'image')} of 16 bits: the 8 highest are kept"
        )
    return Values(256)


def _decoder(paths, headers, shape, values, size):
    """Returns a function that maps the index of an image to the image.

    Args:
      paths: The paths of all images.
      headers: What is known of them.
      shape: The shape that all images have, `None` where they differ.
      values: What their values are.
      size: Height and width to resize them to.
    """
    names = tf.constant([os.fsencode(path) for path in paths])
    orientations = [header.orientation for header in headers]
    has_tiff = any(header.is_tiff for header in headers)

    def decode(index):
        content = tf.io.read_file(tf.gather(names, index))
        if has_tiff:
            content = tf.numpy_function(
                image_files.as_png, [content], tf.string
            )
        image = image_files.decode(
            content, shape[-1], tf.gather(orientations, index), values.dtype
        )
        return resize(tf.ensure_shape(image, shape), size)

    return decode


def _check_folders(folder, images):
    """Refuses split folders whose names would not be recognized."""
    parts = {p for i in images for p in pathlib.PurePath(i.name).parts[:-1]}
    letters = {re.sub("[^a-z]", "", part.casefold()): part for part in parts}
    train, test = letters.keys() & _TRAIN_NAMES, letters.keys() & _TEST_NAMES
    if train and test:
        first, second = letters[min(train)], letters[min(test)]
        raise DataError(
            f"{folder}: {first} and {second} are not taken for training and "
            "test images: call them train and test, and name their folder"
        )


def folders_of(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders from which the images are taken.

    Args:
      root: The folder of the data set.

    Returns:
      The folders of the splits, which may not exist; if there is no `train`,
      the whole folder, which is to be split.
    """
    if not (root / "train").is_dir():
        return [root]
    return [root / name for name in ("train", *_TEST_FOLDERS)]


def list_files(root: pathlib.Path) -> list[str]:
    """Returns the paths of all files in a folder that are not hidden.

    Args:
      root: The folder, with or without sub-folders.

    Returns:
      The paths relative to the folder, in order.

    Raises:
      OSError: If a folder cannot be read.
    """

    def fail(error):
        raise error

    names = []
    for folder, folders, files in os.walk(root, onerror=fail):
        # Links to folders may go in circles: they are left out like bad files.
        files += [n for n in folders if os.path.islink(f"{folder}/{n}")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in files
            if not name.startswith(".")
        ]
    return sorted(names)


def _look(root, names):
    """Checks all files.

    Args:
      root: The folder.
      names: Paths of the files relative to it.

    Returns:
      The images, and the reasons why all other files are skipped.

    Raises:
      OSError: If a file is there and cannot be read now: left out, and read
        later, it would change a run's images.
    """

    def look(name):
        try:
            content = image_files.load(root / name)
            header = image_files.look(content)
        except ImageError as error:
            return str(error)
        except OSError as error:
            if error.errno not in _PERMANENT:
                raise
            return error.strerror
        return _Image(name, header, hashing.hash_of(content))

    # Unlike those of `concurrent.futures`, its threads end with the program
    # even if one waits for a disk.
    with multiprocessing.pool.ThreadPool(runtime.num_cores()) as pool:
        seen = dict(zip(names, pool.imap(look, names), strict=True))
    images = [image for image in seen.values() if not isinstance(image, str)]
    skipped = {name: why for name, why in seen.items() if isinstance(why, str)}
    return images, skipped


def _describe_skipped(skipped):
    """Returns how many files are skipped, and the first few of them."""
    named = [f"{name} ({why})" for name, why in skipped.items()][:_NUM_NAMED]
    named += ["..."] * (len(skipped) > _NUM_NAMED)
    return f"{counted(len(skipped), 'file')} left out: {', '.join(named)}"
