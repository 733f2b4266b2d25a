"""Checkpoints of a training run."""

import functools
import json
import os
import pathlib
import re
from dataclasses import asdict

import tensorflow as tf

from tf_realnvp.errors import UsageError, reason
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files
from tf_realnvp.utils.console import warn

_NUM_KEPT = 3


class _History(tf.train.experimental.PythonState):
    """Stores the metrics, which are not variables, in a checkpoint."""

    def __init__(self, trainer):
        super().__init__()
        self._trainer = trainer

    def serialize(self):
        return json.dumps([asdict(m) for m in self._trainer.history])

    def deserialize(self, string_value):
        rows = json.loads(string_value)
        self._trainer.history = [Metrics(**row) for row in rows]


class Checkpoints:
    """Saves and restores the state of a training run, for a bit-exact resume.

    The state is the weights, the optimizer's variables, the number of steps,
    the sums over the unfinished epoch and the metrics. The order of the images
    and all noise are determined by the seed and the step.
    """

    def __init__(self, trainer: Trainer, directory: str | os.PathLike):
        """Creates checkpoints of a trainer in a folder.

        Args:
          trainer: The trainer.
          directory: The folder; it is created by the first `save`.
        """
        self._directory = pathlib.Path(directory)
        # TensorFlow's list of the checkpoints, written after each of them.
        self._list = self._directory / "checkpoint"
        self._checkpoint = tf.train.Checkpoint(
            history=_History(trainer), **trainer.state
        )

    def save(self) -> None:
        """Saves a checkpoint, then removes old ones.

        Raises:
          tf.errors.OpError, OSError: If it cannot be written. The earlier ones
            are unchanged.
        """
        path = self._manager.save()
        # The checkpoint must survive a power failure before others rely on it.
        for file in self._directory.glob(f"{pathlib.Path(path).name}.*"):
            files.sync(file)
        files.sync(self._list)
        files.sync(self._directory)

    @functools.cached_property
    def _manager(self):
        files.make_directory(self._directory)
        options = (self._checkpoint, self._directory, _NUM_KEPT)
        try:
            return tf.train.CheckpointManager(*options)
        except ValueError:
            self._list.unlink()  # It is damaged, and will be rewritten.
            return tf.train.CheckpointManager(*options)

    def restore(self) -> bool:
        """Restores the newest complete checkpoint.

        Damaged checkpoints are skipped with a warning, and are not removed.

        Returns:
          Whether there is one. An unfinished first one does not count.

        Raises:
          UsageError: If there are checkpoints and all are damaged.
        """
        names = [path.name for path in self._directory.glob("ckpt-*")]
        matches = [re.fullmatch(r"ckpt-(\d+)\..+", name) for name in names]
        numbers = {int(match[1]) for match in matches if match}
        for number in sorted(numbers, reverse=True):
            path = str(self._directory / f"ckpt-{number}")
            try:
                # Verifies all checksums before anything is changed.
                reader = tf.train.load_checkpoint(path)
                for name in reader.get_variable_to_shape_map():
                    reader.get_tensor(name)
                self._checkpoint.restore(path).assert_consumed()
                return True
            except Exception as error:  # TensorFlow may raise anything.
                warn(
                    f"the checkpoint {path} is damaged or was not finished "
                    f"({reason(error)}); trying the one before"
                )
        if numbers and self._list.exists():
            raise UsageError(
                f"none of the {len(numbers)} checkpoints in {self._directory} "
                "can be used; start anew with another `run_dir`, or delete "
                "this one"
            )
        return False
