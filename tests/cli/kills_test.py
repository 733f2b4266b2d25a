"""Tests for runs that are killed."""

import contextlib
import io
import os
import pty
import re
import select

import fast_command
import folders
import tensorflow as tf

from tf_realnvp.cli import main
from tf_realnvp.serving.metadata import FILE

FLAGS = [
    *("--dataset", "digits", "--seed", "0", "--epochs", "2", "--resume"),
    # A checkpoint after every step.
    *("--batch_size", "200", "--checkpoint_minutes", "1e-9", "--filters", "4"),
]


def results(folder):
    """Returns what a run has come to, bit for bit."""
    weights = tf.train.load_variable(
        str(folder / "realnvp_digits" / "variables" / "variables"),
        "means/.ATTRIBUTES/VARIABLE_VALUE",
    )
    names = ("metrics_digits.csv", "samples_digits.png")
    return [weights.tobytes(), *((folder / n).read_bytes() for n in names)]


class KillsTest(folders.FolderTestCase):
    def kill(self, folder, is_time):
        """Starts the command, and kills it when it is time."""
        log = folder / "log"
        log.touch()
        process = fast_command.start(FLAGS, folder, log)
        self.addCleanup(process.kill)
        while not is_time():
            self.assertTrue(process.is_alive(), log.read_text())
        process.kill()
        process.join()

    def test_where_it_is_killed_changes_nothing(self):
        killed, peaceful = (self.folder / name for name in "ab")
        model = killed / "realnvp_digits"
        checkpoints = killed / "runs" / "digits" / "checkpoints"

        def is_saving():
            """Tells whether a checkpoint after the first is half written."""
            names = " ".join(path.name for path in checkpoints.glob("ckpt-*"))
            last = max(map(int, re.findall(r"ckpt-(\d+)", names)), default=0)
            listed = checkpoints / "checkpoint"
            return last > 1 and f'"ckpt-{last}"' not in listed.read_text()

        def is_writing_results():
            return any(killed.glob(".tf_realnvp.new-*"))

        # Of an earlier run, which has to stay until there is another.
        old = model / "variables" / "old"
        for folder in (old.parent, peaceful):
            folder.mkdir(parents=True)
        for path in (old, model / "saved_model.pb", model / FILE):
            path.touch()
        for is_time in (is_saving, is_writing_results):
            self.kill(killed, is_time)
            self.assertTrue(old.exists())
        # In this process, since most of a process is its start.
        for folder in (killed, peaceful):
            with (
                contextlib.ExitStack() as stack,
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.chdir(folder),
            ):
                fast_command.patch_model(stack)
                self.assertEqual(main.train_main(FLAGS), 0)
        self.assertFalse(old.exists())
        self.assertEqual(results(killed), results(peaceful))

    def test_terminal_is_closed(self):
        """The training saves a checkpoint before it ends."""
        argv = "--dataset digits --seed 0 --epochs 100000".split()
        master, slave = pty.openpty()
        with open(slave, "rb"), open(master, "rb", buffering=0) as terminal:
            process = fast_command.start(argv, self.folder, os.ttyname(slave))
            self.addCleanup(process.kill)
            seen = b""
            while b"epoch 0/" not in seen:  # It trains then.
                self.assertTrue(process.is_alive(), seen)
                if select.select([terminal], [], [], 1.0)[0]:
                    seen += terminal.read(1000)
        process.join(300)
        self.assertNotEqual(process.exitcode, 0)
        run = self.folder / "runs" / "digits"
        self.assertNotEmpty(list((run / "checkpoints").glob("ckpt-*.index")))
        self.assertFalse((self.folder / "realnvp_digits").exists())
