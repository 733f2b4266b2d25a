"""Files and folders, each replaced completely or not at all.

New content is written next to the old under a unique name, synced to disk, and
only then moved into place. After a kill, a full disk or a power failure, either
the old or the new content is there. A killed process leaves a hidden file or
folder, which is removed by the first process that writes to the same folder
more than a day later.
"""

import contextlib
import csv
import ctypes
import errno
import itertools
import os
import pathlib
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Any

# Prefix of the names of incomplete files and folders.
_NEW = ".tf_realnvp.new-"
# An older one is not being written: each entry renews the time of a folder.
_SECONDS_OF_LEFTOVERS = 24 * 3600
# Arguments of Linux's renameat2: AT_FDCWD (the current folder) and
# RENAME_EXCHANGE.
_CWD = -100
_EXCHANGE = 2
# Of files of a table: names of files in it may not be valid Unicode.
_CSV: Any = dict(newline="", encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Context manager for a new file that replaces `path` on exit.

    By then it is synced to disk, so that it survives a power failure. If `path`
    is a symbolic link, the link itself is replaced.

    Args:
      path: The file to replace. It need not exist.

    Yields:
      Path of a new, empty file in the same folder and with the same suffix. If
      the body raises, it is removed, and `path` is unchanged.
    """
    path = pathlib.Path(path)
    with _new_beside(path, pathlib.Path.touch) as new:
        yield new
        sync(new)
        _move_file(new, path)
        sync(path.parent)


@contextlib.contextmanager
def replace_files(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Context manager for new files that are all moved to `folder` on exit.

    Args:
      folder: The destination, created if necessary. Files of the same names are
        replaced; others are kept.

    Yields:
      Path of a new, empty folder inside `folder`. If the body raises, it is
      removed, and `folder` is unchanged.
    """
    folder = pathlib.Path(folder)
    with created(folder), _new_beside(folder / "files") as new:
        yield new
        done = sorted(new.iterdir())
        for file in done:
            sync(file)
        for file in done:
            _move_file(file, folder / file.name)
        sync(folder)


@contextlib.contextmanager
def replace_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Context manager for a new folder that replaces `path` on exit.

    Otherwise like `replace_file`.

    Args:
      path: The folder to replace. It need not exist.

    Yields:
      Path of a new, empty folder next to `path`. If the body raises, it is
      removed, and `path` is unchanged.
    """
    path = pathlib.Path(path)
    with _new_beside(path) as new:
        yield new
        mode = stat.S_IMODE(new.stat().st_mode)
        for folder, _, names in os.walk(new):
            # TensorFlow creates folders that only their owner can write to.
            with contextlib.suppress(OSError):
                os.chmod(folder, mode)
            for name in names:
                sync(os.path.join(folder, name))
            sync(folder)
        _move_folder(new, path)
        sync(path.parent)


def write_csv(path: str | os.PathLike, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file that replaces `path`, as by `replace_file`.

    Args:
      path: The file to replace. It need not exist.
      rows: The column names, then the values of each row.
    """
    with replace_file(path) as new, open(new, "w", **_CSV) as file:
        csv.writer(file).writerows(rows)


def read_csv(path: str | os.PathLike) -> Iterator[list[str]]:
    """Yields the rows of a file that `write_csv` wrote, names first."""
    with open(path, **_CSV) as file:
        yield from csv.reader(file)


def read_column(
    path: str | os.PathLike, name: str, skip: int = 0
) -> Iterator[str]:
    """Yields the values of a column of such a file, after some other rows."""
    rows = itertools.islice(read_csv(path), skip, None)
    index = next(rows).index(name)
    for row in rows:
        yield row[index]


@contextlib.contextmanager
def created(path: pathlib.Path) -> Iterator[None]:
    """Creates a folder and its parents; on exit, removes new empty ones."""
    new = _missing(path)
    try:
        make_directory(path)
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def make_directory(path: pathlib.Path) -> None:
    """Creates a folder and its parents, which survive a power failure."""
    new = _missing(path)
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync(folder.parent)


def sync(path: str | os.PathLike) -> None:
    """Syncs a file, or the entries of a folder, to disk."""
    # Some file systems cannot sync folders, and some folders are writable but
    # not readable.
    allowed = (errno.EACCES, errno.EBADF, errno.EINVAL)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (os.path.isdir(path) and error.errno in allowed):
            raise


def why_tensorflow_cannot(path: str | os.PathLike) -> str | None:
    """Returns why TensorFlow cannot use a path; `None` if it can.

    TensorFlow would report it too late. It can write but not read paths that it
    takes for patterns, requires UTF-8, and treats `gs:/...` as remote.

    Args:
      path: The path of a folder to write or to read.
    """
    bad = re.search(r"^[A-Za-z][\w+.-]+:/|[*?[\\\ud800-\udfff]", str(path))
    return f"TensorFlow cannot use paths with {bad[0]!a}" if bad else None


def exchange(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Exchanges two files or folders atomically, on Linux.

    Args:
      first: Path of one of them.
      second: Path of the other.

    Returns:
      Whether it succeeded. If not, nothing has changed.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(_CWD, names[0], _CWD, names[1], _EXCHANGE) == 0


@contextlib.contextmanager
def _new_beside(path, make=pathlib.Path.mkdir):
    """Makes a new file or folder next to `path`; removes it on exit."""
    for leftover in path.parent.glob(f"{_NEW}*"):
        with contextlib.suppress(OSError):
            age = time.time() - leftover.lstat().st_mtime
            if age > _SECONDS_OF_LEFTOVERS:
                _remove(leftover)
    # A random name, so that nobody can place a symbolic link there.
    new = path.with_name(f"{_NEW}{secrets.token_hex(8)}{path.suffix}")
    try:
        make(new)
        yield new
    except OSError as error:
        if error.filename is None:  # As of a full disk.
            raise OSError(f"{path}: {error}") from error
        raise
    finally:
        _remove(new)  # This may be the old folder by now.


def _remove(path):
    """Removes a file or folder, as far as possible."""
    try:
        path.unlink()
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def _missing(path):
    """Returns which of a folder and its parents are missing, deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _move_file(new, path):
    """Moves a file into place, with the permissions of the one it replaces."""
    with contextlib.suppress(OSError):
        if not path.is_symlink():  # Links have no mode of their own.
            new.chmod(stat.S_IMODE(path.stat().st_mode))
    new.replace(path)


def _move_folder(new, path):
    """Moves a folder into place; the old one, if any, is then at `new`."""
    if not os.path.lexists(path):
        new.rename(path)
    elif not exchange(new, path):
        # For a moment, `path` does not exist. If the process dies then, the old
        # folder must not be removed as a leftover.
        old = new.with_name(new.name.replace("new", "old", 1))
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        old.rename(new)
