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

    def received(self) -> bool:
        """Returns whether a signal was received."""
        return self._first is not None

    def _receive(self, signum, at_once):
        """Notes a signal; the second one of a user ends the process at once.

        SIGHUP is never the second: a terminal that is closed sends it more than
        once.
        """
        if signum in (signal.SIGINT, signal.SIGTERM):
            if self._user_asked:
                os._exit(128 + signum)
            self._user_asked = True
        if self._first is None:
            self._first = signum
            if at_once:
                raise Interrupted(signum)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within this, the first signal raises `Interrupted`, whatever goes on.

    The second SIGINT or SIGTERM ends the process at once. A signal that is
    ignored already stays so.
    """
    with _handled(at_once=True):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within this, the first signal is noted; all else is as with `raised`.

    Yields:
      Where to ask whether a signal came.

    Raises:
      Interrupted: At the end, if a signal came.
    """
    with _handled(at_once=False) as request:
        yield request
    if request.received():
        raise Interrupted(request._first)


@contextlib.contextmanager
def _handled(at_once):
    request = Request()
    # `nohup` lets what it starts ignore SIGHUP, and a shell SIGINT.
    before = {
        signum: previous
        for signum in system.SIGNALS
        if (previous := signal.getsignal(signum)) != signal.SIG_IGN
    }
    for signum in before:
        signal.signal(signum, lambda its, _: request._receive(its, at_once))
    try:
        yield request
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
