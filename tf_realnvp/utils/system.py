"""What depends on the operating system: locks, exchanges, signals.

Linux has all of it. Elsewhere there is less of a promise, and Windows takes
neither the paths nor the ways to write files: there WSL2 is Linux.

*   Without `fcntl` nothing locks a folder: that no two processes train in it,
    nor remove each other's unfinished files, is left to the user, and what a
    killed process left stays.
*   Without `renameat2` (not Linux, or a file system that cannot) a folder is
    replaced in two steps, with nothing in its place between them.
*   Without SIGHUP a terminal that is closed ends a training without a
    checkpoint.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import tempfile
from typing import BinaryIO

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
)

# Of renameat2: relative to the current folder; exchange.
_CWD = -100
_EXCHANGE = 2


def lock(descriptor: int, wait: bool) -> None:
    """Locks an open file; the system unlocks it when the process ends.

    Args:
      descriptor: The file's.
      wait: Whether to wait until no other process has it locked.

    Raises:
      BlockingIOError: If another process has locked it.
      OSError: If the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def has_locks() -> bool:
    """Returns whether `lock` locks anything."""
    return fcntl is not None


def open_no_link(path: str | os.PathLike, flags: int) -> int:
    """Opens a file, but not where a symlink leads that others may have laid.

    A named pipe does not hold it up.

    Args:
      path: The file.
      flags: As for `os.open`.

    Returns:
      The descriptor.
    """
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | safe, 0o666)


def unnamed_file() -> BinaryIO:
    """Opens a new file that has no name: in memory on Linux."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("unnamed"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def exchange(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Exchanges two files or folders at once.

    Args:
      first: One of them.
      second: The other.

    Returns:
      Whether that was possible; if not, nothing was done.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(_CWD, names[0], _CWD, names[1], _EXCHANGE) == 0


def longest_name(folder: str | os.PathLike) -> int | None:
    """Returns how many bytes a name in a folder can have, if it is known.

    Args:
      folder: The folder, there or still to be made.
    """
    if not hasattr(os, "pathconf"):
        return None
    path = pathlib.Path(os.path.abspath(folder))
    there = next(p for p in (path, *path.parents) if p.exists())
    return os.pathconf(there, "PC_NAME_MAX")


def is_too_long(name: str, folder: str | os.PathLike) -> bool:
    """Returns whether a folder can have nothing of that name, if it is known.

    Args:
      name: The name.
      folder: The folder.
    """
    maximum = longest_name(folder)
    return maximum is not None and len(os.fsencode(name)) > maximum


def num_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_features() -> frozenset[str]:
    """Returns what the processor can do, as Linux names it, if it is known."""
    with contextlib.suppress(OSError):
        return frozenset(pathlib.Path("/proc/cpuinfo").read_text().split())
    return frozenset()
