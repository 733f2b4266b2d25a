"""Tests for runs that are killed; `python tests/kills.py` does more of it."""

import signal

import kills
import tensorflow as tf


class KillsTest(tf.test.TestCase):
    def test_killed_and_resumed_is_never_killed(self):
        # In training, and while the results are written.
        result = kills.kill_and_compare(2, seed=3, epochs=1, show=print)
        self.assertEqual(result.kills[signal.SIGKILL], 2)
        for what, (differing, total) in result.bits.items():
            with self.subTest(what):
                self.assertGreater(total, 1000)
                self.assertEqual(differing, 0, str(result))


class CompareTest(tf.test.TestCase):
    def test_counts_bits(self):
        for first, second, expected in (
            (b"", b"", (0, 0)),
            (b"abc", b"abc", (0, 24)),
            (b"\x00\xff", b"\x01\xff", (1, 16)),
            (b"\x00\xff", b"\xff\x00", (16, 16)),
            (b"abc", b"ab", (24, 24)),
        ):
            self.assertEqual(kills._compare(first, second), expected)


if __name__ == "__main__":
    tf.test.main()
