"""Files and folders that are replaced as a whole, or stay as they were."""

import contextlib
import csv
import errno
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from tf_realnvp.utils import system
from tf_realnvp.utils.messages import printable

# What the names begin with of what is not complete yet.
_NEW = ".tf_realnvp.new-"


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a file to write that takes the place of `path` when it is done.

    By then it is on the disk, and outlasts a loss of power. If `path` is a
    symlink, it is the link that is replaced. What killed processes left in the
    folder is removed.

    Args:
      path: The file to replace, there already or not.

    Yields:
      Path of a new, empty file in the same folder and with the same suffix. If
      the body raises it is removed, and `path` stays as it was.
    """
    path = pathlib.Path(path)
    with _new_beside(path, is_folder=False) as new:
        yield new
        sync(new)
        _keep_mode(path, new)
        new.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def replace_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a folder to fill that takes the place of `path` when it is done.

    All else is as with `replace_file`.

    Args:
      path: The folder to replace, there already or not.

    Yields:
      Path of a new, empty folder beside it. If the body raises it is removed,
      and `path` stays as it was.
    """
    path = pathlib.Path(path)
    with _new_beside(path, is_folder=True) as new:
        yield new
        mode = stat.S_IMODE(new.stat().st_mode)
        for folder, _, names in os.walk(new):
            # TensorFlow makes folders that nobody else can write to.
            with contextlib.suppress(OSError):
                os.chmod(folder, mode)
            for name in names:
                sync(os.path.join(folder, name))
            sync(folder)
        _put_in_place(new, path)
        sync(path.parent)


@contextlib.contextmanager
def replace_files(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a folder to fill with files that go elsewhere when all are done.

    Args:
      folder: Where to put them, made if it is missing. Files of their names are
        replaced, others stay.

    Yields:
      Path of a new, empty folder inside of it. If the body raises it is
      removed, and `folder` stays as it was.
    """
    folder = pathlib.Path(folder)
    with made(folder), _new_beside(folder / "files", is_folder=True) as new:
        yield new
        done = sorted(new.iterdir())
        for file in done:
            sync(file)
            if (target := folder / file.name).is_dir():
                raise IsADirectoryError(
                    errno.EISDIR, os.strerror(errno.EISDIR), str(target)
                )
        for file in done:
            _keep_mode(folder / file.name, file)
            file.replace(folder / file.name)
        sync(folder)


def write_csv(path: str | os.PathLike, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a table as a CSV file, which replaces `path` as `replace_file`.

    Args:
      path: The file to replace, there already or not.
      rows: The names of the columns, then the values of each row.
    """
    with (
        replace_file(path) as new,
        # Names of files need not be text.
        new.open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file,
    ):
        csv.writer(file).writerows(rows)


@contextlib.contextmanager
def made(path: pathlib.Path) -> Iterator[None]:
    """Makes a folder with its parents, which go again if they stay empty."""
    new = missing(path)
    try:
        make_directory(path)
        yield
    finally:
        remove_empty(new)


def make_directory(path: pathlib.Path) -> None:
    """Makes a folder with its parents, which outlast a loss of power."""
    new = missing(path)
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync(folder.parent)


def sync(path: str | os.PathLike) -> None:
    """Writes a file, or the names in a folder, through to the disk."""
    is_folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if is_folder:
            return  # One may be allowed to write there, and not to read.
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # There are file systems that do not know of it for folders.
        if not (is_folder and error.errno in (errno.EINVAL, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def is_leftover(name: str) -> bool:
    """Returns whether something is named as what a killed process leaves."""
    return name.startswith(_NEW)


@contextlib.contextmanager
def _new_beside(path, is_folder):
    """Makes a file or folder, which no other process removes meanwhile."""
    _remove_leftovers(path.parent)
    new, lock = _make_locked(path, is_folder)
    try:
        yield new
    finally:
        _remove(new)  # By now this may be the old folder.
        if lock is not None:
            os.close(lock)


def _make_locked(path, is_folder):
    """Makes something new beside `path`; returns it, and its open lock."""
    suffix = "" if is_folder else path.suffix
    while True:
        # Nobody can foresee the name, and lay a symlink there.
        new = path.with_name(f"{_NEW}{secrets.token_hex(8)}{suffix}")
        if is_folder:
            new.mkdir()
        else:
            new.touch(exist_ok=False)
        try:
            lock = os.open(new, os.O_RDONLY)
        except FileNotFoundError:
            continue  # As below.
        except PermissionError:
            return new, None  # Windows opens no folders, and has no locks.
        # The system drops it when the process ends, even by a kill. Where there
        # are no locks nobody can take one to remove what is new.
        with contextlib.suppress(OSError):
            system.lock(lock, wait=True)
        if new.exists():
            return new, lock
        # Another process took it for a leftover before it was locked.
        os.close(lock)


def _remove_leftovers(folder):
    """Removes what is new in a folder and no process has locked."""
    if not system.has_locks():
        return
    with contextlib.suppress(OSError):
        for name in filter(is_leftover, os.listdir(folder)):
            _remove_unlocked(folder / name)


def _remove_unlocked(path):
    with contextlib.suppress(OSError):
        lock = system.open_no_link(path, os.O_RDONLY)
        try:
            system.lock(lock, wait=False)
            _remove(path)
        finally:
            os.close(lock)


def _remove(path):
    """Removes a file or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def missing(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns what making a folder would make: it, and its parents."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Iterable[pathlib.Path]) -> None:
    """Removes folders, the innermost first, up to one that is not empty.

    Args:
      folders: Their paths; of some of them there may be nothing.
    """
    with contextlib.suppress(OSError):
        for folder in folders:
            if os.path.lexists(folder):
                folder.rmdir()


def _keep_mode(path, new):
    """Lets as many people read a new file as the one that it replaces."""
    with contextlib.suppress(OSError):
        if not path.is_symlink():  # A link's own says nothing.
            new.chmod(stat.S_IMODE(path.stat().st_mode))


def _put_in_place(new, path):
    """Gives `path` the content of `new`, and `new` that of `path`, if any."""
    if not os.path.lexists(path):
        new.rename(path)
        return
    # At no instant is there nothing at `path`.
    if system.exchange(new, path):
        return
    # Not on Linux, or a file system that cannot: the gap is a short one. If the
    # process dies in it, the old one must not be taken for a leftover.
    old = new.with_name(new.name.replace("new", "old", 1))
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    old.rename(new)


def why_tensorflow_cannot(path: str | os.PathLike) -> str | None:
    """Returns why TensorFlow cannot deal with a path; `None` if it can.

    It would say so too late, or in words that do not name the reason.

    Args:
      path: The path of a folder to write or to read.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!a} is not UTF-8, which TensorFlow needs"
    if scheme := re.match(r"[A-Za-z][\w+.-]+:/", text):
        return f"{scheme[0]}… is no path on this machine"
    patterns = sorted(set(text) & set("*?[\\"))
    if patterns:
        return (
            f"TensorFlow takes {patterns[0]} in {printable(text)} for a pattern"
        )
    return None
