"""The trainer: compiled training and test steps, and all that they change."""

import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from tf_realnvp.config import PRECISIONS, TrainingConfig
from tf_realnvp.model import RealNVP
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.optimizers import FusedAdam, learning_rate
from tf_realnvp.utils import runtime
from tf_realnvp.utils.assertions import stateless_seed
from tf_realnvp.utils.checks import OneOf, RealNumber, WholeNumber, check
from tf_realnvp.utils.errors import DivergedError

MAX_SKIPPED_IN_A_ROW = 10


class Trainer(tf.Module):
    """Fits a model to a data set by maximum likelihood.

    The loss is the negative log-density of dequantized images in nats per
    dimension, and the optimizer is Adam. All noise is drawn from stateless
    seeds, so that the same seed and the same weights give the same training.

    A trainer uses the `tf.distribute` strategy in whose scope it and its model
    are made. Each replica takes its share of every batch and of the noise that
    belongs to it, so that their number changes nothing but the rounding.

    A step whose loss or gradient is not finite leaves the weights as they are.

    Attributes:
      model: The model that is trained.
      optimizer: The Keras optimizer.
      step: Variable, `num_steps`.
      seed: Of the order of the images and of the noise.
      history: The metrics so far.
    """

    def __init__(
        self,
        model: RealNVP,
        learning_rate: float | LearningRateSchedule = 3e-4,
        *,
        clip_grad: float | None = None,
        seed: int = 0,
        precision: str = "float32",
        recompute: bool = False,
        jit: bool = False,
        accumulate: int = 1,
        ema: float | None = None,
        keep_best: bool = False,
    ):
        """Makes a trainer.

        Args:
          model: The model to train, in place.
          learning_rate: Adam's step size, or a schedule of it.
          clip_grad: Largest global norm of the gradient; longer ones are
            scaled down to it. Default: no limit.
          seed: Seed of the order of the images and of the dequantization
            noise.
          precision: What the coupling networks compute in while training,
            "float32", "bfloat16" or, in `train`, "tf32", which is float32 that
            GPUs may round to TF32. Weights, couplings and evaluation are
            float32 in any case.
          recompute: Whether to compute parts of the networks twice, to use
            less memory.
          jit: Whether to compile the gradient with XLA.
          accumulate: Number of parts of a batch that are computed one after
            another, in a part of the memory; their gradients are summed.
          ema: How much of the moving average of the weights each step keeps,
            below 1; evaluation is of the average then. Default: no average.
          keep_best: Whether to keep the weights of the epoch that was best on
            the validation images, which the data set must have then.

        Raises:
          ValueError: If an argument is out of its range, or no variable of the
            model is trainable.
        """
        super().__init__(name="trainer")
        if clip_grad is not None:
            check(clip_grad, "clip_grad", RealNumber())
        check(precision, "precision", OneOf(PRECISIONS))
        accumulate = check(accumulate, "accumulate", WholeNumber(1))
        self.model = model
        self.seed = seed
        self.history: list[Metrics] = []
        self.optimizer = FusedAdam(learning_rate, ema)
        # Others may be frozen.
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

        self._clip_grad = clip_grad
        self._accumulate = accumulate
        is_apart = ema is not None or keep_best
        self._evaluated_model = model.clone() if is_apart else model
        self._averaged = [
            average
            for own, average in zip(
                model.variables, self._evaluated_model.variables, strict=True
            )
            if own.trainable
        ]
        self._best_loss = tf.Variable(math.inf, dtype=tf.float64, name="best")
        self._keep_best = keep_best
        if keep_best:
            self._best_weights = [tf.Variable(v.value) for v in model.variables]
        self._strategy = tf.distribute.get_strategy()
        self._allows_tf32 = precision == "tf32"
        self._training_model = model.for_training(
            "float32" if self._allows_tf32 else precision, recompute
        )
        self._test_model = self._evaluated_model.for_training()
        noise_seed = stateless_seed(seed)
        self._train_seed, self._test_seed = (
            tf.random.experimental.stateless_fold_in(noise_seed, stream)
            for stream in (0, 1)
        )
        self._gradient_function = tf.function(
            self._loss_and_gradients, autograph=False, jit_compile=jit
        )
        self._train_function = tf.function(self._train, autograph=False)
        self._test_function = tf.function(self._test, autograph=False)

    @classmethod
    def from_config(
        cls, model: RealNVP, config: TrainingConfig, num_train: int
    ) -> "Trainer":
        """Makes a trainer with the settings of a training.

        Args:
          model: The model to train, in place.
          config: The settings.
          num_train: Number of training images.
        """
        num_steps = config.epochs * (num_train // config.batch_size)
        num_steps = min(num_steps, config.max_steps or num_steps)
        schedule = learning_rate(
            config.lr, num_steps, config.warmup_steps, config.lr_schedule
        )
        return cls(
            model,
            schedule,
            clip_grad=config.clip_grad,
            seed=config.seed,
            precision=config.precision,
            recompute=config.recompute,
            jit=config.jit,
            accumulate=config.accumulate,
            ema=config.ema,
            keep_best=bool(config.num_validation),
        )

    def evaluated_model(self) -> RealNVP:
        """Returns the model that the training has come to.

        That is `model`, or with `ema` one with the average of its weights.
        """
        if self._evaluated_model is not self.model:
            self._evaluated_model.assign(self.model)
        if self.optimizer.use_ema and int(self.optimizer.iterations.numpy()):
            # Of what is frozen there is no average.
            self.optimizer.finalize_variable_values(self._averaged)
        return self._evaluated_model

    def result_model(self) -> RealNVP:
        """Returns the model that results from the training so far.

        That is `evaluated_model()`, or with `keep_best` as it was when it was
        best, before the first epoch at the earliest.
        """
        model = self.evaluated_model()
        if self.history and self._best_loss.numpy() < math.inf:
            best = self.result_metrics()
            if best is not self.history[-1] or best.step != self.num_steps:
                _assign(model.variables, self._best_weights)
        return model

    def result_metrics(self) -> Metrics:
        """Returns the metrics of `result_model()`."""
        if self._keep_best:
            # One image can make a loss NaN, which is not less than any.
            finite = [m for m in self.history if m.held_out_loss < math.inf]
            if finite:
                return min(finite, key=lambda m: m.held_out_loss)
        return self.history[-1]

    @property
    def num_steps(self) -> int:
        """Number of batches trained on, those of skipped steps included."""
        return int(self.step.numpy())

    @property
    def max_steps_per_call(self) -> int | None:
        """How many steps `train` may do at once; `None` if as many as it likes.

        Workers find each other by the number of the step inside of a call, and
        must all put the same number of steps into it.
        """
        is_one_of_many = isinstance(
            self._strategy, tf.distribute.MultiWorkerMirroredStrategy
        )
        return 1 if is_one_of_many else None

    @property
    def mean_loss(self) -> float:
        """Mean over the epoch's steps so far, in nats per dimension."""
        return self._epoch_mean(self._epoch_loss)

    @property
    def mean_gradient_norm(self) -> float:
        """Likewise of the gradient's global norm, before it is clipped."""
        return self._epoch_mean(self._epoch_norm)

    @property
    def num_skipped(self) -> int:
        """Number of steps that were not finite and changed nothing."""
        return self.num_steps - int(self.optimizer.iterations.numpy())

    @property
    def state(self) -> dict[str, list[tf.Variable]]:
        """All variables that the rest of a run depends on."""
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
        if self._keep_best:
            state["best"] = [self._best_loss, *self._best_weights]
        return state

    def train(self, batches: Iterator[tf.Tensor], num_steps: int = 1) -> None:
        """Trains on some batches, in one call of TensorFlow.

        Args:
          batches: Iterator of a `tf.data.Dataset` of uint8 `[n, H, W, C]`, each
            the whole batch of all replicas; for a model with classes of pairs
            of these and labels, int32 `[n]`.
          num_steps: Number of batches. With several workers it must be the same
            in all of them.

        Raises:
          DivergedError: If `MAX_SKIPPED_IN_A_ROW` steps were not finite.
        """
        with runtime.tensor_float_32(self._allows_tf32):
            skipped_in_a_row = self._train_function(
                batches, tf.constant(num_steps)
            )
        if int(skipped_in_a_row) >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                "the loss or its gradient was not finite in the "
                f"{MAX_SKIPPED_IN_A_ROW} steps up to step {self.num_steps:,}"
            )

    def test(
        self,
        batches: Iterator[tuple[tf.Tensor, Any]],
        num_steps: int = 1,
        total: float = 0.0,
    ) -> tuple[float, int]:
        """Evaluates some batches, in one call of TensorFlow.

        Args:
          batches: Iterator of a `tf.data.Dataset` such as `train` takes,
            enumerated.
          num_steps: Number of batches.
          total: Sum of the losses of the images before them: one after the
            other they are added the same way, however many a call takes.

        Returns:
          `total` and the losses of their images, in nats per dimension, and the
          number of these images.
        """
        with runtime.tensor_float_32(False):
            total, num_images = self._test_function(
                batches, tf.constant(num_steps), tf.constant(total, tf.float64)
            )
        return float(total), int(num_images)

    def begin_epoch(self) -> None:
        """Starts the means of an epoch anew."""
        self._epoch_loss.assign(0.0)
        self._epoch_norm.assign(0.0)
        self._epoch_updates.assign(0)

    def end_epoch(self, epoch: int, split: str, loss: float) -> Metrics:
        """Adds the metrics of an epoch to `history`.

        Args:
          epoch: Number of epochs begun.
          split: What was evaluated, "validation" or "test".
          loss: The mean loss over it, in nats per dimension.

        Returns:
          The metrics.
        """
        train_loss = self.mean_loss if self.num_steps else None
        metrics = Metrics(
            epoch, self.num_steps, train_loss, **{f"{split}_loss": loss}
        )
        self.history.append(metrics)
        return metrics

    def keep_if_best(self, loss: float) -> None:
        """Keeps the weights that are evaluated, if no loss was less before.

        Args:
          loss: Their mean loss over the validation images.
        """
        if self._keep_best and loss < float(self._best_loss.numpy()):
            # Cut short in between, the evaluated ones are the best.
            self._best_loss.assign(math.inf)
            _assign(self._best_weights, self._evaluated_model.variables)
            self._best_loss.assign(loss)

    def _train(self, batches, num_steps):
        """Trains on some batches; returns how many were skipped in a row."""

        def unfinished(i):
            return (i < num_steps) & (
                self._skipped_in_a_row < MAX_SKIPPED_IN_A_ROW
            )

        def step(i):
            self.train_step(*_images_and_label(batches.get_next()))
            return [i + 1]

        tf.while_loop(unfinished, step, [tf.constant(0)])
        return self._skipped_in_a_row.read_value()

    def _test(self, batches, num_steps, total):
        """Returns `total` plus the losses of some batches; number of images."""

        def step(i, total, num_images):
            index, batch = batches.get_next()
            images, label = _images_and_label(batch)
            loss = self.test_step(images, index, label)
            total += tf.cast(loss, tf.float64)
            return i + 1, total, num_images + tf.shape(images)[0]

        _, total, num_images = tf.while_loop(
            lambda i, *_: i < num_steps, step, [tf.constant(0), total, 0]
        )
        return total, num_images

    def train_step(
        self, images: tf.Tensor, label: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Updates the weights once.

        Args:
          images: `uint8` `[n, H, W, C]`, the whole batch of all replicas.
          label: Int32 `[n]`, their classes, if the model has any: the loss is
            that of the images given these.

        Returns:
          Float32 scalar, the mean loss before the update in nats per dimension.
        """
        loss, norm, gradients = self._strategy.run(
            self._replica_gradients, [images, label, self.step]
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
        return loss

    def _replica_gradients(self, images, label, step):
        """Returns loss, norm of the gradient and gradients of all replicas."""
        seed = _fold_in(self._train_seed, step)
        points = self.model.add_noise(images, seed)
        loss, gradients = self._accumulated(
            self._share(points),
            self._share(label),
            tf.cast(tf.shape(images)[0], tf.float32),
        )
        loss, gradients = self._sum_over_replicas((loss, gradients))
        norm = tf.linalg.global_norm(gradients)
        if self._clip_grad is not None:
            gradients, _ = tf.clip_by_global_norm(
                gradients, self._clip_grad, use_norm=norm
            )
        return loss, norm, gradients

    def _accumulated(self, points, label, batch_size):
        """Sums loss and gradients over parts of a batch, one after another."""
        parts = self._accumulate
        if parts == 1:
            return self._gradient_function(points, label, batch_size)
        size = tf.shape(points)[0]

        def add(index, *sums):
            begin, end = size * index // parts, size * (index + 1) // parts
            loss, gradients = self._gradient_function(
                points[begin:end],
                None if label is None else label[begin:end],
                batch_size,
            )
            new = [x + y for x, y in zip(sums, [loss, *gradients], strict=True)]
            return index + 1, *new

        zeros = [tf.zeros(v.shape) for v in self._trained]
        _, loss, *gradients = tf.while_loop(
            lambda index, *_: index < parts,
            add,
            [0, tf.constant(0.0), *zeros],
            parallel_iterations=1,
        )
        return loss, gradients

    def _loss_and_gradients(self, points, label, batch_size):
        with tf.GradientTape() as tape:
            log_prob = self._training_model.log_density(points, label)
            loss = -tf.reduce_sum(log_prob) / batch_size / self.model.num_dims
        return loss, tape.gradient(loss, self._trained)

    def test_step(
        self,
        images: tf.Tensor,
        index: tf.Tensor,
        label: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the sum of the losses of images.

        Args:
          images: `uint8` `[n, H, W, C]`, the whole batch of all replicas.
          index: Int64 scalar, the number of the batch: each has its own noise,
            which is the same in every evaluation.
          label: As for `train_step`.

        Returns:
          Float32 scalar, nats per dimension.
        """
        return self._first_replica(
            self._strategy.run(self._replica_test_loss, [images, index, label])
        )

    def _replica_test_loss(self, images, index, label):
        seed = _fold_in(self._test_seed, index)
        points = self._share(self._evaluated_model.add_noise(images, seed))
        log_prob = self._test_model.log_density(points, self._share(label))
        loss = -tf.reduce_sum(log_prob) / self.model.num_dims
        return self._sum_over_replicas(loss)

    def _share(self, batch):
        """Returns the part of a batch that belongs to this replica.

        It is empty where there are fewer images than replicas, and `None` if
        the batch is.
        """
        if batch is None:
            return None
        context = tf.distribute.get_replica_context()
        num_replicas = context.num_replicas_in_sync
        if num_replicas == 1:
            return batch
        index = context.replica_id_in_sync_group
        size = tf.shape(batch)[0]
        begin = size * index // num_replicas
        return batch[begin : size * (index + 1) // num_replicas]

    def _sum_over_replicas(self, values):
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return values
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _first_replica(self, value):
        """Returns a value that is the same in all replicas."""
        return self._strategy.experimental_local_results(value)[0]

    def _epoch_mean(self, total):
        updates = int(self._epoch_updates.numpy())
        return float(total.numpy()) / updates if updates else math.nan


def _images_and_label(batch):
    """Returns both of a batch; the label is `None` if it has none."""
    images, label = batch if isinstance(batch, tuple) else (batch, None)
    if not images.dtype.is_integer:
        raise TypeError(
            "Batches must hold levels, uint8 [n, H, W, C], got "
            f"{images.dtype.name}."
        )
    return images, label


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _fold_in(seed, number):
    """Returns the seed of a step; what TensorFlow gives has 64 bits, not 32."""
    seed = tf.random.experimental.stateless_fold_in(seed, number)
    return tf.cast(seed, tf.int32)
