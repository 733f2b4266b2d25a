"""What SIGINT, SIGTERM and SIGHUP do to a command."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

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


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within this, the first signal raises `Interrupted`, whatever goes on.

    The second SIGINT or SIGTERM ends the process at once. A signal that is
    ignored already stays so.
    """

    def interrupt(signum):
        raise Interrupted(signum)

    with _handled(interrupt):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within this, the first signal is noted; all else is as with `raised`.

    Yields:
      A function that returns whether a signal came.

    Raises:
      Interrupted: At the end, if a signal came.
    """
    received: list[int] = []
    with _handled(received.append):
        yield lambda: bool(received)
    if received:
        raise Interrupted(received[0])


@contextlib.contextmanager
def _handled(on_first):
    """Within this, a function is called with the first signal."""
    received: set[int] = set()

    def receive(signum, _):
        # SIGHUP is never the second one of a user: a terminal that is closed
        # sends it more than once.
        users = {signal.SIGINT, signal.SIGTERM}
        if signum in users and received & users:
            os._exit(128 + signum)
        is_first = not received
        received.add(signum)
        if is_first:
            on_first(signum)

    # `nohup` lets what it starts ignore SIGHUP, and a shell SIGINT.
    before = {
        signum: previous
        for signum in system.SIGNALS
        if (previous := signal.getsignal(signum)) != signal.SIG_IGN
    }
    for signum in before:
        signal.signal(signum, receive)
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
