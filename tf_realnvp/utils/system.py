"""System calls: atomic exchange, processors.

They are specific to Linux. On other systems, `exchange` does nothing, and
`files` replaces a folder in two steps, between which it does not exist.
"""

import contextlib
import ctypes
import os
import pathlib

# Arguments of renameat2: AT_FDCWD (the current folder) and RENAME_EXCHANGE.
_CWD = -100
_EXCHANGE = 2


def exchange(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Exchanges two files or folders atomically.

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


def num_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_features() -> frozenset[str]:
    """Returns the processor's features by Linux's names; empty if unknown."""
    with contextlib.suppress(OSError):
        return frozenset(pathlib.Path("/proc/cpuinfo").read_text().split())
    return frozenset()
