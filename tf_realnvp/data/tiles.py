"""Tiles of image files, as what a data set consists of."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_realnvp.data import image_files, pipeline
from tf_realnvp.data.image_dataset import MAX_CACHE_BYTES
from tf_realnvp.data.splits import Split
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import tiling


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
        # Decoded images stay in memory, as far as they fit.
        itemsize = channels * np.dtype(values.dtype).itemsize
        largest = itemsize * np.prod(self._sizes, axis=1).max()
        keep = functools.lru_cache(max(1, int(MAX_CACHE_BYTES // largest)))
        self._read = keep(
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
            own = tiling.corners(self._sizes[file], self._shape[:2])
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
