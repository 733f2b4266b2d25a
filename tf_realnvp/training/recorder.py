"""What a training writes to the folder of its run."""

import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.data import ImageDataset
from tf_realnvp.errors import FailureError, reason
from tf_realnvp.training import metrics
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.runs import Run
from tf_realnvp.training.summaries import Summaries
from tf_realnvp.training.trainer import Trainer

# Without a minimum, checkpoints after short epochs would take more than 1 % of
# the time.
SECONDS_BETWEEN_CHECKPOINTS = 30.0


@contextlib.contextmanager
def naming_write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Converts errors of writing to a `FailureError` that names the target.

    Args:
      path: The target.

    Raises:
      FailureError: If writing fails.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise FailureError(
            f"cannot write to {path}: {reason(error)}. What was there before "
            "still is: make room, then go on: the same call, or the command "
            "with --resume"
        ) from error


def _to_run(method):
    """Decorator of methods that write to the run, if there is one."""

    @functools.wraps(method)
    def write(self, *args):
        if self._run is not None:
            with naming_write_errors(self._run.path):
                method(self, *args)

    return write


class Recorder:
    """Writes checkpoints, metrics and summaries to the folder of a run.

    Its methods raise `FailureError` if something cannot be written.

    Attributes:
      checkpoints: The checkpoints of the run.
    """

    _run: Any  # A `Run` in all methods that write to it.

    def __init__(self, run: Run | None, trainer: Trainer):
        """Creates a recorder.

        Args:
          run: The run to write to; `None` to write nothing.
          trainer: The trainer.
        """
        self._run, self._trainer, self._config = run, trainer, trainer.config
        folder = pathlib.Path(trainer.config.run_dir)
        self.checkpoints = Checkpoints(trainer, folder / "checkpoints")

    @_to_run
    def begin(self, data: DataDescription, dataset: ImageDataset) -> None:
        """Records that the run starts or is resumed, as `Run.begin`."""
        # Before any checkpoint, since a folder without `run.json` is refused.
        model = self._trainer.model
        metadata = dict(model.metadata)
        self._run.begin(self._config, data, metadata, model.frozen)
        folder = self._run.path / "logs"
        self._summaries = Summaries(self._trainer, dataset, folder)
        self._last_save = time.monotonic()

    @_to_run
    def change(self, config: TrainingConfig) -> None:
        """Records that the settings are others now."""
        run = self._run
        run.begin(config, run.data, run.metadata, run.frozen)

    @_to_run
    def after_steps(self) -> None:
        """Records the progress of the training, if enough time has passed."""
        self._summaries.write_progress()
        self._save_after(60.0 * self._config.checkpoint_minutes)

    @_to_run
    def after_epoch(self, metrics: Metrics) -> None:
        """Records the metrics of an epoch."""
        # Before the checkpoint, so that after a kill it is done again.
        self._write_metrics()
        self._summaries.write_epoch(metrics)
        if metrics.epoch % self._config.samples_every == 0:
            self._summaries.write_samples(metrics.step)
        self._save_after(SECONDS_BETWEEN_CHECKPOINTS)

    @_to_run
    def after_training(self) -> None:
        """Records the end of the training."""
        # The best epoch may have been evaluated on the test images.
        self._write_metrics()
        self.save()

    @_to_run
    def save(self) -> None:
        """Saves a checkpoint."""
        self.checkpoints.save()
        self._last_save = time.monotonic()

    @_to_run
    def after_results(self) -> None:
        """Records that the results of the run are written."""
        self._run.finish()

    def _save_after(self, seconds):
        if time.monotonic() - self._last_save >= seconds:
            self.save()

    def _write_metrics(self):
        path, trainer = self._run.path / "metrics.csv", self._trainer
        metrics.write_csv(path, trainer.history, trainer.model.values)
