"""Tests for runs that are killed; `python tests/kills.py` does more of it."""

import pathlib
import signal
import tempfile
from concurrent import futures

import fast_command
import kills
import tensorflow as tf
from absl.testing import parameterized


class KillsTest(tf.test.TestCase):
    def test_where_it_is_killed_changes_nothing(self):
        """Two runs at a time: most of a process is its start."""
        top = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        program = pathlib.Path(fast_command.__file__)
        folders = [kills.Folder(top / name, 2, program) for name in ("a", "b")]
        in_training, in_results = folders
        # Of an earlier run, which has to stay until there is another.
        old = in_results.model / "old"
        old.parent.mkdir()
        old.touch()
        with futures.ThreadPoolExecutor(2) as pool:
            aims = ("checkpoint", "results")
            killed = pool.map(kills.kill, folders, [signal.SIGKILL] * 2, aims)
            self.assertEqual(list(killed), [(True, False), (True, True)])
            self.assertFalse(in_training.model.exists())
            self.assertNotEmpty(in_results.unfinished_results())
            self.assertTrue(old.exists())
            list(pool.map(kills.run_in_peace, folders))
        self.assertFalse(old.exists())
        for folder in folders:
            self.assertEmpty(folder.unfinished_results())
        for what, (differing, total) in kills.compare(*folders).items():
            self.assertGreater(total, 1000, what)
            self.assertEqual(differing, 0, what)


class CountBitsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (b"", b"", 0, 0),
        (b"abc", b"abc", 0, 24),
        (b"\x00\xff", b"\x01\xff", 1, 16),
        (b"\x00\xff", b"\xff\x00", 16, 16),
        (b"abc", b"ab", 24, 24),
    )
    def test_values(self, first, second, differing, total):
        result = kills._count_bits(first, second)
        self.assertEqual(result, (differing, total))


if __name__ == "__main__":
    tf.test.main()
