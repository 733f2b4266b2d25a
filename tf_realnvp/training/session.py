"""A run of the training command, from the data set to the results."""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from tf_realnvp import data, initialization
from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.data import ImageDataset
from tf_realnvp.data.image_dataset import describe_skipped
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import weights
from tf_realnvp.serving.metadata import describe_levels
from tf_realnvp.training import loop, results, workers
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.progress import Progress
from tf_realnvp.training.recorder import Recorder, writing
from tf_realnvp.training.runs import Run
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import (
    DivergedError,
    FailureError,
    UsageError,
    reason,
)
from tf_realnvp.utils.messages import counted, printable


class Session:
    """A run that is ready to train: `fit` it, then `write_results`."""

    def __init__(
        self, config: TrainingConfig, run: Run | None, resume: bool = False
    ):
        """Loads the images and makes, or restores, what is trained on them.

        Args:
          config: The settings.
          run: The folder of the run; `None` for a worker that writes nothing.
          resume: Whether to go on from the last checkpoint, if there is one.

        Raises:
          UsageError: If the user has to change something.
          FailureError: If something went wrong that the user should know of.
        """
        self._run = run
        if runtime.is_one_of_many():
            self._strategy = workers.connect()
        else:
            self._strategy = runtime.make_strategy(config.devices)
        if run is not None:
            results.check_folder(config)
        dataset, description = _load(config, run)
        if runtime.is_one_of_many():
            with _explaining(dataset):
                config = workers.agree_on_settings(config, description, resume)
        self._config = config
        self._dataset = dataset = hold_out(config, dataset)
        if run is not None:
            results.check_names(config, dataset.name)
        self._trainer = self._make_trainer(description)
        _print_header(config, dataset, self._trainer.model)
        self._checkpoints = Checkpoints(
            self._trainer, pathlib.Path(config.run_dir) / "checkpoints"
        )
        if not self._restore(resume):
            self._set_first_weights()
        if run is not None:
            with writing("the run's state", run.path):
                run.begin(config, description, dataset.metadata)

    def fit(self, should_stop: Callable[[], bool], start: float) -> None:
        """Trains, with a checkpoint now and then, after epochs and at the end.

        Args:
          should_stop: Is asked whenever some steps are done.
          start: `time.monotonic()` when the command was started.

        Raises:
          UsageError: If the user has to change something.
          FailureError: If something went wrong that the user should know of.
        """
        config, trainer = self._config, self._trainer
        recorder = None
        if self._run is not None:
            recorder = _Reporter(config, self._run, trainer, self._checkpoints)
        with _explaining(self._dataset):
            is_done = loop.fit(
                trainer,
                self._dataset,
                config.epochs,
                config.batch_size,
                config.max_steps,
                recorder,
                should_stop,
            )
            if recorder is not None:
                recorder.finish(is_done)
        if should_stop():
            print(
                f"\nsaved a checkpoint at step {trainer.num_steps:,}: the same "
                "command with --resume goes on from it",
                flush=True,
            )
        elif recorder is not None:
            recorder.print_summary(start)

    def write_results(self) -> None:
        """Writes the SavedModel, the metrics and the pictures.

        Raises:
          FailureError: If something cannot be written.
        """
        if self._run is None:
            return
        print("writing the results", flush=True)
        try:
            with writing("the results", self._config.output_dir):
                written = results.write(
                    self._config, self._dataset, self._trainer
                )
        except Exception:
            raise
        except BaseException:  # A signal.
            print(
                "the results are not complete: the same command with --resume "
                "writes them",
                flush=True,
            )
            raise
        for path in written:
            print(f"  {printable(path)}")
        with writing("the run's state", self._run.path):
            self._run.finish()

    def _make_trainer(self, description):
        """Makes the model and what trains it, on all devices."""
        config, dataset = self._config, self._dataset
        with _explaining(dataset), self._strategy.scope():
            keras.utils.set_random_seed(config.seed)
            model = RealNVP(**config.architecture, **description.of_images)
            return Trainer.from_config(model, config, dataset.num_train)

    def _restore(self, resume):
        """Returns whether the training goes on from a checkpoint."""
        restored = resume and self._checkpoints.restore()
        if restored:
            print(f"going on from step {self._trainer.num_steps:,}", flush=True)
        elif resume:
            print("there is no checkpoint yet: starting from the beginning")
        found = None
        if restored:
            found = f"the checkpoint of step {self._trainer.num_steps:,}"
        self._agree_on_state(found, "`run_dir`")
        return restored

    def _agree_on_state(self, found, where):
        if runtime.is_one_of_many():
            with _explaining(self._dataset):
                workers.agree_on_state(self._trainer, found, where)

    def _set_first_weights(self):
        """Takes those of another model, or starts from data."""
        config, model = self._config, self._trainer.model
        if config.init_from is not None:
            names = self._dataset.class_names
            weights.assign_weights(model, config.init_from, names)
            self._agree_on_state("weights", "`init_from`")
            return
        with _explaining(self._dataset), self._strategy.scope():
            images = self._dataset.initial_images(config.seed)
            initialization.initialize(model, images, config.seed)


class _Reporter(Recorder):
    """Shows on standard output, too, how it goes."""

    def __init__(self, config, run, trainer, checkpoints):
        super().__init__(config, run, trainer, checkpoints)
        self._begin = time.monotonic()
        self._evaluation_seconds = 0.0
        self._step = trainer.num_steps
        self._first_step_done: float | None = None

    def progress(self, title, num_steps):
        return Progress(title, num_steps)

    def after_steps(self):
        if self._first_step_done is None and (
            self._trainer.num_steps > self._step
        ):
            self._first_step_done = time.monotonic()
        super().after_steps()

    def after_epoch(self, metrics):
        if metrics.epoch == 0:
            self._evaluation_seconds = time.monotonic() - self._begin
        super().after_epoch(metrics)
        if self._config.verbose or metrics.epoch == 0:
            _print_metrics(metrics, self._config.epochs)

    def print_summary(self, start: float) -> None:
        """Prints what has come out.

        Args:
          start: `time.monotonic()` when the command was started.
        """
        trainer, result = self._trainer, self._trainer.result_metrics()
        if not self._config.verbose or result.validation_loss is not None:
            _print_metrics(result, self._config.epochs)
        if trainer.num_skipped:
            print(
                f"{trainer.num_skipped:,} steps were skipped, since their loss "
                "or gradient was not finite"
            )
        if self._first_step_done is not None:
            startup = self._first_step_done - start - self._evaluation_seconds
            print(
                f"the first training step was done {startup:.1f} s after the "
                f"start, not counting {self._evaluation_seconds:.1f} s of "
                "evaluation before it"
            )


def _load(config, run):
    """Returns the data set, and its description, compared with the run's."""
    dataset = data.load(
        config.dataset,
        config.data_dir,
        config.image_size,
        config.flip,
        config.num_bits,
        config.conditional,
    )
    if dataset.skipped:
        print(f"warning: {describe_skipped(dataset.skipped)}", file=sys.stderr)
    description = DataDescription.of(dataset)
    if run is not None:
        run.check_same_images(description, dataset.name)
        if run.data is not None:
            # A model that was made in Python may have others.
            description = dataclasses.replace(
                description, class_probs=run.data.class_probs
            )
    return dataset, description


def hold_out(config: TrainingConfig, dataset: ImageDataset) -> ImageDataset:
    """Returns a data set with what is held out, and checks what is asked of it.

    Args:
      config: The settings.
      dataset: The data set.

    Raises:
      UsageError: If it has too few training images, or too small ones.
    """
    if config.num_validation:
        if config.num_validation >= dataset.num_train:
            raise UsageError(
                f"argument `num_validation`: {config.num_validation} leaves "
                f"none of the {dataset.num_train} training images of "
                f"{printable(dataset.name)}"
            )
        dataset = dataset.hold_out(config.num_validation, config.seed)
    if config.batch_size > dataset.num_train:
        raise UsageError(
            f"argument `batch_size`: {config.batch_size} is more than the "
            f"{dataset.num_train} training images of {printable(dataset.name)}"
        )
    return dataset


@contextlib.contextmanager
def _explaining(dataset: ImageDataset) -> Iterator[None]:
    """Tells users what the errors of training mean."""
    try:
        with dataset.naming_damage():
            yield
    except DivergedError as error:
        raise FailureError(
            f"training diverged: {error}. Try --clip_grad 1 or a smaller "
            "--lr, with --resume from the last checkpoint or in another "
            "--run_dir"
        ) from error
    except tf.errors.ResourceExhaustedError as error:
        raise FailureError(
            f"out of memory: {reason(error)}. Try --accumulate 4, or "
            "--recompute as well"
        ) from error
    except tf.errors.OpError as error:
        if not runtime.is_one_of_many():
            raise
        raise FailureError(
            f"a worker of the job has gone ({reason(error)}): start all of "
            "them again, with --resume"
        ) from error


def _print_header(config, dataset, model):
    size = "x".join(map(str, dataset.image_shape))
    classes = ""
    if dataset.class_names:
        classes = f", {counted(len(dataset.class_names), 'class')}"
    validation = ""
    if dataset.num_validation:
        validation = f", {dataset.num_validation:,} validation"
    print(
        f"RealNVP on {printable(dataset.name)}: {dataset.num_train:,} training"
        f"{validation} and {dataset.num_test:,} test images of {size}, "
        f"{describe_levels(dataset.num_colors)}{classes}\n"
        f"{model.num_parameters:,} parameters ({config.filters} filters, "
        f"{counted(config.num_blocks, 'residual block')}, "
        f"{config.num_scales} scales, "
        f"{len(model.couplings)} couplings), "
        f"{runtime.describe_devices(config.devices)}, {config.precision}, "
        f"seed {config.seed}",
        flush=True,
    )


def _print_metrics(metrics: Metrics, epochs: int):
    bits = metrics.bits_per_dim()
    losses = [f"{split} {value:.3f}" for split, value in bits.items()]
    if "train" not in bits:
        losses.insert(0, "before training")
    print(
        f"epoch {metrics.epoch}/{epochs}, step {metrics.step:,}: "
        f"{', '.join(losses)} bits/dim",
        flush=True,
    )
