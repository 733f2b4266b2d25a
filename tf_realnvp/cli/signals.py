"""Handling of SIGINT, SIGTERM and SIGHUP in commands."""

import contextlib
import functools
import os
import signal
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OF_USERS = {signal.SIGINT, signal.SIGTERM}


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
def deferred(at_once: bool = False) -> Iterator[list[int]]:
    """Context manager that raises `Interrupted` after a signal, on exit.

    A second SIGINT or SIGTERM ends the process immediately. Signals that are
    already ignored stay ignored.

    Args:
      at_once: Whether the first signal raises it at any point, and not on exit.

    Yields:
      The numbers of the signals received so far, a list that grows.

    Raises:
      Interrupted: If a signal was received.
    """
    received: list[int] = []

    def receive(signum, _):
        # SIGHUP does not count as a second signal, since a terminal that is
        # closed sends it more than once.
        if signum in _OF_USERS and not _OF_USERS.isdisjoint(received):
            os._exit(128 + signum)
        received.append(signum)
        if at_once and len(received) == 1:
            raise Interrupted(signum)

    # SIGHUP is ignored under `nohup`, and SIGINT in background jobs.
    before = {
        signum: previous
        for signum in _SIGNALS
        if (previous := signal.getsignal(signum)) != signal.SIG_IGN
    }
    for signum in before:
        signal.signal(signum, receive)
    try:
        yield received
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
    if received and not at_once:
        raise Interrupted(received[0])


raised = functools.partial(deferred, at_once=True)
