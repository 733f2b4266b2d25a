"""Tests for runs that are killed; `python tests/kills.py` does more of it."""

import contextlib
import io
import os
import pty
import select
import signal

import fast_command
import folders
import kills
import matplotlib.image
import tensorflow as tf

from tf_realnvp.cli import main
from tf_realnvp.serving.metadata import FILE


class Folder(kills.Folder):
    """One in which the command is a fast one."""

    def start(self, log):
        return fast_command.Process(self.flags, self.path, log)


class KillsTest(folders.FolderTestCase):
    def test_where_it_is_killed_changes_nothing(self):
        killed, peaceful = (Folder(self.folder / name, 2) for name in "ab")
        for folder in (killed, peaceful):
            folder.flags += ["--batch_size", "200"]  # Fewer checkpoints.
        # Of an earlier run, which has to stay until there is another.
        old = killed.model / "variables" / "old"
        old.parent.mkdir(parents=True)
        for name in ("variables/old", "saved_model.pb", FILE):
            (killed.model / name).touch()
        for aim, expected in (
            ("checkpoint", (True, False)),
            ("results", (True, True)),
        ):
            result = kills.kill(killed, signal.SIGKILL, aim)
            self.assertEqual(result, expected)
            self.assertTrue(old.exists())
        self.assertNotEmpty(killed.unfinished_results())
        # In this process, since most of a process is its start.
        for folder in (killed, peaceful):
            with (
                contextlib.ExitStack() as stack,
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.chdir(folder.path),
            ):
                fast_command.patch_model(stack)
                self.assertEqual(main.train_main(folder.flags), 0)
        self.assertFalse(old.exists())
        self.assertEmpty(killed.unfinished_results())
        for what, (differing, total) in kills.compare(killed, peaceful).items():
            self.assertGreater(total, 1000, what)
            self.assertEqual(differing, 0, what)

    def test_terminal_is_closed(self):
        """A training whose terminal is closed saves a checkpoint, and ends."""
        argv = "--dataset digits --seed 0 --epochs 100000".split()
        master, slave = pty.openpty()
        with open(slave, "rb"), open(master, "rb", buffering=0) as terminal:
            process = fast_command.Process(argv, self.folder, os.ttyname(slave))
            self.addCleanup(process.kill)
            seen = b""
            while b"epoch 0/" not in seen:  # It trains then.
                self.assertIsNone(process.poll(), seen)
                if select.select([terminal], [], [], 1.0)[0]:
                    seen += terminal.read(1000)
        process.wait(300)
        self.assertEqual(process.returncode, 129)
        run = self.folder / "runs" / "digits"
        self.assertNotEmpty(list((run / "checkpoints").glob("ckpt-*.index")))
        self.assertFalse((self.folder / "realnvp_digits").exists())

    def test_all_streams_are_closed(self):
        argv = "--dataset digits --seed 0 --deterministic --max_steps 3".split()
        process = fast_command.Process(argv, self.folder)
        self.addCleanup(process.kill)
        process.wait(300)
        self.assertEqual(process.returncode, 0)
        self.assertLen(os.listdir(self.folder), 5)
        matplotlib.image.imread(self.folder / "samples_digits.png")


class CountBitsTest(tf.test.TestCase):
    def test_values(self):
        for first, second, result in (
            (b"abc", b"abc", (0, 24)),
            (b"\x00\xff", b"\x01\xff", (1, 16)),
            (b"abc", b"ab", (24, 24)),
        ):
            self.assertEqual(kills._count_bits(first, second), result)
