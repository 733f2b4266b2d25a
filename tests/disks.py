"""Limits of the system that tests run into."""

import contextlib
import resource


def full(size):
    """Within this the system lets no file become larger, as on a full disk."""
    return _limited(resource.RLIMIT_FSIZE, size)


def no_more_open_files():
    """Within this no file can be opened."""
    return _limited(resource.RLIMIT_NOFILE, 0)


@contextlib.contextmanager
def _limited(what, number):
    limits = resource.getrlimit(what)
    resource.setrlimit(what, (number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, limits)
