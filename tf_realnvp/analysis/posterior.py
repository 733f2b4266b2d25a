"""The posterior of latents, given what was observed of images.

By a model, the latents are standard normal. With the likelihood of what was
observed, that gives a posterior:

```
log p(z | y) = -|z|^2 / 2 - |y - A(x(z))|^2 / (2 sigma^2) + constant
```

where `x(z)` is the image of the latents, `A` the observation, such as the
pixels that are known, and `sigma` its noise. The likeliest latents are found by
descent from zero (https://arxiv.org/abs/1905.11672), samples by Hamiltonian
Monte Carlo (HMC).

HMC starts a chain per sample where descent ends from a draw of the prior, with
the observation perturbed by a draw of its noise (randomize-then-optimize,
https://doi.org/10.1137/140964023). So chains start in different modes of the
posterior. The step size of each latent is divided by the root of the curvature
there, and one factor per chain is adapted.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp.errors import FailureError
from tf_realnvp.flow.real_nvp import RealNVP

NUM_DESCENTS = 150  # Steps of Adam to the likeliest latents.
NUM_START_DESCENTS = 75  # To the start of a chain; more are no better.
_RATE = 0.1
_FIRST_SIGMA = 8.0  # Relative to the last.
_ANNEALING = 0.7  # Part of the descent in which sigma falls.
_NUM_PROBES = 8  # For the curvature.
NUM_ADAPTATIONS = 15  # Transitions of HMC that are not kept.
NUM_DRAWS = 15  # Transitions that are.
_NUM_LEAPFROGS = 5
_FIRST_STEP = 0.05
_ACCEPTANCE = 0.65


def infer(
    model: RealNVP,
    observe: Callable[[tf.Tensor], tf.Tensor],
    values: np.ndarray,
    visible: np.ndarray,
    labels: np.ndarray,
    sigma: float,
    num_samples: int,
    seed: int,
    batch_size: int,
    display: Callable[..., Any],
) -> dict[str, np.ndarray]:
    """Finds the likeliest latents of each image, and samples of its posterior.

    Args:
      model: The model.
      observe: What was observed of images, as for `restoration.restore`.
      values: What was observed, `[n, ...]`.
      visible: Where it was, boolean of the same shape.
      labels: Labels to try of each image, int32 `[n, num_tried]`.
      sigma: Standard deviation of the likelihood.
      num_samples: Number of samples for each image.
      seed: Seed of the samples.
      batch_size: Number of chains or descents that are computed together.
      display: Class of the progress.

    Returns:
      What a `Restoration` has of the latents, and of the samples if there are
      any, by name; `r_hat` and `ess` are of each component.

    Raises:
      FailureError: If no finite density is found.
    """
    n, num_tried = labels.shape
    posterior = _Posterior(model, observe, values.shape[1:])
    observation = _Observation(
        values.astype(np.float32),
        visible.astype(np.float32),
        labels,
        np.zeros([n, *model.latent_shape], np.float32),
    )
    size = max(1, batch_size // max(num_tried, num_samples))
    starts = range(0, max(1, n), size)
    num_steps = NUM_DESCENTS
    if num_samples:
        num_steps += NUM_START_DESCENTS + NUM_ADAPTATIONS + NUM_DRAWS
    parts = []
    with display("restore", num_steps * len(starts)) as progress:
        on_step = functools.partial(progress.update, 1)
        for start in starts:
            end = start + size
            part = _Observation(*(field[start:end] for field in observation))
            result = posterior.likeliest(part, sigma, on_step)
            if num_samples:
                part = part._replace(label=result["label"])
                rng = np.random.default_rng([seed, start])
                result |= posterior.sample(
                    part, num_samples, sigma, rng, on_step
                )
            parts.append(result)
    result = tf.nest.map_structure(lambda *x: np.concatenate(x), *parts)
    if not np.all(np.isfinite(result["log_density"])):
        raise FailureError("no finite density was found for the images")
    return result


class _Observation(NamedTuple):
    """What is known of images.

    Attributes:
      values: Float32 `[n, ...]`, what was observed.
      visible: Float32 of the same shape: 1 where it was, else 0.
      label: Int32 `[n]`, or `[n, num_tried]` to find the likeliest of some; 0
        if the model has no classes.
      center: Float32 `[n, H / 2, W / 2, 4 * C]`, the mean of the prior.
    """

    values: np.ndarray
    visible: np.ndarray
    label: np.ndarray
    center: np.ndarray


@functools.lru_cache(maxsize=1)  # Calls in a row trace once.
class _Posterior:
    """The posterior of latents, in functions that are traced once each."""

    def __init__(self, model, observe, observed_shape):
        self._model = model
        self._observe = observe
        latents = tf.TensorSpec([None, *model.latent_shape])
        values = tf.TensorSpec([None, *observed_shape])
        label, number = tf.TensorSpec([None], tf.int32), tf.TensorSpec([])
        observation = _Observation(values, values, label, latents)

        def traced(function, *signature):
            return tf.function(function, signature or None, autograph=False)

        self._points = traced(self._decode, latents, label)
        self._density = traced(self._log_density, latents, observation, number)
        self._gradient = traced(
            self._differentiate, latents, observation, number
        )
        self._start = traced(self._start_hmc)
        self._transition = traced(self._hmc)

    def _decode(self, latents, label):
        """Returns images `[n, H, W, C]` of latents, in levels."""
        label = None if self._model.num_classes is None else label
        points = self._model.decode_points(latents, label)
        return points - self._model.values.middle

    def _log_density(self, latents, observation, sigma):
        """Returns the log-density of latents `[n]`, up to a constant."""
        seen = self._observe(self._points(latents, observation.label))
        errors = observation.visible * (seen - observation.values) / sigma
        squares = tf.square(latents - observation.center)
        return -0.5 * (_sum_of_each(tf.square(errors)) + _sum_of_each(squares))

    def _differentiate(self, latents, observation, sigma):
        _, gradient = tfp.math.value_and_gradient(
            lambda points: self._density(points, observation, sigma), latents
        )
        return gradient

    def _descend(self, observation, sigma, num_steps, on_step):
        """Returns likely latents, by descent from the mean of the prior.

        First sigma falls, then the rate: a wide likelihood has fewer local
        optima. The steps are those of https://arxiv.org/abs/1412.6980,
        algorithm 1.
        """
        latents, first, second = observation.center, 0.0, 0.0
        for step in range(num_steps):
            done, number = step / num_steps, tf.constant(step + 1.0)
            width = sigma * _FIRST_SIGMA ** max(0.0, 1.0 - done / _ANNEALING)
            rate = _RATE * (0.5 + 0.5 * math.cos(math.pi * done))
            gradient = self._gradient(latents, observation, width)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * tf.square(gradient)
            mean = first / (1.0 - 0.9**number)
            deviation = tf.sqrt(second / (1.0 - 0.999**number))
            latents = latents + rate * mean / (deviation + 1e-8)
            on_step(len(latents))
        return latents

    def likeliest(self, observation, sigma, on_step):
        """Finds the likeliest latents of each image, of all classes to try.

        Args:
          observation: What is known of the images.
          sigma: Standard deviation of the likelihood.
          on_step: Called after each step with the number of latents.

        Returns:
          What a `Restoration` has of the latents, by name.
        """
        n, num_tried = observation.label.shape
        tried = _repeat(observation, num_tried)
        tried = tried._replace(label=observation.label.ravel())
        latents = self._descend(tried, sigma, NUM_DESCENTS, on_step)
        density = self._density(latents, tried, sigma).numpy()
        points = self._points(latents, tried.label).numpy()
        log_prior = np.log(self._model.class_probs or [1.0])
        joint = np.reshape(density + log_prior[tried.label], [n, num_tried])
        best = num_tried * np.arange(n) + joint.argmax(axis=1)
        return {
            "images": self._model.values.nearest(points[best]),
            "log_density": density[best],
            "label": tried.label[best],
        }

    def sample(self, observation, num_samples, sigma, rng, on_step):
        """Samples the posterior of each image, with a chain per sample.

        Args:
          observation: What is known of the images, with their labels.
          num_samples: Number of samples per image.
          sigma: As for `likeliest`.
          rng: Generator of the starts, the probes and the seeds of HMC.
          on_step: As for `likeliest`.

        Returns:
          What a `Restoration` has of the samples, by name.
        """

        def normal(like):
            return rng.standard_normal(like.shape, np.float32)

        def perturbed(center):
            values = observation.values + sigma * normal(observation.values)
            return observation._replace(values=values, center=center)

        n = len(observation.label)
        num_chains = max(2, num_samples)  # One alone has no R-hat.
        observation = _repeat(observation, num_chains)
        start = perturbed(normal(observation.center))
        latents = self._descend(start, sigma, NUM_START_DESCENTS, on_step)
        # For noise e, the gradients differ by J^T e / sigma, with the Jacobian
        # J. The mean of the squares is the diagonal of J^T J / sigma^2.
        gradient = self._gradient(latents, observation, sigma)
        squares = []
        for _ in range(_NUM_PROBES):
            probe = perturbed(observation.center)
            difference = self._gradient(latents, probe, sigma) - gradient
            squares.append(np.square(difference))
        scale = 1.0 / np.sqrt(1.0 + np.mean(squares, axis=0))
        state = latents / scale
        fixed = scale, observation, tf.constant(sigma, tf.float32)
        results = self._start(state, *fixed)
        draws, rates = [], []
        for step in range(NUM_ADAPTATIONS + NUM_DRAWS):
            seed = tf.constant(rng.integers(2**31, size=2), tf.int32)
            state, results = self._transition(state, results, seed, *fixed)
            on_step(n * num_chains)
            if step >= NUM_ADAPTATIONS:
                draws.append(self._points(state * scale, observation.label))
                ratio = results.inner_results.log_accept_ratio
                rates.append(np.exp(np.minimum(ratio, 0.0)))
        shape = len(draws), n, num_chains, *self._model.image_shape
        chains = np.reshape(draws, shape).swapaxes(1, 2)
        levels = self._model.values.nearest(chains)
        r_hat = tfp.mcmc.potential_scale_reduction(chains)
        ess = tfp.mcmc.effective_sample_size(chains, cross_chain_dims=1)
        rates = np.mean(rates, axis=0).reshape(n, num_chains)
        return {
            "samples": levels[-1, :num_samples].swapaxes(0, 1),
            "mean": levels.mean(axis=(0, 1), dtype=np.float32),
            "std": levels.std(axis=(0, 1), dtype=np.float32),
            "r_hat": r_hat.numpy(),
            "ess": ess.numpy(),
            "acceptance": rates.mean(axis=1),
        }

    def _kernel(self, scale, observation, sigma):
        """Returns the kernel of HMC on latents divided by `scale`."""
        hmc = tfp.mcmc.HamiltonianMonteCarlo(
            lambda state: self._density(state * scale, observation, sigma),
            tf.fill([tf.shape(scale)[0], 1, 1, 1], _FIRST_STEP),
            _NUM_LEAPFROGS,
        )
        return tfp.mcmc.DualAveragingStepSizeAdaptation(
            hmc, NUM_ADAPTATIONS, _ACCEPTANCE
        )

    def _start_hmc(self, state, *condition):
        return self._kernel(*condition).bootstrap_results(state)

    def _hmc(self, state, results, seed, *condition):
        return self._kernel(*condition).one_step(state, results, seed)


def _repeat(observation, number):
    """Repeats what is known of each image."""
    return tf.nest.map_structure(
        lambda field: np.repeat(field, number, axis=0), observation
    )


def _sum_of_each(values):
    """Sums over all axes but the first."""
    return tf.reduce_sum(values, axis=range(1, values.shape.rank))
