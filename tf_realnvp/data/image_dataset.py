"""`ImageDataset`: splits of images, and the batches that are made of them.

An epoch shuffles the numbers of the images, or compressed records where images
cannot be read by number, and decodes them after that. So its first batch comes
soon, and an epoch that is resumed decodes nothing of what it leaves out. Once
all images of a split have been decoded, they come from memory, in the same
order.
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

from tf_realnvp.images import files as image_files
from tf_realnvp.utils.errors import DataError, reason
from tf_realnvp.utils.messages import counted

MAX_CACHE_BYTES = 4 * 2**30
# Name scope of what decodes images: TensorFlow's errors tell in which operation
# they arose.
DECODING = "tf_realnvp_decodes_stored_image"

_PREFETCHED_BATCHES = 4
_TAKEN_AT_ONCE = 256
_DEFAULT_SIZE = (32, 32)
_NUM_NAMED = 5  # Of files that are left out.
# What decoding raises though nothing is wrong with the image.
_NO_DAMAGE = (tf.errors.ResourceExhaustedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images for one purpose, in a fixed order.

    Attributes:
      numbers: Which images of the source they are, integers `[num_images]`; in
        increasing order if the source has `records`.
      labels: Their classes, int32 `[num_images]`, if they have any.
      records: All images of the source as they are stored, single, if it cannot
        read them by number.
    """

    numbers: np.ndarray
    labels: np.ndarray | None = None
    records: tf.data.Dataset | None = None

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self.numbers)

    def stored(self) -> tf.data.Dataset:
        """Returns what is decoded to these images: records, or numbers."""
        if self.records is None:
            return tf.data.Dataset.from_tensor_slices(self.numbers)
        is_chosen = np.zeros([1 + self.numbers.max(initial=-1)], bool)
        is_chosen[self.numbers] = True
        records = self.records.take(len(is_chosen))
        if is_chosen.all():
            return records
        mask = tf.constant(is_chosen)
        numbered = records.enumerate().filter(lambda i, _: mask[i])
        return numbered.map(lambda _, record: record)

    def choose(self, places: np.ndarray | slice) -> "Split":
        """Returns some of the images.

        Args:
          places: Their places in this split.
        """
        labels = None if self.labels is None else self.labels[places]
        return dataclasses.replace(
            self, numbers=self.numbers[places], labels=labels
        )


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Training and test images, and the batches that are made of them.

    Host memory is bounded. Decoded images are kept as uint8, which takes
    `num_images * H * W * C` bytes; where that is more than
    `MAX_CACHE_BYTES`, none are kept and every pass decodes them anew. A pass
    that decodes training images also holds `shuffle_buffer` stored ones.

    Whatever pass decodes an image first leaves it in memory. When all images of
    a split are there, the batches asked for from then on are made from memory.

    Damage inside a stored image that `load` could not see appears in the pass
    that decodes it, as an error of TensorFlow; `naming_damage` tells it from
    all others.

    Attributes:
      name: Human-readable, and part of the names of files: no path separators.
      image_shape: `(H, W, C)`.
      num_colors: Number of values that a component can take; they are
        `0 ... num_colors - 1`.
      splits: Images for training, `train`, and for testing, `test`; and
        `validation`, those that `hold_out` kept out of the training, if any.
      decode: Maps the number of an image, or its record, to the image, uint8
        `[H, W, C]`, in a graph. A traced function has to be in the name scope
        `DECODING`.
      shuffle_buffer: Number of stored training images among which the next one
        is drawn; all of them, a uniform shuffle, if `None`.
      flip: Whether training images are mirrored left to right at random.
      skipped: Names of the files that are left out, and why.
      image_fingerprint: What tells these images from others, in a line: two
        data sets with the same one hold the same images in the same splits.
      class_names: Names of the classes, if the images have labels: then batches
        are pairs of images and labels, int32 `[batch_size]`.
      fingerprint: The same of the images and the labels with which the data set
        was made. Computed where it is not given.
      explain_damage: Maps what TensorFlow says of a stored image that can't be
        decoded to what helps the user: which it is, and what is wrong with it.
      load_settings: With what `data.load` made it, `dataset`, `image_size` and
        `num_bits`, if it did.
      source: With what `data.load` finds it from any folder, if it made it.

    Raises:
      DataError: If labels are not from 0 to the number of classes less one.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_colors: int
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

    def __post_init__(self):
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
    def num_train(self) -> int:
        """Number of training images, without those held out."""
        return self.splits["train"].num_images

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return self.splits["test"].num_images

    @property
    def num_validation(self) -> int:
        """Number of images that are held out."""
        split = self.splits.get("validation")
        return 0 if split is None else split.num_images

    @property
    def class_probs(self) -> tuple[float, ...]:
        """Frequencies of the classes in the training images.

        Those held out are included. Empty if the images have no labels.
        """
        counts = np.zeros([len(self.class_names)], int)
        for name, split in self.splits.items():
            if name != "test" and split.labels is not None:
                counts += np.bincount(split.labels, minlength=len(counts))
        return tuple((counts / counts.sum()).tolist())

    @property
    def metadata(self) -> dict[str, Any]:
        """What a model of these images says of them: `RealNVP.metadata`."""
        metadata = {"dataset": self.name, "source": self.source}
        if not self.class_names:
            return metadata
        return metadata | {"class_names": list(self.class_names)}

    def relabel(self, class_names: Sequence[str]) -> "ImageDataset":
        """Returns this data set with labels as a model knows them, or none.

        Args:
          class_names: Names of the classes, in the order of their labels: those
            of the images, and perhaps others. Empty for no labels.
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
          num_validation: How many, at least 1 and less than `num_train`.
          seed: Seed of the choice, not negative. The same seed keeps out the
            same images, as long as NumPy draws the same: it promises that for
            patch versions.
        """
        # No epoch's seed has two numbers.
        sequence = np.random.SeedSequence(seed, spawn_key=(0, 0))
        held_out = _draw(self.num_train, num_validation, sequence)
        others = np.setdiff1d(np.arange(self.num_train), held_out)
        train = self.splits["train"]
        return self._replace_splits(
            train=train.choose(others), validation=train.choose(held_out)
        )

    def sample_test(self, num_images: int, seed: int) -> "ImageDataset":
        """Returns this data set with only some of the test images.

        They are drawn, since those of one class may be stored together.

        Args:
          num_images: How many; all if there are no more.
          seed: Seed of the choice, not negative.
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
          DataError: If the images do not have 256 levels.
        """
        if self.num_colors != 256:
            raise DataError(
                f"the images of {self.name} have {self.num_colors} "
                "levels, and bits can only be left out of 256"
            )

        def decode(element):
            return tf.bitwise.right_shift(self.decode(element), 8 - num_bits)

        return dataclasses.replace(self, num_colors=2**num_bits, decode=decode)

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, skip: int = 0
    ) -> tf.data.Dataset:
        """Returns one epoch of shuffled training batches.

        They are a function of the arguments alone, in any process, whatever
        TensorFlow's global seed is and whatever was read before.

        Args:
          batch_size: Images in a batch.
          seed: Seed of the whole run, not negative.
          epoch: Number of the epoch, not negative.
          skip: Number of batches to leave out at the start of that same epoch,
            to go on with it after an interruption. They are not decoded.

        Returns:
          A dataset of uint8 `[batch_size, H, W, C]`, prefetched. The last
          partial batch is dropped. With labels, of pairs of these and int32
          `[batch_size]`.
        """
        # spawn_key, since joining (seed, epoch) maps some pairs to one seed.
        sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
        seeds = sequence.generate_state(4).tolist()
        graph_seed, op_seed, *flip_seed = seeds

        def arrange(elements):
            def shuffled(_):
                # The seed of this function's graph: the global one stays out.
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
            "train", batch_size, arrange, drop_remainder=True
        )
        if self.flip:
            batches = batches.enumerate(skip).map(mirrored)
        num_batches = max(0, self.num_train // batch_size - skip)
        return self._finish(batches, "train", num_batches)

    def initial_images(self, seed: int) -> tf.Tensor:
        """Returns the training images that a model is initialized with.

        Args:
          seed: Seed of the choice.

        Returns:
          uint8 `[n, H, W, C]`: 128 up to 64x64, fewer of larger ones.
        """
        height, width, _ = self.image_shape
        # More of 64x64 make no better start; of larger ones they take too much.
        num_images = min(128, max(8, 128 * 64**2 // (height * width)))
        num_images = min(num_images, self.num_train)
        batch = next(iter(self.train_batches(num_images, seed, epoch=0)))
        return batch[0] if self.class_names else batch

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """Returns all test images in batches, in a fixed order.

        Args:
          batch_size: Images in a batch.

        Returns:
          A dataset of uint8 `[batch_size, H, W, C]`, prefetched; the last batch
          holds the images that remain. With labels as `train_batches`.
        """
        return self._in_order("test", batch_size)

    def validation_batches(self, batch_size: int) -> tf.data.Dataset:
        """Returns all validation images in batches, like `test_batches`."""
        return self._in_order("validation", batch_size)

    def _in_order(self, name, batch_size):
        num_batches = math.ceil(self.splits[name].num_images / batch_size)
        batches = self._batches(name, batch_size)
        return self._finish(batches, name, num_batches)

    def take(self, split: str, numbers: Sequence[int]) -> np.ndarray:
        """Returns some images of a split.

        Args:
          split: Its name, as `splits` has it.
          numbers: Which of them, less than its `num_images`.

        Returns:
          uint8 `[n, H, W, C]`, in the order in which they are stored.
        """
        chosen = self.splits[split].choose(np.unique(np.array(numbers, int)))
        batches = self._decode(chosen.stored()).batch(_TAKEN_AT_ONCE)
        with self.naming_damage():
            images = [batch.numpy() for _, batch in batches]
        none = np.zeros([0, *self.image_shape], np.uint8)
        return np.concatenate([none, *images])

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Names the stored image where one can't be decoded.

        Raises:
          DataError: If there was an error of TensorFlow that comes from
            reading or decoding a stored image. All others go through.
        """
        try:
            yield
        except tf.errors.OpError as error:
            # Nothing but records has checksums.
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
        self, name, batch_size, arrange=lambda x: x, drop_remainder=False
    ):
        """Returns batches of images, each with their places in a split.

        Args:
          name: Name of the split.
          batch_size: Images in a batch.
          arrange: Maps a dataset to a rearranged one, whatever its elements.
          drop_remainder: Whether the last partial batch is left out.
        """
        split, cache = self.splits[name], self._caches.get(name)
        if cache is not None and cache.is_complete():
            places = arrange(tf.data.Dataset.range(split.num_images))
            return places.batch(batch_size, drop_remainder).map(cache.read)
        images = self._decode(split.stored(), arrange)
        if cache is not None:
            # In batches, since each call of Python takes its time; and before
            # any remainder is dropped, which is to be kept as well.
            images = images.batch(batch_size).map(cache.write).unbatch()
        return images.batch(batch_size, drop_remainder)

    def _decode(self, stored, arrange=lambda x: x):
        """Returns images and their places, which are in order at first."""

        def decode(place, element):
            with tf.name_scope(DECODING):
                image = self.decode(element)
                return place, tf.ensure_shape(image, self.image_shape)

        return arrange(stored.enumerate()).map(
            decode, num_parallel_calls=os.cpu_count()
        )

    def _finish(self, batches, name, num_batches):
        """Returns a pipeline whose length is known and which runs ahead."""
        labels = self.splits[name].labels
        options = tf.data.Options()
        # Deleting an iterator waits for its autotuning thread, which at times
        # sleeps on for seconds (TensorFlow 2.21): the end of an epoch would
        # hang.
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
        """Those of the splits, by name; none if they would be too large."""
        sizes = {name: split.num_images for name, split in self.splits.items()}
        num_bytes = sum(sizes.values()) * math.prod(self.image_shape)
        if num_bytes > MAX_CACHE_BYTES:
            return {}
        return {n: _Cache(size, self.image_shape) for n, size in sizes.items()}


class _Cache:
    """Decoded images of a split in memory, which come in any order."""

    def __init__(self, num_images: int, image_shape: tuple[int, int, int]):
        # It takes memory as it is written to, page by page.
        self._images = np.empty([num_images, *image_shape], np.uint8)
        self._present = np.zeros([num_images], bool)

    def is_complete(self) -> bool:
        return bool(self._present.all())

    def write(self, places, images):
        """Keeps the images of these places, in a graph; returns both."""
        return self._call(_Cache._write, places, images)

    def read(self, places):
        """Returns these places and their images, in a graph."""
        return self._call(_Cache._read, places)

    def _call(self, function, places, *images):
        images = call(function, self, [places, *images], tf.uint8)
        shape = [*places.shape, *self._images.shape[1:]]
        return places, tf.ensure_shape(images, shape)

    def _write(self, places, images):
        self._images[places] = images
        self._present[places] = True
        return images

    def _read(self, places):
        return self._images[places]


@tf.autograph.experimental.do_not_convert
def call(
    function: Callable[..., np.ndarray],
    owner: Any,
    values: Sequence[tf.Tensor],
    dtype: tf.DType,
) -> tf.Tensor:
    """Returns `function(owner, *values)`, in a graph: `tf.numpy_function`.

    TensorFlow keeps for ever what that calls, and this only while there is the
    owner. What maps a pipeline has to hold it; the pipeline and its iterators
    hold what maps them.

    Args:
      function: Gets and gives arrays.
      owner: Any object that can be referred to weakly.
      values: What it gets.
      dtype: Of what it gives.
    """
    reference = weakref.ref(owner)

    def call_owner(*arrays):
        owner = reference()
        if owner is None:
            # By an iterator that runs ahead while it is deleted. Of this alone
            # TensorFlow's log says nothing.
            raise StopIteration("the data set is gone")
        return function(owner, *arrays)

    return tf.numpy_function(call_owner, values, dtype)


def _draw(total, number, seed):
    """Returns which of `total` images are drawn, in increasing order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(total, number, replace=False))


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """Returns how many files are left out, and the first few, in a line.

    Args:
      skipped: Their names, and what is wrong with each.
    """
    named = [f"{name} ({why})" for name, why in skipped.items()]
    if len(named) > _NUM_NAMED:
        named[_NUM_NAMED:] = ["..."]
    verb = "is" if len(skipped) == 1 else "are"
    files = counted(len(skipped), "file")
    return f"{files} {verb} left out: {', '.join(named)}"


def default_size(
    height: int | None, width: int | None
) -> tuple[int, int] | None:
    """Returns the size that images of one natural size get by default.

    Args:
      height: In pixels; `None` if it is unknown or differs.
      width: Likewise.

    Returns:
      `None` if they stay as they are, else height and width.
    """
    if not height or not width or height % 2 or width % 2:
        return _DEFAULT_SIZE
    return None if max(height, width) <= 64 else _DEFAULT_SIZE


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Cuts the largest central part out of images and resizes that.

    Args:
      image: uint8 `[H, W, C]`, or `[n, H, W, C]`.
      size: Height and width of the result, in pixels, and the proportions of
        what is cut out.

    Returns:
      uint8 `[..., *size, C]`, by an antialiased bilinear filter.
    """
    image = image_files.crop(image, *size)
    image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
