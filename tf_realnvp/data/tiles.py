"""Tiles: parts of one size that cover images of any size."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tf_realnvp.data import image_files, pipeline
from tf_realnvp.data.splits import Split
from tf_realnvp.flow.values import Values

_OVERLAP = 0.1  # Of neighboring tiles, relative to their size.
_MAX_BYTES = 4 * 2**30  # Of decoded images in memory.


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


def cut(
    image: np.ndarray, tile: Sequence[int], size: int
) -> Iterator[np.ndarray]:
    """Yields batches of the overlapping tiles of an image, `[n, h, w, C]`.

    Args:
      image: `[H, W, C]`.
      tile: Height and width of a tile.
      size: Largest number of tiles in a batch.
    """
    places = corners(image.shape[:2], tile, _OVERLAP)
    for start in range(0, len(places), size):
        yield np.stack(
            [
                image[top : top + tile[0], left : left + tile[1]]
                for top, left in places[start : start + size]
            ]
        )


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


class Tiles:
    """Tiles of image files, numbered file by file."""

    def __init__(
        self,
        paths: Sequence[os.PathLike],
        sizes: Sequence[Sequence[int]],
        tile: tuple[int, int],
        channels: int,
        values: Values,
    ):
        """Creates the tiles.

        Args:
          paths: The files.
          sizes: Height and width of each image.
          tile: Height and width of a tile.
          channels: Number of channels, 1 or 3.
          values: What the values of the images are.
        """
        places = [corners(size, tile) for size in sizes]
        self._counts = np.array([len(part) for part in places])
        self._owners = np.repeat(np.arange(len(paths)), self._counts)
        self._corners = np.concatenate(places)
        self._rooms = np.array(sizes) - tile + 1
        self._shape, self._dtype = (*tile, channels), values.dtype
        largest = np.prod(sizes, axis=1).max() * channels * self._itemsize
        # Decoded images stay in memory, as far as they fit.
        self._read = functools.lru_cache(max(1, int(_MAX_BYTES // largest)))(
            lambda file: image_files.read_pixels(
                paths[file], channels, values.file_dtype
            )
        )

    @property
    def _itemsize(self):
        return np.dtype(self._dtype).itemsize

    def split(self, whole: Split, least: int, most: int) -> Split:
        """Returns the tiles of a split of the files.

        Args:
          whole: The files.
          least: Smallest number of tiles; if there are fewer, they repeat.
          most: Largest number; if there are more, some are left out.
        """
        ends = np.cumsum(self._counts)
        places = np.repeat(
            np.arange(len(whole.indices)), self._counts[whole.indices]
        )
        numbers = np.concatenate(
            [
                np.arange(ends[k] - self._counts[k], ends[k])
                for k in whole.indices
            ]
        )
        copies = range(math.ceil(least / len(numbers)))
        numbers = np.concatenate([numbers + k * ends[-1] for k in copies])
        places = np.tile(places, len(copies))
        some = slice(None, None, math.ceil(len(numbers) / most))
        tiles = whole.select(places[some])
        return dataclasses.replace(tiles, indices=numbers[some])

    def decode(self, number: tf.Tensor, seed: tf.Tensor | None = None):
        """Returns a tile, `[h, w, C]`, in a graph.

        Args:
          number: Its number, an element of a `split`.
          seed: Int32 `[2]`, for a tile at a random place in the same image.
            Default: that of the number.
        """
        place = number % len(self._owners)
        file = tf.gather(self._owners, place)
        if seed is None:
            corner = tf.gather(self._corners, place)
        else:
            room = tf.gather(self._rooms, file)
            seed = tf.random.experimental.stateless_fold_in(seed, number)
            draws = tf.random.stateless_uniform([2], seed, dtype=tf.float64)
            corner = tf.cast(draws * tf.cast(room, tf.float64), tf.int64)
        tile = pipeline.call(Tiles._cut, self, [file, corner], self._dtype)
        return tf.ensure_shape(tile, self._shape)

    def _cut(self, file, corner):
        (top, left), (height, width, _) = corner, self._shape
        pixels = self._read(int(file))
        return pixels[top : top + height, left : left + width]
