"""Geometry of the latent space: where to look between and around images."""

import math

import numpy as np
from sklearn import metrics


def slerp(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Interpolates on the arc between two latents (spherical interpolation).

    Latents of images all lie at about the same distance from the origin, and
    the points of the arc do too, which those of a straight line do not.

    Args:
      start: The latents at the start, of any shape.
      end: Those at the end, of the same shape.
      steps: Number of points, at least 2, `start` and `end` among them.

    Returns:
      Float32 `[steps, *start.shape]`. The first is `start` and the last `end`,
      exactly. Between latents of the same or of opposite directions, which no
      single arc joins, it is a straight line.
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    fractions = np.linspace(0.0, 1.0, steps)
    weights = np.stack([1.0 - fractions, fractions])
    norms = np.linalg.norm(start) * np.linalg.norm(end)
    if norms > 0.0:
        angle = math.acos(np.clip(np.vdot(start, end) / norms, -1.0, 1.0))
        if math.sin(angle) > 1e-6:
            weights = np.sin(weights * angle) / math.sin(angle)
    points = np.multiply.outer(weights[0], start)
    points += np.multiply.outer(weights[1], end)
    return points.astype(np.float32)


def manifold(latents: np.ndarray, size: int) -> np.ndarray:
    """Spans a closed surface by four latents, z1 to z4.

    The points are `cos(a) (cos(b) z1 + sin(b) z2) + sin(a) (cos(b) z3 + sin(b)
    z4)`, equation 19 of https://arxiv.org/abs/1605.08803, with `size` angles
    each, evenly from 0 up to, but not including, `2 pi`.

    Args:
      latents: The four, `[4, ...]`.
      size: Number of angles.

    Returns:
      Float32 `[size, size, ...]`, `a` along the first axis and `b` along the
      second. If `size` is a multiple of 4, the four are at `[0, 0]`,
      `[0, size / 4]`, `[size / 4, 0]` and `[size / 4, size / 4]`.
    """
    angles = 2.0 * math.pi * np.arange(size) / size
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    pairs = np.reshape(latents, [2, 2, *np.shape(latents)[1:]])
    points = np.einsum("ai,bj,ij...->ab...", circle, circle, pairs)
    return points.astype(np.float32)


def direction(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Returns the direction from images without something to those with it.

    It is the difference of the mean latents, section 5 of
    https://arxiv.org/abs/1807.03039: an image is moved by `image + strength *
    direction`, where a strength of 1 is from one mean to the other.

    Args:
      present: Latents `[n, ...]` of images that have it.
      absent: Latents `[m, ...]` of images that have it not.

    Returns:
      Float32 `[...]`.
    """
    difference = np.mean(present, axis=0) - np.mean(absent, axis=0)
    return np.asarray(difference, np.float32)


def separation(
    direction: np.ndarray, present: np.ndarray, absent: np.ndarray
) -> float:
    """Returns how well a direction tells images apart that had no part in it.

    Args:
      direction: `[...]`.
      present: Latents `[n, ...]` of images that have what it is of.
      absent: Latents `[m, ...]` of images that have it not.

    Returns:
      The AUROC: how often one that has it lies farther in the direction than
      one that has not. 1 is always, 0.5 is chance.
    """
    latents = np.concatenate([present, absent]).reshape(-1, direction.size)
    has_it = np.arange(len(latents)) < len(present)
    return float(metrics.roc_auc_score(has_it, latents @ direction.ravel()))


def redraw_factored_out(
    latents: np.ndarray, num_draws: int, seed: int
) -> np.ndarray:
    """Draws anew what the first scale factored out, and keeps the others.

    Args:
      latents: `[n, H / 2, W / 2, 4 * C]`; the last `2 * C` channels are what
        the first scale factored out.
      num_draws: Number of draws for each image.
      seed: The same seed gives the same draws.

    Returns:
      Float32 `[n, num_draws, H / 2, W / 2, 4 * C]`.
    """
    latents = np.asarray(latents, np.float32)
    points = np.repeat(latents[:, np.newaxis], num_draws, axis=1)
    factored_out = points[..., latents.shape[-1] // 2 :]
    rng = np.random.default_rng(seed)
    factored_out[...] = rng.standard_normal(factored_out.shape)
    return points
