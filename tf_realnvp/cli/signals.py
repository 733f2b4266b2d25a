"""What SIGINT, SIGTERM and SIGHUP do to a command."""

import contextlib
import os
import signal
from collections.abc import Iterator

from tf_realnvp.utils import system


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
        self._first = None
        self._user_asked = False

    def receive(self, signum: int, unused_frame: object = None) -> bool:
        """Notes a signal; the second one of a user ends the process at once.

        Args:
          signum: The signal. SIGHUP is never the second: a terminal that is
            closed sends it more than once.
          unused_frame: Python gives it to whatever handles a signal.

        Returns:
          Whether it is the first one.
        """
        if signum in (signal.SIGINT, signal.SIGTERM):
            if self._user_asked:
                os._exit(128 + signum)
            self._user_asked = True
        is_first = self._first is None
        if is_first:
            self._first = signum
        return is_first

    def received(self) -> bool:
        """Returns whether a signal was received."""
        return self._first is not None

    def check(self) -> None:
        """Raises `Interrupted` if a signal was received."""
        if self._first is not None:
            raise Interrupted(self._first)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within this, the first signal raises `Interrupted`, whatever goes on.

    The second SIGINT or SIGTERM ends the process at once. A signal that is
    ignored already stays so.
    """
    request = Request()

    def handle(signum, unused_frame):
        if request.receive(signum):
            request.check()

    with _handled_by(handle):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within this, the first signal is noted.

    The second SIGINT or SIGTERM ends the process at once. A signal that is
    ignored already stays so.

    Yields:
      Where to ask whether a signal came.

    Raises:
      Interrupted: At the end, if a signal came.
    """
    request = Request()
    with _handled_by(request.receive):
        yield request
    request.check()


@contextlib.contextmanager
def _handled_by(handler):
    # `nohup` lets what it starts ignore SIGHUP, and a shell SIGINT.
    before = {
        signum: previous
        for signum in system.SIGNALS
        if (previous := signal.getsignal(signum)) != signal.SIG_IGN
    }
    for signum in before:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
