"""`Training`: one training, by the command or by `tf_realnvp.train`."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import ImageDataset
from tf_realnvp.errors import Error, FailureError, UsageError, reason
from tf_realnvp.flow import initialization
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.serving import weights
from tf_realnvp.training import loop, workers
from tf_realnvp.training.clock import Clock
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.objectives import ReverseKL
from tf_realnvp.training.recorder import Recorder
from tf_realnvp.training.runs import Run
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import runtime
from tf_realnvp.utils.console import Progress, counted

_NUM_MEASURED = 100  # Steps that are measured after a warm-up.
_MAX_DELAY = 0.1  # Relative to `minutes`.
_NUM_CONTEXTS = 1024  # That standardize all; images have to be decoded.


class Training:
    """A training of a model on a data set: `open` it, `fit`, take the result.

    Attributes:
      config: The settings, with a precision that the hardware supports.
      dataset: The data set, with validation images if the settings ask for
        them.
      model: The model, which is trained in place.
      trainer: The trainer, after `open`.
      recorder: What writes to the run, after `open`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        dataset: Any,
        run: Run | None = None,
        model: RealNVP | None = None,
        objective: ReverseKL | None = None,
        clock: Clock | None = None,
    ):
        """Checks that the data set fits the settings, the run and all workers.

        Args:
          config: The settings.
          dataset: The data set, or `Draws` in its place.
          run: The run to write to and to resume; `None` to write nothing.
          model: The model. Default: a new one, as the settings say.
          objective: The objective of `Draws`. Default: `Likelihood`, for which
            a new model gets data-dependent initialization.
          clock: What times the command. Default: a new one.

        Raises:
          UsageError: If the run was started with other settings or images, if
            the workers of a job differ, or if there are too few training
            images.
        """
        description = dataset.description
        if run is not None:
            run.check_same(config, description)
            description = run.data or description
        self._run = run
        precision = runtime.settle_precision(config.precision)
        config = dataclasses.replace(config, precision=precision)
        with _naming_errors(dataset):
            workers.agree(config.shared | vars(description))
        num_validation = config.num_validation or 0
        if config.batch_size + num_validation > dataset.num_train:
            raise UsageError(
                f"argument `batch_size`: {dataset.name} has "
                f"{counted(dataset.num_train, 'training image')}, and "
                f"{config.batch_size} for a batch and {num_validation} for "
                "validation are needed"
            )
        if model is None:
            if runtime.is_one_of_many():
                strategy = workers.connect()
            else:
                strategy = runtime.make_strategy(config.devices)
            images = description.of_images
            with strategy.scope():
                keras.utils.set_random_seed(config.seed)
                try:
                    model = RealNVP(**config.architecture, **images)
                except ValueError as error:  # Too many scales.
                    raise UsageError(str(error)) from error
        if run is not None:
            run.check_frozen(model.frozen)
        self.config, self.model = config, model
        self._objective, self._clock = objective, clock or Clock()
        if model.observation is not None:
            dataset = dataclasses.replace(dataset, observe=model.observation)
        model.metadata = dataset.metadata
        # The probabilities may differ from the frequencies in these images.
        probs = model.class_probs or ()
        self._description = dataclasses.replace(description, class_probs=probs)
        if num_validation:
            dataset = dataset.hold_out(num_validation, config.seed)
        self.dataset = dataset

    def open(self, resume: bool) -> bool:
        """Restores the last checkpoint, or initializes the weights.

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
          ValueError: If the whole model is frozen, or if it was created outside
            of the current `tf.distribute` scope.
        """
        config, model, dataset = self.config, self.model, self.dataset
        strategy = _strategy_of(model)
        with _naming_errors(dataset):
            with strategy.scope():
                self.trainer = Trainer(
                    model, config, dataset.num_train, self._objective
                )
            self.trainer.clock = self._clock
            self.recorder = Recorder(self._run, self.trainer)
            restored = resume and self.recorder.checkpoints.restore()
            if config.epochs is None:  # While the rate does not depend on it.
                step, end = self.trainer.num_steps, config.warmup_steps
                self.trainer.end_at(end if step < end else step + _NUM_MEASURED)
            state = tf.nest.flatten(self.trainer.state)
            source = f"step {self.trainer.num_steps:,}" if restored else None
            workers.agree_on_state(state, source, "run_dir")
            is_trained = not restored and not model.is_identity()
            if not restored and model.context_shape is not None:
                _standardize_context(model, dataset, config.seed)
            if config.init_from is not None and not restored:
                weights.assign_weights(model, config.init_from)
                workers.agree_on_state(model.variables, "weights", "init_from")
            elif not (restored or is_trained) and self._objective is None:
                _initialize(model, dataset, config.seed, strategy)
        self.recorder.begin(self._description, dataset)
        if is_trained:  # The weights cannot be recreated from a seed.
            self.recorder.save()
        return restored

    def fit(
        self,
        on_epoch: Callable[[Metrics], None],
        after_steps: Callable[[], None] = lambda: None,
        display: Callable[[str, int], Progress] = Progress,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Trains to the end, and saves a checkpoint even if interrupted.

        After an error of this package or of TensorFlow none is saved.

        Args:
          on_epoch: As for `loop.fit`.
          after_steps: As for `loop.fit`.
          display: As for `loop.fit`.
          say: Called with what becomes of `minutes`.

        Raises:
          DataError: If an image cannot be read.
          DivergedError: If too many consecutive steps were not finite.
          FailureError: If something cannot be written, or another worker is
            lost.
        """
        recorder = self.recorder

        def record_epoch(metrics):
            recorder.after_epoch(metrics)
            on_epoch(metrics)

        def record_steps():
            recorder.after_steps()
            if self.config.minutes is not None:
                self._keep_to(60.0 * self.config.minutes, say)
            after_steps()

        # Outside of the strategy's scope, since only the chief creates the
        # variables of checkpoints.
        with _naming_errors(self.dataset):
            try:
                loop.fit(
                    self.trainer,
                    self.dataset,
                    record_epoch,
                    record_steps,
                    display,
                )
            except (Error, tf.errors.OpError):
                raise  # A step may be incomplete.
            except BaseException:  # A signal, or an exception of a callback.
                recorder.save()
                raise
            recorder.after_training()

    def _keep_to(self, seconds, say):
        """Fixes the number of steps that fit, once a step has been measured.

        If the machine becomes much slower after that, the training ends early.
        """
        trainer, clock, config = self.trainer, self._clock, self.config
        step, left = trainer.num_steps, seconds - clock.elapsed
        if not step:
            return
        if config.epochs is not None:
            late = clock.seconds_for(0, trainer.steps_per_epoch) - left
            is_late = late > _MAX_DELAY * seconds
            if step < trainer.last_step and workers.of_chief(is_late):
                say(
                    f"this machine has become slower: ending after {step:,} "
                    f"of {trainer.last_step:,} steps; `resume` goes on"
                )
                trainer.last_step = step
            return
        is_urgent = clock.is_compiled() and left < 0.5 * seconds
        if step >= trainer.last_step or workers.of_chief(is_urgent):
            more = clock.steps_within(left, trainer.steps_per_epoch)
            last_step = step + workers.of_chief(more)
            epochs = math.ceil(last_step / trainer.steps_per_epoch)
            self.config = trainer.config = dataclasses.replace(
                config, epochs=epochs, max_steps=last_step
            )
            trainer.end_at(last_step)
            self.recorder.change(self.config)
            say(
                f"{last_step:,} steps fit into {config.minutes:g} min, as with "
                f"--seed {config.seed} --epochs {epochs} "
                f"--max_steps {last_step}"
            )


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


def _standardize_context(model, dataset, seed):
    """Standardizes the context by random images, unless it is already."""
    if not model.condition.is_standardized:
        number = min(dataset.num_train, _NUM_CONTEXTS)
        batch = next(iter(dataset.train_batches(number, seed, epoch=0)))
        model.condition.standardize(batch[1]["context"])


def _initialize(model, dataset, seed, strategy):
    """Runs data-dependent initialization; if interrupted, reverts it."""
    before = [variable.numpy() for variable in model.variables]
    try:
        with runtime.compiling(), strategy.scope():
            if dataset.values.are_real:
                model.standardize(*dataset.moments())
            images = dataset.initial_images(seed)
            initialization.initialize(model, images, seed)
    except BaseException:  # A half of it would pass for a trained model.
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        raise


@contextlib.contextmanager
def _naming_errors(dataset: ImageDataset) -> Iterator[None]:
    """Converts TensorFlow errors that users can do something about.

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
