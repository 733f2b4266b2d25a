"""From the stored images of a split to batches, decoding each image once."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.data.splits import Split
from tf_realnvp.utils import runtime

# Name scope of the decoding operations: TensorFlow's errors name the operation
# that failed.
DECODING = "tf_realnvp_decodes_stored_image"

_PREFETCHED_BATCHES = 4


class Cache:
    """Cache of the decoded images of a split, filled in any order."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype):
        # The system allocates memory page by page, as it is written to.
        self._images = np.empty(shape, dtype)
        self._present = np.zeros(shape[:1], bool)

    def is_complete(self) -> bool:
        """Returns whether all images are stored."""
        return bool(self._present.all())

    def through(
        self, places: tf.Tensor, *images: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns positions and the images stored there, in a graph.

        Args:
          places: The positions, `[n]`.
          *images: `[n, H, W, C]`, to be stored there before; optional.
        """
        stored = call(
            Cache._through, self, [places, *images], self._images.dtype
        )
        shape = [*places.shape, *self._images.shape[1:]]
        return places, tf.ensure_shape(stored, shape)

    def _through(self, places, images=None):
        if images is not None:
            self._images[places] = images
            self._present[places] = True
        return self._images[places]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches of the images of a split.

    An image is cached when it is first decoded, in whatever pass. Once all are
    cached, new passes read from memory, in the same order.

    Attributes:
      split: The split.
      decode: As for `ImageDataset`.
      image_shape: `(H, W, C)`.
      cache: Cache of the images; `None` to decode them in each pass.
      observe: As for `ImageDataset`.
    """

    split: Split
    decode: Callable[[tf.Tensor], tf.Tensor]
    image_shape: tuple[int, int, int]
    cache: Cache | None
    observe: Callable[[tf.Tensor, tf.Tensor], Any] | None = None

    def batches(
        self,
        batch_size: int,
        arrange: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda x: x,
        drop_remainder: bool = False,
    ) -> tf.data.Dataset:
        """Returns batches of images and their positions in the split.

        Args:
          batch_size: Images per batch.
          arrange: Reorders elements of any dataset, or drops whole batches.
          drop_remainder: Whether to drop a last partial batch.
        """
        split, cache = self.split, self.cache
        if cache is not None and cache.is_complete():
            places = arrange(tf.data.Dataset.range(split.num_images))
            return places.batch(batch_size, drop_remainder).map(cache.through)

        def decode(place, stored):
            with tf.name_scope(DECODING):
                image = self.decode(stored)
                return place, tf.ensure_shape(image, self.image_shape)

        images = arrange(split.stored().enumerate()).map(
            decode, num_parallel_calls=runtime.num_cores()
        )
        if cache is not None:
            # In batches, since each call of Python has some overhead, and
            # before the remainder is dropped, since it must be cached as well.
            images = images.batch(batch_size).map(cache.through).unbatch()
        return images.batch(batch_size, drop_remainder)

    def finish(
        self,
        batches: tf.data.Dataset,
        num_batches: int,
        first: int = 0,
        seed: Sequence[int] = (0, 0),
    ) -> tf.data.Dataset:
        """Adds labels and context, a cardinality and prefetching to `batches`.

        A batch is a pair of images and what they are conditioned on, keyword
        arguments of `RealNVP.log_prob`.

        Args:
          batches: What `batches` returned.
          num_batches: Number of batches.
          first: Index of the first batch.
          seed: Seed of what is observed, with the index of a batch.
        """
        with tf.device("CPU"):  # Not in the graph, which would be large.
            own = tf.nest.map_structure(tf.constant, self.split.condition)
        options = tf.data.Options()
        # Deleting an iterator waits for its autotuning thread, which may sleep
        # for seconds (TensorFlow 2.21): the end of an epoch would hang.
        options.autotune.enabled = False

        def conditioned(index, batch):
            places, images = batch
            condition = tf.nest.map_structure(
                lambda values: tf.gather(values, places), own
            )
            if self.observe is not None:
                own_seed = tf.random.experimental.stateless_fold_in(seed, index)
                condition["context"] = self.observe(images, own_seed)
            return images, condition

        with_size = tf.data.experimental.assert_cardinality(num_batches)
        batches = batches.enumerate(first).map(conditioned).apply(with_size)
        return batches.prefetch(_PREFETCHED_BATCHES).with_options(options)


@tf.autograph.experimental.do_not_convert
def call(
    function: Callable[..., np.ndarray],
    owner: Any,
    values: Sequence[tf.Tensor],
    dtype: Any,
) -> tf.Tensor:
    """Calls `function(owner, *values)` in a graph, by `tf.numpy_function`.

    TensorFlow never releases a function that `tf.numpy_function` calls, so the
    function holds a weak reference to its owner. The function that a pipeline
    maps must hold the owner; the pipeline and its iterators hold that function.

    Args:
      function: Maps the owner and arrays to an array.
      owner: Any object that supports weak references.
      values: Tensors passed to `function` as arrays.
      dtype: Dtype of the result, of TensorFlow or NumPy.
    """
    reference = weakref.ref(owner)

    def call_owner(*arrays):
        owner = reference()
        if owner is None:
            # Called by an iterator that prefetches while it is deleted.
            # TensorFlow does not log this exception, unlike others.
            raise StopIteration("the data set is gone")
        return function(owner, *arrays)

    return tf.numpy_function(call_owner, values, tf.as_dtype(dtype))
