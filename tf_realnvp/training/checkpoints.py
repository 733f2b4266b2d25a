"""Checkpoints of a training run."""

import json
import os
import pathlib
import re
import sys
from dataclasses import asdict

import tensorflow as tf

from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files
from tf_realnvp.utils.errors import UsageError, reason

_NUM_KEPT = 3


class _History(tf.train.experimental.PythonState):
    """Puts the metrics so far, which are no variables, into a checkpoint."""

    def __init__(self, trainer):
        super().__init__()
        self._trainer = trainer

    def serialize(self):
        return json.dumps(
            [asdict(metrics) for metrics in self._trainer.history]
        )

    def deserialize(self, string_value):
        rows = json.loads(string_value)
        self._trainer.history = [Metrics(**row) for row in rows]


class Checkpoints:
    """Saves and restores all that the rest of a training run depends on.

    That is the weights, the optimizer's state, the number of steps done, the
    sums over the unfinished epoch and the metrics. The order of the images and
    all noise follow from the seed and the step.
    """

    def __init__(self, trainer: Trainer, directory: str | os.PathLike):
        """Makes the link between a trainer and a folder.

        Args:
          trainer: The trainer.
          directory: The folder, which is made when something is saved.
        """
        self._directory = pathlib.Path(directory)
        self._trainer = trainer
        self._checkpoint = tf.train.Checkpoint(
            history=_History(trainer), **trainer.state
        )
        self._manager: tf.train.CheckpointManager | None = None

    def save(self) -> None:
        """Writes a new checkpoint, then removes the oldest of many.

        Raises:
          tf.errors.OpError, OSError: If it cannot be written. Those that are
            there stay as they are.
        """
        if self._manager is None:
            self._manager = self._make_manager()
        path = self._manager.save()
        # Before more is done that relies on it: power may fail.
        for file in self._directory.glob(f"{pathlib.Path(path).name}.*"):
            files.sync(file)
        files.sync(self._list)
        files.sync(self._directory)

    def _make_manager(self):
        files.make_directory(self._directory)
        options = (self._checkpoint, self._directory, _NUM_KEPT)
        try:
            return tf.train.CheckpointManager(*options)
        except ValueError:
            # Its list of checkpoints is damaged, and will be written anew.
            self._list.unlink()
            return tf.train.CheckpointManager(*options)

    @property
    def _list(self):
        """The file that `CheckpointManager` writes after a checkpoint."""
        return self._directory / "checkpoint"

    def restore(self) -> bool:
        """Restores the newest checkpoint that is whole.

        Those that are damaged are named on standard error, and stay.

        Returns:
          Whether there is any. The first one may not have been finished.

        Raises:
          UsageError: If there are checkpoints and all are damaged.
        """
        paths, history = self._paths(), self._trainer.history
        for path in paths:
            try:
                # All of it is read, and checksums are compared.
                self._checkpoint.restore(path).assert_consumed()
                return True
            except Exception as error:  # TensorFlow raises nearly anything.
                self._trainer.history = history  # It is read before weights.
                print(
                    f"warning: the checkpoint {path} is damaged or was not "
                    f"finished ({reason(error)}); trying the one before",
                    file=sys.stderr,
                )
        if paths and self._list.exists():
            raise UsageError(
                f"none of the {len(paths)} checkpoints in {self._directory} "
                "can be used; start anew with another `run_dir`, or delete "
                "this one"
            )
        return False

    def _paths(self):
        """Returns where there is any part of a checkpoint, newest first."""
        names = [path.name for path in self._directory.glob("ckpt-*")]
        matches = [re.fullmatch(r"ckpt-(\d+)\..+", name) for name in names]
        numbers = {int(match[1]) for match in matches if match}
        return [
            str(self._directory / f"ckpt-{number}")
            for number in sorted(numbers, reverse=True)
        ]
