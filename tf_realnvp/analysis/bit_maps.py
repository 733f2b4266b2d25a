"""Bit maps: the code length of each position of an image, in bits.

The log-density of an image is a sum of terms with a position: the log-dets of
elementwise bijectors and the log-scales of couplings belong to components, the
base density to latents. Terms at the resolution of the image are assigned to
their pixel. Terms at a coarser scale are spread evenly over the pixels that a
point of the coarser grid covers. So a map sums to the code length of the image.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage
from tensorflow_probability import distributions as tfd

from tf_realnvp.flow.bijectors import (
    AffineCoupling,
    FactorOut,
    Squeeze,
    inverse_and_log_scale,
    steps_of,
)
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import private


def costs(model: RealNVP, points: tf.Tensor, **condition: Any) -> tf.Tensor:
    """Returns the cost of each position of images, by scale and kind.

    Args:
      model: The model.
      points: Dequantized images, float32 `[n, H, W, C]`, `n` at least 1.
      **condition: What to condition on, `label` and `context` as for
        `RealNVP.encode`.

    Returns:
      Float32 `[n, S, 2, H, W]`, in nats, for `S` scales.
      `[:, s, 0]` are the negative log-scales of scale `s`, which for `s = 0`
      include the logit. `[:, s, 1]` is the negative log-density of the latents
      that leave the flow at scale `s`. The sum over all axes but the first is
      `-log_density(points, label)`.
    """
    return costs_and_latents(model, points, **condition)[0]


@private.evicting_graph_tensors()
def costs_and_latents(
    model: RealNVP, points: tf.Tensor, **condition: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `costs` and the latents, in one pass through the flow.

    Args:
      model: As for `costs`.
      points: As for `costs`.
      **condition: As for `costs`.

    Returns:
      The costs, and the latents, float32 `[n, H / 2, W / 2, 4 * C]`.
    """
    height = model.image_shape[0]
    condition = model.condition(points, **condition)
    if model.observe == "mask":
        points = model.show_visible(points, condition["context"])
    condition = model.condition.encode(condition)
    steps = steps_of(model.bijector)
    scales, latents = _encode(steps, points, height, condition)
    costs = [
        tf.stack([_on_pixels(kind, height) for kind in kinds], axis=1)
        for kinds in scales
    ]
    return tf.stack(costs, axis=1), latents


def smooth(maps: np.ndarray) -> np.ndarray:
    """Smooths maps over neighboring pixels, for display.

    A coupling with a checkerboard mask changes every second pixel, so its costs
    form a checkerboard pattern. The binomial filter (1, 2, 1) / 4 along both
    axes removes this pattern and keeps the sum.

    Args:
      maps: `[n, H, W]`.

    Returns:
      The same shape, float64.
    """
    kernel = np.outer([1, 2, 1], [1, 2, 1])[np.newaxis] / 16.0
    return ndimage.convolve(maps, kernel, output=np.float64)


def standardize(maps: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Returns the deviation of maps from normal maps, in standard deviations.

    Args:
      maps: `[n, H, W]`, bits.
      normal: Maps of normal images, `[m, H, W]`, smoothed if `maps` are.

    Returns:
      `[n, H, W]`. The standard deviation of a position is at least a hundredth
      of the mean over all positions.
    """
    deviation = normal.std(axis=0)
    floor = max(0.01 * float(deviation.mean()), 1e-9)
    return (maps - normal.mean(axis=0)) / np.maximum(deviation, floor)


def _encode(steps, points, height, condition):
    """Applies the inverse of the flow step by step.

    Args:
      steps: The remaining bijectors, in the order of the inverse.
      points: Input of the inverse of the first bijector.
      height: Height of the grid at the start of the scale.
      condition: Conditions of the couplings.

    Returns:
      The costs of both kinds at this scale and at each later one, in nats,
      `[n, h, w]` on the grid of the scale; and the latents.
    """
    total, places = 0.0, np.arange(math.prod(points.shape[1:]))
    places = places.reshape(points.shape[1:])

    def free(places):
        """Returns 1 where a component is not given."""
        if "given" not in condition:
            return 1.0
        return 1.0 - tf.gather(condition["given"], places, axis=-1)

    for index, step in enumerate(steps):
        if isinstance(step, FactorOut):
            kept, latents = tf.split(points, 2, axis=-1)
            base = _base(latents) * free(np.split(places, 2, axis=-1)[1])
            base = tf.concat([tf.zeros_like(kept), base], axis=-1)
            inner = steps_of(step.bijector)
            later, kept = _encode(inner, kept, kept.shape[1], condition)
            latents = tf.concat([kept, latents], axis=-1)
            for reorder in steps[index + 1 :]:  # They only reorder latents.
                latents = reorder.inverse(latents)
            return [(total, _on_grid(base, height)), *later], latents
        if isinstance(step, Squeeze):
            points = step.inverse(points)
            continue
        if isinstance(step, AffineCoupling):
            places = step.places
        points, log_det = inverse_and_log_scale(step, points, **condition)
        total += _on_grid(-log_det * free(places), height)
    return [(total, _on_grid(_base(points) * free(places), height))], points


def _base(latents):
    return -tfd.Normal(0.0, 1.0).log_prob(latents)


def _on_grid(values, height):
    """Undoes squeezes, and sums over the channels: `[n, h, w]`."""
    squeezed = height // values.shape[1]
    if squeezed > 1:
        values = tf.nn.depth_to_space(values, squeezed)
    return tf.reduce_sum(values, axis=-1)


def _on_pixels(values, height):
    """Spreads costs evenly over the pixels that a point of a grid covers."""
    covered = height // values.shape[1]
    for axis in (1, 2):
        values = tf.repeat(values, covered, axis=axis)
    return values / covered**2
