"""Tests for signals."""

import signal

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import signals

SIGINT, SIGTERM, SIGHUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SIGNALS = ((SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129))
SEVERAL = """
import signal, sys
from tf_realnvp.cli import signals

first, *others = map(int, sys.argv[2:])
try:
    with getattr(signals, sys.argv[1])():
        try:
            signal.raise_signal(first)
        finally:
            for other in others:
                print("cleaning up", file=sys.stderr)
                signal.raise_signal(other)
except signals.Interrupted as error:
    print(error)
"""


class SignalsTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        handlers = [signal.getsignal(signum) for signum, _ in SIGNALS]
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
        context=("raised", "deferred"),
        case=(
            ((SIGINT, SIGTERM), 143),
            ((SIGINT, SIGINT), 130),
            # A terminal that is closed sends SIGHUP more than once.
            ((SIGHUP, SIGHUP, SIGHUP), 0),
            ((SIGINT, SIGHUP, SIGHUP), 0),
            # When a session ends, the system sends SIGTERM as well.
            ((SIGHUP, SIGTERM), 0),
            ((SIGHUP, SIGTERM, SIGTERM), 143),
        ),
    )
    def test_second_one_of_a_user_ends_the_process(self, context, case):
        sent, code = case
        result = command_lines.run(".", "-c", SEVERAL, context, *map(int, sent))
        stdout = "" if code else f"interrupted by {sent[0].name}\n"
        stderr = "cleaning up\n" * (len(sent) - 1)
        self.assertEqual(result, (code, stdout, stderr))

    @parameterized.parameters(*SIGNALS)
    def test_ignored_stays_ignored(self, signum, _):
        """`nohup` ignores SIGHUP, and background jobs of scripts SIGINT."""
        previous = signal.signal(signum, signal.SIG_IGN)
        try:
            with signals.raised(), signals.deferred() as received:
                signal.raise_signal(signum)
                self.assertEmpty(received)
            self.assertEqual(signal.getsignal(signum), signal.SIG_IGN)
        finally:
            signal.signal(signum, previous)
