"""Restores images by a model that was trained on whole images.

`python -m examples.posterior models/realnvp_faces torn.png --out restored.png`
draws what is likely where images are transparent, or where `--mask` is white,
and eight samples, with their mean and spread. `--noise` is the standard
deviation of Gaussian noise on all that is known, in levels of 255.

By the model, the latents are standard normal. With the likelihood of what was
observed, that gives a posterior:

```
log p(z | y) = -|z|^2 / 2 - |y - A(x(z))|^2 / (2 sigma^2) + constant
```

where `x(z)` is the image of the latents (`RealNVP.decode_points`), `A` the
observation, any differentiable function, and `sigma` its noise. The likeliest
latents are found by descent from zero (https://arxiv.org/abs/1905.11672),
samples by Hamiltonian Monte Carlo (HMC).

HMC starts a chain per sample where descent ends from a draw of the prior, with
the observation perturbed by a draw of its noise (randomize-then-optimize,
https://doi.org/10.1137/140964023). So chains start in different modes of the
posterior. The step size of each latent is divided by the root of the curvature
there, and one factor per chain is adapted. Where R-hat is above 1.2, chains
stay in modes of their own: each sample is an answer, but how likely it is
relative to the others is not known.

A model of masks (`--observe mask --init_from models/realnvp_faces`) restores in
a hundredth of the time, and its samples are independent (docs/restoration.md).
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tf_realnvp
from tf_realnvp.analysis import plots
from tf_realnvp.data import image_files

NUM_DESCENTS = 150  # Steps of Adam to the likeliest latents.
NUM_START_DESCENTS = 75  # To the start of a chain; more are no better.
NUM_ADAPTATIONS = 15  # Transitions of HMC that are not kept.
NUM_DRAWS = 15  # Transitions that are.
_RATE = 0.1
_FIRST_SIGMA = 8.0  # Relative to the last.
_ANNEALING = 0.7  # Part of the descent in which sigma falls.
_NUM_PROBES = 8  # For the curvature.
_NUM_LEAPFROGS = 5
_FIRST_STEP = 0.05
_ACCEPTANCE = 0.65
_KNOWN = 5.0 / 255.0  # Sigma of values without noise, relative to white.


class Observation(NamedTuple):
    """What is known of images.

    Attributes:
      values: Float32 `[n, ...]`, what was observed.
      visible: Float32 of the same shape: 1 where it was, else 0.
      label: Int32 `[n]`; 0 if the model has no classes.
      center: Float32 `[n, H / 2, W / 2, 4 * C]`, the mean of the prior.
    """

    values: np.ndarray
    visible: np.ndarray
    label: np.ndarray
    center: np.ndarray


class Posterior:
    """The posterior of latents, in functions that are traced once each."""

    def __init__(
        self,
        model: tf_realnvp.RealNVP,
        sigma: float,
        observe: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    ):
        """Creates a posterior.

        Args:
          model: The model.
          sigma: Standard deviation of the noise of what is observed.
          observe: What is observed of images, float32 `[n, H, W, C]`.
        """
        self._model, self._sigma, self._observe = model, sigma, observe

    def observation(
        self, values: np.ndarray, visible: np.ndarray, label: int = 0
    ) -> Observation:
        """Returns what is known of images."""
        n = len(values)
        return Observation(
            np.where(visible, values, 0.0).astype(np.float32),
            np.broadcast_to(visible, values.shape).astype(np.float32),
            np.full([n], label, np.int32),
            np.zeros([n, *self._model.latent_shape], np.float32),
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def points(self, latents, label):
        """Returns images `[n, H, W, C]` of latents, in levels."""
        label = None if self._model.num_classes is None else label
        points = self._model.decode_points(latents, label)
        return points - self._model.values.middle

    @tf.function(reduce_retracing=True, autograph=False)
    def log_density(self, latents, observation, sigma):
        """Returns the log-density of latents `[n]`, up to a constant."""
        seen = self._observe(self.points(latents, observation.label))
        errors = observation.visible * (seen - observation.values) / sigma
        squares = tf.square(latents - observation.center)
        return -0.5 * (_sum_of_each(tf.square(errors)) + _sum_of_each(squares))

    @tf.function(reduce_retracing=True, autograph=False)
    def _gradient(self, latents, observation, sigma):
        _, gradient = tfp.math.value_and_gradient(
            lambda points: self.log_density(points, observation, sigma), latents
        )
        return gradient

    def descend(self, observation: Observation, num_steps: int) -> tf.Tensor:
        """Returns likely latents, by descent from the mean of the prior.

        First sigma falls, then the rate: a wide likelihood has fewer local
        optima. The steps are those of https://arxiv.org/abs/1412.6980,
        algorithm 1.
        """
        latents, first, second = tf.constant(observation.center), 0.0, 0.0
        for step in range(num_steps):
            done, number = step / num_steps, tf.constant(step + 1.0)
            falls = max(0.0, 1.0 - done / _ANNEALING)
            width = tf.constant(self._sigma * _FIRST_SIGMA**falls, tf.float32)
            rate = _RATE * (0.5 + 0.5 * math.cos(math.pi * done))
            gradient = self._gradient(latents, observation, width)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * tf.square(gradient)
            mean = first / (1.0 - 0.9**number)
            deviation = tf.sqrt(second / (1.0 - 0.999**number))
            latents = latents + rate * mean / (deviation + 1e-8)
        return latents

    def sample(
        self, observation: Observation, num_chains: int, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Samples the posterior of each image, with a chain per sample.

        Args:
          observation: What is known of the images.
          num_chains: Number of chains for each image, at least 2.
          seed: Seed of the starts, the probes and HMC.
        """
        rng, n = np.random.default_rng(seed), len(observation.label)

        def normal(like):
            return rng.standard_normal(like.shape, np.float32)

        def perturbed(center):
            noise = self._sigma * normal(observation.values)
            values = observation.values + noise
            return observation._replace(values=values, center=center)

        observation = tf.nest.map_structure(
            lambda field: np.repeat(field, num_chains, axis=0), observation
        )
        sigma = tf.constant(self._sigma, tf.float32)
        start = perturbed(normal(observation.center))
        latents = self.descend(start, NUM_START_DESCENTS)
        # For noise e, the gradients differ by J^T e / sigma, with the Jacobian
        # J. The mean of the squares is the diagonal of J^T J / sigma^2.
        gradient = self._gradient(latents, observation, sigma)
        squares = []
        for _ in range(_NUM_PROBES):
            probe = perturbed(observation.center)
            difference = self._gradient(latents, probe, sigma) - gradient
            squares.append(np.square(difference))
        scale = 1.0 / np.sqrt(1.0 + np.mean(squares, axis=0))
        hmc = tfp.mcmc.HamiltonianMonteCarlo(
            lambda state: self.log_density(state * scale, observation, sigma),
            tf.fill([len(scale), 1, 1, 1], _FIRST_STEP),
            _NUM_LEAPFROGS,
        )
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
            hmc, NUM_ADAPTATIONS, _ACCEPTANCE
        )
        states, ratios = tf.function(tfp.mcmc.sample_chain, autograph=False)(
            NUM_DRAWS,
            latents / scale,
            kernel=kernel,
            num_burnin_steps=NUM_ADAPTATIONS,
            trace_fn=lambda _, results: results.inner_results.log_accept_ratio,
            seed=tf.constant([seed, 1]),
        )
        draws = [
            self.points(state * scale, observation.label) for state in states
        ]
        shape = len(draws), n, num_chains, *self._model.image_shape
        chains = np.reshape(draws, shape).swapaxes(1, 2)
        levels = self._model.values.nearest(chains)
        rates = np.exp(np.minimum(ratios, 0.0)).reshape(len(draws), n, -1)
        return {
            "samples": levels[-1].swapaxes(0, 1),
            "mean": levels.mean(axis=(0, 1), dtype=np.float32),
            "std": levels.std(axis=(0, 1), dtype=np.float32),
            "r_hat": tfp.mcmc.potential_scale_reduction(chains).numpy(),
            "ess": tfp.mcmc.effective_sample_size(
                chains, cross_chain_dims=1
            ).numpy(),
            "acceptance": rates.mean(axis=(0, 2)),
        }


def _sum_of_each(values):
    """Sums over all axes but the first."""
    return tf.reduce_sum(values, axis=range(1, values.shape.rank))


def main() -> None:
    """Restores images, and draws a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--mask")
    parser.add_argument("--noise", type=float)
    parser.add_argument("--label", type=int, default=0)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="restored.png")
    flags = parser.parse_args()
    model = tf_realnvp.load(flags.model)
    shape, values = model.image_shape, model.values
    images = np.stack(
        [image_files.read(path, shape, values) for path in flags.images]
    )
    mask = np.stack(
        [
            image_files.read_missing(path, shape, flags.mask)
            for path in flags.images
        ]
    )
    sigma = values.highest * (flags.noise / 255.0 if flags.noise else _KNOWN)
    posterior = Posterior(model, sigma)
    observation = posterior.observation(images, ~mask, flags.label)
    points = posterior.points(
        posterior.descend(observation, NUM_DESCENTS), observation.label
    )
    likeliest = values.nearest(points.numpy())
    chains = max(2, flags.samples)  # One alone has no R-hat.
    found = posterior.sample(observation, chains, flags.seed)
    print(
        f"R-hat {np.median(found['r_hat']):.2f}, effective sample size "
        f"{np.median(found['ess']):.0f}, acceptance "
        f"{found['acceptance'].mean():.2f}"
    )
    samples = found["samples"].swapaxes(0, 1)
    shown = {f"sample {k}": drawn for k, drawn in enumerate(samples, 1)}
    shown = {"likeliest": likeliest, **shown, "mean": np.rint(found["mean"])}
    spread = found["std"] * (255.0 / values.highest)
    if flags.noise is None:  # The known values stay.
        shown = {k: np.where(mask, v, images) for k, v in shown.items()}
        spread = np.where(mask, spread, 0.0)
    plots.save_restorations(
        flags.out, images, mask, shown, spread.mean(axis=-1), values
    )


if __name__ == "__main__":
    main()
