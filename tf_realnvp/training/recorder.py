"""What a run leaves in its folder while it goes on."""

import contextlib
import time
from collections.abc import Iterator

import tensorflow as tf

from tf_realnvp.config import TrainingConfig
from tf_realnvp.training import loop, metrics
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.runs import Run
from tf_realnvp.training.summaries import Summaries
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils.errors import FailureError, reason
from tf_realnvp.utils.messages import printable

# A checkpoint after each of many short epochs would cost more than a hundredth
# of the time.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Recorder(loop.Observer):
    """Writes checkpoints, metrics, and summaries for TensorBoard."""

    def __init__(
        self,
        config: TrainingConfig,
        run: Run,
        trainer: Trainer,
        checkpoints: Checkpoints,
    ):
        """Makes the recorder of a run that has begun.

        Args:
          config: The settings.
          run: Its folder.
          trainer: What is trained.
          checkpoints: The checkpoints of the trainer.
        """
        self._config, self._run = config, run
        self._trainer, self._checkpoints = trainer, checkpoints
        with writing("the summaries", run.path):
            self._summaries = Summaries(
                trainer, run.path / "logs", config.batch_size, config.seed
            )
        self._last_save = time.monotonic()
        self._saved = list(trainer.history)

    def after_steps(self):
        with writing("the summaries", self._run.path):
            self._summaries.write_progress()
        minutes = (time.monotonic() - self._last_save) / 60.0
        if minutes >= self._config.checkpoint_minutes:
            self._save()

    def after_epoch(self, metrics):
        # Before the checkpoint: what a kill leaves out is done again.
        self._write_metrics()
        with writing("the summaries", self._run.path):
            self._summaries.write_epoch(metrics)
            if metrics.epoch % self._config.samples_every == 0:
                self._summaries.write_samples(metrics.step)
        if time.monotonic() - self._last_save >= _SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    def finish(self, is_done: bool) -> None:
        """Saves what is left to be saved.

        Args:
          is_done: Whether the training is done.
        """
        if not is_done:
            self._save()
            return
        # Of the last epoch, whatever its number, and of whichever process
        # trained it.
        with writing("the summaries", self._run.path):
            self._summaries.write_samples(self._trainer.history[-1].step)
        # The best epoch may have been evaluated on the test images.
        self._write_metrics()
        if self._trainer.history != self._saved:
            self._save()

    def _write_metrics(self):
        with writing("the metrics", self._run.path):
            metrics.write_csv(
                self._run.path / "metrics.csv", self._trainer.history
            )

    def _save(self):
        with writing("a checkpoint", self._run.path):
            self._checkpoints.save()
        self._last_save = time.monotonic()
        self._saved = list(self._trainer.history)


@contextlib.contextmanager
def writing(what: str, where: object) -> Iterator[None]:
    """Explains what was being written when that fails.

    Args:
      what: What is written.
      where: Its path.

    Raises:
      FailureError: If it cannot be written.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise FailureError(
            f"cannot write {what} to {printable(where)}: {reason(error)}. "
            "What was there before still is: make room, then go on: the "
            "same call, or the command with --resume"
        ) from error
