"""Tiles: parts of one size that cover images of any size."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence

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


class Tiles:
    """Tiles of image files, by numbers."""

    def __init__(
        self,
        paths: Sequence[os.PathLike],
        sizes: Sequence[Sequence[int]],
        tile: tuple[int, int],
        channels: int,
        values: Values,
    ):
        """Creates the tiles, none at first.

        Args:
          paths: The files.
          sizes: Height and width of each image.
          tile: Height and width of a tile.
          channels: Number of channels, 1 or 3.
          values: What the values of the images are.
        """
        self._sizes, self._shape = np.array(sizes), (*tile, channels)
        self._places = np.zeros([0, 3], np.int64)  # File, row and column.
        self._dtype = values.dtype
        num_bytes = channels * np.dtype(values.dtype).itemsize
        largest = num_bytes * np.prod(self._sizes, axis=1).max()
        # Decoded images stay in memory, as far as they fit.
        self._read = functools.lru_cache(max(1, int(_MAX_BYTES // largest)))(
            lambda file: image_files.read_pixels(
                paths[file], channels, values.file_dtype
            )
        )

    def split(self, files: Split, least: int, most: int) -> Split:
        """Returns a split of numbers of tiles that cover the images.

        Args:
          files: The files.
          least: Smallest number of tiles; if there are fewer, they repeat.
          most: Largest number; if there are more, some are left out.
        """
        parts = []
        for number, file in enumerate(files.indices):
            own = corners(self._sizes[file], self._shape[:2])
            parts.append(np.insert(own, 0, number, axis=1))
        places = np.concatenate(parts)
        places = np.tile(places, (math.ceil(least / len(places)), 1))
        places = places[:: math.ceil(len(places) / most)]
        numbers = len(self._places) + np.arange(len(places))
        result = files.select(places[:, 0])
        places[:, 0] = result.indices
        self._places = np.concatenate([self._places, places])
        return dataclasses.replace(result, indices=numbers)

    def decode(self, number: tf.Tensor, seed: tf.Tensor | None = None):
        """Returns a tile, `[h, w, C]`, in a graph.

        Args:
          number: Its number.
          seed: Int32 `[2]`, for a tile at a random place in the same image.
            Default: that of the number.
        """
        place = tf.gather(self._places, number)
        if seed is not None:
            room = 1 + tf.gather(self._sizes, place[0]) - self._shape[:2]
            seed = tf.random.experimental.stateless_fold_in(seed, number)
            draws = tf.random.stateless_uniform([2], seed, dtype=tf.float64)
            corner = tf.cast(draws * tf.cast(room, tf.float64), tf.int64)
            place = tf.concat([place[:1], corner], axis=0)
        tile = pipeline.call(Tiles._cut, self, [place], self._dtype)
        return tf.ensure_shape(tile, self._shape)

    def _cut(self, place):
        (file, top, left), (height, width, _) = place.tolist(), self._shape
        pixels = self._read(file)
        return pixels[top : top + height, left : left + width]
