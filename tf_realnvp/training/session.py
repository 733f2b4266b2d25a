"""`Session`: one training, from loading the images to writing the results."""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from tf_realnvp import data, initialization
from tf_realnvp.config import TrainingConfig
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

# Without a minimum, checkpoints after short epochs would take more than 1 % of
# the time.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Session:
    """A training, used by both the command and `tf_realnvp.train`.

    Call `begin`, `fit` and `finish`, in this order.

    Attributes:
      config: The settings.
      dataset: The data set; validation images are held out already.
      trainer: The trainer.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: RealNVP,
        dataset: ImageDataset,
        run: Run | None = None,
    ):
        """Creates a training, in the `tf.distribute` scope of the model.

        Args:
          config: The settings.
          model: The model.
          dataset: The images to train on.
          run: The run to write to. Default: nothing is written.

        Raises:
          UsageError: If there are too few training images.
          ValueError: If the whole model is frozen, or if it was created outside
            of the current scope.
        """
        # The model's class probabilities may differ from the frequencies in
        # these images.
        description = dataclasses.replace(
            dataset.description, class_probs=model.class_probs or ()
        )
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
        """Loads the data set and creates a model, as the settings say.

        Args:
          config: The settings.
          run: The run to write to; `None` in a worker that writes nothing.
          resume: Whether to resume the run; must be the same in all workers.

        Raises:
          UsageError: If the data set cannot be loaded, cannot be trained on
            with these settings, or if the results cannot be written.
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
        description = dataset.description
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
        """Restores the last checkpoint, or sets the initial weights.

        Initial weights come from the SavedModel `init_from` (warm start); or
        they are those of the model, if it is not new; or they come from
        data-dependent initialization.

        Args:
          resume: Whether to restore a checkpoint, if there is one.

        Returns:
          Whether a checkpoint was restored.

        Raises:
          UsageError: If no checkpoint can be read, the model of `init_from`
            cannot be used, or the workers of a job differ.
          FailureError: If the state of the run cannot be written.
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
            # Before any checkpoint, since a folder without `run.json` is
            # refused.
            with writing("the run's state", self._run.path):
                self._run.begin(config, self._description, dataset.metadata)
                if is_given:  # The weights cannot be recreated from a seed.
                    self._checkpoints.save()
        return restored

    def fit(
        self,
        observer: loop.Observer,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Trains to the end, and saves a checkpoint even if interrupted.

        After an error of this package or of TensorFlow none is saved.

        Args:
          observer: Observer notified of progress.
          should_stop: Called after every group of steps; training stops if it
            returns `True`.

        Raises:
          DataError: If an image cannot be read.
          FailureError: If training diverges, memory runs out, something cannot
            be written, or another worker is lost.
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
        # Outside of the strategy's scope, since only the chief creates the
        # variables of checkpoints.
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
                raise  # A step may be incomplete.
            except BaseException:  # Ctrl-C, or an exception of the observer.
                if recorder is not None:
                    recorder.save()
                raise
            if recorder is not None:
                recorder.finish(is_done)

    def finish(self, write_results: bool) -> list[pathlib.Path]:
        """Ends a run whose training is complete.

        Args:
          write_results: Whether to write the SavedModel, metrics and figures.

        Returns:
          Paths of the written results.

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
        """Runs data-dependent initialization; if interrupted, reverts it."""
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
    """Observer that writes the run's files and notifies another observer."""

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
        # Before the checkpoint, so that after a kill it is done again.
        self._write_metrics()
        with writing("the summaries", self._path):
            self._summaries.write_epoch(metrics)
            if metrics.epoch % self._config.samples_every == 0:
                self._summaries.write_samples(metrics.step)
        self._save_after(_SECONDS_BETWEEN_CHECKPOINTS)
        self._observer.after_epoch(metrics)

    def finish(self, is_done):
        """Saves what has not been saved yet."""
        if not is_done:
            self.save()
            return
        # For the last epoch, whatever `samples_every` is.
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
    """Holds out validation images, if there are enough training images."""
    if num_validation + batch_size > dataset.num_train:
        raise UsageError(
            f"argument `batch_size`: {batch_size}, beside {num_validation} "
            f"images for validation, is more than the {dataset.num_train} "
            f"training images of {dataset.name}"
        )
    return dataset.hold_out(num_validation, seed) if num_validation else dataset


def _strategy_of(model):
    """Returns the `tf.distribute` strategy in which a model was created."""
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
    """Converts errors of training to errors that tell users what to do.

    Args:
      dataset: The data set that is trained on.

    Raises:
      DataError: If an image cannot be read.
      FailureError: If training diverges, memory runs out, or a worker is lost.
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
    """Converts errors of writing to a `FailureError` that names the target.

    Args:
      what: Description of the target.
      where: Path of the target.

    Raises:
      FailureError: If writing fails.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise FailureError(
            f"cannot write {what} to {where}: {reason(error)}. What was there "
            "before still is: make room, then go on: the same call, or the "
            "command with --resume"
        ) from error
