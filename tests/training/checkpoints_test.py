"""Tests for checkpoints."""

import contextlib
import io
import os
import random
import re
import shutil
import types
from unittest import mock

import disks
import folders
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.trainer import Metrics
from tf_realnvp.utils.errors import UsageError

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


class CheckpointsTestCase(folders.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "run" / "checkpoints"

    def save(self, *numbers):
        """Saves a state for each number."""
        trainer = make_trainer()
        checkpoints = Checkpoints(trainer, self.path)
        for number in numbers:
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
        if not found:
            self.assertEqual(number, 99)
            number = None
        return number, stderr.getvalue()

    def resumed(self):
        """Returns a trainer that goes on with what is there, and its link."""
        trainer = make_trainer()
        checkpoints = Checkpoints(trainer, self.path)
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertTrue(checkpoints.restore())
        return trainer, checkpoints

    def contents(self):
        return {
            file.name: file.read_bytes()
            for file in self.path.rglob("*")
            if file.is_file()
        }

    def assert_restores(self, number, *damaged):
        """Asserts what is restored, and which are named; no file changes."""
        before = self.contents()
        actual, stderr = self.restore()
        self.assertEqual(actual, number)
        names = re.findall(
            rf"^warning: the checkpoint {self.path}/(\S+) is damaged",
            stderr,
            re.MULTILINE,
        )
        self.assertEqual(names, list(damaged))
        self.assertEqual(stderr.count("\n"), len(damaged), stderr)
        self.assertEqual(self.contents(), before)

    def file(self, name):
        return self.path / name


class SaveTest(CheckpointsTestCase):
    def test_the_last_ones_are_kept(self):
        self.save(*range(12))
        self.assertCountEqual(
            os.listdir(self.path),
            [
                "checkpoint",
                *(
                    f"ckpt-{number}.{suffix}"
                    for number in (10, 11, 12)
                    for suffix in ("index", DATA)
                ),
            ],
        )
        # By number, not by name.
        self.assert_restores(11)

    def test_a_later_process_goes_on(self):
        self.save(1, 2)
        trainer, checkpoints = self.resumed()
        for number in (3, 4, 5):
            set_state(trainer, number)
            checkpoints.save()
        self.assertCountEqual(
            {file.stem for file in self.path.glob("*.index")},
            ["ckpt-3", "ckpt-4", "ckpt-5"],
        )
        self.assert_restores(5)

    def test_nothing_there(self):
        self.assert_restores(None)
        self.assertFalse(self.path.exists())
        self.path.mkdir(parents=True)
        self.assert_restores(None)

    def test_folder_may_move(self):
        self.save(1, 2)
        other = self.path.with_name("moved")
        self.path.rename(other)
        self.path = other
        self.assert_restores(2)
        self.save(3)

    def test_other_files_are_let_be(self):
        self.save(1)
        for name in ("ckpt-best.index", "notes.txt", "ckpt-"):
            self.file(name).write_text("x")
        self.file("ckpt-7_temp").mkdir()  # As a kill leaves it.
        self.assert_restores(1)


class DamageTest(CheckpointsTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.save(1, 2, 3)

    @parameterized.product(
        suffix=("index", DATA),
        damage=(
            # From what is in the file, and in that of the checkpoint before.
            *(
                lambda own, _, share=share: own[: int(share * (len(own) - 1))]
                for share in (0.0, 0.01, 0.5, 0.9, 1.0)
            ),
            lambda own, _: bytes(len(own)),
            lambda _, before: before,
            lambda *_: None,  # It is missing.
        ),
    )
    def test_one_file(self, suffix, damage):
        file, before = (self.file(f"ckpt-{n}.{suffix}") for n in (3, 2))
        content = damage(file.read_bytes(), before.read_bytes())
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        self.assert_restores(2, "ckpt-3")

    def flips(self, suffix, count):
        """Gives places in a file of the newest checkpoint, each damaged."""
        file = self.file(f"ckpt-3.{suffix}")
        content = file.read_bytes()
        rng = random.Random(0)
        for place in [
            0,
            len(content) - 1,
            *rng.choices(range(len(content)), k=count),
        ]:
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            with self.subTest(place=place):
                yield place

    def test_flipped_bit_in_data(self):
        for _ in self.flips(DATA, 30):
            self.assert_restores(2, "ckpt-3")

    def test_flipped_bit_in_index(self):
        """It is noticed, or in one of the few bits that mean nothing."""
        numbers = []
        for _ in self.flips("index", 30):
            number, stderr = self.restore()  # Compares all values.
            self.assertIn(number, (2, 3))
            self.assertEqual(stderr.count("\n"), 3 - number)
            numbers.append(number)
        self.assertGreater(numbers.count(2), 20)

    def test_several(self):
        self.file("ckpt-3.index").unlink()
        self.file(f"ckpt-2.{DATA}").write_bytes(b"")
        self.assert_restores(1, "ckpt-3", "ckpt-2")

    def test_of_another_model(self):
        trainer = make_trainer()
        del trainer.state["weights"][1]
        checkpoints = Checkpoints(trainer, self.path)
        with contextlib.redirect_stderr(io.StringIO()):
            with self.assertRaises(UsageError):
                checkpoints.restore()

    def test_all(self):
        for number in (1, 2, 3):
            self.file(f"ckpt-{number}.{DATA}").write_bytes(b"")
        before = self.contents()
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            with self.assertRaises(UsageError) as raised:
                Checkpoints(make_trainer(), self.path).restore()
        self.assertEqual(stderr.getvalue().count("\n"), 3)
        message = str(raised.exception)
        for expected in ("none of the 3", str(self.path), "`run_dir`"):
            self.assertIn(expected, message)
        self.assertNotIn("\n", message)
        self.assertEqual(self.contents(), before)

    @parameterized.parameters(b"", b"\xff\xfe", b"nonsense {", b"\0" * 99, None)
    def test_list_of_checkpoints(self, content):
        """The file `checkpoint` is TensorFlow's, and not needed."""
        if content is None:
            self.file("checkpoint").unlink()
        else:
            self.file("checkpoint").write_bytes(content)
        self.assert_restores(3)
        trainer, checkpoints = self.resumed()
        set_state(trainer, 4)
        checkpoints.save()
        self.assert_restores(4)

    def test_saving_goes_on(self):
        self.file(f"ckpt-3.{DATA}").write_bytes(b"")
        trainer, checkpoints = self.resumed()
        set_state(trainer, 3)
        checkpoints.save()
        self.assert_restores(3)


class UnfinishedTest(CheckpointsTestCase):
    """What is left when a process dies while it saves."""

    def test_first_one(self):
        self.save(1)
        self.file("checkpoint").unlink()
        self.file("ckpt-1.index").write_bytes(b"")
        self.assert_restores(None, "ckpt-1")
        self.file("ckpt-1.index").unlink()
        self.assert_restores(None, "ckpt-1")
        self.save(2)
        self.assert_restores(2)

    def test_later_one(self):
        self.save(1, 2)
        shutil.copy(self.file(f"ckpt-2.{DATA}"), self.file(f"ckpt-3.{DATA}"))
        self.assert_restores(2, "ckpt-3")

    def test_complete_but_not_listed(self):
        self.save(1)
        listed = self.file("checkpoint").read_bytes()
        self.save(1, 2)
        self.file("checkpoint").write_bytes(listed)
        self.assert_restores(2)


class FullTest(CheckpointsTestCase, parameterized.TestCase):
    @parameterized.parameters(0, 20, 100, 300, 600)
    def test_the_one_before_stays(self, size):
        self.save(1)
        sizes = [file.stat().st_size for file in self.path.glob("ckpt-*")]
        self.assertLess(size, max(sizes))
        trainer, checkpoints = self.resumed()
        set_state(trainer, 2)
        with (
            disks.full(size),
            self.assertRaises((OSError, tf.errors.OpError)),
        ):
            checkpoints.save()
        number, _ = self.restore()
        self.assertEqual(number, 1)
        # Room was made.
        self.save(3)
        checkpoints.save()
        number, _ = self.restore()
        self.assertEqual(number, 2)

    def test_is_on_the_disk_when_it_returns(self):
        synced = []

        def fsync(descriptor):
            synced.append(
                os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
            )

        with mock.patch.object(os, "fsync", fsync):
            self.save(1, 2)
        # The folders in which new folders are, and then all that is saved.
        self.assertCountEqual(synced[:2], [self.path.parents[1].name, "run"])
        for number in (1, 2):
            files = synced[4 * number - 2 : 4 * number + 2]
            self.assertCountEqual(
                files[:2], [f"ckpt-{number}.index", f"ckpt-{number}.{DATA}"]
            )
            self.assertEqual(files[2:], ["checkpoint", "checkpoints"])
        self.assertLen(synced, 10)


if __name__ == "__main__":
    tf.test.main()
