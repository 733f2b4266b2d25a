"""Files and folders that are replaced as a whole, or stay as they were."""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator

# Of Linux's renameat2: relative to the current folder; exchange.
_CWD = -100
_EXCHANGE = 2


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a file to write that takes the place of `path` when it is done.

    Args:
      path: The file to replace, there already or not.

    Yields:
      Path of a new file in the same folder and with the same suffix. If the
      body raises it is removed, and `path` stays as it was.
    """
    path = pathlib.Path(path)
    new = path.with_name(f".{path.stem}.new-{os.getpid()}{path.suffix}")
    try:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a folder to fill that takes the place of `path` when it is done.

    New folders for the same `path` that killed processes left are removed.

    Args:
      path: The folder to replace, there already or not.

    Yields:
      Path of a new folder beside it. If the body raises it is removed, and
      `path` stays as it was.
    """
    path = pathlib.Path(path)
    _remove_leftovers(path)
    new, lock = _make_locked(path)
    try:
        new.chmod(0o755)  # `mkdtemp` keeps others out.
        yield new
        _put_in_place(new, path)
    finally:
        # By now this is the old one, if there was one.
        shutil.rmtree(new, ignore_errors=True)
        os.close(lock)


def _make_locked(path):
    """Makes a new folder beside `path`; returns it, and its open lock."""
    while True:
        new = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent)
        )
        try:
            lock = os.open(new, os.O_RDONLY)
        except FileNotFoundError:
            continue  # As below.
        # The system drops it when the process ends, even by a kill. Where there
        # are no locks nobody can take one to remove the folder.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if new.exists():
            return new, lock
        # Another process took it for a leftover before it was locked.
        os.close(lock)


def _remove_leftovers(path):
    """Removes the new folders for `path` that no process has locked."""
    names = re.compile(rf"\.{re.escape(path.name)}\.new-[a-z0-9_]{{8}}")
    with contextlib.suppress(OSError):
        for name in filter(names.fullmatch, os.listdir(path.parent)):
            _remove_unlocked(path.with_name(name))


def _remove_unlocked(folder):
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def missing(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns what making a folder would make: it, and its parents."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Iterable[pathlib.Path]) -> None:
    """Removes folders, the innermost first, up to one that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _put_in_place(new, path):
    """Gives `path` the content of `new`, and `new` that of `path`, if any."""
    if not path.exists():
        new.rename(path)
        return
    # At no instant is there nothing at `path`.
    if _exchange(new, path):
        return
    # Not on Linux, or a file system that cannot: the gap is a short one.
    old = new.with_name(f"{new.name}.old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    old.rename(new)


def _exchange(first, second):
    """Exchanges two files or folders at once; returns whether it did."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(_CWD, names[0], _CWD, names[1], _EXCHANGE) == 0
