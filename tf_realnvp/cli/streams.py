"""Standard streams that may be closed, or break, while a command works."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator

# A pipe or terminal, whose other end has gone.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


class _Output(io.FileIO):
    """A file that drops what it cannot write.

    Attributes:
      error: Why it did, if somebody may have wanted to read it.
    """

    error: OSError | None = None

    def write(self, data):
        try:
            # None of it is written where that would block.
            return super().write(data) or len(data)
        except OSError as error:
            if error.errno not in _NOBODY_READS:
                self.error = error
            return len(data)


@contextlib.contextmanager
def unbreakable() -> Iterator[None]:
    """Within this, output that nobody can take is dropped.

    Standard output and standard error may be closed, or lead to a pipe whose
    reader has gone, a terminal that was closed or a disk that is full. None of
    this is a reason to end work that takes days. What a caller has put in the
    place of these streams stays as it is.
    """
    # Else the next file to be opened would get the number of a closed one, and
    # what native code logs would be written into it.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives it the lowest number that is free, this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    with _dropping("stdout", 1), _dropping("stderr", 2):
        yield


def check_written() -> None:
    """Checks that standard output has taken what was printed.

    Raises:
      OSError: If it has not, as on a full disk. That nobody reads it is no
        error.
    """
    sys.stdout.flush()
    # What a caller has put in its place may have neither.
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output) and raw.error is not None:
        raise OSError(raw.error.errno, raw.error.strerror, "standard output")


@contextlib.contextmanager
def _dropping(name, descriptor):
    """Lets a stream drop what it cannot write, unless it is a caller's."""
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__"):
        yield
        return
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()  # What was printed before comes first.
    output = io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",  # Names of files need not be text.
        line_buffering=True,
    )
    setattr(sys, name, output)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        output.flush()  # Loggers may hold it: it stays open.
