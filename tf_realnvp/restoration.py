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
restored = restoration.restore(model, images, mask, num_samples=8)
restored.images  # uint8 [n, H, W, C], the likeliest
restored.samples  # uint8 [n, 8, H, W, C], other answers
restored.std  # float32 [n, H, W, C], where they differ
```

A model that was trained to observe masks, or the kind of what was observed
(`RealNVP.observe`), has the density of images given that. Then samples are
drawn from it, and neither descent nor chains are needed.

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

from tf_realnvp import observations
from tf_realnvp.model import RealNVP
from tf_realnvp.utils import assertions
from tf_realnvp.utils.checks import RealNumber, WholeNumber, check
from tf_realnvp.utils.errors import FailureError
from tf_realnvp.utils.progress import Progress, Silent

_KNOWN_SIGMA = 5.0 / 255.0  # Of known pixels, relative to white.
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
_NUM_SAMPLES = 16  # Of a model that observes.


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Restored images; without samples, what is of samples is `None`.

    Attributes:
      images: `[n, H, W, C]`, the images of the likeliest latents, in the dtype
        of the model's images; if the model observes what was observed, the mean
        of the samples and of `RealNVP.estimate`, which counts as 16 samples.
      log_density: Float32 `[n]`, `log p(z | y)` of these latents up to the
        constant, in nats; `None` for a mean, as are the last three.
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
    log_density: np.ndarray | None = None
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
    observe: Callable[[tf.Tensor], tf.Tensor] | None = None,
    batch_size: int = 64,
    shows_progress: bool = False,
) -> Restoration:
    """Restores images of which only a part, or a noisy version, is known.

    Args:
      model: The model.
      images: What was observed, `[n, H, W, C]`, or of the shape that the model
        observes: levels; or with `noise`, finite numbers in the same unit. With
        `observe`, `[n, ...]` of the shape that it returns. Missing values are
        ignored, and may be NaN.
      mask: What is missing: `True`, or any number but 0. Its shape broadcasts
        to that of `images`. Default: nothing. Where all of an image is missing,
        samples are those of the model, and the likeliest is the image of the
        mean of the latents.
      noise: Standard deviation of Gaussian noise on the observed values, in
        their unit; required for real numbers. Default: none; the known pixels
        stay as they are.
      label: Class of all images, or of each, `[n]`. Default: for a model with
        classes, that of the likeliest restoration, by a descent per class; a
        model that observes draws it by `class_probs`.
      num_samples: Number of samples of the posterior for each image, each from
        a chain of its own. A model that observes what was observed needs no
        chains, and draws 16 by default, in pairs of opposite latents.
      seed: Seed of the samples, which depend on `batch_size` as well.
      observe: Differentiable function from images, float32 `[m, H, W, C]` in
        levels, to what was observed of them. It takes `noise`.
      batch_size: Number of chains or descents that are computed together.
      shows_progress: Whether to show the progress on standard output.

    Raises:
      TypeError: If levels or labels are not integers.
      ValueError: If an argument has the wrong shape, is missing, or is a number
        out of range; or if a `label` is given and the model has no classes.
      tf.errors.InvalidArgumentError: If levels or labels are out of range, or
        other observed values are not finite.
      FailureError: If no finite density is found.
    """
    check(num_samples, "num_samples", WholeNumber(0))
    check(batch_size, "batch_size", WholeNumber(1))
    display = Progress if shows_progress else Silent
    draw = functools.partial(
        _draw, model, label, num_samples, seed, batch_size, display
    )
    if model.observe not in (None, "mask"):
        unit = 1.0 if model.values.are_real else model.values.highest / 255.0
        is_other = noise is not None and not observations.is_of_noise(
            model.observe, noise / unit
        )
        if is_other or observe is not None or np.any(mask):
            raise ValueError(f"The model observes {model.observe} alone.")
        return Restoration(**draw(images))
    needs_noise = model.values.are_real and model.observe is None
    num_colors = model.num_colors
    if noise is not None:
        sigma, num_colors = check(noise, "noise", RealNumber()), None
        images = np.asarray(images, np.float32)
    elif mask is None or observe is not None or needs_noise:
        raise ValueError(
            "`noise` must be given with `observe`, for real numbers, and "
            "without a `mask`."
        )
    elif model.observe is None:
        sigma = _KNOWN_SIGMA * model.values.highest
    observe = observe or tf.identity
    shape = observe(tf.zeros([1, *model.image_shape])).shape[1:]
    images = np.asarray(images)
    mask = np.asarray(False if mask is None else mask)
    is_known = np.broadcast_to(mask == 0, images.shape)
    images = np.where(is_known, images, 0)
    images = assertions.images(images, shape, num_colors).numpy()
    if model.observe == "mask" and noise is None:
        is_visible = is_known.all(axis=-1, keepdims=True)
        result = draw(observations.visible_pixels(images, is_visible))
        return _put_back(result, images, is_known)
    n = len(images)
    if label is None:
        classes = np.arange(model.num_classes or 1, dtype=np.int32)
        labels = np.tile(classes, [n, 1])
    else:
        labels = assertions.labels(label, model.num_classes, n).numpy()
        labels = labels[:, np.newaxis]
    observation = _Observation(
        images.astype(np.float32),
        is_known.astype(np.float32),
        labels,
        np.zeros([n, *model.latent_shape], np.float32),
    )
    posterior = _Posterior(model, observe, shape)
    size = max(1, batch_size // max(labels.shape[1], num_samples))
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
    if num_samples:
        stays = is_known if noise is None else False
        for name in ("r_hat", "ess"):
            values = np.ma.array(result[name], mask=stays)
            values = values.reshape(n, model.num_dims)
            result[name] = np.ma.median(values, axis=1).filled(np.nan)
    if model.num_classes is None:
        del result["label"]
    if noise is None:
        return _put_back(result, images, is_known)
    return Restoration(**result)


def _draw(model, label, num_samples, seed, batch_size, display, context):
    """Restores images by samples of the density given what was observed."""
    n, num_samples = len(context), num_samples or _NUM_SAMPLES
    if label is None and model.num_classes is not None:
        label = model.sample_labels(n, seed)
    condition = tf.nest.map_structure(
        lambda values: np.repeat(values, num_samples, axis=0),
        model.condition(context, label, context),
    )
    # In pairs of opposite latents, whose mean varies less.
    half = (num_samples + 1) // 2
    latents = model.sample_latents(n * half, seed=seed)
    latents = tf.reshape(latents, [n, half, *latents.shape[1:]])
    latents = tf.concat([latents, -latents], axis=1)[:, :num_samples]
    latents = tf.reshape(latents, [n * num_samples, *latents.shape[2:]])
    estimates = [
        model.estimate(context[start : start + batch_size])
        for start in range(0, max(1, n), batch_size)
    ]
    parts = []
    with display("restore", math.ceil(len(latents) / batch_size)) as progress:
        for start in range(0, max(1, len(latents)), batch_size):
            part = slice(start, start + batch_size)
            given = {name: values[part] for name, values in condition.items()}
            parts.append(model.decode(latents[part], **given))
            progress.update(1, len(parts[-1]))
    shape = n, num_samples, *model.image_shape
    samples = np.concatenate(parts).reshape(shape)
    mean = samples.mean(axis=1, dtype=np.float32)
    # Either may be the one that is nearer to the image.
    total = num_samples * mean + _NUM_SAMPLES * np.concatenate(estimates)
    images = model.values.nearest(total / (num_samples + _NUM_SAMPLES))
    result = {"samples": samples, "images": images}
    if label is not None:
        result["label"] = condition["label"][::num_samples]
    return result | {"mean": mean, "std": samples.std(axis=1, dtype=np.float32)}


def _put_back(result, images, is_known):
    """Makes known values what they were, since a flow returns them rounded."""
    known = images[is_known]
    result["images"][is_known] = known
    if "samples" in result:
        result["mean"][is_known], result["std"][is_known] = known, 0.0
        result["samples"].swapaxes(0, 1)[:, is_known] = known
    return Restoration(**result)


class _Observation(NamedTuple):
    """What is known of images.

    Attributes:
      values: Float32 `[n, ...]`, what was observed.
      is_known: Float32 of the same shape: 1 where it was, else 0.
      label: Int32 `[n]`, or `[n, num_tried]` to find the likeliest of some; 0
        if the model has no classes.
      center: Float32 `[n, H / 2, W / 2, 4 * C]`, the mean of the prior.
    """

    values: np.ndarray
    is_known: np.ndarray
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
        errors = observation.is_known * (seen - observation.values) / sigma
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
