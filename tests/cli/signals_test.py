"""Tests for signals."""

import os
import signal
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import signals

USERS_SIGNALS = ((signal.SIGINT, 130), (signal.SIGTERM, 143))
SIGNALS = (*USERS_SIGNALS, (signal.SIGHUP, 129))


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

    @parameterized.parameters(*SIGNALS)
    def test_raised_at_once(self, signum, code):
        done = []
        with self.assertRaises(signals.Interrupted) as raised:
            with signals.raised():
                done.append("before")
                signal.raise_signal(signum)
                done.append("after")
        self.assertEqual(done, ["before"])
        self.assertEqual(raised.exception.exit_code, code)
        self.assertEqual(str(raised.exception), f"interrupted by {signum.name}")
        self.exit.assert_not_called()

    @parameterized.parameters(*SIGNALS)
    def test_deferred_until_asked(self, signum, code):
        done = []
        with self.assertRaises(signals.Interrupted) as raised:
            with signals.deferred() as request:
                request.check()
                signal.raise_signal(signum)
                done.append("after")
                request.check()
                done.append("checked")
        self.assertEqual(done, ["after"])
        self.assertEqual(raised.exception.exit_code, code)
        # One after the last question is not lost.
        with self.assertRaises(signals.Interrupted):
            with signals.deferred():
                signal.raise_signal(signum)
                done.append("the rest")
            done.append("what follows")
        self.assertEqual(done, ["after", "the rest"])

    def test_deferred_does_not_hide_an_error(self):
        with self.assertRaises(OSError):
            with signals.deferred():
                signal.raise_signal(signal.SIGTERM)
                raise OSError

    @parameterized.product(first=USERS_SIGNALS, second=USERS_SIGNALS)
    def test_second_one_ends_the_process(self, first, second):
        (first, _), (second, code) = first, second
        with self.assertRaises(Exit):
            with signals.deferred():
                signal.raise_signal(first)
                self.exit.assert_not_called()
                signal.raise_signal(second)
        self.exit.assert_called_once_with(code)

        self.exit.reset_mock()
        with self.assertRaises(Exit):
            with signals.raised():
                try:
                    signal.raise_signal(first)
                finally:  # Whatever takes its time to tidy up.
                    signal.raise_signal(second)
        self.exit.assert_called_once_with(code)

    @parameterized.parameters(*SIGNALS)
    def test_hanging_up_is_not_insisting(self, signum, code):
        """A terminal that is closed sends SIGHUP more than once."""
        with self.assertRaises(signals.Interrupted) as raised:
            with signals.deferred():
                signal.raise_signal(signum)
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGHUP)
        self.assertEqual(raised.exception.exit_code, code)

        tidied = []
        with self.assertRaises(signals.Interrupted) as raised:
            with signals.raised():
                try:
                    signal.raise_signal(signum)
                finally:
                    signal.raise_signal(signal.SIGHUP)
                    tidied.append("up")
        self.assertEqual(raised.exception.exit_code, code)
        self.assertEqual(tidied, ["up"])
        self.exit.assert_not_called()

    def test_insisting_after_hanging_up(self):
        """The system asks so when a session ends, which is no haste."""
        with self.assertRaises(Exit):
            with signals.deferred():
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGTERM)
                self.exit.assert_not_called()
                signal.raise_signal(signal.SIGTERM)
        self.exit.assert_called_once_with(143)

    @parameterized.parameters(*SIGNALS)
    def test_ignored_stays_ignored(self, signum, _):
        """SIGHUP is after `nohup`, SIGINT in background jobs of scripts."""
        previous = signal.signal(signum, signal.SIG_IGN)
        try:
            done = []
            with signals.raised(), signals.deferred() as request:
                signal.raise_signal(signum)
                request.check()
                done.append("all")
            self.assertEqual(done, ["all"])
            self.assertEqual(signal.getsignal(signum), signal.SIG_IGN)
            # The others are not.
            other = signal.SIGTERM
            if signum == signal.SIGTERM:
                other = signal.SIGINT
            with self.assertRaises(signals.Interrupted):
                with signals.raised():
                    signal.raise_signal(other)
        finally:
            signal.signal(signum, previous)

    def test_is_not_caught_as_an_error(self):
        """What goes on after any `Exception` does not go on after this."""
        self.assertNotIsInstance(signals.Interrupted(2), Exception)

    def test_nested(self):
        with self.assertRaises(signals.Interrupted):
            with signals.raised():
                with signals.deferred() as request:
                    request.check()
                signal.raise_signal(signal.SIGINT)
                self.fail("The outer one counts again.")


if __name__ == "__main__":
    tf.test.main()
