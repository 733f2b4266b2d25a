"""Tests for signals."""

import os
import signal
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import signals

SIGINT, SIGTERM, SIGHUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SIGNALS = ((SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129))


class Exit(BaseException):
    """What the tests do in place of ending the process."""


class SignalsTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        handlers = [signal.getsignal(signum) for signum, _ in SIGNALS]
        self.exit = self.enterContext(
            mock.patch.object(os, "_exit", side_effect=Exit)
        )
        self.addCleanup(
            lambda: self.assertEqual(
                handlers, [signal.getsignal(signum) for signum, _ in SIGNALS]
            )
        )

    @parameterized.product(
        context=(signals.raised, signals.deferred), case=SIGNALS
    )
    def test_first_one(self, context, case):
        signum, code = case
        done = []
        with self.assertRaises(signals.Interrupted) as raised:
            with context() as received:
                self.assertEmpty(received)
                signal.raise_signal(signum)
                done.append(received)
            done.append("what follows")
        is_deferred = context is signals.deferred
        self.assertEqual(done, [[signum]] if is_deferred else [])
        self.assertEqual(raised.exception.exit_code, code)
        self.assertEqual(str(raised.exception), f"interrupted by {signum.name}")
        # What goes on after any `Exception` does not go on after this.
        self.assertNotIsInstance(raised.exception, Exception)

    def test_deferred_does_not_hide_an_error(self):
        with self.assertRaises(OSError):
            with signals.deferred():
                signal.raise_signal(SIGTERM)
                raise OSError

    @parameterized.product(
        context=(signals.raised, signals.deferred),
        case=(
            ((SIGINT, SIGTERM), 143),
            ((SIGINT, SIGINT), 130),
            # A terminal that is closed sends it more than once.
            ((SIGHUP, SIGHUP, SIGHUP), None),
            ((SIGINT, SIGHUP, SIGHUP), None),
            # The system asks so when a session ends, which is no haste.
            ((SIGHUP, SIGTERM), None),
            ((SIGHUP, SIGTERM, SIGTERM), 143),
        ),
    )
    def test_second_one_of_a_user_ends_the_process(self, context, case):
        (first, *others), code = case
        expected = signals.Interrupted if code is None else Exit
        with self.assertRaises(expected) as raised:
            with context():
                try:
                    signal.raise_signal(first)
                finally:  # Whatever takes its time to tidy up.
                    for other in others:
                        self.exit.assert_not_called()
                        signal.raise_signal(other)
        if code is not None:
            self.exit.assert_called_once_with(code)
        else:
            self.assertEqual(raised.exception.exit_code, 128 + first)

    @parameterized.parameters(*SIGNALS)
    def test_ignored_stays_ignored(self, signum, _):
        """SIGHUP is after `nohup`, SIGINT in background jobs of scripts."""
        previous = signal.signal(signum, signal.SIG_IGN)
        try:
            with signals.raised(), signals.deferred() as received:
                signal.raise_signal(signum)
                self.assertEmpty(received)
            self.assertEqual(signal.getsignal(signum), signal.SIG_IGN)
        finally:
            signal.signal(signum, previous)
