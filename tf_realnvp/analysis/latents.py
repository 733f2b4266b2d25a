"""Interpolation, directions and resampling in the latent space."""

import math

import numpy as np


def slerp(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Interpolates between two latents on an arc (spherical interpolation).

    Latents of images all lie at about the same distance from the origin. So do
    the points of the arc, but not the points of a straight line.

    Args:
      start: The latents at the start, of any shape.
      end: The latents at the end, of the same shape.
      steps: Number of points, including `start` and `end`; at least 2.

    Returns:
      Float32 `[steps, *start.shape]`. The first is `start` and the last `end`,
      exactly. Latents of the same or of opposite directions have no unique arc
      between them and are interpolated linearly.
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
    """Returns points of the closed surface spanned by four latents, z1 to z4.

    The points are `cos(a) (cos(b) z1 + sin(b) z2) + sin(a) (cos(b) z3 + sin(b)
    z4)`, equation 19 of https://arxiv.org/abs/1605.08803, with `size` angles
    each, evenly from 0 up to, but not including, `2 pi`.

    Args:
      latents: The four latents, `[4, ...]`.
      size: Number of angles.

    Returns:
      Float32 `[size, size, ...]`, `a` along the first axis and `b` along the
      second. If `size` is a multiple of 4, the latents are at `[0, 0]`,
      `[0, size / 4]`, `[size / 4, 0]` and `[size / 4, size / 4]`.
    """
    angles = 2.0 * math.pi * np.arange(size) / size
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    pairs = np.reshape(latents, [2, 2, *np.shape(latents)[1:]])
    points = np.einsum("ai,bj,ij...->ab...", circle, circle, pairs)
    return points.astype(np.float32)


def direction(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Returns the direction of an attribute in the latent space.

    It is the difference of the mean latents of images with and without the
    attribute (section 5 of https://arxiv.org/abs/1807.03039). To move an image,
    use `latents + strength * direction`; a strength of 1 is the distance
    between the two means.

    Args:
      present: Latents `[n, ...]` of images with the attribute.
      absent: Latents `[m, ...]` of images without it.

    Returns:
      Float32 `[...]`.
    """
    difference = np.mean(present, axis=0) - np.mean(absent, axis=0)
    return np.asarray(difference, np.float32)


def separation(
    direction: np.ndarray, present: np.ndarray, absent: np.ndarray
) -> float:
    """Returns how well a direction separates images by an attribute.

    Args:
      direction: `[...]`.
      present: Latents `[n, ...]` of images with the attribute. Like `absent`,
        they should not be among the images that give the direction.
      absent: Latents `[m, ...]` of images without the attribute.

    Returns:
      The AUROC: probability that an image with the attribute lies farther along
      the direction than an image without it; 0.5 at chance.
    """
    from sklearn import metrics  # It takes half a second.

    latents = np.concatenate([present, absent]).reshape(-1, direction.size)
    has_it = np.arange(len(latents)) < len(present)
    return float(metrics.roc_auc_score(has_it, latents @ direction.ravel()))


def redraw_factored_out(
    latents: np.ndarray, num_draws: int, seed: int
) -> np.ndarray:
    """Resamples the latents factored out at the first scale.

    Args:
      latents: `[n, H / 2, W / 2, 4 * C]`; the last `2 * C` channels are
        factored out at the first scale.
      num_draws: Number of samples per image.
      seed: Seed; the same seed gives the same samples.

    Returns:
      Float32 `[n, num_draws, H / 2, W / 2, 4 * C]`.
    """
    latents = np.asarray(latents, np.float32)
    points = np.repeat(latents[:, np.newaxis], num_draws, axis=1)
    factored_out = points[..., latents.shape[-1] // 2 :]
    rng = np.random.default_rng(seed)
    factored_out[...] = rng.standard_normal(factored_out.shape)
    return points
