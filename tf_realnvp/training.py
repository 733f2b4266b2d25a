"""The training loop."""

import dataclasses
import math
import numbers
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from tf_realnvp import checks, runtime
from tf_realnvp.data import ImageDataset
from tf_realnvp.model import RealNVP, stateless_seed
from tf_realnvp.optimizers import FusedAdam
from tf_realnvp.progress import Progress, Silent

MAX_SKIPPED_IN_A_ROW = 10
_SECONDS_PER_CALL = 0.5
_SCHEDULES = ("constant", "cosine")
_PRECISIONS = ("float32", "tf32", "bfloat16")


def bits_from_nats(nats: float) -> float:
    """Returns an amount of information in bits, given in nats."""
    return nats / math.log(2.0)


def learning_rate(
    peak: float,
    num_steps: int,
    warmup_steps: int = 0,
    schedule: str = "constant",
) -> LearningRateSchedule:
    """Returns the learning rate of every step.

    Args:
      peak: The largest rate.
      num_steps: Number of steps of the training.
      warmup_steps: Number of steps in which the rate rises to `peak`.
      schedule: What follows, "constant" or "cosine", which falls to zero by the
        last step.

    Raises:
      ValueError: If an argument is out of its range.
    """
    peak = _positive(peak, "peak")
    num_steps = checks.whole_number(num_steps, "num_steps", 1)
    warmup_steps = checks.whole_number(warmup_steps, "warmup_steps", 0)
    _check_choice(schedule, "schedule", _SCHEDULES)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / (warmup_steps + 1),
        decay_steps=max(1, num_steps - warmup_steps),
        alpha=0.0 if schedule == "cosine" else 1.0,  # The part that is left.
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def _positive(value, name):
    if not isinstance(value, numbers.Real) or not 0.0 < value < math.inf:
        raise ValueError(
            f"`{name}` must be a positive, finite number, got "
            f"{checks.short(value)}."
        )
    return float(value)


def _check_choice(value, name, choices):
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}, got "
            f"{checks.short(value)}."
        )


class DivergedError(Exception):
    """Training that gives no finite numbers any more."""


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What is known after an epoch; all losses in nats per dimension.

    Attributes:
      epoch: Number of epochs done, 0 before the first.
      step: Number of training steps done.
      train_loss: Mean over the epoch's training steps, each before its update;
        `None` before the first epoch.
      test_loss: Mean over all test images; with validation images it is `None`
        in all epochs but the best, after the training.
      validation_loss: Mean over all validation images, if there are any.
    """

    epoch: int
    step: int
    train_loss: float | None
    test_loss: float | None = None
    validation_loss: float | None = None

    @property
    def held_out_loss(self) -> float:
        """Mean over images that are not trained on: the loss of the epoch."""
        if self.validation_loss is not None:
            return self.validation_loss
        return self.test_loss


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
      history: The metrics so far.
      first_step_done: `time.monotonic()` when this trainer's first training
        step was done.
    """

    def __init__(
        self,
        model: RealNVP,
        learning_rate: float | LearningRateSchedule = 3e-4,
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
            "float32", "bfloat16" or, in `fit`, "tf32", which is float32 that
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
          ValueError: If an argument is out of its range.
        """
        super().__init__(name="trainer")
        if clip_grad is not None:
            clip_grad = _positive(clip_grad, "clip_grad")
        _check_choice(precision, "precision", _PRECISIONS)
        accumulate = checks.whole_number(accumulate, "accumulate", 1)
        self.model = model
        self.seed = seed
        self.history = []
        self.first_step_done = None
        self.optimizer = FusedAdam(
            learning_rate, use_ema=ema is not None, ema_momentum=ema or 0.0
        )
        self.optimizer.build(model.trainable_variables)
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
        self._loss_and_gradients = tf.function(
            self._loss_and_gradients, autograph=False, jit_compile=jit
        )
        self._train_steps = tf.function(self._train_steps, autograph=False)
        self._test_steps = tf.function(self._test_steps, autograph=False)

    def evaluated_model(self) -> RealNVP:
        """Returns the model that the training has come to.

        That is `model`, or with `ema` one with the average of its weights.
        """
        if self.optimizer.use_ema and int(self.optimizer.iterations.numpy()):
            self.optimizer.finalize_variable_values(
                self._evaluated_model.trainable_variables
            )
        elif self._evaluated_model is not self.model:
            _assign(self._evaluated_model.variables, self.model.variables)
        return self._evaluated_model

    def result_model(self) -> RealNVP:
        """Returns the model that results from the training so far.

        That is `evaluated_model()`, or with `keep_best` as it was when it was
        best.
        """
        model = self.evaluated_model()
        if self._keep_best and self.history:
            best_loss = float(self._best_loss.numpy())
            if best_loss <= self.history[-1].held_out_loss:
                _assign(model.variables, self._best_weights)
        return model

    def result_metrics(self) -> Metrics:
        """Returns the metrics of `result_model()`."""
        if self._keep_best:
            return min(self.history, key=lambda m: m.held_out_loss)
        return self.history[-1]

    @property
    def num_steps(self) -> int:
        """Number of batches trained on, those of skipped steps included."""
        return int(self.step.numpy())

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
        return {
            "weights": [v.value for v in self.model.variables],
            "optimizer": [v.value for v in self.optimizer.variables],
            "progress": [
                self.step,
                self._epoch_loss,
                self._epoch_norm,
                self._epoch_updates,
                self._skipped_in_a_row,
            ],
            **self._best_state(),
        }

    def _best_state(self):
        if not self._keep_best:
            return {}
        return {"best": [self._best_loss, *self._best_weights]}

    def _keep_weights(self):
        if self._keep_best:
            _assign(self._best_weights, self._evaluated_model.variables)

    def train_step(self, images: tf.Tensor) -> tf.Tensor:
        """Updates the weights once.

        Args:
          images: `uint8` `[n, H, W, C]`, the whole batch of all replicas.

        Returns:
          Float32 scalar, the mean loss before the update in nats per dimension.
        """
        loss, norm, gradients = self._strategy.run(
            self._replica_gradients, [images, self.step]
        )
        loss, norm = map(self._first_replica, (loss, norm))
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

        def update():
            with self._strategy.scope():
                self.optimizer.apply(gradients, self.model.trainable_variables)
            self._epoch_loss.assign_add(tf.cast(loss, tf.float64))
            self._epoch_norm.assign_add(tf.cast(norm, tf.float64))
            self._epoch_updates.assign_add(1)
            return self._skipped_in_a_row.assign(0, read_value=False)

        def skip():
            return self._skipped_in_a_row.assign_add(1, read_value=False)

        tf.cond(finite, update, skip)
        self.step.assign_add(1)
        return loss

    def _replica_gradients(self, images, step):
        """Returns loss, norm of the gradient and gradients of all replicas."""
        seed = _fold_in(self._train_seed, step)
        points = self.model.dequantize(images, seed)
        loss, gradients = self._accumulated(
            self._share(points), tf.cast(tf.shape(images)[0], tf.float32)
        )
        loss, gradients = self._sum_over_replicas((loss, gradients))
        norm = tf.linalg.global_norm(gradients)
        if self._clip_grad is not None:
            gradients, _ = tf.clip_by_global_norm(
                gradients, self._clip_grad, use_norm=norm
            )
        return loss, norm, gradients

    def _accumulated(self, points, batch_size):
        """Sums loss and gradients over parts of a batch, one after another."""
        parts = self._accumulate
        if parts == 1:
            return self._loss_and_gradients(points, batch_size)
        size = tf.shape(points)[0]

        def add(index, *sums):
            begin, end = size * index // parts, size * (index + 1) // parts
            loss, gradients = self._loss_and_gradients(
                points[begin:end], batch_size
            )
            new = [x + y for x, y in zip(sums, [loss, *gradients], strict=True)]
            return index + 1, *new

        zeros = [tf.zeros(v.shape) for v in self.model.trainable_variables]
        _, loss, *gradients = tf.while_loop(
            lambda index, *_: index < parts,
            add,
            [0, tf.constant(0.0), *zeros],
            parallel_iterations=1,
        )
        return loss, gradients

    def _loss_and_gradients(self, points, batch_size):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            log_prob = self._training_model.log_density(points)
            loss = -tf.reduce_sum(log_prob) / batch_size / self.model.num_dims
        return loss, tape.gradient(loss, variables)

    def test_step(self, images: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the losses of images.

        Args:
          images: `uint8` `[n, H, W, C]`, the whole batch of all replicas.
          index: Int64 scalar, the number of the batch: each has its own noise,
            which is the same in every evaluation.

        Returns:
          Float32 scalar, nats per dimension.
        """
        return self._first_replica(
            self._strategy.run(self._replica_test_loss, [images, index])
        )

    def _replica_test_loss(self, images, index):
        seed = _fold_in(self._test_seed, index)
        points = self._share(self._evaluated_model.dequantize(images, seed))
        log_prob = self._test_model.log_density(points)
        loss = -tf.reduce_sum(log_prob) / self.model.num_dims
        return self._sum_over_replicas(loss)

    def _share(self, batch):
        """Returns the part of a batch that belongs to this replica.

        It is empty where there are fewer images than replicas.
        """
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

    def evaluate(
        self,
        dataset: ImageDataset,
        batch_size: int = 64,
        progress: Callable[[str, int], Progress] = Silent,
        after_call: Callable[[], None] = lambda: None,
        split: str = "test",
    ) -> float:
        """Returns the mean loss over held-out images, in nats per dimension.

        Args:
          dataset: The data set.
          batch_size: Images in a batch.
          progress: Makes the display, given a title and the number of steps.
            Default: nothing is shown.
          after_call: As for `fit`.
          split: "test": all test images, by the `result_model()`; or
            "validation": all validation images, by the `evaluated_model()`.
        """
        # Either brings the model up to date that is evaluated.
        if split == "validation":
            batches = dataset.validation_batches(batch_size)
            self.evaluated_model()
        else:
            batches = dataset.test_batches(batch_size)
            self.result_model()
        num_batches = len(batches)
        iterator = iter(batches.enumerate())
        total, num_images = tf.constant(0.0, tf.float64), 0
        with progress(split, num_batches) as display:
            for num_steps in self._calls(num_batches):
                with runtime.tensor_float_32(False):
                    total, size = self._test_steps(iterator, num_steps, total)
                    num_images += int(size)
                bits_per_dim = bits_from_nats(float(total) / num_images)
                display.update(int(num_steps), int(size), bits_per_dim)
                after_call()
        return float(total) / num_images

    def _test_steps(self, batches, num_steps, total):
        """Returns `total` plus the losses of some batches; number of images."""

        def step(i, total, num_images):
            index, images = batches.get_next()
            loss = self.test_step(images, index)
            total += tf.cast(loss, tf.float64)
            return i + 1, total, num_images + tf.shape(images)[0]

        _, total, num_images = tf.while_loop(
            lambda i, *_: i < num_steps, step, [tf.constant(0), total, 0]
        )
        return total, num_images

    def fit(
        self,
        dataset: ImageDataset,
        epochs: int,
        batch_size: int = 64,
        max_steps: int | None = None,
        progress: Callable[[str, int], Progress] = Silent,
        after_call: Callable[[], None] = lambda: None,
    ) -> Iterator[Metrics]:
        """Trains, and gives the metrics after every epoch.

        It is a generator: an epoch is trained when the loop over it asks for
        the next metrics. A trainer whose `step` and `history` tell of an
        unfinished run goes on with it.

        Args:
          dataset: Its training images are trained on. Its validation images
            are evaluated after every epoch, and the result at last on the test
            images; without validation images the test images after every
            epoch.
          epochs: Number of epochs.
          batch_size: Images in a batch, of all replicas together; at most
            `dataset.num_train`.
          max_steps: Number of steps after which to stop, if not before.
            Default: no limit.
          progress: Makes the display, given a title and the number of steps.
            Default: nothing is shown.
          after_call: Called whenever some steps are done, every half a second
            or after every step that takes longer.

        Yields:
          `Metrics`, first those before any training.

        Raises:
          DivergedError: If `MAX_SKIPPED_IN_A_ROW` steps were not finite.
          ValueError: If `batch_size` is more than `dataset.num_train`.
        """
        if batch_size > dataset.num_train:
            raise ValueError(
                f"`batch_size` is {batch_size}, more than the "
                f"{dataset.num_train} training images of {dataset.name}."
            )
        split = "validation" if dataset.num_validation else "test"
        steps_per_epoch = dataset.num_train // batch_size
        last_step = epochs * steps_per_epoch
        if max_steps is not None:
            last_step = min(last_step, max_steps)
        if self.history and self.history[-1].step < last_step:
            # What was cut short by fewer steps becomes an epoch like others.
            self.history = [
                m for m in self.history if m.step % steps_per_epoch == 0
            ]
        while True:
            step = self.num_steps
            epoch, position = divmod(step, steps_per_epoch)
            done = self.history[-1].step if self.history else -1
            if step > done and (position == 0 or step == last_step):
                loss = self.evaluate(
                    dataset, batch_size, progress, after_call, split
                )
                train_loss = self.mean_loss if step else None
                # What a longer training leaves out of its history is not kept.
                if position == 0 and loss < float(self._best_loss.numpy()):
                    self._best_loss.assign(loss)
                    self._keep_weights()
                epoch += position > 0
                self.history.append(
                    Metrics(epoch, step, train_loss, **{f"{split}_loss": loss})
                )
                yield self.history[-1]
            elif step >= last_step:
                if split == "validation":
                    self._evaluate_result(
                        dataset, batch_size, progress, after_call
                    )
                return
            else:
                batches = dataset.train_batches(
                    batch_size, self.seed, epoch + 1, skip=position
                )
                bits = bits_from_nats(self.history[-1].held_out_loss)
                title = f"epoch {epoch + 1}/{epochs} ({split} {bits:.3f})"
                num_steps = min(steps_per_epoch - position, last_step - step)
                with progress(title, num_steps) as display:
                    self._train(
                        iter(batches),
                        position == 0,
                        num_steps,
                        batch_size,
                        display,
                        after_call,
                    )

    def _evaluate_result(self, dataset, *args):
        """Adds the loss on the test images to the metrics of the result."""
        metrics = self.result_metrics()
        if metrics.test_loss is None:
            index = self.history.index(metrics)
            loss = self.evaluate(dataset, *args)
            self.history[index] = dataclasses.replace(metrics, test_loss=loss)

    def _train(
        self, batches, new_epoch, num_steps, batch_size, display, after_call
    ):
        if new_epoch:
            self._epoch_loss.assign(0.0)
            self._epoch_norm.assign(0.0)
            self._epoch_updates.assign(0)
        for steps in self._calls(num_steps):
            with runtime.tensor_float_32(self._allows_tf32):
                skipped_in_a_row = int(self._train_steps(batches, steps))
            self.first_step_done = self.first_step_done or time.monotonic()
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise DivergedError(
                    f"the loss or its gradient was not finite in the "
                    f"{MAX_SKIPPED_IN_A_ROW} steps up to step "
                    f"{self.num_steps:,}"
                )
            num_images = int(steps) * batch_size
            bits_per_dim = bits_from_nats(self.mean_loss)
            display.update(int(steps), num_images, bits_per_dim)
            after_call()

    def _train_steps(self, batches, num_steps):
        """Trains on some batches; returns how many were skipped in a row."""

        def unfinished(i):
            return (i < num_steps) & (
                self._skipped_in_a_row < MAX_SKIPPED_IN_A_ROW
            )

        def step(i):
            self.train_step(batches.get_next())
            return i + 1

        tf.while_loop(unfinished, step, [tf.constant(0)])
        return self._skipped_in_a_row.read_value()

    def _epoch_mean(self, total):
        updates = int(self._epoch_updates.numpy())
        return float(total.numpy()) / updates if updates else math.nan

    def _calls(self, num_steps: int) -> Iterator[tf.Tensor]:
        """Splits steps over calls, few enough for a fast device to be busy.

        Args:
          num_steps: Number of steps in all.

        Yields:
          Int32 scalars, the number of steps of the next call: one at first,
          then as many as take `_SECONDS_PER_CALL`.
        """
        # Workers find each other by the number of the step inside of a call.
        one_by_one = isinstance(
            self._strategy, tf.distribute.MultiWorkerMirroredStrategy
        )
        size = 1
        while num_steps > 0:
            size = min(size, num_steps)
            start = time.perf_counter()
            yield tf.constant(size)
            num_steps -= size
            seconds = (time.perf_counter() - start) / size
            if not one_by_one:
                # At most twice as many as before: the first call also traces.
                size = max(1, min(2 * size, int(_SECONDS_PER_CALL / seconds)))


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _fold_in(seed, number):
    """Returns the seed of a step; what TensorFlow gives has 64 bits, not 32."""
    seed = tf.random.experimental.stateless_fold_in(seed, number)
    return tf.cast(seed, tf.int32)
