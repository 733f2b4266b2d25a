"""Bit maps: the code length of each position of an image, in bits.

The log-density of an image is a sum of terms with a position: the log-dets of
elementwise bijectors and the log-scales of couplings belong to components, the
base density to latents. Terms at the resolution of the image are assigned to
their pixel. Terms at a coarser scale are spread evenly over the pixels that a
point of the coarser grid covers. So a map sums to the code length of the image.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage
from tensorflow_probability import distributions as tfd

from tf_realnvp.flow import bijectors, networks
from tf_realnvp.flow.bijectors import Squeeze, inverse_and_log_scale
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import private


def costs(model: RealNVP, points: tf.Tensor, **condition: Any) -> tf.Tensor:
    """Returns the cost of each position of images, by scale and kind.

    Args:
      model: The model.
      points: Dequantized images, float32 `[n, H, W, C]`, `n` at least 1.
      **condition: What to condition on, as for `RealNVP.encode`.

    Returns:
      Float32 `[n, S, 2, H, W]`, in nats, for `S` scales.
      `[:, s, 0]` are the negative log-scales of scale `s`, which for `s = 0`
      include the logit. `[:, s, 1]` is the negative log-density of the latents
      that leave the flow at scale `s`. The sum over all axes but the first is
      `-log_density(points, **condition)`.
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
    if model.visible:
        points = model.visible.in_points(points, condition["context"])
    condition = model.condition.encode(condition)
    visible = condition.get("visible", tf.zeros_like(points))
    scales: list[list] = [[0.0, 0.0] for _ in range(model.num_scales)]

    def apply(step, points, kwargs, scale):
        nonlocal visible
        if hasattr(step, "bijector"):  # `tfb.Invert`: behind all costs.
            return step.inverse(points)
        if isinstance(step, Squeeze):
            visible = step.inverse(visible)
            return step.inverse(points)
        points, log_det = inverse_and_log_scale(step, points, **kwargs)
        scales[scale][0] += _on_grid(
            -log_det * (1.0 - visible), height >> scale
        )
        return points

    def leave(latents, scale, is_last):
        nonlocal visible
        cost = -tfd.Normal(0.0, 1.0).log_prob(latents)
        own = visible
        if not is_last:  # The first half of the channels stays.
            visible, own = tf.split(visible, 2, axis=-1)
        cost *= 1.0 - own
        if not is_last:
            cost = tf.concat([tf.zeros_like(cost), cost], axis=-1)
        scales[scale][1] = _on_grid(cost, height >> scale)

    kwargs = bijectors.condition_kwargs(model.bijector, **condition)
    latents = bijectors.fold(model.bijector, points, apply, leave, kwargs)
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


def _on_grid(values, height):
    """Undoes squeezes, and sums over the channels: `[n, h, w]`."""
    squeezed = height // values.shape[1]
    if squeezed > 1:
        values = tf.nn.depth_to_space(values, squeezed)
    return tf.reduce_sum(values, axis=-1)


def _on_pixels(values, height):
    """Spreads costs evenly over the pixels that a point of a grid covers."""
    covered = height // values.shape[1]
    return networks.on_grid(values, height) / covered**2
