"""One training, by the command or by `tf_realnvp.train`.

`hold_out`, `start`, `fit` and `finish` are called in this order. `load` comes
before them if the settings name the data set and the model.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from tf_realnvp import data, initialization
from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import ImageDataset
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import weights
from tf_realnvp.training import loop, metrics, results, workers
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.runs import Run
from tf_realnvp.training.summaries import Summaries
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import Error, FailureError, UsageError, reason
from tf_realnvp.utils.progress import Progress

# Without a minimum, checkpoints after short epochs would take more than 1 % of
# the time.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


def load(
    config: TrainingConfig, run: Run | None, resume: bool
) -> tuple[TrainingConfig, RealNVP, ImageDataset]:
    """Loads the data set and creates a model, as the settings say.

    Args:
      config: The settings.
      run: The run to write to; `None` in a worker that writes nothing.
      resume: Whether to resume the run; must be the same in all workers.

    Returns:
      The settings, with the precision of the chief; the model; the data set.

    Raises:
      UsageError: If the data set cannot be loaded, cannot be trained on with
        these settings, or if the results cannot be written.
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
                model = RealNVP(**config.architecture, **description.of_images)
            except ValueError as error:  # Too many scales.
                raise UsageError(str(error)) from error
    model.metadata = dataset.metadata
    return config, model, dataset


def hold_out(config: TrainingConfig, dataset: ImageDataset) -> ImageDataset:
    """Holds out the validation images, if any.

    Args:
      config: The settings.
      dataset: The data set.

    Raises:
      UsageError: If there are too few training images.
    """
    num_validation = config.num_validation or 0
    if num_validation + config.batch_size > dataset.num_train:
        raise UsageError(
            f"argument `batch_size`: {config.batch_size}, beside "
            f"{num_validation} images for validation, is more than the "
            f"{dataset.num_train} training images of {dataset.name}"
        )
    if num_validation:
        return dataset.hold_out(num_validation, config.seed)
    return dataset


def start(
    config: TrainingConfig,
    model: RealNVP,
    dataset: ImageDataset,
    run: Run | None,
    resume: bool,
) -> tuple[Trainer, Checkpoints, bool]:
    """Creates a trainer; restores the last checkpoint, or initializes weights.

    Initial weights come from the SavedModel `init_from` (warm start); or they
    are those of the model, if it is not new; or they come from data-dependent
    initialization.

    Args:
      config: The settings.
      model: The model to train, in place.
      dataset: The data set, after `hold_out`.
      run: The run to write to; `None` to write nothing.
      resume: Whether to restore a checkpoint, if there is one.

    Returns:
      The trainer, its checkpoints, and whether one was restored.

    Raises:
      UsageError: If no checkpoint can be read, the model of `init_from` cannot
        be used, or the workers of a job differ.
      FailureError: If the state of the run cannot be written.
      ValueError: If the whole model is frozen, or if it was created outside of
        the current `tf.distribute` scope.
    """
    strategy = _strategy_of(model)
    with explained(dataset):
        with strategy.scope():
            trainer = Trainer.from_config(model, config, dataset.num_train)
        folder = pathlib.Path(config.run_dir) / "checkpoints"
        checkpoints = Checkpoints(trainer, folder)
        restored = resume and checkpoints.restore()
        found = f"step {trainer.num_steps:,}"
        state = itertools.chain(*trainer.state.values())
        workers.agree_on_state(state, found if restored else None, "run_dir")
        is_given = not restored and not model.is_identity()
        if config.init_from is not None and not restored:
            weights.assign_weights(model, config.init_from)
            workers.agree_on_state(model.variables, "weights", "init_from")
        elif not (restored or is_given):
            _initialize(model, dataset, config.seed, strategy)
    if run is not None:
        description = dataclasses.replace(
            dataset.description,
            num_train=dataset.num_train + dataset.num_validation,
            # They may differ from the frequencies in these images.
            class_probs=model.class_probs or (),
        )
        # Before any checkpoint, since a folder without `run.json` is refused.
        with writing(run.path):
            run.begin(config, description, dataset.metadata)
            if is_given:  # The weights cannot be recreated from a seed.
                checkpoints.save()
    return trainer, checkpoints, restored


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


def _initialize(model, dataset, seed, strategy):
    """Runs data-dependent initialization; if interrupted, reverts it."""
    before = [variable.numpy() for variable in model.variables]
    try:
        with runtime.tensor_float_32(False), strategy.scope():
            if dataset.values.are_real:
                model.standardize(*dataset.moments())
            images = dataset.initial_images(seed)
            initialization.initialize(model, images, seed)
    except BaseException:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        raise


def fit(
    config: TrainingConfig,
    trainer: Trainer,
    dataset: ImageDataset,
    checkpoints: Checkpoints,
    run: Run | None,
    on_epoch: Callable[[Metrics], None],
    should_stop: Callable[[], bool] = lambda: False,
    display: Callable[[str, int], Progress] = Progress,
) -> bool:
    """Trains to the end, and saves a checkpoint even if interrupted.

    After an error of this package or of TensorFlow none is saved.

    Args:
      config: The settings.
      trainer: The trainer.
      dataset: The data set, after `hold_out`.
      checkpoints: The checkpoints of the trainer.
      run: The run to write to; `None` to write nothing.
      on_epoch: As for `loop.fit`.
      should_stop: As for `loop.fit`.
      display: As for `loop.fit`.

    Returns:
      As `loop.fit`.

    Raises:
      DataError: If an image cannot be read.
      DivergedError: If too many consecutive steps were not finite.
      FailureError: If something cannot be written, or another worker is lost.
    """
    lengths = config.epochs, config.batch_size, config.max_steps
    # Outside of the strategy's scope, since only the chief creates the
    # variables of checkpoints.
    with explained(dataset):
        if run is None:
            return loop.fit(
                trainer, dataset, *lengths, on_epoch, should_stop, display
            )
        with writing(run.path):
            recorder = _Recorder(config, trainer, checkpoints, run.path)

        def after_epoch(metrics):
            with writing(run.path):
                recorder.after_epoch(metrics)
            on_epoch(metrics)

        def after_steps():
            with writing(run.path):
                recorder.after_steps()
            return should_stop()

        try:
            is_done = loop.fit(
                trainer, dataset, *lengths, after_epoch, after_steps, display
            )
        except (Error, tf.errors.OpError):
            raise  # A step may be incomplete.
        except BaseException:  # Ctrl-C, or an exception of `on_epoch`.
            with writing(run.path):
                recorder.save()
            raise
        with writing(run.path):
            recorder.finish(is_done)
        return is_done


class _Recorder:
    """Writes checkpoints, metrics and summaries to the folder of a run."""

    def __init__(self, config, trainer, checkpoints, path):
        self._config, self._trainer = config, trainer
        self._checkpoints, self._path = checkpoints, path
        self._summaries = Summaries(trainer, path / "logs", config.batch_size)
        self._last_save = time.monotonic()

    def after_steps(self):
        self._summaries.write_progress()
        self._save_after(60.0 * self._config.checkpoint_minutes)

    def after_epoch(self, metrics):
        # Before the checkpoint, so that after a kill it is done again.
        self._write_metrics()
        self._summaries.write_epoch(metrics)
        if metrics.epoch % self._config.samples_every == 0:
            self._summaries.write_samples(metrics.step)
        self._save_after(_SECONDS_BETWEEN_CHECKPOINTS)

    def finish(self, is_done):
        """Saves the end of the training."""
        if is_done:
            last = self._trainer.history[-1]
            if last.epoch % self._config.samples_every:  # No samples of it yet.
                self._summaries.write_samples(last.step)
            # The best epoch may have been evaluated on the test images.
            self._write_metrics()
        self.save()

    def save(self):
        """Saves a checkpoint."""
        self._checkpoints.save()
        self._last_save = time.monotonic()

    def _save_after(self, seconds):
        if time.monotonic() - self._last_save >= seconds:
            self.save()

    def _write_metrics(self):
        path, trainer = self._path / "metrics.csv", self._trainer
        metrics.write_csv(path, trainer.history, trainer.model.values)


def finish(run: Run) -> None:
    """Records that the training is complete and its results are written.

    Raises:
      FailureError: If the state of the run cannot be written.
    """
    with writing(run.path):
        run.finish()


@contextlib.contextmanager
def explained(dataset: ImageDataset) -> Iterator[None]:
    """Converts errors of training to errors that tell users what to do.

    Args:
      dataset: The data set that is trained on.

    Raises:
      DataError: If an image cannot be read.
      FailureError: If a worker is lost.
    """
    try:
        with dataset.naming_damage():
            yield
    except tf.errors.OpError as error:
        if not runtime.is_one_of_many():
            raise
        raise FailureError(
            f"a worker of the job has gone ({reason(error)}): start all of "
            "them again, with --resume"
        ) from error


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
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
