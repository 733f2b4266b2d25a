"""Handling of SIGINT, SIGTERM and SIGHUP in commands."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from tf_realnvp.utils import system


class Interrupted(BaseException):
    """A signal requested the program to end; the message is for the user.

    Like `KeyboardInterrupt`, it is not an `Exception`, so that it is not caught
    where the program handles errors and continues.

    Attributes:
      exit_code: Exit code by shell convention, 128 plus the signal number.
    """

    def __init__(self, signum: int):
        """Creates the exception for a signal number."""
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Context manager in which the first signal raises `Interrupted`.

    It may be raised at any point. A second SIGINT or SIGTERM ends the process
    immediately. Signals that are already ignored stay ignored.
    """

    def interrupt(signum):
        raise Interrupted(signum)

    with _handled(interrupt):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Context manager like `raised`, except that it defers `Interrupted`.

    Yields:
      A function that returns whether a signal was received.

    Raises:
      Interrupted: On exit, if a signal was received.
    """
    received: list[int] = []
    with _handled(received.append):
        yield lambda: bool(received)
    if received:
        raise Interrupted(received[0])


@contextlib.contextmanager
def _handled(on_first):
    """Context manager that calls a function with the first signal."""
    received: set[int] = set()

    def receive(signum, _):
        # SIGHUP does not count as a second signal, since a terminal that is
        # closed sends it more than once.
        users = {signal.SIGINT, signal.SIGTERM}
        if signum in users and received & users:
            os._exit(128 + signum)
        is_first = not received
        received.add(signum)
        if is_first:
            on_first(signum)

    # SIGHUP is ignored under `nohup`, and SIGINT in background jobs.
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
