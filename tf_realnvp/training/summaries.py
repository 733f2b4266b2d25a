"""TensorBoard summaries of a training run."""

import os
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.errors import InvalidArgumentError, ResourceExhaustedError

from tf_realnvp.analysis import plots
from tf_realnvp.data import ImageDataset
from tf_realnvp.errors import reason
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.console import warn

_NUM_SAMPLES = 36
_NUM_COLUMNS, _MAX_ROWS = 8, 20  # Of samples of classes.
_SECONDS_BETWEEN = 10.0


def layout_of_samples(
    model: RealNVP, dataset: ImageDataset
) -> tuple[int, dict[str, Any], int | None]:
    """Returns the layout of a grid of samples: up to 20 classes, a row each.

    Args:
      model: The model.
      dataset: The data set; the samples have the context of its test images.

    Returns:
      The number of samples; what they are conditioned on, arguments of
      `RealNVP.sample`; and the number of columns, `None` without classes.
    """
    count, columns = _NUM_SAMPLES, None
    condition: dict[str, Any] = {}
    if model.num_classes is not None:
        classes = np.arange(min(model.num_classes, _MAX_ROWS))
        condition["label"] = np.repeat(classes, _NUM_COLUMNS)
        count, columns = len(condition["label"]), _NUM_COLUMNS
    if model.context_shape is not None:
        places = (np.arange(count) % dataset.num_test).tolist()
        condition["context"] = dataset.context("test", places)
    return count, condition, columns


class Summaries:
    """Writes TensorBoard event files of a training run.

    Scalars by step are `bits_per_dim/train` (the mean of the epoch so far),
    `bits_per_dim/validation`, `bits_per_dim/test` (of real numbers
    `nats_per_dim/...`), `effective_share`, `gradient_norm` (also a mean),
    `learning_rate` and `images_per_second`. `samples` is a grid of 36 images,
    always from the same latents, so that one can watch the samples evolve. For
    a model with classes it has a row per class.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: ImageDataset,
        directory: str | os.PathLike,
    ):
        """Opens an event file.

        Args:
          trainer: The trainer of the run.
          dataset: The data set of the run.
          directory: Folder of the event files.
        """
        self._trainer = trainer
        # TensorFlow would make it without regard to the umask.
        files.make_directory(pathlib.Path(directory))
        self._writer = tf.summary.create_file_writer(os.fspath(directory))
        model, seed = trainer.model, trainer.config.seed
        layout = layout_of_samples(model, dataset)
        count, self._condition, self._columns = layout
        self._latents = model.sample_latents(count, seed=seed)
        decode = trainer.evaluated_model().decode
        self._decode = tf.function(decode, autograph=False)
        self._start_clock()

    def _start_clock(self):
        self._time, self._step = time.monotonic(), self._trainer.num_steps
        self._last_step = self._step

    def _write(self, step, scalars):
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)

    def write_progress(self) -> None:
        """Writes the progress of training, if ten seconds have passed."""
        trainer, values = self._trainer, self._trainer.model.values
        seconds = time.monotonic() - self._time
        num_steps = trainer.num_steps - self._step
        # The time of an evaluation, which adds no steps, is not of training.
        is_training = trainer.num_steps > self._last_step
        self._last_step = trainer.num_steps
        if seconds < _SECONDS_BETWEEN or not is_training:
            return
        num_images = num_steps * trainer.config.batch_size
        scalars = {
            f"{values.measure}/train": values.from_nats(trainer.mean_loss),
            "gradient_norm": trainer.mean_gradient_norm,
            "learning_rate": trainer.optimizer.learning_rate.numpy(),
            "images_per_second": num_images / seconds,
        }
        self._write(trainer.num_steps, scalars)
        self._start_clock()

    def write_epoch(self, metrics: Metrics) -> None:
        """Writes the metrics of an epoch."""
        values = self._trainer.model.values
        scalars = {
            f"{values.measure}/{split}": loss
            for split, loss in metrics.per_dim(values).items()
        }
        if metrics.effective_share is not None:
            scalars["effective_share"] = metrics.effective_share
        if metrics.train_loss is not None:
            scalars["gradient_norm"] = self._trainer.mean_gradient_norm
        self._write(metrics.step, scalars)
        self._writer.flush()
        self._start_clock()

    def write_samples(self, step: int) -> None:
        """Draws samples of the current model.

        Args:
          step: Number of training steps done.
        """
        self._trainer.evaluated_model()  # Brings it up to date.
        try:
            with runtime.compiling():
                images = self._decode(self._latents, **self._condition).numpy()
        except (InvalidArgumentError, ResourceExhaustedError) as error:
            # The weights may be too large, and may recover; or the memory may
            # be too small for the samples, which are many with classes.
            warn(f"cannot draw samples: {reason(error)}")
            return
        grid = plots.image_grid(
            images, self._trainer.model.values, self._columns
        )
        with self._writer.as_default(step=step):
            tf.summary.image("samples", grid[np.newaxis])
        self._writer.flush()
        self._start_clock()
