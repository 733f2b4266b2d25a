"""Restoration: what is missing in an image, or under noise, and how sure it is.

A model is a prior of images, by which the latents are standard normal. With the
likelihood of what was observed, it gives a posterior of the latents:

```
log p(z | y) = -|z|^2 / 2 - |y - A(x(z))|^2 / (2 sigma^2) + constant
```

where `x(z)` is the image of the latents, `A` the observation, such as the
pixels that are known, and `sigma` its noise. The likeliest latents are found by
descent from zero (https://arxiv.org/abs/1905.11672), samples by Hamiltonian
Monte Carlo (HMC).

```python
found = restoration.restore(model, images, mask, num_samples=8)
found.images  # uint8 [n, H, W, C], the likeliest
found.samples  # uint8 [n, 8, H, W, C], other answers
found.std  # float32 [n, H, W, C], where they differ
```

HMC starts a chain per sample where descent ends from a draw of the prior, with
the observation perturbed by a draw of its noise (randomize-then-optimize,
https://doi.org/10.1137/140964023). So chains start in different modes of the
posterior. The step size of each latent is divided by the root of the curvature
there, and one factor per chain is adapted.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp.model import RealNVP
from tf_realnvp.utils.errors import FailureError
from tf_realnvp.utils.progress import Progress, Silent

Observe = Callable[[tf.Tensor], tf.Tensor]

_KNOWN_SIGMA = 5.0 / 255.0  # Of known pixels, relative to white.
_NUM_DESCENTS = 150  # Steps of Adam to the likeliest latents.
_NUM_START_DESCENTS = 75  # To the start of a chain; more are no better.
_RATE = 0.1
_FIRST_SIGMA = 8.0  # Relative to the last.
_ANNEALING = 0.7  # Part of the descent in which sigma falls.
_NUM_PROBES = 8  # For the curvature.
_NUM_ADAPTATIONS = 15  # Transitions of HMC that are not kept.
_NUM_DRAWS = 15  # Transitions that are.
_NUM_LEAPFROGS = 5
_FIRST_STEP = 0.05
_ACCEPTANCE = 0.65


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Restored images; without samples, what is of samples is `None`.

    Attributes:
      images: `[n, H, W, C]`, the images of the likeliest latents, in the dtype
        of the model's images.
      log_density: Float32 `[n]`, `log p(z | y)` of these latents up to the
        constant, in nats.
      label: Int32 `[n]`, the class of each image; `None` without classes.
      samples: `[n, num_samples, H, W, C]` of the same dtype, the last image of
        each chain.
      mean: Float32 `[n, H, W, C]`, over all images of all chains.
      std: Float32 `[n, H, W, C]`, the standard deviation of the same.
      r_hat: Float32 `[n]`, median of the potential scale reduction of the
        restored components, a ratio of variances; far above 1 where chains stay
        in modes of their own.
      ess: Float32 `[n]`, median of their effective sample sizes.
      acceptance: Float32 `[n]`, mean acceptance probability of HMC.
    """

    images: np.ndarray
    log_density: np.ndarray
    label: np.ndarray | None = None
    samples: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    r_hat: np.ndarray | None = None
    ess: np.ndarray | None = None
    acceptance: np.ndarray | None = None


def restore(
    model: RealNVP,
    images: np.ndarray,
    mask: np.ndarray | None = None,
    noise: float | None = None,
    label: Any = None,
    num_samples: int = 0,
    seed: int = 0,
    observe: Observe | None = None,
    batch_size: int = 64,
    shows_progress: bool = False,
) -> Restoration:
    """Restores images of which only a part, or a noisy version, is known.

    Args:
      model: The model.
      images: What was observed, `[n, H, W, C]` in levels; with `observe`, `[n,
        ...]` of the shape that it returns.
      mask: Boolean, of a shape that broadcasts to that of `images`: `True` what
        is missing. Default: nothing.
      noise: Standard deviation of Gaussian noise on the observed values, in
        their unit; required for real numbers. Default: none; the known pixels
        stay as they are.
      label: Class of all images, or of each, `[n]`. Default: for a model with
        classes, that of the likeliest restoration, by a descent per class.
      num_samples: Number of samples of the posterior for each image, each from
        a chain of its own.
      seed: Seed of the samples.
      observe: Differentiable function from images, float32 `[m, H, W, C]` in
        levels, to what was observed of them. It takes `noise`.
      batch_size: Number of chains or descents that are computed together.
      shows_progress: Whether to show the progress on standard output.

    Raises:
      ValueError: If the images or the mask have a wrong shape, or arguments are
        missing or out of range.
      FailureError: If no finite density is found.
    """
    images = np.asarray(images)
    shape = (len(images), *model.image_shape)
    if observe is None and images.shape != shape:
        raise ValueError(f"`images` must be {shape}, got {images.shape}.")
    if noise is None and (mask is None or observe is not None):
        raise ValueError("`noise` must be given, or `mask` without `observe`.")
    is_missing = np.broadcast_to(False if mask is None else mask, images.shape)
    if noise is None and model.values.are_real:
        raise ValueError("`noise` must be given for real numbers.")
    sigma = noise or _KNOWN_SIGMA * model.values.highest
    posterior = _posterior(model, observe, images.shape[1:])
    num_tried = (model.num_classes or 1) if label is None else 1
    labels = np.broadcast_to(0 if label is None else label, [len(images)])
    size = max(1, batch_size // max(num_tried, num_samples))
    starts = range(0, len(images), size)
    num_steps = _NUM_DESCENTS
    if num_samples:
        num_steps += _NUM_START_DESCENTS + _NUM_ADAPTATIONS + _NUM_DRAWS
    parts = []
    display = Progress if shows_progress else Silent
    with display("restore", num_steps * len(starts)) as progress:
        on_step = functools.partial(progress.update, 1)
        for start in starts:
            part = slice(start, start + size)
            given = _Given(
                images[part].astype(np.float32),
                (~is_missing[part]).astype(np.float32),
                labels[part].astype(np.int32),
                np.zeros([len(images[part]), *model.latent_shape], np.float32),
            )
            given, found = posterior.likeliest(given, num_tried, sigma, on_step)
            if num_samples:
                rng = np.random.default_rng([seed, start])
                found |= posterior.sample(
                    given, num_samples, sigma, rng, on_step
                )
            parts.append(found)
    found = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }
    if not np.all(np.isfinite(found["log_density"])):
        raise FailureError("no finite density was found for the images")
    is_restored = is_missing if noise is None else np.full(shape, True)
    for name in found.keys() & {"r_hat", "ess"}:
        medians = [
            np.median(its[which]) if which.any() else np.nan
            for its, which in zip(found[name], is_restored, strict=True)
        ]
        found[name] = np.array(medians, np.float32)
    if noise is None:
        levels = images.astype(model.values.dtype)
        known = {"images": levels, "mean": levels, "std": 0 * levels}
        for name in found.keys() & known.keys():
            found[name] = np.where(is_missing, found[name], known[name])
        if num_samples:
            found["samples"] = np.where(
                *(is_missing[:, None], found["samples"], levels[:, None])
            )
    if model.num_classes is None:
        del found["label"]
    return Restoration(**found)


class _Given(NamedTuple):
    """What is known of images.

    Attributes:
      values: Float32 `[n, ...]`, what was observed.
      is_known: Float32 of the same shape: 1 where it was, else 0.
      label: Int32 `[n]`; 0 if the model has no classes.
      center: Float32 `[n, H / 2, W / 2, 4 * C]`, the mean of the prior.
    """

    values: np.ndarray
    is_known: np.ndarray
    label: np.ndarray
    center: np.ndarray


class _Posterior:
    """The posterior of latents, in functions that are traced once each."""

    def __init__(self, model, observe, observed_shape):
        self._model = model
        self._observe = observe or tf.identity
        latents = tf.TensorSpec([None, *model.latent_shape])
        values = tf.TensorSpec([None, *observed_shape])
        label, number = tf.TensorSpec([None], tf.int32), tf.TensorSpec([])
        given = _Given(values, values, label, latents)

        def traced(function, *signature):
            return tf.function(function, signature or None, autograph=False)

        self._points = traced(self._decode, latents, label)
        self._density = traced(self._log_density, latents, given, number)
        self._gradient = traced(self._differentiate, latents, given, number)
        self._step = traced(
            *(self._adam, (latents,) * 3, number, number, given, number)
        )
        self._start = traced(self._start_hmc)
        self._transition = traced(self._hmc)

    def _decode(self, latents, label):
        """Returns images `[n, H, W, C]` of latents, in levels."""
        label = None if self._model.num_classes is None else label
        points = self._model.decode_points(latents, label)
        return points - self._model.values.middle

    def _log_density(self, latents, given, sigma):
        """Returns the log-density of latents `[n]`, up to a constant."""
        seen = self._observe(self._points(latents, given.label))
        errors = given.is_known * (seen - given.values) / sigma
        squares = tf.square(latents - given.center)
        return -0.5 * (_sum_of_each(tf.square(errors)) + _sum_of_each(squares))

    def _differentiate(self, latents, given, sigma):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(latents)
            density = self._density(latents, given, sigma)
        return density, tape.gradient(density, latents)

    def _adam(self, state, step, rate, given, sigma):
        """Takes a step of https://arxiv.org/abs/1412.6980, algorithm 1."""
        latents, first, second = state
        _, gradient = self._gradient(latents, given, sigma)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * tf.square(gradient)
        mean = first / (1.0 - 0.9**step)
        deviation = tf.sqrt(second / (1.0 - 0.999**step))
        return latents + rate * mean / (deviation + 1e-8), first, second

    def _descend(self, given, sigma, num_steps, on_step):
        """Returns likely latents, by descent from the mean of the prior.

        First sigma falls, then the rate: a wide likelihood has fewer local
        optima.
        """
        state = given.center, *np.zeros([2, *given.center.shape], np.float32)
        for step in range(num_steps):
            part = step / num_steps
            left = max(0.0, 1.0 - part / _ANNEALING)
            rate = _RATE * (0.5 + 0.5 * math.cos(math.pi * part))
            state = self._step(
                state,
                tf.constant(step + 1.0),
                tf.constant(rate, tf.float32),
                given,
                tf.constant(sigma * _FIRST_SIGMA**left, tf.float32),
            )
            on_step(len(given.values))
        return state[0]

    def likeliest(self, given, num_tried, sigma, on_step):
        """Finds the likeliest latents of each image, of one class or of all.

        Args:
          given: What is known of the images.
          num_tried: Number of classes; 1 to keep the labels.
          sigma: Standard deviation of the likelihood.
          on_step: Called after each step with the number of latents.

        Returns:
          `given` with the labels found, and what a `Restoration` has of the
          latents, by name.
        """
        tried = _repeat(given, num_tried)
        if num_tried > 1:
            classes = np.arange(num_tried, dtype=np.int32)
            tried = tried._replace(label=np.tile(classes, len(given.label)))
        latents = self._descend(tried, sigma, _NUM_DESCENTS, on_step)
        density = self._density(latents, tried, sigma).numpy()
        density = density.reshape(-1, num_tried)
        points = self._points(latents, tried.label).numpy()
        joint = density
        if num_tried > 1:
            joint = density + np.log(self._model.class_probs)
        best = np.arange(len(joint)), joint.argmax(axis=1)
        label = tried.label.reshape(density.shape)[best]
        images = self._model.values.nearest(
            points.reshape(*density.shape, *points.shape[1:])
        )
        found = {"images": images[best], "log_density": density[best]}
        return given._replace(label=label), found | {"label": label}

    def sample(self, given, num_samples, sigma, rng, on_step):
        """Samples the posterior of each image, with a chain per sample.

        Args:
          given: What is known of the images, with their labels.
          num_samples: Number of samples per image.
          sigma: As for `likeliest`.
          rng: Generator of the starts, the probes and the seeds of HMC.
          on_step: As for `likeliest`.

        Returns:
          What a `Restoration` has of the samples, by name.
        """

        def normal(like):
            return rng.standard_normal(like.shape, np.float32)

        def disturbed(center):
            values = given.values + sigma * normal(given.values)
            return given._replace(values=values, center=center)

        n = len(given.label)
        num_chains = max(2, num_samples)  # One alone has no R-hat.
        given = _repeat(given, num_chains)
        start = disturbed(normal(given.center))
        latents = self._descend(start, sigma, _NUM_START_DESCENTS, on_step)
        # For noise e, the gradients differ by J^T e / sigma, with the Jacobian
        # J. The mean of the squares is the diagonal of J^T J / sigma^2.
        _, gradient = self._gradient(latents, given, sigma)
        squares = [
            np.square(
                self._gradient(latents, disturbed(given.center), sigma)[1]
                - gradient
            )
            for _ in range(_NUM_PROBES)
        ]
        scale = 1.0 / np.sqrt(1.0 + np.mean(squares, axis=0))
        state = latents / scale
        fixed = scale, given, tf.constant(sigma, tf.float32)
        results = self._start(state, *fixed)
        draws, rates = [], []
        for step in range(_NUM_ADAPTATIONS + _NUM_DRAWS):
            seed = tf.constant(rng.integers(2**31, size=2), tf.int32)
            state, results = self._transition(state, results, seed, *fixed)
            on_step(len(scale))
            if step >= _NUM_ADAPTATIONS:
                draws.append(self._points(state * scale, given.label).numpy())
                ratio = results.inner_results.log_accept_ratio
                rates.append(np.exp(np.minimum(ratio, 0.0)))
        # [draws, chains, n, H, W, C]
        chains = np.stack(draws).reshape(
            _NUM_DRAWS, n, num_chains, *draws[0].shape[1:]
        )
        chains = np.moveaxis(chains, 2, 1)
        levels = self._model.values.nearest(chains)
        r_hat = tfp.mcmc.potential_scale_reduction(chains)
        ess = tfp.mcmc.effective_sample_size(chains, cross_chain_dims=1)
        return {
            "samples": np.moveaxis(levels[-1, :num_samples], 0, 1),
            "mean": levels.mean(axis=(0, 1), dtype=np.float32),
            "std": levels.std(axis=(0, 1), dtype=np.float32),
            "r_hat": r_hat.numpy(),
            "ess": ess.numpy(),
            "acceptance": np.mean(rates, axis=0).reshape(n, -1).mean(axis=1),
        }

    def _kernel(self, scale, given, sigma):
        """Returns the kernel of HMC on latents divided by `scale`."""
        hmc = tfp.mcmc.HamiltonianMonteCarlo(
            lambda state: self._density(state * scale, given, sigma),
            tf.fill([tf.shape(scale)[0], 1, 1, 1], _FIRST_STEP),
            _NUM_LEAPFROGS,
        )
        return tfp.mcmc.DualAveragingStepSizeAdaptation(
            hmc, _NUM_ADAPTATIONS, _ACCEPTANCE
        )

    def _start_hmc(self, state, *condition):
        return self._kernel(*condition).bootstrap_results(state)

    def _hmc(self, state, results, seed, *condition):
        return self._kernel(*condition).one_step(state, results, seed)


# Calls in a row trace once.
_posterior = functools.lru_cache(maxsize=1)(_Posterior)


def _repeat(given, number):
    """Repeats what is known of each image."""
    return _Given(*(np.repeat(its, number, axis=0) for its in given))


def _sum_of_each(values):
    """Sums over all axes but the first."""
    return tf.reduce_sum(tf.reshape(values, [tf.shape(values)[0], -1]), axis=1)
