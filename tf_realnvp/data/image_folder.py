"""Folders of pictures as data sets."""

import concurrent.futures
import errno
import hashlib
import os
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_realnvp.data.image_dataset import (
    ImageDataset,
    Split,
    default_size,
    describe_skipped,
    file_error,
    resize,
)
from tf_realnvp.images import files as image_files
from tf_realnvp.utils.errors import DataError, ImageError
from tf_realnvp.utils.messages import counted, printable

_TEST_SHARE = 0.1
_TEST_FOLDERS = ("test", "validation", "val")
SPLIT_FOLDERS = ("train", *_TEST_FOLDERS)
_LOOKED_AT_ONCE = 256
# Other names of splits, in lower case. Few classes are called so.
_START = r"([a-z\d]+[_ .-])?"
_ENDING = r"([_ .-]?(sets?|split|data|images?|pictures?|\d))*"
_TRAIN_NAME = re.compile(rf"{_START}train(ing)?{_ENDING}")
_TEST_NAME = re.compile(rf"{_START}(test(ing)?|val(id(ation)?)?){_ENDING}")
# Errors of disks, networks and full systems, which say nothing of the file.
_PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOLINK),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.ENOTCONN, errno.ESHUTDOWN),
    *(errno.ENOMEM, errno.ENFILE, errno.EMFILE),
)


class _Picture(NamedTuple):
    """A picture that can be read.

    Attributes:
      name: Its path, from the folder on.
      header: What is known of it without decoding it.
      digest: Hash of the file.
    """

    name: str
    header: image_files.Header
    digest: bytes


def load(
    folder: str,
    size: tuple[int, int] | None,
    flip: bool,
    labels: bool = False,
) -> ImageDataset:
    """Loads a folder of JPEG and PNG pictures.

    What a file is, its content says. Animated pictures, other formats and
    damaged files are left out, and named in `ImageDataset.skipped`; what has a
    name that starts with a dot is not looked at. All files are read for that,
    but not all is decoded, see `pictures.look`: it takes some 0.3 ms of one
    processor for a small JPEG, and less for a PNG, once it has come from the
    disk. Links to files are followed, and those to folders left out.

    Where the folder has sub-folders `train` and `test` (or `validation`, or
    `val`), as `tfds.ImageFolder` wants them, these are the training and test
    images, and other pictures are ignored; so they are if there is only
    `train`, which is then split. Else, and then, each picture is a test image
    with a chance of 10 %, which a hash of its path in the folder decides: other
    pictures have no say in it. Only if that left no test image, or nothing but
    test images, the picture with the lowest, or highest, hash changes sides.

    Images are grey, with one channel, if all pictures are, and else have three.
    Alpha channels are dropped. Pictures are upright as their EXIF data say. Of
    16 bits a component the 8 highest are kept; standard error says so.

    The class of a picture is the sub-folder that it is in, of the folder, or of
    `train` or `test`; folders inside of that do not matter.

    Args:
      folder: Its path; `~` is the home folder.
      size: Height and width that `data.load` gives the images, if any.
      flip: As for `data.load`.
      labels: As for `data.load`.

    Returns:
      The data set, named after the folder.

    Raises:
      DataError: If there is no such folder, or fewer than two pictures in it,
        or if a picture has no label and some are asked for; or if a disk or a
        network fails.
    """
    root = pathlib.Path(os.path.expanduser(folder))
    name = os.path.basename(os.path.abspath(root)) or "images"
    root = root.resolve()
    folder = printable(folder)
    if os.path.isfile(root):
        raise file_error(folder)
    if not os.path.isdir(root):
        raise DataError(f"{folder}: there is no such folder")
    try:
        names = list_files(root)
    except OSError as error:
        raise DataError(f"{folder}: {error}") from error
    found, skipped, faulty = _look(root, names)
    depth = depth_of_classes(picture.name for picture in found)
    _check_folders(folder, found)
    train, test = _split(found, depth)
    used = {picture.name for picture in train + test}
    for picture in found:
        if picture.name not in used:
            skipped[picture.name] = "it is beside the folder `train`"
    if not train or not test:
        raise DataError(
            f"{folder}: training and test need a JPEG or PNG picture each, and "
            f"{len(found)} of the {len(names)} files there can be read"
            + (f"; {describe_skipped(skipped)}" if skipped else "")
        )

    headers = [picture.header for picture in train + test]
    if num_cut := sum(header.has_16_bits for header in headers):
        have = "has" if num_cut == 1 else "have"
        print(
            f"warning: {counted(num_cut, 'picture')} {have} 16 bits a "
            "component, of which the 8 highest are kept",
            file=sys.stderr,
        )
    if size is None:
        sizes = {(header.height, header.width) for header in headers}
        size = default_size(*(sizes.pop() if len(sizes) == 1 else (0, 0)))
    channels = 1 if all(header.is_grey for header in headers) else 3
    shape = (*(size or (headers[0].height, headers[0].width)), channels)

    def stored(found):
        elements = tf.data.Dataset.from_tensor_slices(
            (
                [os.fsencode(root / picture.name) for picture in found],
                [picture.header.orientation for picture in found],
                [picture.name in faulty for picture in found],
            )
        )
        return Split(elements, len(found))

    def decode(element):
        path, orientation, is_faulty = element
        content = tf.io.read_file(path)
        # The others are few, or else large.
        image = tf.cond(
            (orientation == 1) & ~is_faulty,
            lambda: tf.io.decode_image(
                content, channels, expand_animations=False
            ),
            lambda: tf.numpy_function(
                image_files.decode,
                [content, channels, orientation, is_faulty],
                tf.uint8,
            ),
        )
        image = tf.ensure_shape(image, [None, None, channels])
        return image if size is None else resize(image, size)

    def explain_damage(reason):
        def named(name, what):
            return f"{printable(str(root / name))}: {what}"

        names = [picture.name for picture in train + test]
        gone = [name for name in names if not os.path.exists(root / name)]
        found, unreadable, _ = _look(root, gone[:1] or names)
        for name, what in unreadable.items():
            return named(name, what)
        for name, header, _ in found:
            if size is None and (header.height, header.width) != shape[:2]:
                return named(name, "its size has changed")
        for name in names:  # What takes the longest comes last.
            try:
                image_files.load_image(root / name, channels)
            except ImageError as error:
                return named(name, error)
        return reason

    dataset = ImageDataset(
        name=name,
        image_shape=shape,
        num_colors=256,
        train=stored(train),
        test=stored(test),
        decode=decode,
        flip=flip,
        skipped=skipped,
        fingerprint=_fingerprint(train, test),
        explain_damage=explain_damage,
    )
    if not labels:
        return dataset
    classes = [_classes(split, depth, folder) for split in (train, test)]
    names = sorted({name for split in classes for name in split})
    numbers = {name: number for number, name in enumerate(names)}
    return dataset.with_labels(
        names,
        *(np.array([numbers[n] for n in split]) for split in classes),
    )


def _check_folders(folder: str, pictures: list[_Picture]) -> None:
    """Refuses splits that are not taken for such; warns of test images."""
    names = [pathlib.PurePath(picture.name) for picture in pictures]
    folders = {parent for name in names for parent in name.parents[:-1]}
    top = {path.name for path in folders if len(path.parts) == 1}
    if "train" in top and top.intersection(_TEST_FOLDERS):
        return
    train, test = (
        [path for path in folders if pattern.fullmatch(path.name.casefold())]
        for pattern in (_TRAIN_NAME, _TEST_NAME)
    )
    if train and test:
        raise DataError(
            f"{folder}: {printable(min(train))} and {printable(min(test))} are "
            "not taken for training and test images: name the folder that "
            "they are in, and call them train and test (or validation, or val)"
        )
    if test:
        print(
            f"warning: the pictures in {printable(min(test))} are not kept for "
            "testing, for there is no folder `train` beside it",
            file=sys.stderr,
        )


def _classes(split: list[_Picture], depth: int, folder: str) -> list[str]:
    """Returns the names of the classes of pictures.

    Args:
      split: The pictures.
      depth: As for `class_of`.
      folder: The folder, for messages.
    """
    names = []
    for picture in split:
        name = class_of(picture.name, depth)
        if name is None:
            inside = ", inside of `train` and `test`" if depth else ""
            raise DataError(
                f"{folder}: {printable(picture.name)} has no label: put the "
                f"pictures of each class into a folder of its own{inside}, "
                "named after the class"
            )
        names.append(name)
    return names


def folders_of(
    root: pathlib.Path, splits: Iterable[str] = SPLIT_FOLDERS
) -> list[pathlib.Path]:
    """Returns the folders from which the pictures of splits are taken.

    Args:
      root: The folder of the data set.
      splits: Some of `SPLIT_FOLDERS`.

    Returns:
      Those of the splits, which need not be there; where there is no `train`,
      the whole folder, of which the pictures are drawn.
    """
    has_splits = (root / "train").is_dir()
    return [root / name for name in splits] if has_splits else [root]


def depth_of_classes(names: Iterable[str]) -> int:
    """Returns how many folders there are above those of the classes: 1 or 0.

    Args:
      names: Paths of pictures, from the folder on.
    """
    parts = (pathlib.PurePath(name).parts for name in names)
    return int(any(p[0] == "train" and len(p) > 1 for p in parts))


def class_of(name: str, depth: int) -> str | None:
    """Returns the class of a picture, if it is in the folder of one.

    Args:
      name: Its path, from the folder on.
      depth: What `depth_of_classes` returned.
    """
    folders = pathlib.PurePath(name).parts[depth:-1]
    return folders[0] if folders else None


def list_files(root: pathlib.Path) -> list[str]:
    """Returns the paths of all files in a folder that are not hidden.

    Args:
      root: The folder, which may have others inside.

    Returns:
      The paths, from the folder on, in order.

    Raises:
      OSError: If a folder cannot be read.
    """

    def fail(error):
        raise error

    names = []
    for folder, folders, files in os.walk(root, onerror=fail):
        # Links to folders may go in circles: they are files that can't be read.
        links = [
            name
            for name in folders
            if os.path.islink(os.path.join(folder, name))
        ]
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in files + links
            if not name.startswith(".")
        ]
    return sorted(names)


def _look(
    root: pathlib.Path, names: list[str]
) -> tuple[list[_Picture], dict[str, str], set[str]]:
    """Looks at all files.

    Args:
      root: The folder.
      names: Their paths, from the folder on.

    Returns:
      The pictures; why each of the other files is none; and the names of those
      pictures of which libjpeg complains.

    Raises:
      DataError: If a file that can't be read may be read a while later.
    """

    def look(name):
        try:
            content = image_files.load(root / name)
            header = image_files.look(content)
        except ImageError as error:
            # Left out now and read later, it would change a run's images.
            if getattr(error.__cause__, "errno", None) in _PASSING:
                raise DataError(
                    f"{printable(str(root / name))}: {error}: try again later"
                ) from error
            return str(error)
        return _Picture(name, header, hashlib.sha256(content).digest())

    found: list[_Picture] = []
    skipped = {}
    faulty = set()
    with (
        image_files.silent() as has_complained,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for start in range(0, len(names), _LOOKED_AT_ONCE):
            some = names[start : start + _LOOKED_AT_ONCE]
            jpegs = []
            for name, seen in zip(some, pool.map(look, some), strict=True):
                if isinstance(seen, str):
                    skipped[name] = seen
                else:
                    found.append(seen)
                    if seen.header.is_jpeg:
                        jpegs.append(name)
            if has_complained():  # It does not say of which.
                for name in jpegs:
                    look(name)
                    if has_complained():
                        faulty.add(name)
    return found, skipped, faulty


def _split(
    pictures: list[_Picture], depth: int
) -> tuple[list[_Picture], list[_Picture]]:
    """Returns the pictures for training, and those for testing.

    Args:
      pictures: All of them.
      depth: Whether they are in folders of their own.
    """
    folders: dict[str, list[_Picture]] = {}
    for picture in pictures:
        folder, *rest = pathlib.PurePath(picture.name).parts
        folders.setdefault(folder if rest else "", []).append(picture)
    if depth:
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
    digest = hashlib.sha256(_encode(name)).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _fingerprint(train: list[_Picture], test: list[_Picture]) -> str:
    """Returns a hash of names, contents and splits, in any order."""
    digest = hashlib.sha256()
    for split in (train, test):
        for name, _, content in sorted(split):
            # No name has a zero byte in it.
            digest.update(_encode(name) + b"\0" + content)
        digest.update(b"\0")
    return digest.hexdigest()


def _encode(name: str) -> bytes:
    """Returns a path as the same bytes on all systems."""
    return os.fsencode(pathlib.PurePath(name).as_posix())
