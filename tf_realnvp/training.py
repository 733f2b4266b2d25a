"""The training loop."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from tf_realnvp.data import ImageDataset
from tf_realnvp.model import RealNVP, stateless_seed
from tf_realnvp.progress import Progress


def bits_from_nats(nats: float) -> float:
    """Returns an amount of information in bits, given in nats."""
    return nats / math.log(2.0)


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What is known after an epoch; both losses in nats per dimension.

    Attributes:
      epoch: Number of epochs done, 0 before the first.
      step: Number of training steps done.
      train_loss: Mean over the epoch's training steps, each before its update;
        `None` before the first epoch.
      test_loss: Mean over all test images.
    """

    epoch: int
    step: int
    train_loss: float | None
    test_loss: float


class Trainer:
    """Fits a model to a data set by maximum likelihood.

    The loss is the negative log-density of dequantized images in nats per
    dimension, and the optimizer is Adam. All noise is drawn from stateless
    seeds, so that the same seed and the same weights give the same training.

    Attributes:
      model: The model that is trained.
      optimizer: The Keras optimizer.
      first_step_done: `time.monotonic()` when the first training step was done.
    """

    def __init__(
        self,
        model: RealNVP,
        learning_rate: float = 3e-4,
        clip_grad: float | None = None,
        seed: int = 0,
    ):
        """Makes a trainer.

        Args:
          model: The model to train, in place.
          learning_rate: Adam's step size.
          clip_grad: Largest global norm of the gradient; longer ones are
            scaled down to it. Default: no limit.
          seed: Seed of the order of the images and of the dequantization
            noise.
        """
        self.model = model
        self.optimizer = keras.optimizers.Adam(
            learning_rate, global_clipnorm=clip_grad
        )
        self.optimizer.build(model.trainable_variables)
        self.seed = seed
        self.first_step_done = None
        noise_seed = stateless_seed(seed)
        self._train_seed, self._test_seed = (
            tf.random.experimental.stateless_fold_in(noise_seed, stream)
            for stream in (0, 1)
        )
        self._train_step = tf.function(self.train_step, autograph=False)
        self._test_step = tf.function(self.test_step, autograph=False)

    def train_step(self, images: tf.Tensor) -> tf.Tensor:
        """Updates the weights once.

        Args:
          images: `uint8` `[n, H, W, C]`.

        Returns:
          Float32 scalar, the mean loss before the update in nats per dimension.
        """
        seed = tf.random.experimental.stateless_fold_in(
            self._train_seed, self.optimizer.iterations.value
        )
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            log_prob = self.model.log_prob(images, seed)
            loss = -tf.reduce_mean(log_prob) / self.model.num_dims
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply(gradients, variables)
        return loss

    def test_step(self, images: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the losses of images.

        Args:
          images: `uint8` `[n, H, W, C]`.
          index: Int64 scalar, the number of the batch: each has its own noise,
            which is the same in every evaluation.

        Returns:
          Float32 scalar, nats per dimension.
        """
        seed = tf.random.experimental.stateless_fold_in(self._test_seed, index)
        log_prob = self.model.log_prob(images, seed)
        return -tf.reduce_sum(log_prob) / self.model.num_dims

    def evaluate(
        self,
        dataset: ImageDataset,
        batch_size: int,
        progress: Callable[[str, int], Progress],
    ) -> float:
        """Returns the mean loss over all test images, in nats per dimension.

        Args:
          dataset: Its test images are used.
          batch_size: Images in a batch.
          progress: Makes the display, given a title and the number of steps.
        """
        batches = dataset.test_batches(batch_size)
        total, num_images = 0.0, 0
        with progress("test", len(batches)) as display:
            for index, images in batches.enumerate():
                total += float(self._test_step(images, index))
                num_images += len(images)
                display.update(len(images), bits_from_nats(total / num_images))
        return total / num_images

    def fit(
        self,
        dataset: ImageDataset,
        epochs: int,
        batch_size: int,
        max_steps: int | None,
        progress: Callable[[str, int], Progress],
    ) -> Iterator[Metrics]:
        """Trains, and gives the metrics after every epoch.

        Args:
          dataset: Its training images are trained on.
          epochs: Number of epochs.
          batch_size: Images in a batch; at most `dataset.num_train`.
          max_steps: Number of steps after which to stop, if not before.
          progress: Makes the display, given a title and the number of steps.

        Yields:
          `Metrics`, first those before any training.
        """
        step = 0
        test_loss = self.evaluate(dataset, batch_size, progress)
        yield Metrics(0, step, None, test_loss)
        for epoch in range(1, epochs + 1):
            if step == max_steps:
                return
            batches = dataset.train_batches(batch_size, self.seed, epoch)
            if max_steps is not None:
                batches = batches.take(max_steps - step)
            title = (
                f"epoch {epoch}/{epochs} (test {bits_from_nats(test_loss):.3f})"
            )
            train_loss = self._train_epoch(batches, title, progress)
            step += len(batches)
            test_loss = self.evaluate(dataset, batch_size, progress)
            yield Metrics(epoch, step, train_loss, test_loss)

    def _train_epoch(self, batches, title, progress):
        total = 0.0
        with progress(title, len(batches)) as display:
            for step, images in enumerate(batches, start=1):
                total += float(self._train_step(images))
                self.first_step_done = self.first_step_done or time.monotonic()
                display.update(len(images), bits_from_nats(total / step))
        return total / len(batches)
