"""Tests for checkpoints."""

import contextlib
import io
import os
import pathlib
import re
import types
from unittest import mock

import disks
import folders
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.errors import UsageError
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.utils import files

DATA = "data-00000-of-00001"


def make_trainer():
    """What `Checkpoints` needs of a trainer: variables of all kinds."""
    return types.SimpleNamespace(
        history=[],
        state={
            "weights": [tf.Variable(tf.zeros([3, 3, 2])), tf.Variable(0.0)],
            "progress": [tf.Variable(0, dtype=tf.int64)],
        },
    )


def set_state(trainer, number):
    """Gives a trainer a state that belongs to a number."""
    rng = np.random.default_rng(number)
    for variable in trainer.state["weights"]:
        variable.assign(rng.normal(size=variable.shape))
    trainer.state["progress"][0].assign(number)
    trainer.history = [
        Metrics(epoch, 10 * epoch, 1.0 / 3.0 if epoch else None, rng.normal())
        for epoch in range(number)
    ]


class CheckpointsTestCase(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "run" / "checkpoints"

    def save(self, *numbers):
        """Saves a state for each number, in a new process so to say."""
        trainer = make_trainer()
        checkpoints = Checkpoints(trainer, self.path)
        for number in numbers:
            set_state(trainer, number)
            checkpoints.save()

    def save_next(self, number):
        """Restores what is there, and saves another state after it."""
        trainer = make_trainer()
        checkpoints = Checkpoints(trainer, self.path)
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertTrue(checkpoints.restore())
        set_state(trainer, number)
        checkpoints.save()

    def restore(self):
        """Restores into a new trainer.

        Returns:
          The number of the state, `None` if none was found; and what was
          written to standard error.
        """
        trainer = make_trainer()
        set_state(trainer, 99)  # All of it has to go.
        checkpoints = Checkpoints(trainer, self.path)
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            found = checkpoints.restore()
        number = int(trainer.state["progress"][0])
        expected = make_trainer()
        set_state(expected, number)
        self.assertEqual(trainer.history, expected.history)
        for actual, wanted in zip(
            trainer.state["weights"], expected.state["weights"], strict=True
        ):
            self.assertAllEqual(actual, wanted)
        self.assertEqual(number == 99, not found)
        return number if found else None, stderr.getvalue()

    def assert_restores(self, number, *damaged):
        """Asserts what is restored, and which are named; no file changes."""
        before = folders.contents(self.path)
        actual, stderr = self.restore()
        self.assertEqual(actual, number)
        pattern = rf"warning: the checkpoint {self.path}/(\S+) is damaged.*\n"
        self.assertEqual(re.findall(pattern, stderr), list(damaged))
        self.assertEqual(folders.contents(self.path), before)


class SaveTest(CheckpointsTestCase):
    def test_the_last_ones_are_kept(self):
        self.save(*range(9))
        for number in (9, 10):  # Of later processes.
            self.save_next(number)
        names = [f"ckpt-{n}.{s}" for n in (9, 10, 11) for s in ("index", DATA)]
        self.assertCountEqual(os.listdir(self.path), ["checkpoint", *names])
        # By number, not by name.
        self.assert_restores(10)

    def test_folder_may_move(self):
        self.save(1, 2)
        self.path = self.path.rename(self.path.with_name("moved"))
        self.assert_restores(2)

    def test_other_files_are_let_be(self):
        self.save(1)
        for name in ("ckpt-best.index", "notes.txt", "ckpt-"):
            (self.path / name).write_text("x")
        (self.path / "ckpt-7_temp").mkdir()  # As a kill leaves it.
        self.assert_restores(1)

    @parameterized.parameters(0, 100, 600)
    def test_disk_is_full(self, size):
        """The checkpoint before is kept."""
        self.save(1)
        with disks.full(size), self.assertRaises((OSError, tf.errors.OpError)):
            self.save_next(2)
        self.assertEqual(self.restore()[0], 1)
        # Room was made.
        self.save_next(3)
        self.assertEqual(self.restore()[0], 3)

    def test_is_on_the_disk_when_it_returns(self):
        with mock.patch.object(files, "sync") as sync:
            self.save(1)
            sync.reset_mock()  # Of the folders in which new folders are.
            self.save_next(2)
        synced = [pathlib.Path(call.args[0]).name for call in sync.mock_calls]
        self.assertCountEqual(synced[:2], ["ckpt-2.index", f"ckpt-2.{DATA}"])
        self.assertEqual(synced[2:], ["checkpoint", "checkpoints"])


class DamageTest(CheckpointsTestCase):
    def setUp(self):
        super().setUp()
        self.save(1, 2, 3)

    @parameterized.product(
        suffix=("index", DATA),
        damage=(
            # From what is in the file, and in that of the checkpoint before.
            lambda own, _: own[: len(own) // 2],
            lambda own, _: bytes(len(own)),
            lambda own, _: bytes([own[0] ^ 1]) + own[1:],
            lambda _, before: before,
            lambda *_: None,  # It is missing.
        ),
    )
    def test_one_file(self, suffix, damage):
        file, before = (self.path / f"ckpt-{n}.{suffix}" for n in (3, 2))
        content = damage(file.read_bytes(), before.read_bytes())
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        self.assert_restores(2, "ckpt-3")
        (self.path / f"ckpt-2.{DATA}").write_bytes(b"")
        self.assert_restores(1, "ckpt-3", "ckpt-2")
        self.save_next(4)  # As ckpt-2.
        self.assert_restores(4, "ckpt-3")

    # In the index there are a few bits that mean nothing.

    def test_all(self):
        for number in (1, 2, 3):
            (self.path / f"ckpt-{number}.{DATA}").write_bytes(b"")
        before = folders.contents(self.path)
        with self.assertRaisesRegex(UsageError, "none of the 3 .*`run_dir`"):
            self.restore()
        self.assertEqual(folders.contents(self.path), before)

    def test_of_another_model(self):
        trainer = make_trainer()
        del trainer.state["weights"][1]
        with self.assertRaises(UsageError):
            Checkpoints(trainer, self.path).restore()

    @parameterized.parameters(
        *(b"", b"nonsense {", b"\0\xff" * 99, None),
        b'model_checkpoint_path: "ckpt-1"',  # As if the others were newer.
    )
    def test_list_of_checkpoints(self, content):
        """TensorFlow's file `checkpoint` is not needed."""
        (self.path / "checkpoint").unlink()
        if content is not None:
            (self.path / "checkpoint").write_bytes(content)
        self.assert_restores(3)
        self.save_next(4)
        self.assert_restores(4)


class UnfinishedTest(CheckpointsTestCase):
    """What is left when a process dies while it saves."""

    def test_first_one(self):
        self.save(1)
        (self.path / "checkpoint").unlink()
        data = self.path / f"ckpt-1.{DATA}"
        for place in (0, -1):
            content = bytearray(data.read_bytes())
            content[place] ^= 1
            data.write_bytes(content)
            self.assert_restores(None, "ckpt-1")  # Nothing is changed.
        (self.path / "ckpt-1.index").write_bytes(b"")
        self.assert_restores(None, "ckpt-1")
        (self.path / "ckpt-1.index").unlink()
        self.assert_restores(None, "ckpt-1")
        self.save(2)
        self.assert_restores(2)
