"""`ImageDataset`: splits of images, and input pipelines of batches.

An epoch shuffles image indices (or compressed records, if images cannot be read
by index) before decoding. So the first batch is ready soon, and a resumed epoch
does not decode skipped batches. Once all images of a split have been decoded,
they are read from memory, in the same order.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.config import DataDescription
from tf_realnvp.images import files as image_files
from tf_realnvp.utils import checks, hashing
from tf_realnvp.utils.errors import DataError, reason
from tf_realnvp.utils.messages import counted
from tf_realnvp.utils.values import Values

MAX_CACHE_BYTES = 4 * 2**30
# Name scope of the decoding operations: TensorFlow's errors name the operation
# that failed.
DECODING = "tf_realnvp_decodes_stored_image"

_PREFETCHED_BATCHES = 4
_TAKEN_AT_ONCE = 256
_CHOSEN_AT_ONCE = 32
_DEFAULT_SIZE = (32, 32)
_NUM_NAMED = 5  # Skipped files to name in a message.
# Errors of decoding that do not mean that the image is damaged.
_NO_DAMAGE = (tf.errors.ResourceExhaustedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images for one purpose, in a fixed order.

    Attributes:
      numbers: Indices of the images in the source, integers `[num_images]`;
        increasing if there are `records`.
      labels: Labels of the images, int32 `[num_images]`, if any.
      records: The stored images of the whole source, unbatched, if it cannot
        read images by index.
      hashes: Hashes of the contents of the images, uint64 `[num_images]`; empty
        if they are not known, as for data sets of TFDS.
    """

    numbers: np.ndarray
    labels: np.ndarray | None = None
    records: tf.data.Dataset | None = None
    hashes: np.ndarray = dataclasses.field(
        default_factory=lambda: hashing.hashes_of([])
    )

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.numbers)

    def stored(self) -> tf.data.Dataset:
        """Returns the stored form of the images: their records or indices."""
        if self.records is None:
            return tf.data.Dataset.from_tensor_slices(self.numbers)
        is_chosen = np.zeros([1 + self.numbers.max(initial=-1)], bool)
        is_chosen[self.numbers] = True
        records = self.records.take(len(is_chosen))
        if is_chosen.all():
            return records
        # Some at once, since each call of a function takes microseconds.
        chosen = tf.data.Dataset.from_tensor_slices(is_chosen)
        pairs = tf.data.Dataset.zip(records, chosen).batch(_CHOSEN_AT_ONCE)
        return pairs.map(tf.boolean_mask).unbatch()

    def choose(self, places: np.ndarray | slice) -> "Split":
        """Returns a split of some of the images.

        Args:
          places: Positions of the images in this split.
        """
        return dataclasses.replace(
            self,
            numbers=self.numbers[places],
            labels=None if self.labels is None else self.labels[places],
            hashes=self.hashes[places] if len(self.hashes) else self.hashes,
        )


def make_splits(
    hashes: np.ndarray,
    labels: np.ndarray | None,
    num_train: int | None = None,
    records: tf.data.Dataset | None = None,
) -> dict[str, Split]:
    """Returns the splits `train` and `test` of a source.

    Args:
      hashes: Hashes of all images, uint64 `[n]`.
      labels: Labels of all images, if any.
      num_train: Number of training images, which come first. Default: the
        images are split by their hashes (`hashing.split`).
      records: As for `Split`.

    Raises:
      DataError: If there are fewer than two images, or a split has none.
    """
    whole = Split(np.arange(len(hashes)), labels, records, hashes)
    if num_train is None:
        numbers = hashing.split(hashes)
    else:
        numbers = whole.numbers[:num_train], whole.numbers[num_train:]
    train, test = map(whole.choose, numbers)
    if not train.num_images or not test.num_images:
        raise DataError(
            f"training and test need an image each, got {len(hashes)}"
        )
    return {"train": train, "test": test}


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Training and test images, and batches of them.

    Host memory is bounded. Decoded images are cached, which takes a byte for
    each component, two (uint16) or four (float32). If that exceeds
    `MAX_CACHE_BYTES`, nothing is cached and every pass decodes the images
    again. A pass that decodes training images also holds `shuffle_buffer`
    stored images.

    An image is cached when it is first decoded, in whatever pass. Once all
    images of a split are cached, new pipelines read from memory.

    Damage of a stored image that `load` could not detect raises a TensorFlow
    error in the pass that decodes the image. `naming_damage` recognizes such
    errors.

    Attributes:
      name: Human-readable name. It is part of file names, so it has no path
        separators.
      image_shape: `(H, W, C)`.
      num_colors: Number of levels of a component, `0 ... num_colors - 1`;
        `None` for real numbers.
      splits: The splits `train`, `test` and, after `hold_out`, `validation`.
      decode: Maps an image's index or record to the image, `[H, W, C]` of
        `values.dtype`, in a graph. A traced function must use the name scope
        `DECODING`.
      shuffle_buffer: Size of the shuffle buffer, in stored training images;
        `None` for a uniform shuffle of all.
      flip: Whether training images are mirrored left to right at random.
      skipped: Names of the skipped files, with the reasons.
      image_fingerprint: One-line identifier of the images: data sets with equal
        fingerprints hold the same images in the same splits, in the same order.
        Computed from the hashes if not given.
      class_names: Names of the classes, if the images have labels. Batches then
        are pairs of images and labels, int32 `[batch_size]`.
      fingerprint: Identifier of the images and of the labels that the data set
        was created with. Computed if not given.
      explain_damage: Maps a TensorFlow error message about a stored image that
        cannot be decoded to a message that names the image and its damage.
      load_settings: The arguments `dataset`, `image_size` and `num_bits` of
        `data.load`, if it created the data set.
      source: A name with which `data.load` finds the data set from any folder,
        if it created it.
      dropped_bits: Number of lowest bits that the levels lack, of the values
        that files of 16 bits hold.

    Raises:
      DataError: If a label is not in `0 ... len(class_names) - 1`.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_colors: int | None
    splits: Mapping[str, Split]
    decode: Callable[[tf.Tensor], tf.Tensor]
    shuffle_buffer: int | None = None
    flip: bool = False
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    explain_damage: Callable[[str], str] = str
    load_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None
    dropped_bits: int = 0

    def __post_init__(self):
        if not self.image_fingerprint:
            digest = hashlib.sha256()
            for split in self.splits.values():
                digest.update(bytes(split.hashes) + b"\0")
            object.__setattr__(self, "image_fingerprint", digest.hexdigest())
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._fingerprint())

    def _fingerprint(self):
        if not self.class_names:
            return self.image_fingerprint
        digest = hashlib.sha256(self.image_fingerprint.encode())
        digest.update(repr(self.class_names).encode())
        for name, split in self.splits.items():
            labels = np.asarray(split.labels)
            low, high = labels.min(), labels.max()
            if low < 0 or high >= len(self.class_names):
                raise DataError(
                    f"{self.name}: the labels of the {name} images must be "
                    f"from 0 to {len(self.class_names) - 1}, got some from "
                    f"{low} to {high}"
                )
            digest.update(labels.astype(np.int64).tobytes())
        return digest.hexdigest()

    @property
    def values(self) -> Values:
        """What the values of the images are."""
        return Values(self.num_colors)

    @property
    def num_train(self) -> int:
        """Number of training images, without validation images."""
        return self.splits["train"].num_images

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return self.splits["test"].num_images

    @property
    def num_validation(self) -> int:
        """Number of validation images; 0 if none are held out."""
        split = self.splits.get("validation")
        return 0 if split is None else split.num_images

    @property
    def class_probs(self) -> tuple[float, ...]:
        """Frequencies of the classes in the training images.

        Validation images are included. Empty if the images have no labels.
        """
        counts = np.zeros([len(self.class_names)], int)
        for name, split in self.splits.items():
            if name != "test" and split.labels is not None:
                counts += np.bincount(split.labels, minlength=len(counts))
        return tuple((counts / counts.sum()).tolist())

    @property
    def description(self) -> DataDescription:
        """The description that a run stores."""
        names = (field.name for field in dataclasses.fields(DataDescription))
        return DataDescription(*(getattr(self, name) for name in names))

    @property
    def metadata(self) -> dict[str, Any]:
        """Description of the data for `RealNVP.metadata`."""
        metadata: dict[str, Any] = {"dataset": self.name, "source": self.source}
        if self.class_names:
            metadata["class_names"] = list(self.class_names)
        if self.dropped_bits:
            metadata["dropped_bits"] = self.dropped_bits
        # Validation images have a part in the choice of the best epoch.
        seen = [its.hashes for n, its in self.splits.items() if n != "test"]
        if sketch := hashing.sketch(np.concatenate(seen)):
            metadata["training_hashes"] = sketch
        return metadata

    def relabel(self, class_names: Sequence[str]) -> "ImageDataset":
        """Returns this data set with labels renumbered, or removed.

        Args:
          class_names: Names of the classes, in the order of the new labels.
            They must include all of `self.class_names`. Empty to remove labels.
        """
        splits = {}
        for name, split in self.splits.items():
            labels = None
            if class_names:
                numbers = [class_names.index(own) for own in self.class_names]
                labels = np.array(numbers, np.int32)[split.labels]
            splits[name] = dataclasses.replace(split, labels=labels)
        return dataclasses.replace(
            self,
            splits=splits,
            class_names=tuple(class_names),
            fingerprint=self.fingerprint if class_names else "",
        )

    def hold_out(self, num_validation: int, seed: int) -> "ImageDataset":
        """Returns this data set with some training images for validation.

        Args:
          num_validation: Number of images to hold out, at least 1 and less than
            `num_train`.
          seed: Seed of the selection, not negative. The same seed selects the
            same images, as long as NumPy's random streams stay the same (they
            may change between NumPy releases, but not in patch releases).
        """
        # Two numbers, unlike the spawn keys of epochs.
        sequence = np.random.SeedSequence(seed, spawn_key=(0, 0))
        held_out = _draw(self.num_train, num_validation, sequence)
        others = np.setdiff1d(np.arange(self.num_train), held_out)
        train = self.splits["train"]
        return self._replace_splits(
            train=train.choose(others), validation=train.choose(held_out)
        )

    def sample_test(self, num_images: int, seed: int) -> "ImageDataset":
        """Returns this data set with a random subset of the test images.

        The subset is random, since images may be stored by class.

        Args:
          num_images: Size of the subset; if there are fewer test images, all
            are used.
          seed: Seed of the selection, not negative.
        """
        if num_images >= self.num_test:
            return self
        drawn = _draw(self.num_test, num_images, seed)
        return self._replace_splits(test=self.splits["test"].choose(drawn))

    def _replace_splits(self, **splits):
        return dataclasses.replace(self, splits={**self.splits, **splits})

    def keep_bits(self, num_bits: int) -> "ImageDataset":
        """Returns this data set with only the highest bits of each component.

        Args:
          num_bits: How many bits to keep.

        Raises:
          DataError: If the images do not have whole bits, or have fewer.
        """
        own_bits = checks.bits_of_levels(self.num_colors) or 0
        if own_bits < max(num_bits, 8):
            raise DataError(
                f"the images of {self.name} have {self.values}, and bits can "
                f"only be left out of {max(2**num_bits, 256)} or more"
            )
        dropped = own_bits - num_bits
        dtype = Values(2**num_bits).dtype

        def decode(element):
            levels = self.decode(element)
            return tf.cast(tf.bitwise.right_shift(levels, dropped), dtype)

        return dataclasses.replace(
            self,
            num_colors=2**num_bits,
            decode=decode,
            dropped_bits=dropped if own_bits > 8 else 0,
        )

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and standard deviation of each training channel.

        Returns:
          Two arrays, float64 `[C]`, over the training images and all pixels.
        """
        sums = np.zeros([3, self.image_shape[-1]])
        for batch in self._in_order("train", _TAKEN_AT_ONCE, (0, 1)):
            images = np.float64(batch[0] if self.class_names else batch)
            sums += [(images**k).sum(axis=(0, 1, 2)) for k in range(3)]
        _, mean, square = sums / sums[0]
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Returns one epoch of shuffled training batches.

        The batches depend on the arguments only, in any process: not on
        TensorFlow's global seed, nor on earlier passes.

        Args:
          batch_size: Images per batch.
          seed: Seed of the whole run, not negative.
          epoch: Number of the epoch, not negative.
          skip: Number of batches to skip at the start of the epoch, to resume
            it after an interruption. Skipped batches are not decoded.
          share: The index of this worker, and the number of workers. Only the
            images of its share of each batch are decoded, as `Trainer` divides
            it among the replicas; all others are zero.

        Returns:
          A prefetched dataset of images `[batch_size, H, W, C]`; with labels,
          of pairs of images and int32 `[batch_size]`. A last partial batch is
          dropped.
        """
        # spawn_key, since joining (seed, epoch) maps some pairs to one seed.
        sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
        seeds = sequence.generate_state(4).tolist()
        graph_seed, op_seed, *flip_seed = seeds

        def arrange(elements):
            def shuffled(_):
                # Seeds the graph of this function only, so that the global seed
                # has no effect.
                tf.random.set_seed(graph_seed)
                return elements.shuffle(
                    self.shuffle_buffer or self.num_train,
                    seed=op_seed,
                    reshuffle_each_iteration=False,
                )

            return (
                tf.data.Dataset.from_tensors(0)
                .flat_map(shuffled)
                .skip(skip * batch_size)
            )

        def mirrored(number, batch):
            places, images = batch
            draws = tf.random.stateless_uniform(
                [batch_size],
                tf.random.experimental.stateless_fold_in(flip_seed, number),
            )
            is_kept = draws[:, None, None, None] < 0.5
            return places, tf.where(is_kept, tf.reverse(images, [2]), images)

        batches = self._batches(
            "train", batch_size, share, arrange, drop_remainder=True
        )
        if self.flip:
            batches = batches.enumerate(skip).map(mirrored)
        num_batches = max(0, self.num_train // batch_size - skip)
        return self._finish(batches, "train", num_batches)

    def initial_images(self, seed: int) -> tf.Tensor:
        """Returns training images for data-dependent initialization.

        Args:
          seed: Seed of the selection.

        Returns:
          `[n, H, W, C]`; `n` is at most 128, and lower for images larger
          than 64x64.
        """
        height, width, _ = self.image_shape
        # More images do not improve the initialization; at larger sizes, 128
        # would take too much memory.
        num_images = min(128, max(8, 128 * 64**2 // (height * width)))
        num_images = min(num_images, self.num_train)
        batch = next(iter(self.train_batches(num_images, seed, epoch=0)))
        return batch[0] if self.class_names else batch

    def test_batches(
        self, batch_size: int, share: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        """Returns all test images in batches, in a fixed order.

        Args:
          batch_size: Images per batch.
          share: As for `train_batches`.

        Returns:
          A prefetched dataset of images `[batch_size, H, W, C]`, with labels as
          in `train_batches`. The last batch may be smaller.
        """
        return self._in_order("test", batch_size, share)

    def validation_batches(
        self, batch_size: int, share: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        """Returns all validation images in batches, like `test_batches`."""
        return self._in_order("validation", batch_size, share)

    def _in_order(self, name, batch_size, share):
        num_batches = math.ceil(self.splits[name].num_images / batch_size)
        batches = self._batches(name, batch_size, share)
        return self._finish(batches, name, num_batches)

    def take(self, split: str, numbers: Sequence[int]) -> np.ndarray:
        """Returns some images of a split.

        Args:
          split: Name of the split, a key of `splits`.
          numbers: Positions of the images in the split.

        Returns:
          `[n, H, W, C]`, without duplicates, in the order of the split.
        """
        chosen = self.splits[split].choose(np.unique(np.array(numbers, int)))
        images = self._decode(chosen.stored().enumerate())
        batches = images.batch(_TAKEN_AT_ONCE)
        with self.naming_damage():
            images = [batch.numpy() for _, batch, _ in batches]
        none = np.zeros([0, *self.image_shape], self.values.dtype)
        return np.concatenate([none, *images])

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Converts TensorFlow errors about a damaged image to a `DataError`.

        Raises:
          DataError: If a TensorFlow error was raised by reading or decoding a
            stored image; the message names the image. Other errors are
            propagated.
        """
        try:
            yield
        except tf.errors.OpError as error:
            # Only records have checksums.
            is_damage = isinstance(error, tf.errors.DataLossError) or (
                DECODING in error.message and not isinstance(error, _NO_DAMAGE)
            )
            if not is_damage:
                raise
            raise DataError(
                f"an image of {self.name} cannot be read: "
                f"{self.explain_damage(reason(error))}"
            ) from error

    def _batches(
        self,
        name,
        batch_size,
        share,
        arrange=lambda x: x,
        drop_remainder=False,
    ):
        """Returns batches of images and their positions in a split.

        Args:
          name: Name of the split.
          batch_size: Images per batch.
          share: As for `train_batches`.
          arrange: Reorders elements of any dataset, or drops whole batches.
          drop_remainder: Whether to drop a last partial batch.
        """
        split, cache = self.splits[name], self._caches.get(name)
        if cache is not None and cache.is_complete():
            places = arrange(tf.data.Dataset.range(split.num_images))
            return places.batch(batch_size, drop_remainder).map(cache.read)

        def is_own(index):
            start = index // batch_size * batch_size
            size = tf.minimum(split.num_images - start, batch_size)
            worker, num_workers = share
            first = size * worker // num_workers
            end = size * (worker + 1) // num_workers
            return (first <= index - start) & (index - start < end)

        images = self._decode(
            arrange(split.stored().enumerate()),
            is_own if share[1] > 1 else None,
        )
        if cache is not None:
            # In batches, since each call of Python has some overhead, and
            # before the remainder is dropped, since it must be cached as well.
            images = images.batch(batch_size).map(cache.write).unbatch()
        else:
            images = images.map(lambda place, image, _: (place, image))
        return images.batch(batch_size, drop_remainder)

    def _decode(self, numbered, is_own=None):
        """Decodes stored images with their positions in a split.

        Args:
          numbered: Pairs of positions and stored images.
          is_own: Whether to decode an image, by its index in `numbered`; the
            others are zero. Default: all are decoded.

        Returns:
          Positions, images, and whether they were decoded.
        """

        def decode(index, element):
            place, stored = element

            def image():
                with tf.name_scope(DECODING):
                    image = self.decode(stored)
                    return tf.ensure_shape(image, self.image_shape)

            if is_own is None:
                return place, image(), True
            zeros = tf.zeros(self.image_shape, self.values.dtype)
            own = is_own(index)
            return place, tf.cond(own, image, lambda: zeros), own

        return numbered.enumerate().map(
            decode, num_parallel_calls=os.cpu_count()
        )

    def _finish(self, batches, name, num_batches):
        """Adds labels, a known cardinality and prefetching to a pipeline."""
        labels = self.splits[name].labels
        options = tf.data.Options()
        # Deleting an iterator waits for its autotuning thread, which may sleep
        # for seconds (TensorFlow 2.21): the end of an epoch would hang.
        options.autotune.enabled = False

        def labelled(places, images):
            return (
                images
                if labels is None
                else (images, tf.gather(labels, places))
            )

        return (
            batches.map(labelled)
            .apply(tf.data.experimental.assert_cardinality(num_batches))
            .prefetch(_PREFETCHED_BATCHES)
            .with_options(options)
        )

    @functools.cached_property
    def _caches(self) -> dict[str, "_Cache"]:
        """Caches by name of the split; empty if they would be too large."""
        sizes = {name: split.num_images for name, split in self.splits.items()}
        image, dtype = self.image_shape, np.dtype(self.values.dtype)
        num_bytes = sum(sizes.values()) * math.prod(image) * dtype.itemsize
        if num_bytes > MAX_CACHE_BYTES:
            return {}
        return {n: _Cache([size, *image], dtype) for n, size in sizes.items()}


class _Cache:
    """Cache of the decoded images of a split, filled in any order."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype):
        # The system allocates memory page by page, as it is written to.
        self._images = np.empty(shape, dtype)
        self._present = np.zeros(shape[:1], bool)

    def is_complete(self) -> bool:
        return bool(self._present.all())

    def write(self, places, images, is_decoded):
        """Stores decoded images at positions, in a graph; returns both."""
        return self._call(_Cache._write, places, images, is_decoded)

    def read(self, places):
        """Returns positions and the images stored there, in a graph."""
        return self._call(_Cache._read, places)

    def _call(self, function, places, *others):
        images = call(function, self, [places, *others], self._images.dtype)
        shape = [*places.shape, *self._images.shape[1:]]
        return places, tf.ensure_shape(images, shape)

    def _write(self, places, images, is_decoded):
        self._images[places[is_decoded]] = images[is_decoded]
        self._present[places[is_decoded]] = True
        return images

    def _read(self, places):
        return self._images[places]


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


def _draw(total, number, seed):
    """Draws `number` of `total` indices, in increasing order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(total, number, replace=False))


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """Returns a line with the number of skipped files and the first few names.

    Args:
      skipped: Names of the files, with the reasons.
    """
    named = [f"{name} ({why})" for name, why in skipped.items()]
    if len(named) > _NUM_NAMED:
        named[_NUM_NAMED:] = ["..."]
    verb = "is" if len(skipped) == 1 else "are"
    files = counted(len(skipped), "file")
    return f"{files} {verb} left out: {', '.join(named)}"


def levels_up_to(highest: int) -> int:
    """Returns the number of levels of values of 16 bits, a power of two.

    Args:
      highest: The highest value of all images.
    """
    return 2 ** max(9, int(highest).bit_length())


def default_size(
    height: int | None, width: int | None
) -> tuple[int, int] | None:
    """Returns the size to which images are resized by default.

    Args:
      height: Height of all images in pixels; `None` if unknown or not the same.
      width: Width of all images, likewise.

    Returns:
      Height and width, or `None` if images are not resized.
    """
    if not height or not width or height % 2 or width % 2:
        return _DEFAULT_SIZE
    return None if max(height, width) <= 64 else _DEFAULT_SIZE


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes the largest central crop with the proportions of `size`.

    Args:
      image: `[H, W, C]`, or `[n, H, W, C]`.
      size: Height and width of the result, in pixels.

    Returns:
      `[..., *size, C]` of the same dtype, by an antialiased bilinear filter.
    """
    dtype = tf.as_dtype(image.dtype)
    image = image_files.crop(image, *size)
    image = tf.image.resize(image, size, antialias=True)
    if dtype.is_integer:
        image = tf.clip_by_value(tf.round(image), 0, dtype.max)
    return tf.cast(image, dtype)
