"""The trainer: compiled training and test steps, and the training state."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.config import TrainingConfig
from tf_realnvp.errors import DivergedError
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.training.clock import Clock
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.objectives import Likelihood
from tf_realnvp.training.optimizers import FusedAdam, Muon, learning_rate
from tf_realnvp.utils import private, runtime
from tf_realnvp.utils.tensors import stateless_seed

MAX_SKIPPED_IN_A_ROW = 10


class Trainer:
    """Fits a model by an objective: maximum likelihood, or a density to match.

    The loss is in nats per dimension. All noise comes from stateless seeds, so
    the same seed and initial weights give the same training.

    The trainer and its model must be created in the scope of the same
    `tf.distribute` strategy. Each replica processes its share of every global
    batch and of the noise for that batch, so the number of replicas affects
    results by rounding only.

    A step whose loss or gradient is not finite leaves the weights unchanged.

    Attributes:
      model: The model that is trained.
      config: The settings; without `epochs` there is no end yet.
      objective: What makes the points of a batch and their losses.
      steps_per_epoch: Number of training steps in an epoch.
      last_step: Number of training steps at the end of the training.
      clock: What times the training.
      optimizer: The Keras optimizer.
      step: Variable that holds `num_steps`.
      history: The metrics of the epochs so far.
      max_steps_per_call: Largest number of steps in one call of `train` or
        `test`; `None` for no limit.
    """

    def __init__(
        self,
        model: RealNVP,
        config: TrainingConfig,
        num_train: int,
        objective: Any = None,
    ):
        """Creates a trainer.

        Args:
          model: The model to train, in place.
          config: The settings of the training. Of the precision "auto", which
            `runtime.settle_precision` replaces, it makes float32. "tf32" allows
            GPUs to round float32 to TF32. Weights, couplings and evaluation are
            always float32.
          num_train: Number of training images, without validation images.
          objective: As above, one of `objectives`. Default: `Likelihood()`.

        Raises:
          ValueError: If no variable of the model is trainable.
        """
        self.model, self.config = model, config
        self.objective = objective or Likelihood()
        self.history: list[Metrics] = []
        self.steps_per_epoch = num_train // config.batch_size
        self.clock = Clock()
        # A variable, since `end_at` changes it; not a part of `state`.
        self._decay_steps = tf.Variable(0.0, name="decay_steps")
        last_step = (config.epochs or 1) * self.steps_per_epoch
        self.end_at(min(last_step, config.max_steps or last_step))
        self.optimizer = {"adam": FusedAdam, "muon": Muon}[config.optimizer](
            learning_rate(config, self._decay_steps),
            use_ema=config.ema is not None,
            ema_momentum=config.ema or 0.0,
            # A new name each time would be part of the variables' names, and
            # TensorFlow keeps what creates a variable, by name.
            name=f"fused_{config.optimizer}",
        )
        # Frozen variables are not trained.
        self._trained = model.trainable_variables
        if not self._trained:
            raise ValueError("no variable of the model is trainable.")
        self.optimizer.build(self._trained)
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        # Sums over the epoch's steps that were not skipped.
        self._epoch_loss = tf.Variable(0.0, dtype=tf.float64, name="epoch_loss")
        self._epoch_norm = tf.Variable(0.0, dtype=tf.float64, name="epoch_norm")
        self._epoch_updates = tf.Variable(0, dtype=tf.int64, name="updates")
        self._skipped_in_a_row = tf.Variable(0, dtype=tf.int64, name="skipped")

        # The average and the best weights are evaluated in a copy.
        keep_best = config.num_validation is not None
        is_apart = config.ema is not None or keep_best
        self._evaluated_model = model.clone() if is_apart else model
        self._best_loss = tf.Variable(math.inf, dtype=tf.float64, name="best")
        kept = model.variables if keep_best else ()
        self._best_weights = [tf.Variable(v.value) for v in kept]
        self._strategy = tf.distribute.get_strategy()
        is_alone = self._strategy.num_replicas_in_sync == 1
        self._num_parts = runtime.parts_at_once() if is_alone else 1
        # Collectives match workers by the step within a call, so all workers
        # must run the same number of steps per call.
        self.max_steps_per_call = 1 if runtime.is_one_of_many() else None
        is_bfloat16 = config.precision == "bfloat16"
        self._training_model = model.for_training(
            "bfloat16" if is_bfloat16 else "float32", config.recompute
        )
        self._test_model = self._evaluated_model.for_training()
        self._noise_seed = stateless_seed(config.seed)
        self._gradient_function = tf.function(
            self._loss_and_gradients, autograph=False, jit_compile=config.jit
        )
        self._train_function = tf.function(self._train, autograph=False)
        self._loss_function = tf.function(
            functools.partial(self.objective.losses, self._test_model),
            autograph=False,
        )
        self._test_function = tf.function(self._test, autograph=False)

    def end_at(self, last_step: int) -> None:
        """Sets `last_step`, at which a cosine of the learning rate ends.

        While the settings have no `epochs`, the cosine has not begun.
        """
        self.last_step = last_step
        end = last_step if self.config.epochs else math.inf
        self._decay_steps.assign(max(1, end - self.config.warmup_steps))

    def evaluated_model(self) -> RealNVP:
        """Returns the model to evaluate in the current state of training.

        Without `ema` and validation images it is `model` itself. Otherwise it
        is a copy that each call updates with the current weights, or with their
        moving average if there is `ema`.
        """
        evaluated = self._evaluated_model
        if evaluated is not self.model:
            evaluated.assign(self.model)
        if self.optimizer.use_ema and int(self.optimizer.iterations.numpy()):
            # Frozen variables have no average.
            pairs = zip(self.model.variables, evaluated.variables, strict=True)
            self.optimizer.finalize_variable_values(
                [copy for variable, copy in pairs if variable.trainable]
            )
        return evaluated

    def result_model(self) -> RealNVP:
        """Returns the model that results from the training so far.

        It is `evaluated_model()`; with validation images, it has the weights of
        the best evaluation, which may be the one before the first epoch.
        """
        model = self.evaluated_model()
        is_kept = self.history and self._best_loss.numpy() < math.inf
        # An epoch that was cut short may be the best, but is never kept.
        if is_kept and self.result_metrics().step != self.num_steps:
            _assign(model.variables, self._best_weights)
        return model

    def result_metrics(self) -> Metrics:
        """Returns the metrics of `result_model()`."""
        # A single image can make a loss infinite or NaN.
        finite = [m for m in self.history if m.held_out_loss < math.inf]
        if self._best_weights and finite:
            return min(finite, key=lambda m: m.held_out_loss)
        return self.history[-1]

    @property
    def num_steps(self) -> int:
        """Number of training steps, skipped steps included."""
        return int(self.step.numpy())

    @property
    def mean_loss(self) -> float:
        """Mean loss of the current epoch so far, in nats per dimension."""
        return self._epoch_mean(self._epoch_loss)

    @property
    def mean_gradient_norm(self) -> float:
        """Mean global norm of the gradients of the epoch, before clipping."""
        return self._epoch_mean(self._epoch_norm)

    @property
    def num_skipped(self) -> int:
        """Number of steps skipped because loss or gradient was not finite."""
        return self.num_steps - int(self.optimizer.iterations.numpy())

    @property
    def state(self) -> dict[str, list[tf.Variable]]:
        """All variables that the rest of the training depends on, by role."""
        state = {
            "weights": [v.value for v in self.model.variables],
            "optimizer": [v.value for v in self.optimizer.variables],
            "progress": [
                self.step,
                self._epoch_loss,
                self._epoch_norm,
                self._epoch_updates,
                self._skipped_in_a_row,
            ],
        }
        if self._best_weights:
            state["best"] = [self._best_loss, *self._best_weights]
        return state

    def train(self, batches: Iterator, num_steps: int = 1) -> None:
        """Trains on some batches, in one call of TensorFlow.

        Args:
          batches: Iterator of a `tf.data.Dataset` of global batches, as
            `ImageDataset.train_batches` makes them.
          num_steps: Number of batches; the same in all workers.

        Raises:
          DivergedError: If `MAX_SKIPPED_IN_A_ROW` consecutive steps were not
            finite.
        """
        with runtime.compiling(self.config.precision == "tf32"):
            self._train_function(batches, tf.constant(num_steps))
        if int(self._skipped_in_a_row.numpy()) >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                "training diverged: the loss or its gradient was not finite in "
                f"the {MAX_SKIPPED_IN_A_ROW} steps up to step "
                f"{self.num_steps:,}. Try `clip_grad` 1 or a smaller `lr`, "
                "from the last checkpoint (the command with --resume) or in "
                "another `run_dir`"
            )

    def test(self, batches: Iterator, num_steps: int = 1) -> np.ndarray:
        """Evaluates some batches, in one call of TensorFlow.

        Args:
          batches: Iterator of an enumerated `tf.data.Dataset` of batches as for
            `train`. The index of a batch seeds its noise, so each evaluation
            uses the same noise.
          num_steps: Number of batches, all of one size if there are several
            replicas.

        Returns:
          The losses of all images in the batches, in nats per dimension.
        """
        with runtime.compiling():
            losses = self._test_function(batches, tf.constant(num_steps))
        return losses.numpy()

    def resume(self) -> None:
        """Lets a training go on as if it had been planned to `last_step`.

        Drops the metrics of partial epochs and the result on the test images.
        """
        if self.history and self.history[-1].step < self.last_step:
            self.history = [
                dataclasses.replace(m, test_loss=None)
                if m.held_out_split == "validation"
                else m
                for m in self.history
                if m.step % self.steps_per_epoch == 0
            ]

    def begin_epoch(self) -> None:
        """Resets the means of the epoch."""
        self._epoch_loss.assign(0.0)
        self._epoch_norm.assign(0.0)
        self._epoch_updates.assign(0)

    def keep_if_best(self, loss: float) -> None:
        """Keeps the evaluated weights if their loss is the lowest so far.

        Args:
          loss: Mean loss of the evaluated weights on the validation images.
        """
        if self._best_weights and loss < float(self._best_loss.numpy()):
            # An interruption of the assignment must not leave a mixture of old
            # and new weights marked as the best.
            self._best_loss.assign(math.inf)
            _assign(self._best_weights, self._evaluated_model.variables)
            self._best_loss.assign(loss)

    def _train(self, batches, num_steps):
        """Trains on batches until too many in a row are skipped."""

        def unfinished(i):
            return (i < num_steps) & (
                self._skipped_in_a_row < MAX_SKIPPED_IN_A_ROW
            )

        def step(i):
            self._train_step(*batches.get_next())
            return [i + 1]

        tf.while_loop(unfinished, step, [tf.constant(0)])

    def _test(self, batches, num_steps):
        """Returns the losses of batches."""

        def step(i, losses):
            index, (images, condition) = batches.get_next()
            own = self._strategy.run(
                self._replica_test_losses, [images, index, condition]
            )
            return i + 1, losses.write(i, self._first_replica(own))

        losses = tf.TensorArray(
            tf.float32, num_steps, infer_shape=False, element_shape=[None]
        )
        _, losses = tf.while_loop(
            lambda i, _: i < num_steps, step, [tf.constant(0), losses]
        )
        return losses.concat()

    def _train_step(self, images, condition):
        """Updates the weights if loss and gradient are finite."""
        loss, norm, gradients = self._strategy.run(
            self._replica_gradients, [images, condition, self.step]
        )
        loss, norm = map(self._first_replica, (loss, norm))
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

        def update():
            with self._strategy.scope():
                self.optimizer.apply(gradients, self._trained)
            self._epoch_loss.assign_add(tf.cast(loss, tf.float64))
            self._epoch_norm.assign_add(tf.cast(norm, tf.float64))
            self._epoch_updates.assign_add(1)
            return self._skipped_in_a_row.assign(0, read_value=False)

        def skip():
            return self._skipped_in_a_row.assign_add(1, read_value=False)

        tf.cond(finite, update, skip)
        self.step.assign_add(1)

    def _replica_gradients(self, images, condition, step):
        """Returns the loss, gradient norm and gradients over all replicas."""
        points = self.objective.points(
            self.model, images, self._seed_of(0, step)
        )
        own = self._share((points, condition))
        size = tf.cast(tf.shape(images)[0], tf.float32)

        def of_part(index):
            """Of a part that is accumulated: of its own parts, all at once."""
            parts = self._at_once(_part(own, index, self.config.accumulate))
            each = [self._gradient_function(*part, size) for part in parts]
            return tf.nest.map_structure(lambda *x: tf.add_n(x), *each)

        if (number := self.config.accumulate) == 1:
            loss, gradients = of_part(0)
        else:
            loss, gradients = tf.foldl(
                lambda sums, i: tf.nest.map_structure(tf.add, sums, of_part(i)),
                tf.range(number),
                (0.0, tuple(tf.zeros(v.shape) for v in self._trained)),
                parallel_iterations=1,
            )
        loss, gradients = self._sum_over_replicas((loss, gradients))
        norm = tf.linalg.global_norm(gradients)
        if self.config.clip_grad is not None:
            gradients, _ = tf.clip_by_global_norm(
                gradients, self.config.clip_grad, use_norm=norm
            )
        return loss, norm, gradients

    def _at_once(self, batch):
        """Returns the parts of a batch that are computed on a thread each."""
        number = self._num_parts
        return [_part(batch, index, number) for index in range(number)]

    def _loss_and_gradients(self, points, condition, batch_size):
        with tf.GradientTape() as tape:
            losses = self.objective.to_train(
                self._training_model, points, condition
            )
            loss = tf.reduce_sum(losses) / batch_size / self.model.num_dims
        return loss, tape.gradient(loss, self._trained)

    def _replica_test_losses(self, images, index, condition):
        """Returns the losses of a batch, its replicas' shares put together."""
        points = self.objective.points(
            self._evaluated_model, images, self._seed_of(1, index)
        )
        parts = self._at_once(self._share((points, condition)))
        losses = tf.concat([self._loss_function(*p) for p in parts], axis=0)
        places = self._share(tf.range(tf.shape(points)[0])[:, tf.newaxis])
        losses = tf.scatter_nd(places, losses, tf.shape(points)[:1])
        return self._sum_over_replicas(losses) / self.model.num_dims

    def _share(self, batch):
        """Returns this replica's share of a global batch."""
        context = tf.distribute.get_replica_context()
        return _part(
            batch,
            context.replica_id_in_sync_group,
            context.num_replicas_in_sync,
        )

    def _sum_over_replicas(self, values):
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return values
        return private.sum_over_replicas(values)

    def _first_replica(self, value):
        """Returns the first replica's value, for a value equal in all."""
        return self._strategy.experimental_local_results(value)[0]

    def _seed_of(self, stream, number):
        """Returns the seed of a batch's noise; stream 0 is for training."""
        fold_in = tf.random.experimental.stateless_fold_in
        seed = fold_in(fold_in(self._noise_seed, stream), number)
        return tf.cast(seed, tf.int32)

    def _epoch_mean(self, total):
        updates = int(self._epoch_updates.numpy())
        return float(total.numpy()) / updates if updates else math.nan


def _part(batch, index, num_parts):
    """Returns one part of a batch; part sizes differ by one image at most.

    Some parts are empty if there are fewer images than parts.
    """

    def part(values):
        size = tf.shape(values)[0]
        start, end = (size * i // num_parts for i in (index, index + 1))
        return values[start:end]

    return batch if num_parts == 1 else tf.nest.map_structure(part, batch)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
