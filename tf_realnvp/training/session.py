"""One training, from its images to its result: `Session`."""

import contextlib
import dataclasses
import itertools
import pathlib
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
from tf_realnvp.training import loop, metrics, results, workers
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.runs import Run
from tf_realnvp.training.summaries import Summaries
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import (
    DivergedError,
    Error,
    FailureError,
    UsageError,
    reason,
)
from tf_realnvp.utils.messages import warn

# Checkpoints after many short epochs would cost more than 1 % of the time.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Session:
    """A training, of the command or of Python: `begin`, `fit`, `finish`.

    Attributes:
      config: The settings.
      dataset: The images, of which some may be held out.
      trainer: The trainer.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: RealNVP,
        dataset: ImageDataset,
        run: Run | None = None,
    ):
        """Makes what trains a model, in the scope that the model was made in.

        Args:
          config: The settings.
          model: The model.
          dataset: Its images.
          run: The folder of the run. Default: nothing is written.

        Raises:
          UsageError: If the run is of other images, or there are too few.
          ValueError: If all of the model is frozen, or it was made outside of
            the scope that is in use.
        """
        # The probabilities need not be the frequencies in these images.
        description = dataclasses.replace(
            DataDescription.of(dataset), class_probs=model.class_probs or ()
        )
        if run is not None:
            run.check_same_images(description, dataset.name)
        held_out = _hold_out(
            dataset, config.num_validation or 0, config.batch_size, config.seed
        )
        scope = _strategy_of(model).scope
        with explained(dataset), scope():
            trainer = Trainer.from_config(model, config, held_out.num_train)
        folder = pathlib.Path(config.run_dir) / "checkpoints"
        self.config, self.dataset, self.trainer = config, held_out, trainer
        self._run, self._description, self._scope = run, description, scope
        self._checkpoints = Checkpoints(trainer, folder)

    @classmethod
    def from_config(
        cls, config: TrainingConfig, run: Run | None, resume: bool
    ) -> "Session":
        """Loads the images that the settings name, and makes a model of them.

        Args:
          config: The settings.
          run: The folder of the run. Default: this is a worker that writes
            nothing.
          resume: Whether the run is to be resumed; all workers must agree.

        Raises:
          UsageError: If there are no such images, they cannot be trained on
            with these settings, or the results cannot be written.
        """
        if runtime.is_one_of_many():
            strategy = workers.connect()
        else:
            strategy = runtime.make_strategy(config.devices)
        dataset = data.load(
            config.dataset,
            config.data_dir,
            config.image_size,
            config.flip,
            config.num_bits,
            config.conditional,
        )
        if dataset.skipped:
            warn(describe_skipped(dataset.skipped))
        description = DataDescription.of(dataset)
        if run is not None:
            results.check(config, dataset)
            run.check_same_images(description, dataset.name)
            description = run.data or description
        with explained(dataset):
            config = workers.agree_on_settings(config, description, resume)
            with strategy.scope():
                keras.utils.set_random_seed(config.seed)
                try:
                    model = RealNVP(
                        **config.architecture, **description.of_images
                    )
                except ValueError as error:  # Too many scales.
                    raise UsageError(str(error)) from error
        return cls(config, model, dataset, run)

    def begin(self, resume: bool) -> bool:
        """Restores the last checkpoint, or sets the first weights.

        Those are the model's own, if it is not new; or those of `init_from`; or
        those of data-dependent initialization.

        Args:
          resume: Whether to restore a checkpoint, if there is one.

        Returns:
          Whether there was one.

        Raises:
          UsageError: If no checkpoint can be read, the model of `init_from`
            cannot be used, or the workers of a job differ.
          FailureError: If the run's state cannot be written.
        """
        config, trainer, dataset = self.config, self.trainer, self.dataset
        model, state = trainer.model, itertools.chain(*trainer.state.values())
        with explained(dataset):
            restored = resume and self._checkpoints.restore()
            step = f"the checkpoint of step {trainer.num_steps:,}"
            found = step if restored else None
            workers.agree_on_state(state, found, "`run_dir`")
            is_given = not restored and not model.is_identity()
            if config.init_from is not None and not restored:
                weights.assign_weights(
                    model, config.init_from, dataset.class_names
                )
                values = (variable.value for variable in model.variables)
                workers.agree_on_state(values, "weights", "`init_from`")
            elif not (restored or is_given):
                self._initialize()
        if self._run is not None:
            # Before any checkpoint: a folder without it is refused.
            with writing("the run's state", self._run.path):
                self._run.begin(config, self._description, dataset.metadata)
                if is_given:  # No seed gives these weights again.
                    self._checkpoints.save()
        return restored

    def fit(
        self,
        observer: loop.Observer,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Trains to the end, and saves what it has come to in any case.

        Args:
          observer: Observer notified of progress.
          should_stop: Called after every few steps; ends the training if true.

        Raises:
          DataError: If an image cannot be read.
          FailureError: If training diverges, the memory does not suffice,
            something cannot be written, or another worker is gone.
        """
        config, recorder = self.config, None
        if self._run is not None:
            recorder = _Recorder(
                self.trainer,
                self._checkpoints,
                self._run.path,
                config,
                observer,
            )
        # Outside of the scope: what a checkpoint adds is of the chief alone.
        with explained(self.dataset):
            try:
                is_done = loop.fit(
                    self.trainer,
                    self.dataset,
                    config.epochs,
                    config.batch_size,
                    config.max_steps,
                    recorder or observer,
                    should_stop,
                )
            except (Error, tf.errors.OpError):
                raise  # A step may be half done.
            except BaseException:  # Ctrl-C, or what the observer raised.
                if recorder is not None:
                    recorder.save()
                raise
            if recorder is not None:
                recorder.finish(is_done)

    def finish(self, write_results: bool) -> list[pathlib.Path]:
        """Ends a run whose training is done.

        Args:
          write_results: Whether to write SavedModel, metrics and figures.

        Returns:
          What was written.

        Raises:
          FailureError: If something cannot be written.
        """
        written: list[pathlib.Path] = []
        if write_results:
            with writing("the results", self.config.output_dir):
                written = results.write(self.config, self.dataset, self.trainer)
        if self._run is not None:
            with writing("the run's state", self._run.path):
                self._run.finish()
        return written

    def _initialize(self):
        """Fits the model to images; cut short, it stays as it was."""
        model, seed = self.trainer.model, self.config.seed
        before = [variable.numpy() for variable in model.variables]
        try:
            with runtime.tensor_float_32(False), self._scope():
                images = self.dataset.initial_images(seed)
                initialization.initialize(model, images, seed)
        except BaseException:
            for variable, value in zip(model.variables, before, strict=True):
                variable.assign(value)
            raise


class _Recorder(loop.Observer):
    """Writes checkpoints, metrics and summaries, and notifies another one."""

    def __init__(self, trainer, checkpoints, path, config, observer):
        self._trainer, self._checkpoints = trainer, checkpoints
        self._path, self._config, self._observer = path, config, observer
        with writing("the summaries", path):
            self._summaries = Summaries(
                trainer, path / "logs", config.batch_size, config.seed
            )
        self._last_save = time.monotonic()
        self._saved = list(trainer.history)

    def progress(self, title, num_steps):
        return self._observer.progress(title, num_steps)

    def after_steps(self):
        with writing("the summaries", self._path):
            self._summaries.write_progress()
        self._save_after(60.0 * self._config.checkpoint_minutes)
        self._observer.after_steps()

    def after_epoch(self, metrics):
        # Before the checkpoint: what a kill leaves out is done again.
        self._write_metrics()
        with writing("the summaries", self._path):
            self._summaries.write_epoch(metrics)
            if metrics.epoch % self._config.samples_every == 0:
                self._summaries.write_samples(metrics.step)
        self._save_after(_SECONDS_BETWEEN_CHECKPOINTS)
        self._observer.after_epoch(metrics)

    def finish(self, is_done):
        """Saves what is not saved yet."""
        if not is_done:
            self.save()
            return
        # Of the last epoch, whatever its number and whoever trained it.
        with writing("the summaries", self._path):
            self._summaries.write_samples(self._trainer.history[-1].step)
        # The best epoch may have been evaluated on the test images.
        self._write_metrics()
        if self._trainer.history != self._saved:
            self.save()

    def save(self):
        """Saves a checkpoint."""
        with writing("a checkpoint", self._path):
            self._checkpoints.save()
        self._last_save = time.monotonic()
        self._saved = list(self._trainer.history)

    def _save_after(self, seconds):
        if time.monotonic() - self._last_save >= seconds:
            self.save()

    def _write_metrics(self):
        with writing("the metrics", self._path):
            metrics.write_csv(self._path / "metrics.csv", self._trainer.history)


def _hold_out(dataset, num_validation, batch_size, seed):
    """Returns a data set with what is held out, if it has enough images."""
    if num_validation + batch_size > dataset.num_train:
        raise UsageError(
            f"argument `batch_size`: {batch_size}, beside {num_validation} "
            f"images for validation, is more than the {dataset.num_train} "
            f"training images of {dataset.name}"
        )
    return dataset.hold_out(num_validation, seed) if num_validation else dataset


def _strategy_of(model):
    """Returns the `tf.distribute` strategy that a model was made in."""
    variable = model.variables[0].value
    current = tf.distribute.get_strategy()
    if not tf.distribute.has_strategy():
        return getattr(variable, "distribute_strategy", None) or current
    if not current.extended.variable_created_in_scope(variable):
        raise ValueError(
            "The model must be made in the scope of the `tf.distribute` "
            "strategy that it is trained in."
        )
    return current


@contextlib.contextmanager
def explained(dataset: ImageDataset) -> Iterator[None]:
    """Tells users what the errors of training mean.

    Args:
      dataset: What is trained on.

    Raises:
      DataError: If an image cannot be read.
      FailureError: If training diverges, the memory does not suffice, or a
        worker is gone.
    """
    try:
        with dataset.naming_damage():
            yield
    except DivergedError as error:
        raise DivergedError(
            f"training diverged: {error}. Try `clip_grad` 1 or a smaller `lr`, "
            "from the last checkpoint (the command with --resume) or in "
            "another `run_dir`"
        ) from error
    except tf.errors.ResourceExhaustedError as error:
        raise FailureError(
            f"out of memory: {reason(error)}. Try `accumulate` 4, or "
            "`recompute` as well"
        ) from error
    except tf.errors.OpError as error:
        if not runtime.is_one_of_many():
            raise
        raise FailureError(
            f"a worker of the job has gone ({reason(error)}): start all of "
            "them again, with --resume"
        ) from error


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
            f"cannot write {what} to {where}: {reason(error)}. What was there "
            "before still is: make room, then go on: the same call, or the "
            "command with --resume"
        ) from error
