"""Training objectives: the points of a batch and their losses; and draws."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.analysis.importance import (
    LogDensity,
    effective_share,
    of_points,
)
from tf_realnvp.config import DataDescription
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils.named import as_float32, by_name, digest, each

_STEPS_PER_EPOCH = 100


class Likelihood:
    """The negative log-density of dequantized images."""

    def points(
        self, model: RealNVP, images: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the points of a batch, `[n, ...]`.

        Args:
          model: The model that is trained.
          images: `[n, H, W, C]`.
          seed: Int32 `[2]`.
        """
        return model.add_noise(images, seed)

    def losses(
        self, view: RealNVP, points: tf.Tensor, condition: Mapping[str, Any]
    ) -> tf.Tensor:
        """Returns the losses of points, in nats, `[n]`.

        Args:
          view: The model, as `RealNVP.for_training` returns it.
          points: What `points` returned.
          condition: Keyword arguments of `RealNVP.log_density`.
        """
        return -view.log_density(points, **condition)

    def to_train(
        self, view: RealNVP, points: tf.Tensor, condition: Mapping[str, Any]
    ) -> tf.Tensor:
        """Returns `losses`, with the gradient that trains.

        The U-Net of a context is trained by its squared error alone.

        Args:
          view: As for `losses`.
          points: As for `losses`.
          condition: As for `losses`.
        """
        losses = self.losses(view, points, condition)
        return losses + _of_estimator(view, points, condition)

    def metrics(self, losses: np.ndarray) -> dict[str, float]:
        """Returns fields of `Metrics` besides the mean loss.

        Args:
          losses: What `losses` returned for held-out data.
        """
        return {}


class ReverseKL:
    """The reverse Kullback-Leibler divergence to `f(x) / Z`, minus `log Z`.

    The loss of latents is `log q(x) - log f(x)` at their image `x`. Its
    gradient is the path gradient of https://arxiv.org/abs/2207.08219: that of
    `x` alone, without that of the parameters of `log q`, whose mean is zero.
    So its variance vanishes where `q` is right. It is trained on `Draws`.
    """

    def __init__(self, log_density: LogDensity, model: RealNVP):
        """Creates the objective.

        Args:
          log_density: `log f` of points: of float32 `[n, H, W, C]`, in
            TensorFlow, `[n]` in nats; of a model with a context, it takes that
            of each point as well.
          model: The model that is trained, of real numbers.

        Raises:
          ValueError: If the model has levels or classes, or observes images.
        """
        settings = model.num_colors, model.num_classes, model.observe
        if any(setting is not None for setting in settings):
            raise ValueError(
                "`log_density` is for a model with `num_colors=None` and "
                "without classes or `observe`."
            )
        self._log_density = log_density
        self._has_context = model.context_shape is not None

    def points(self, model, draws, seed):
        """Returns latents, one for each element of `draws`."""
        n = tf.shape(draws)[0]
        return model.distribution.distribution.sample(n, seed=seed)

    def losses(self, view, latents, condition):
        """Returns the losses of latents."""
        points = view.decode_points(latents, **condition)
        return self._loss(view, points, condition)

    def to_train(self, view, latents, condition):
        """Returns the losses of latents, with the path gradient."""
        points = view.decode_points(latents, **condition)
        fixed = tf.stop_gradient(points)
        with tf.GradientTape() as tape:
            tape.watch(fixed)
            losses = self._loss(view, fixed, condition)
        slope = tf.stop_gradient(tape.gradient(losses, fixed))
        moved = tf.reduce_sum(slope * (points - fixed), axis=[1, 2, 3])
        moved += _of_estimator(view, fixed, condition)
        return tf.stop_gradient(losses) + moved

    def _loss(self, view, points, condition):
        log_f = of_points(self._log_density, points, *condition.values())
        return view.log_density(points, **condition) - log_f

    def metrics(self, losses):
        """Returns the effective share of draws, and its standard error.

        There is none of draws with different contexts: each has a `Z`.
        """
        if self._has_context:
            return {}
        names = "effective_share", "effective_share_error"
        return dict(zip(names, effective_share(-losses), strict=True))


class Draws:
    """What takes the place of a data set where a log-density is matched.

    A batch is a range of numbers, one for each draw, and contexts that are
    drawn from those given. An epoch is 100 steps.
    """

    name, num_test, num_validation = "log-density", 4096, 0

    def __init__(self, model: RealNVP, batch_size: int, context: Any = None):
        """Creates draws.

        Args:
          model: The model that is trained, of real numbers.
          batch_size: Draws per training step.
          context: Contexts, `[m, *context_shape]`, or these by name.

        Raises:
          ValueError: If the context of the model has another shape.
          DataError: If the context is none: see `named.as_float32`.
        """
        rows = list(by_name(context).values())
        self._num_contexts = number = len(rows[0]) if rows else 1
        context = each(lambda values: as_float32(values, number), context)
        draws = tf.zeros([number])
        self._contexts = model.condition(draws, context=context).get("context")
        self.metadata = model.metadata
        self.num_train = _STEPS_PER_EPOCH * batch_size
        self.description = DataDescription(
            image_shape=model.image_shape,  # type: ignore[arg-type]
            num_colors=None,
            num_train=self.num_train,
            num_test=self.num_test,
            fingerprint=f"{self.name} {digest(context)}" if rows else self.name,
            context_shape=model.context_shape,
        )

    naming_damage = staticmethod(contextlib.nullcontext)

    def sample_test(self, num_draws: int, seed: int) -> "Draws":
        """Returns these: all draws are evaluated on the way."""
        return self

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, position: int = 0
    ) -> tf.data.Dataset:
        """Returns the batches of the rest of an epoch."""
        first = position * batch_size
        draws = tf.data.Dataset.range(first, self.num_train)
        draws = self._given(draws, tf.constant([seed, epoch], tf.int64))
        return draws.batch(batch_size, drop_remainder=True)

    def batches(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Returns the batches of an evaluation."""
        draws = tf.data.Dataset.range(self.num_test)
        seed = tf.constant([0, -1], tf.int64)
        return self._given(draws, seed).batch(batch_size)

    def context(self, split: str, positions: Sequence[int]) -> Any:
        """Returns the contexts of draws, as `ImageDataset.context` does."""
        rows = np.array(positions) % self._num_contexts
        return each(lambda values: tf.gather(values, rows), self._contexts)

    def _given(self, draws, seed):
        """Adds a context to each draw, if there are any."""
        if self._contexts is None:
            return draws.map(lambda draw: (draw, {}))

        def add(draw):
            own = tf.random.experimental.stateless_fold_in(seed, draw)
            row = tf.random.stateless_uniform(
                [], own, 0, self._num_contexts, tf.int32
            )
            return draw, {"context": each(lambda v: v[row], self._contexts)}

        return draws.map(add)


def _of_estimator(view, points, condition):
    """Returns zeros, with the gradient that trains the U-Net of a context."""
    if "context" not in condition or view.condition.estimator is None:
        return 0.0
    errors = view.squared_errors(points, condition["context"])
    return errors - tf.stop_gradient(errors)
