"""Folders of pictures as data sets."""

import hashlib
import io
import os
import pathlib
import warnings
from typing import NamedTuple

import tensorflow as tf
from PIL import Image

from tf_realnvp.image_dataset import (
    DataError,
    ImageDataset,
    default_size,
    resize,
)

_TEST_SHARE = 0.1
_TEST_FOLDERS = ("test", "validation", "val")
_START_OF_JPEG = b"\xff\xd8\xff"
_END_OF_JPEG = b"\xff\xd9"


class _Picture(NamedTuple):
    """A picture that can be read.

    Attributes:
      name: Its path, from the folder on.
      height: In pixels.
      width: In pixels.
      is_grey: Whether it has one channel, or one and an alpha channel.
    """

    name: str
    height: int
    width: int
    is_grey: bool


def load(folder: str, image_size: int | None, flip: bool) -> ImageDataset:
    """Loads a folder of JPEG and PNG pictures.

    What a file is, its content says. Animated pictures, other formats and
    damaged files are left out, and named in `ImageDataset.skipped`; what has a
    name that starts with a dot is not looked at. All files are read for that,
    but only their headers, ends and checksums are looked at, and nothing is
    decoded: some 0.1 ms a picture once it has come from the disk.

    Where the folder has sub-folders `train` and `test` (or `validation`, or
    `val`), as `tfds.ImageFolder` wants them, these are the training and test
    images, and other pictures are ignored. Else each picture is a test image
    with a chance of 10 %, which a hash of its path in the folder decides: other
    pictures have no say in it. Only if that left no test image, or nothing but
    test images, the picture with the lowest, or highest, hash changes sides.

    Images are grey, with one channel, if all pictures are, and else have three.
    Alpha channels are dropped. A rotation in a picture's EXIF data is ignored.

    Args:
      folder: Its path; `~` is the home folder.
      image_size: As for `data.load`.
      flip: As for `data.load`.

    Returns:
      The data set, named after the folder.

    Raises:
      DataError: If there is no such folder, or fewer than two pictures in it.
    """
    root = pathlib.Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    try:
        names = _list_files(root)
    except OSError as error:
        raise DataError(f"{folder}: {error}") from error
    looks = {name: _look(root, name) for name in names}
    pictures = [look for look in looks.values() if look]
    skipped = [name for name, look in looks.items() if not look]
    train, test = _split(pictures)
    if not train or not test:
        raise DataError(
            f"{folder}: training and test need a JPEG or PNG picture each, and "
            f"{len(pictures)} of the {len(names)} files there can be read"
        )

    pictures = train + test
    if image_size is None:
        sizes = {(picture.height, picture.width) for picture in pictures}
        image_size = default_size(*(sizes.pop() if len(sizes) == 1 else (0, 0)))
    channels = 1 if all(picture.is_grey for picture in pictures) else 3
    if image_size is None:
        shape = (pictures[0].height, pictures[0].width, channels)
    else:
        shape = (image_size, image_size, channels)

    def decode(path):
        image = _decode(path, channels)
        return image if image_size is None else resize(image, image_size)

    return ImageDataset(
        name=root.name or "images",
        image_shape=shape,
        num_colors=256,
        train=_paths(root, train),
        test=_paths(root, test),
        num_train=len(train),
        num_test=len(test),
        decode=decode,
        flip=flip,
        skipped=tuple(skipped),
    )


def _list_files(root: pathlib.Path) -> list[str]:
    """Returns the paths, from the root on, of all files that are not hidden."""

    def fail(error):
        raise error

    names = []
    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in files
            if not name.startswith(".")
        ]
    return sorted(names)


def _look(root: pathlib.Path, name: str) -> _Picture | None:
    """Returns a picture, or `None` if the file is none that can be read."""
    try:
        content = (root / name).read_bytes()
        if content.startswith(_START_OF_JPEG):
            # This reads all tables that come before the pixels.
            height, width, channels = tf.io.extract_jpeg_shape(content).numpy()
            if not content.endswith(_END_OF_JPEG):
                tf.io.decode_jpeg(content)
            return _Picture(name, int(height), int(width), channels == 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of very large pictures.
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                width, height = image.size
                is_grey = image.mode in ("1", "L", "LA", "I", "I;16")
                if image.is_animated:
                    return None
                image.verify()  # Compares the checksums of all parts.
        return _Picture(name, height, width, is_grey)
    except Exception:  # Pillow raises nearly anything.
        return None


def _split(
    pictures: list[_Picture],
) -> tuple[list[_Picture], list[_Picture]]:
    """Returns the pictures for training and those for testing."""
    folders = {}
    for picture in pictures:
        folder, *rest = pathlib.PurePath(picture.name).parts
        folders.setdefault(folder if rest else "", []).append(picture)
    if "train" in folders:
        pictures = folders["train"]
        for folder in _TEST_FOLDERS:
            if folder in folders:
                return pictures, folders[folder]

    ranked = sorted((_hash(picture.name), picture) for picture in pictures)
    num_test = sum(rank < _TEST_SHARE for rank, _ in ranked)
    num_test = max(1, min(num_test, len(ranked) - 1))
    return (
        sorted(picture for _, picture in ranked[num_test:]),
        sorted(picture for _, picture in ranked[:num_test]),
    )


def _hash(name: str) -> float:
    """Returns a number in [0, 1) that depends on nothing but the name."""
    name = os.fsencode(pathlib.PurePath(name).as_posix())
    digest = hashlib.sha256(name).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _paths(root: pathlib.Path, pictures: list[_Picture]) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(
        [os.fsencode(root / picture.name) for picture in pictures]
    )


def _decode(path: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns a picture, uint8 `[H, W, channels]`."""
    return tf.io.decode_image(
        tf.io.read_file(path), channels, expand_animations=False
    )
