"""Importance sampling and Metropolis chains of a density known up to a factor.

A model of real numbers proposes points `x` by its density `q(x)`. A density
`f(x) / Z`, whose `f` is known and whose `Z` is not, gives them the weights
`w = f(x) / q(x)`. With these, expectations are those of `f / Z`, whatever the
model has learned, and the mean of the weights is `Z`.

```python
drawn = importance.draw(model, log_density, 10_000)
drawn.effective_share  # 0.62, 0.01: with its standard error
drawn.log_z
chain = importance.metropolis(drawn.log_weights)
chain.acceptance
chain.mean(np.square(drawn.points).mean(axis=(1, 2, 3)))
```
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import private
from tf_realnvp.utils.ranges import WholeNumber, check
from tf_realnvp.utils.tensors import stateless_seed

LogDensity = Callable[..., tf.Tensor]
Symmetry = Callable[[tf.Tensor], tf.Tensor]

_BATCH_SIZE = 500


def of_points(
    log_density: LogDensity, points: tf.Tensor, *context: Any
) -> tf.Tensor:
    """Returns `log f` of points, float32 `[n]`.

    Raises:
      ValueError: If `log_density` returns something of another shape.
    """
    values = tf.convert_to_tensor(log_density(points, *context))
    if not values.shape.rank == 1:  # It would be broadcast.
        raise ValueError(
            "`log_density` must return a number for each point, of shape [n], "
            f"got shape {values.shape}."
        )
    return tf.cast(values, tf.float32)


def effective_share(log_weights: np.ndarray) -> tuple[float, float]:
    """Returns the effective share of weighted draws, and its standard error.

    The share is Kish's effective sample size divided by the sample size, from
    `1 / n` to 1.

    Args:
      log_weights: `[n]`.
    """
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.mean()
    squares = np.square(weights)
    share = 1.0 / squares.mean()
    # The delta method.
    error = share * np.std(2.0 * weights - share * squares)
    return float(share), float(error / len(weights) ** 0.5)


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws of a model and their weights.

    Attributes:
      points: Float32 `[n, H, W, C]`.
      log_weights: `log f - log q` in nats, float64 `[n]`.
    """

    points: np.ndarray
    log_weights: np.ndarray

    @property
    def effective_share(self) -> tuple[float, float]:
        """`effective_share` of the weights, with its standard error."""
        return effective_share(self.log_weights)

    @property
    def log_z(self) -> tuple[float, float]:
        """Estimate of `log Z` in nats, with its standard error."""
        highest = self.log_weights.max()
        weights = np.exp(self.log_weights - highest)
        error = weights.std() / weights.mean() / len(weights) ** 0.5
        return float(highest + np.log(weights.mean())), float(error)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A Metropolis chain of independent proposals.

    Attributes:
      places: The proposal at each step, integers `[n]`.
      acceptance: Share of the proposals that were accepted.
    """

    places: np.ndarray
    acceptance: float

    def autocorrelation_time(self, values: np.ndarray) -> float:
        """Returns the integrated autocorrelation time in steps.

        Args:
          values: Of the proposals, `[n]`.

        Returns:
          `1 + 2 sum_t rho(t)`, by Geyer's initial positive sequence: a chain of
          `n` steps is worth `n / time` independent points.
        """
        values = values[self.places].astype(np.float64)
        effective = tfp.mcmc.effective_sample_size(
            values, filter_beyond_positive_pairs=True
        )
        return len(values) / float(effective)

    def mean(self, values: np.ndarray) -> tuple[float, float]:
        """Returns the mean over the chain and its standard error.

        Args:
          values: Of the proposals, `[n]`.
        """
        kept = values[self.places].astype(np.float64)
        number = len(kept) / self.autocorrelation_time(values)
        return float(kept.mean()), float(kept.std() / number**0.5)


def draw(
    model: RealNVP,
    log_density: LogDensity,
    n: int,
    seed: int = 0,
    context: Any = None,
    symmetries: Sequence[Symmetry] = (),
) -> Draws:
    """Draws points from a model and weighs them by a density.

    With the symmetries of the density, `q` is the mean of the model over all of
    them. It is closer to the density than the model, and takes as many
    evaluations of it as there are symmetries.

    Args:
      model: A model of real numbers, without classes, that observes no masks.
      log_density: `log f` of points: of float32 `[m, H, W, C]`, in TensorFlow,
        `[m]` in nats.
      n: Number of points.
      seed: Seed; the same seed gives the same points.
      context: As for `RealNVP.log_prob`, one for all points.
      symmetries: Maps of points that change neither `f` nor volumes, such as
        reflections, in TensorFlow. They must be a group: they include the
        identity, and the composition of any two of them.
    """
    check(n, "n", WholeNumber(1))
    condition = model.condition(tf.zeros([_BATCH_SIZE]), context=context)

    @tf.function(autograph=False)
    @private.evicting_graph_tensors()
    def run(part):
        both = model.distribution.experimental_sample_and_log_prob
        points, log_prob = both(_BATCH_SIZE, seed=part, **condition)
        if symmetries:
            moved = tf.stack([symmetry(points) for symmetry in symmetries])
            log_probs = tf.map_fn(
                lambda own: model.log_density(own, **condition),
                moved,
                fn_output_signature=tf.TensorSpec([_BATCH_SIZE], tf.float32),
            )
            log_prob = tfp.math.reduce_logmeanexp(log_probs, axis=0)
            places = tf.random.stateless_uniform(
                [_BATCH_SIZE], part, 0, len(symmetries), tf.int32
            )
            moved = tf.experimental.numpy.swapaxes(moved, 0, 1)
            points = tf.gather(moved, places, batch_dims=1)
        return points, of_points(log_density, points) - log_prob

    # TFP would draw from a stateful generator by a seed that is a number.
    seeds = tf.random.split(stateless_seed(seed), -(-n // _BATCH_SIZE))
    parts = [run(part) for part in seeds]
    points, log_weights = map(np.concatenate, zip(*parts, strict=True))
    return Draws(points[:n], log_weights[:n].astype(np.float64))


def metropolis(log_weights: np.ndarray, seed: int = 0) -> Chain:
    """Runs a Metropolis chain that takes each draw as a proposal, in order.

    Args:
      log_weights: As of `Draws`, `[n]`, below infinity.
      seed: Seed; the same seed gives the same chain.
    """
    if not np.all(log_weights < np.inf):
        raise ValueError("`log_weights` must be numbers below infinity.")
    limits = np.log(np.random.default_rng(seed).random(len(log_weights)))
    places = np.zeros(len(log_weights), int)
    for step in range(1, len(places)):
        current = places[step - 1]
        accepted = limits[step] < log_weights[step] - log_weights[current]
        places[step] = step if accepted else current
    return Chain(places, float(np.mean(np.diff(places) != 0)))
