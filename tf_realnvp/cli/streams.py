"""Standard streams that may be closed or break while a command runs."""

import contextlib
import errno
import io
import os
import sys

# Errors of a pipe or terminal whose other end is closed.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


class _Output(io.FileIO):
    """A file that discards what it cannot write.

    Attributes:
      error: The last error of a write, unless nobody reads the output.
    """

    error: OSError | None = None

    def write(self, data):
        try:
            # `None` if it would block; the data are then discarded.
            return super().write(data) or len(data)
        except OSError as error:
            if error.errno not in _NOBODY_READS:
                self.error = error
            return len(data)


def make_unbreakable() -> None:
    """Makes standard output and error discard what cannot be written.

    They may be closed, or lead to a pipe without a reader, a closed terminal or
    a full disk. None of these should end work that takes days. Streams that a
    caller has replaced are not changed.
    """
    # Otherwise, the next opened file would get the descriptor of a closed
    # stream, and native code would write its log into the file.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system assigns the lowest free descriptor: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()  # Keeps the output in order.
        output = io.TextIOWrapper(
            io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
            encoding="utf-8" if stream is None else stream.encoding,
            errors="backslashreplace",  # File names may not be valid Unicode.
            line_buffering=True,
        )
        setattr(sys, name, output)


def check_written() -> None:
    """Checks that all output was written to standard output.

    Raises:
      OSError: If it was not, as on a full disk. A missing reader is not an
        error.
    """
    sys.stdout.flush()
    # A replacement of `sys.stdout` may have neither attribute.
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output) and raw.error is not None:
        raise OSError(raw.error.errno, raw.error.strerror, "standard output")
