"""What SIGINT and SIGTERM do to a command."""

import contextlib
import os
import signal
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the program to end; the message is meant for the user.

    Like `KeyboardInterrupt` it is no `Exception`, since those are caught where
    something may fail and the program is to go on.

    Attributes:
      exit_code: What a shell expects: 128 and the number of the signal.
    """

    def __init__(self, signum: int):
        """Makes the exception of a signal."""
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class Request:
    """Whether the program was asked to end."""

    def __init__(self):
        self._signum = None

    def receive(self, signum: int) -> None:
        """Notes a signal; the second one ends the process at once."""
        if self._signum is not None:
            os._exit(128 + signum)
        self._signum = signum

    def check(self) -> None:
        """Raises `Interrupted` if a signal was received."""
        if self._signum is not None:
            raise Interrupted(self._signum)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within this, the first signal raises `Interrupted`, whatever goes on.

    The second one ends the process at once.
    """
    request = Request()

    def handle(signum, unused_frame):
        request.receive(signum)
        request.check()

    with _handled_by(handle):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within this, the first signal is noted, and the second ends the process.

    Yields:
      Where to ask whether a signal came.

    Raises:
      Interrupted: At the end, if a signal came after which nobody asked.
    """
    request = Request()

    def handle(signum, unused_frame):
        request.receive(signum)

    with _handled_by(handle):
        yield request
    request.check()


@contextlib.contextmanager
def _handled_by(handler):
    before = [signal.signal(signum, handler) for signum in _SIGNALS]
    try:
        yield
    finally:
        for signum, previous in zip(_SIGNALS, before, strict=True):
            signal.signal(signum, previous)
