"""Measurements of images with a model, for out-of-distribution detection."""

import concurrent.futures
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tf_realnvp.analysis import bit_maps
from tf_realnvp.flow import observations
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import runtime, tiling
from tf_realnvp.utils.batches import overlapped, parts

_MAX_CELLS = 8  # Cells per side of the grid that costs are summed over.
_OVERFLOW = 1e30  # Nats that replace values beyond the range of float32.
_REGIONS = 3, 12  # Pixels per side of the regions of a tile.
_FLAT = 4  # Pixels per side of regions without contrast.
_NO_CONTRAST = 0.1  # Variance of levels that is as none.
_SHARE = 0.01  # Of the regions that are the highest or lowest ones.
_CODERS: tuple[dict[str, Any], ...] = (
    {"format": "PNG", "optimize": True},
    {"format": "WEBP", "lossless": True, "quality": 100},
)


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Measurements of images, the input of all methods.

    Of a model of tiles they are of the tiles, and `of_images` makes one number
    an image of those of its tiles.

    Attributes:
      log_prob: Float64 `[n]`, log-probability in nats, as returned by
        `RealNVP.log_prob_each`.
      costs: Float32 `[n, S, 2, rows, columns]`, in nats: `bit_maps.costs`,
        summed over the cells of a grid of at most 8 x 8.
      coded_bits: Float64 `[n]`, code length of a lossless coder in bits; NaN
        for real numbers.
      label: Int64 `[n]`, the likeliest class, on which `costs` are conditioned;
        0 if the model has no classes.
      regions: Float32 `[n, F]`, of tiles: the highest and the lowest costs of
        regions of two sizes, and the least contrast; else `[n, 0]`.
      image: Int64 `[n]`, the index of the image, in ascending order.
    """

    log_prob: np.ndarray
    costs: np.ndarray
    coded_bits: np.ndarray
    label: np.ndarray
    regions: np.ndarray
    image: np.ndarray

    def __len__(self) -> int:
        return len(self.log_prob)

    def of_images(
        self, values: np.ndarray, reduce: Callable[[np.ndarray], Any] = np.max
    ) -> np.ndarray:
        """Returns one value for each image.

        Args:
          values: `[n, ...]`.
          reduce: Makes one value of those of an image. Default: the highest.
        """
        return np.array([reduce(values[rows]) for rows in self.rows])

    @property
    def rows(self) -> list[np.ndarray]:
        """The indices of the measurements of each image."""
        first = np.flatnonzero(np.diff(self.image)) + 1
        return np.split(np.arange(len(self)), first)

    def take(self, which: np.ndarray | slice) -> "Measurements":
        """Returns the measurements of some of the images.

        Args:
          which: Indices of the images, a slice, or a boolean mask `[n]`.
        """
        return Measurements(*(values[which] for values in vars(self).values()))

    @staticmethod
    def concatenate(parts: Sequence["Measurements"]) -> "Measurements":
        """Returns the measurements of several sets of images as one."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        joined = Measurements(*map(np.concatenate, columns))
        is_next = [np.diff(part.image, prepend=-1) != 0 for part in parts]
        image = np.cumsum(np.concatenate(is_next)) - 1
        return dataclasses.replace(joined, image=image)


class Measurer:
    """Measures images with a model, in one pass of the flow per class.

    The costs of a model with classes are conditioned on the likeliest class of
    each image; its log-probabilities are under the mixture of the classes.

    A model of tiles measures overlapping tiles that cover an image.
    """

    def __init__(self, model: RealNVP, batch_size: int = 64):
        """Creates a measurer. The flow is traced once, in the first call.

        Args:
          model: The model.
          batch_size: Images per pass, one for each class. It affects
            measurements by rounding only.
        """
        self._model = model
        # An image is measured given each class.
        self._batch_size = max(1, batch_size // (model.num_classes or 1))
        self._has_tiles = model.metadata.get("tiles", False)
        self._size = model.image_shape[:2]

        def of_batch(images, seed, context):
            seeds = tf.fill([tf.shape(images)[0]], seed)
            points = model.dequantize_each(images, seeds)
            return measure(model, images, points, **context)

        images = tf.TensorSpec([None, *model.image_shape], model.values.dtype)
        context = model.condition.specs
        context.pop("label", None)
        specs = [images, tf.TensorSpec([], tf.int64), context]
        self._measure = tf.function(of_batch, specs, autograph=False)

    def __call__(
        self, images: np.ndarray, seed: int = 0, context: Any = None
    ) -> Measurements:
        """Measures images.

        Args:
          images: `[n, H, W, C]` of the model's dtype, with `n >= 1`. For a
            model of tiles, images `[H, W, C]` of any size, one after another.
          seed: Seed of the dequantization noise, a 64-bit integer. It is used
            for each image, so the measurements of an image do not depend on
            the other images.
          context: As for `RealNVP.log_prob`. Default: for a model that observes
            images, what it observes of these; of masks, nothing.

        Returns:
          The measurements of all images.

        Raises:
          ValueError: If the images have the wrong shape or dtype.
        """
        if not self._has_tiles:
            return self._measured(images, seed, context)
        parts = [tiling.cut(image, self._size) for image in images]
        measured = self._measured(np.concatenate(parts), seed, context)
        image = np.repeat(np.arange(len(parts)), [*map(len, parts)])
        return dataclasses.replace(measured, image=image)

    def _measured(self, images, seed, context):
        """Returns the measurements of images, or of the tiles of one."""
        parts = []
        for batch, columns in self._batches(images, seed, context):
            del columns["map"]
            parts.append(columns | {"coded_bits": coded_bits(batch)})
        columns = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        return Measurements(**columns, image=np.arange(len(images)))

    def maps(self, images: Any, seed: int = 0, context: Any = None) -> Any:
        """Returns bit maps: the code length of each position of images.

        Args:
          images: As for `__call__`.
          seed: As for `__call__`.
          context: As for `__call__`.

        Returns:
          Float32 `[n, H, W]`, in bits. A map sums to the code length of the
          image, `-log_prob / log(2)`; for a model with classes, given the
          likeliest class. For real numbers it is in nats, of `-log_prob`. For
          a model of tiles, a list of maps `[H, W]`, the means of those of the
          tiles.
        """
        parts = [images]
        if self._has_tiles:
            parts = [tiling.cut(image, self._size) for image in images]
        batches = self._batches(np.concatenate(parts), seed, context)
        nats = [columns["map"] for _, columns in batches]
        maps = self._model.values.from_nats(np.concatenate(nats))
        maps = maps.astype(np.float32)
        if not self._has_tiles:
            return maps
        split = np.split(maps, np.cumsum([*map(len, parts)])[:-1])
        return [
            tiling.join(part, image.shape[:2])
            for part, image in zip(split, images, strict=True)
        ]

    def _batches(self, images, seed, context):
        """Iterates over batches of images and what `measure` returns."""
        images, shape = np.asarray(images), list(self._model.image_shape)
        dtype = np.dtype(self._model.values.dtype)
        if images.dtype != dtype or list(images.shape[1:]) != shape:
            # TensorFlow would cast the images, or hang in its next call.
            raise ValueError(
                f"`images` must be {dtype} [n, {str(shape)[1:]}, "
                f"got {images.dtype} {list(images.shape)}."
            )

        context = observations.given(self._model, images, context)
        condition = self._model.condition(images, context=context)

        def of_part(part):
            batch = images[part]
            context = tf.nest.map_structure(lambda v: v[part], condition)
            number = tf.constant(seed, tf.int64)
            columns = self._measure(batch, number, context)
            return batch, {k: v.numpy() for k, v in columns.items()}

        return overlapped(of_part, parts(len(images), self._batch_size))


def measure(
    model: RealNVP, images: tf.Tensor, points: tf.Tensor, **context: Any
) -> dict[str, tf.Tensor]:
    """Measures images, as a part of a graph.

    Args:
      model: The model.
      images: `[n, H, W, C]`, or tiles of this shape.
      points: The same with the noise of dequantization, float32.
      **context: As for `bit_maps.costs`.

    Returns:
      The attributes of `Measurements` but `coded_bits` and `image`; and `map`,
      float64 `[n, H, W]`, the costs in nats.
    """
    if model.num_classes is None:
        costs = bit_maps.costs(model, points, **context)
        label = tf.zeros([tf.shape(images)[0]], tf.int64)
        difference = tf.zeros_like(label, tf.float64)
    else:
        costs, label, difference = _given_likeliest(model, points, context)
        difference = tf.cast(_finite(difference, 0.0), tf.float64)
    # Beyond the range of float32, an image is as unlikely as possible.
    costs = _finite(costs, _OVERFLOW)
    nats = tf.reduce_sum(tf.cast(costs, tf.float64), axis=[1, 2])
    regions = tf.zeros([tf.shape(images)[0], 0])
    if model.metadata.get("tiles"):
        regions = _regions(nats, images)
    cells = [_cells(side).astype(np.float32) for side in costs.shape[3:]]
    return {
        "log_prob": difference - tf.reduce_sum(nats, axis=[1, 2]),
        "costs": _pool(costs, *cells),
        "label": label,
        "regions": regions,
        "map": nats,
    }


def _given_likeliest(model, points, context):
    """Returns costs, the likeliest class, and log p(x) - log p(x | class)."""
    num_images, num_classes = tf.shape(points)[0], model.num_classes
    labels = tf.tile(tf.range(num_classes), [num_images])
    points, context = tf.nest.map_structure(
        lambda values: tf.repeat(values, num_classes, axis=0), (points, context)
    )
    costs = bit_maps.costs(model, points, label=labels, **context)
    prior = tf.math.log(tf.constant(model.class_probs, tf.float32))
    log_probs = -tf.reduce_sum(costs, axis=[1, 2, 3, 4])
    joint = prior + tf.reshape(log_probs, [-1, num_classes])
    label = tf.argmax(joint, axis=-1, output_type=tf.int32)
    costs = tf.gather(costs, num_classes * tf.range(num_images) + label)
    # Bayes' rule: p(class | x) = p(class) p(x | class) / p(x).
    posterior = tf.reduce_max(tf.nn.log_softmax(joint), axis=-1)
    difference = tf.gather(prior, label) - posterior
    return costs, tf.cast(label, tf.int64), difference


def _finite(values, other):
    """Replaces NaN, and infinity by the largest value that is allowed."""
    values = tf.where(tf.math.is_nan(values), other, values)
    return tf.clip_by_value(values, -_OVERFLOW, _OVERFLOW)


def _pool(values, rows, columns):
    """Sums the last two axes, with weights `[H, i]` and `[W, j]`."""
    return tf.matmul(rows, tf.matmul(values, columns), transpose_a=True)


def _cells(side):
    """Returns which cell each pixel of a side is in, `[side, cells]`."""
    count = min(_MAX_CELLS, side // 2)
    starts = np.arange(count) * side // count
    cell = np.searchsorted(starts, np.arange(side), side="right") - 1
    return np.eye(count)[cell]


def _regions(costs, images):
    """Returns what is most unusual in the regions of tiles, `[n, F]`.

    Args:
      costs: Of each position, `[n, H, W]`.
      images: The tiles, `[n, H, W, C]`.
    """
    features = []
    for size in _REGIONS:
        means = _windows(costs, size)
        few = max(1, int(_SHARE * means.shape[1]))
        for side in (means, -means):
            highest = tf.math.top_k(side, few).values
            features.append(tf.reduce_mean(highest, axis=1))
    # Of a flat region the flow only sees the edges.
    pixels = tf.reduce_mean(tf.cast(images, tf.float64), axis=-1)
    variances = _windows(pixels**2, _FLAT) - _windows(pixels, _FLAT) ** 2
    least = tf.maximum(tf.reduce_min(variances, axis=1), 0.0)
    features.append(-tf.math.log(least + _NO_CONTRAST))
    return tf.cast(tf.stack(features, axis=1), tf.float32)


def _windows(values, size):
    """Returns the means of all square windows of images, `[n, windows]`."""
    sides = values.shape[1:]
    size = min(size, *sides)

    def weights(side):
        offsets = np.subtract.outer(np.arange(side), np.arange(side - size + 1))
        return ((offsets >= 0) & (offsets < size)) / size

    means = _pool(values, *map(weights, sides))
    return tf.reshape(means, [-1, math.prod(means.shape[1:])])


def coded_bits(images: np.ndarray) -> np.ndarray:
    """Returns the code length of images under lossless coders, in bits.

    Args:
      images: `[n, H, W, C]`, `uint8` or `uint16`. If `C` is neither 1 nor 3,
        the channels are coded side by side, and all of 16 bits.

    Returns:
      Float64 `[n]`: for each image the shorter of PNG and lossless WebP, or the
      length as PNG if it has 16 bits. NaN for real numbers, which have none.
    """
    images = np.asarray(images)
    if images.dtype.kind == "f":
        return np.full(len(images), np.nan)
    is_wide = images.dtype == np.uint16

    def length(image):
        if image.shape[-1] != 3 or is_wide:
            image = image.transpose(0, 2, 1).reshape(len(image), -1)
        lengths = []
        for options in _CODERS[: 1 if is_wide else None]:
            with io.BytesIO() as file:
                Image.fromarray(image).save(file, **options)
                lengths.append(file.tell())
        return 8.0 * min(lengths)

    with concurrent.futures.ThreadPoolExecutor(runtime.num_cores()) as pool:
        return np.fromiter(pool.map(length, images), np.float64)
