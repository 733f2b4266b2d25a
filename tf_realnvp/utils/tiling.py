"""Where tiles of one size lie in images of any size."""

from collections.abc import Sequence

import numpy as np

_OVERLAP = 0.1  # Of neighboring tiles, relative to their size.


def corners(
    shape: Sequence[int], tile: Sequence[int], overlap: float = 0.0
) -> np.ndarray:
    """Returns the upper left corners of tiles that cover an image.

    Args:
      shape: Height and width of the image, at least those of a tile.
      tile: Height and width of a tile.
      overlap: Least overlap of neighboring tiles, relative to their size.

    Returns:
      Rows and columns, `[n, 2]`, row by row, and evenly spaced.
    """

    def starts(length, size):
        step = max(1, int(size * (1.0 - overlap)))
        room = length - size
        return np.rint(np.linspace(0, room, 1 - -room // step)).astype(int)

    axes = [starts(*sizes) for sizes in zip(shape, tile, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def cut(image: np.ndarray, tile: Sequence[int]) -> np.ndarray:
    """Returns the overlapping tiles of an image, `[n, h, w, C]`.

    Args:
      image: `[H, W, C]`.
      tile: Height and width of a tile.
    """
    windows = np.lib.stride_tricks.sliding_window_view(image, tile, (0, 1))
    top, left = corners(image.shape[:2], tile, _OVERLAP).T
    return np.moveaxis(windows[top, left], 1, -1)


def join(maps: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns the map of an image, the mean of the maps of its tiles.

    Args:
      maps: `[n, h, w]`, of the tiles that `cut` yields.
      shape: Height and width of the image.

    Returns:
      Float32 `[H, W]`.
    """
    tile = maps.shape[1:]
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    places = corners(shape, tile, _OVERLAP)
    for (top, left), values in zip(places, maps, strict=True):
        window = slice(top, top + tile[0]), slice(left, left + tile[1])
        total[window] += values
        count[window] += 1.0
    return total / count
