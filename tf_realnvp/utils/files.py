"""Files and folders that are replaced as a whole, or stay as they were.

What is new is written beside the old under a name of its own, locked, written
through to the disk, and only then put in place. A kill, a full disk or a loss
of power leaves either the old or the new, and what a killed process left is
removed by the next one that writes there.
"""

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
        _move_file(new, path)
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
        for file in done:
            _move_file(file, folder / file.name)
        sync(folder)


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
        _move_folder(new, path)
        sync(path.parent)


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
    new = _missing(path)
    try:
        make_directory(path)
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def make_directory(path: pathlib.Path) -> None:
    """Makes a folder with its parents, which outlast a loss of power."""
    new = _missing(path)
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync(folder.parent)


def sync(path: str | os.PathLike) -> None:
    """Writes a file, or the names in a folder, through to the disk."""
    # Some file systems cannot do that for folders, and some folders may be
    # written to but not read.
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


def is_leftover(name: str) -> bool:
    """Returns whether something is named as what a killed process leaves."""
    return name.startswith(_NEW)


def why_tensorflow_cannot(path: str | os.PathLike) -> str | None:
    """Returns why TensorFlow cannot use a path; `None` if it can.

    It would say so too late. What it takes for a pattern it writes and cannot
    read, names must be UTF-8, and `gs:/...` is on another machine.

    Args:
      path: The path of a folder to write or to read.
    """
    bad = re.search(r"^[A-Za-z][\w+.-]+:/|[*?[\\\ud800-\udfff]", str(path))
    return f"TensorFlow cannot use paths with {bad[0]!a}" if bad else None


@contextlib.contextmanager
def _new_beside(path, is_folder):
    """Makes a file or folder, which no other process removes meanwhile."""
    _remove_leftovers(path.parent)
    new, lock = _make_locked(path, is_folder)
    try:
        yield new
    finally:
        _remove(new)  # By now this may be the old folder.
        os.close(lock)


def _make_locked(path, is_folder):
    """Makes something new beside `path`; returns it, and its open lock."""
    suffix = "" if is_folder else path.suffix
    while True:
        # Nobody can foresee the name, and lay a symlink there.
        new = path.with_name(f"{_NEW}{secrets.token_hex(8)}{suffix}")
        make = new.mkdir if is_folder else new.touch
        make(exist_ok=False)
        # Until it is locked another process may take it for a leftover.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(new, os.O_RDONLY)
            # Where there are no locks nobody can take one to remove it.
            with contextlib.suppress(OSError):
                system.lock(lock, wait=True)
            if new.exists():
                return new, lock
            os.close(lock)


def _remove_leftovers(folder):
    """Removes what is new in a folder and no process has locked."""
    for path in pathlib.Path(folder).glob(f"{_NEW}*"):
        with contextlib.suppress(OSError):
            lock = system.open_no_link(path, os.O_RDONLY)
            try:
                system.lock(lock, wait=False)
                _remove(path)
            finally:
                os.close(lock)


def _remove(path):
    """Removes a file or a folder, as far as that is possible."""
    try:
        path.unlink()
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def _missing(path):
    """Returns what making a folder makes, the innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _move_file(new, path):
    """Puts a file in place, for as many people to read as what was there."""
    with contextlib.suppress(OSError):
        if not path.is_symlink():  # A link's own says nothing.
            new.chmod(stat.S_IMODE(path.stat().st_mode))
    new.replace(path)


def _move_folder(new, path):
    """Puts a folder in place; what was there, if anything, is then at `new`."""
    if not os.path.lexists(path):
        new.rename(path)
    elif not system.exchange(new, path):
        # The gap is a short one. If the process dies in it, the old one must
        # not be taken for a leftover.
        old = new.with_name(new.name.replace("new", "old", 1))
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        old.rename(new)
