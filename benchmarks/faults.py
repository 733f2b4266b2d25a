"""Faults to put into images, for `benchmarks.detection`."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SCRATCH = 12  # Pixels, the length.
_PATCH = 8  # Pixels, the side.
_INLAY = 10
_HOLE = 5
_VISIBLE = 0.1  # Share of the levels: smaller changes are not counted.


def put(
    name: str,
    images: np.ndarray,
    seed: int,
    num_colors: int = 256,
    others: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Puts a fault into each image.

    Args:
      name: One of `FAULTS`.
      images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
      seed: Seed of the positions and of the appearance.
      num_colors: Number of levels.
      others: Images from which patches are taken. Default: `images`.

    Returns:
      The images with faults, and boolean `[n, H, W]`: where one is.
    """
    rng = np.random.default_rng(seed)
    white = num_colors - 1
    faulty = np.empty_like(images)
    others = images if others is None else others
    for index, image in enumerate(images):
        other = others[(index + rng.integers(1, len(others))) % len(others)]
        faulty[index] = FAULTS[name](image, other, white, rng)
    return faulty, _visible(images, faulty, white)


def _scratch(image, other, white, rng):
    """A straight line, one pixel wide, of one level."""
    height, width, _ = image.shape
    while True:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        row, column = rng.integers(height), rng.integers(width)
        end = (
            column + (_SCRATCH - 1) * np.cos(angle),
            row + (_SCRATCH - 1) * np.sin(angle),
        )
        line = Image.new("L", (width, height))
        ImageDraw.Draw(line).line([(column, row), end], fill=1, width=1)
        inside = np.asarray(line, bool)[..., None]
        level = rng.integers(white + 1)
        result = np.where(inside, level, image).astype(np.uint8)
        if _visible(image, result, white).sum() >= _SCRATCH // 2:
            return result


def _patch(image, other, white, rng, side=_PATCH):
    """A square of another image, at the same position."""
    height, width, _ = image.shape
    for _ in range(100):  # Two images may be the same nearly everywhere.
        top = rng.integers(height - side + 1)
        left = rng.integers(width - side + 1)
        square = np.s_[top : top + side, left : left + side]
        result = image.copy()
        result[square] = other[square]
        if _visible(image, result, white).sum() >= side**2 // 4:
            break
    return result


def _inlay(image, other, white, rng):
    """A larger square, of an image of another kind."""
    return _patch(image, other, white, rng, _INLAY)


def _hole(image, other, white, rng):
    """A small square of the level of one of the pixels."""
    levels = image.reshape(-1, image.shape[-1])
    flat = np.broadcast_to(levels[rng.integers(len(levels))], image.shape)
    return _patch(image, flat, white, rng, _HOLE)


def _visible(image, result, white):
    """Returns which pixels have changed visibly."""
    changes = np.abs(result.astype(int) - image.astype(int))
    return np.any(changes >= _VISIBLE * white, axis=-1)


def _blur(image, other, white, rng):
    """A Gaussian filter with a standard deviation of one pixel."""
    channels = [
        Image.fromarray(channel).filter(ImageFilter.GaussianBlur(1.0))
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def _noise(image, other, white, rng):
    """Normal noise with a standard deviation of 5 % of the levels."""
    return _levels(image + rng.normal(0.0, white / 20, image.shape), white)


def _brightness(image, other, white, rng):
    """10 % of the levels more, or less."""
    return _levels(image + rng.choice([-1.0, 1.0]) * white / 10, white)


def _turn(image, other, white, rng):
    """A quarter of a turn."""
    return np.rot90(image)


def _levels(values, white):
    return np.clip(np.round(values), 0, white).astype(np.uint8)


FAULTS: dict[str, Callable] = {
    fault.__name__.removeprefix("_"): fault
    for fault in (
        *(_scratch, _patch, _inlay, _hole),
        *(_blur, _noise, _brightness, _turn),
    )
}
