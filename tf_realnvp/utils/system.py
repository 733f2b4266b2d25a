"""System calls: locks, exchanges, signals, processors.

They are Linux's. Elsewhere `exchange` does nothing, and `files` replaces a
folder in two steps, with nothing in its place between them.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import signal

# What ends a training with a checkpoint.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

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
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def open_no_link(path: str | os.PathLike, flags: int) -> int:
    """Opens a file, but not where a symlink leads that others may have laid.

    A named pipe does not hold it up.

    Args:
      path: The file.
      flags: As for `os.open`.

    Returns:
      The descriptor.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


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
    except AttributeError:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(_CWD, names[0], _CWD, names[1], _EXCHANGE) == 0


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
