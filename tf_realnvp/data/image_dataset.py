"""`ImageDataset`: batches of images, decoded once and shuffled the same way.

An epoch shuffles the images as they are stored, compressed records or names of
files, and decodes them after that. So its first batch comes soon, and an epoch
that is resumed decodes nothing of what it leaves out. Once all images have been
decoded, the same shuffle runs over their numbers.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.images import files as image_files
from tf_realnvp.utils import checks
from tf_realnvp.utils.errors import DataError, reason
from tf_realnvp.utils.messages import printable

MAX_CACHE_BYTES = 4 * 2**30
# Name scope of what decodes images: TensorFlow's errors tell in which operation
# they arose.
DECODING = "tf_realnvp_decodes_stored_image"

_PREFETCHED_BATCHES = 4
# Images that a model starts from: more of 64x64 make no better start, and as
# many that are larger take too much memory.
_NUM_INITIAL_IMAGES = 128
_MIN_INITIAL_IMAGES = 8
_INITIAL_PIXELS = _NUM_INITIAL_IMAGES * 64 * 64
_TAKEN_AT_ONCE = 256
_DEFAULT_SIZE = (32, 32)
_NUM_NAMED = 5  # Of files that are left out.
# What decoding raises though nothing is wrong with the image.
_NO_DAMAGE = (tf.errors.ResourceExhaustedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images for one purpose, in a fixed order.

    Attributes:
      stored: The images as they are stored, single.
      num_images: How many there are.
      labels: Their classes, int32 `[num_images]`, if they have any.
    """

    stored: tf.data.Dataset
    num_images: int
    labels: np.ndarray | None = None

    def choose(self, is_chosen: np.ndarray) -> "Split":
        """Returns some of the images, in their order.

        Args:
          is_chosen: For each image whether it is one of them.
        """
        chosen = tf.constant(is_chosen)
        numbered = self.stored.enumerate()
        return Split(
            numbered.filter(lambda i, _: chosen[i]).map(lambda _, image: image),
            int(np.count_nonzero(is_chosen)),
            None if self.labels is None else self.labels[is_chosen],
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
      name: For people and for the names of files: no path separators.
      image_shape: `(H, W, C)`.
      num_colors: Number of values that a component can take; they are
        `0 ... num_colors - 1`.
      train: Training images.
      test: Test images.
      validation: Images that `hold_out` kept out of the training, if any.
      decode: Maps a stored image to an image, uint8 `[H, W, C]`, in a graph. By
        default they are such images themselves. A traced function has to be in
        the name scope `DECODING`.
      shuffle_buffer: Number of stored training images among which the next one
        is drawn; all of them, a uniform shuffle, if `None`.
      flip: Whether training images are mirrored left to right at random.
      skipped: Names of the files that are left out, and why.
      fingerprint: What tells these images from others, in a line: two data sets
        with the same one hold the same images in the same splits.
      explain_damage: Maps what TensorFlow says of a stored image that can't be
        decoded to what helps the user: which it is, and what is wrong with it.
      class_names: Names of the classes, if the images have labels: then batches
        are pairs of images and labels, int32 `[batch_size]`.
      unlabelled_fingerprint: That of the images without their labels.
      load_settings: With what `data.load` made it, `dataset`, `image_size` and
        `num_bits`, if it did.
      source: With what `data.load` finds it from any folder, if it made it.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_colors: int
    train: Split
    test: Split
    validation: Split | None = None
    decode: Callable[[tf.Tensor], tf.Tensor] = tf.identity
    shuffle_buffer: int | None = None
    flip: bool = False
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    explain_damage: Callable[[str], str] = str
    class_names: tuple[str, ...] = ()
    unlabelled_fingerprint: str = ""
    load_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        splits = {"train": self.train, "test": self.test}
        if self.validation is not None:
            splits["validation"] = self.validation
        return splits

    @property
    def num_train(self) -> int:
        """Number of training images, without those held out."""
        return self.train.num_images

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return self.test.num_images

    @property
    def num_validation(self) -> int:
        """Number of images that are held out."""
        return 0 if self.validation is None else self.validation.num_images

    @property
    def class_probs(self) -> tuple[float, ...]:
        """Frequencies of the classes in the training images.

        Those held out are included. Empty if the images have no labels.
        """
        counts = np.zeros([len(self.class_names)], int)
        for split in (self.train, self.validation):
            if split is not None and split.labels is not None:
                counts += np.bincount(split.labels, minlength=len(counts))
        return tuple((counts / counts.sum()).tolist())

    @property
    def metadata(self) -> dict[str, Any]:
        """What a model of these images says of them: `RealNVP.metadata`."""
        metadata = {"dataset": self.name, "source": self.source}
        if not self.class_names:
            return metadata
        return metadata | {"class_names": list(self.class_names)}

    def with_labels(
        self, class_names: Sequence[str], train: np.ndarray, test: np.ndarray
    ) -> "ImageDataset":
        """Returns this data set with labels, which its fingerprint covers.

        Args:
          class_names: Names of the classes.
          train: Integers `[num_train]` below their number, in the order in
            which the training images are stored.
          test: Integers `[num_test]`, likewise.

        Raises:
          DataError: If they are no such integers.
        """
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(repr(tuple(class_names)).encode())

        def labelled(split, labels, name):
            number = split.num_images
            if labels.shape != (number,) or not np.issubdtype(
                labels.dtype, np.integer
            ):
                raise DataError(
                    f"the labels of the {name} images must be {number:,} "
                    f"integers, got {labels.dtype} {list(labels.shape)}"
                )
            if labels.min() < 0 or labels.max() >= len(class_names):
                raise DataError(
                    f"the labels of the {name} images must be from 0 to "
                    f"{len(class_names) - 1}, got some from {labels.min()} to "
                    f"{labels.max()}"
                )
            digest.update(labels.astype(np.int64).tobytes())
            return dataclasses.replace(split, labels=labels.astype(np.int32))

        return dataclasses.replace(
            self,
            class_names=tuple(class_names),
            train=labelled(self.train, train, "training"),
            test=labelled(self.test, test, "test"),
            fingerprint=digest.hexdigest(),
            unlabelled_fingerprint=self.fingerprint,
        )

    def with_classes(self, class_names: Sequence[str]) -> "ImageDataset":
        """Returns this data set with the labels that a model knows.

        Args:
          class_names: Names of the model's classes, in its order: those of the
            images, and perhaps others.
        """
        numbers = np.array(
            [class_names.index(name) for name in self.class_names], np.int32
        )
        splits: dict[str, Any] = {
            name: dataclasses.replace(split, labels=numbers[split.labels])
            for name, split in self.splits.items()
        }
        return dataclasses.replace(
            self, class_names=tuple(class_names), **splits
        )

    def without_labels(self) -> "ImageDataset":
        """Returns this data set with batches of nothing but images."""
        splits: dict[str, Any] = {
            name: dataclasses.replace(split, labels=None)
            for name, split in self.splits.items()
        }
        return dataclasses.replace(
            self,
            class_names=(),
            fingerprint=self.unlabelled_fingerprint or self.fingerprint,
            **splits,
        )

    def relabel(self, class_names: Sequence[str]) -> "ImageDataset":
        """Returns this data set with labels numbered by names, or with none."""
        if class_names:
            return self.with_classes(class_names)
        return self.without_labels() if self.class_names else self

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
        is_held_out = _draw(self.num_train, num_validation, sequence)
        return dataclasses.replace(
            self,
            train=self.train.choose(~is_held_out),
            validation=self.train.choose(is_held_out),
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
        is_chosen = _draw(self.num_test, num_images, seed)
        return dataclasses.replace(self, test=self.test.choose(is_chosen))

    def keep_bits(self, num_bits: int) -> "ImageDataset":
        """Returns this data set with only the highest bits of each component.

        Args:
          num_bits: How many bits to keep.

        Raises:
          DataError: If the images do not have 256 levels.
        """
        if self.num_colors != 256:
            raise DataError(
                f"the images of {printable(self.name)} have {self.num_colors} "
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
        seeds = [int(word) for word in sequence.generate_state(4)]
        graph_seed, op_seed, flip_seed = seeds[0], seeds[1], seeds[2:]

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

        def mirrored(number, images):
            draws = tf.random.stateless_uniform(
                [batch_size],
                tf.random.experimental.stateless_fold_in(flip_seed, number),
            )
            reversed_ = tf.reverse(images, [2])
            return tf.where(draws[:, None, None, None] < 0.5, reversed_, images)

        def flipped(number, batch):
            if self.train.labels is None:
                return mirrored(number, batch)
            images, labels = batch
            return mirrored(number, images), labels

        batches = self._batches(
            self.train,
            self._caches.get("train"),
            batch_size,
            arrange,
            drop_remainder=True,
        )
        if self.flip:
            batches = batches.enumerate(skip).map(flipped)
        num_batches = max(0, self.num_train // batch_size - skip)
        return _finish(batches, num_batches)

    def initial_images(self, seed: int) -> tf.Tensor:
        """Returns the training images that a model is initialized with.

        Args:
          seed: Seed of the choice.

        Returns:
          uint8 `[n, H, W, C]`: 128 up to 64x64, fewer of larger ones.
        """
        height, width, _ = self.image_shape
        num_images = min(
            _NUM_INITIAL_IMAGES,
            max(_MIN_INITIAL_IMAGES, _INITIAL_PIXELS // (height * width)),
            self.num_train,
        )
        batch = next(iter(self.train_batches(num_images, seed, epoch=0)))
        return batch if self.train.labels is None else batch[0]

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
        split = self.splits[name]
        batches = self._batches(split, self._caches.get(name), batch_size)
        return _finish(batches, math.ceil(split.num_images / batch_size))

    def take(self, split: str, numbers: Sequence[int]) -> np.ndarray:
        """Returns some images of a split.

        Args:
          split: Its name, as `splits` has it.
          numbers: Which of them, less than its `num_images`.

        Returns:
          uint8 `[n, H, W, C]`, in the order in which they are stored.
        """
        whole = dataclasses.replace(self.splits[split], labels=None)
        is_chosen = np.zeros([whole.num_images], bool)
        is_chosen[list(numbers)] = True
        batches = self._batches(whole.choose(is_chosen), None, _TAKEN_AT_ONCE)
        with self.naming_damage():
            images = [batch.numpy() for batch in batches]
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
                f"an image of {printable(self.name)} cannot be read: "
                f"{self.explain_damage(reason(error))}"
            ) from error

    def _batches(
        self,
        split,
        cache,
        batch_size,
        arrange=lambda elements: elements,
        drop_remainder=False,
    ):
        """Returns batches of the images that `arrange` picks and orders.

        Args:
          split: The split that they are of.
          cache: Its cache, or `None`.
          batch_size: Images in a batch.
          arrange: Maps a dataset to a rearranged one, whatever its elements.
          drop_remainder: Whether the last partial batch is left out.
        """

        def labelled(numbers, images):
            if split.labels is None:
                return images
            return images, tf.gather(split.labels, numbers)

        if cache is not None and cache.is_complete():
            numbers = arrange(tf.data.Dataset.range(cache.num_images))
            return numbers.batch(batch_size, drop_remainder).map(
                lambda numbers: labelled(numbers, cache.get(numbers))
            )

        def decoded(number, element):
            with tf.name_scope(DECODING):
                image = self.decode(element)
                return number, tf.ensure_shape(image, self.image_shape)

        images = arrange(split.stored.enumerate()).map(
            decoded, num_parallel_calls=os.cpu_count()
        )
        if cache is None:
            images = images.map(labelled)
        else:
            # In batches, since each call of Python takes its time; and before
            # any remainder is dropped, which is to be kept as well.
            images = (
                images.batch(batch_size)
                .map(lambda n, images: labelled(n, cache.put(n, images)))
                .unbatch()
            )
        return images.batch(batch_size, drop_remainder)

    @functools.cached_property
    def _caches(self) -> dict[str, "_Cache"]:
        """Those of the splits, by name; none if they would be too large."""
        splits = self.splits
        num_images = sum(split.num_images for split in splits.values())
        if num_images * math.prod(self.image_shape) > MAX_CACHE_BYTES:
            return {}
        return {
            name: _Cache(split.num_images, self.image_shape)
            for name, split in splits.items()
        }


class _Cache:
    """Decoded images in memory, which come in any order.

    Attributes:
      num_images: How many images there will be.
    """

    def __init__(self, num_images: int, image_shape: tuple[int, int, int]):
        self.num_images = num_images
        # It takes memory as it is written to, page by page.
        self._images = np.empty([num_images, *image_shape], np.uint8)
        self._present = np.zeros([num_images], bool)

    def is_complete(self) -> bool:
        return bool(self._present.all())

    def put(self, numbers: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Keeps the images of these numbers, and returns them."""
        written = call_method(self._write, [numbers, images], [])
        with tf.control_dependencies([written]):
            return tf.identity(images)

    def get(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns the images of these numbers."""
        images = call_method(self._read, [numbers], tf.uint8)
        return tf.ensure_shape(
            images, [*numbers.shape, *self._images.shape[1:]]
        )

    def _write(self, numbers, images):
        self._images[numbers] = images
        self._present[numbers] = True

    def _read(self, numbers):
        return self._images[numbers]


@tf.autograph.experimental.do_not_convert
def call_method(
    method: Callable[..., Any], values: Sequence[tf.Tensor], dtypes: Any
) -> Any:
    """Returns what a method gives, in a graph: `tf.numpy_function`.

    TensorFlow keeps for ever what that calls, and this only while there is the
    object. What maps a pipeline has to hold it; the pipeline and its iterators
    hold what maps them.

    Args:
      method: Of the object; it gets and gives arrays.
      values: What it gets.
      dtypes: Of what it gives.
    """
    reference = weakref.WeakMethod(method)

    def call(*arrays):
        method = reference()
        if method is None:
            # By an iterator that runs ahead while it is deleted. Of this alone
            # TensorFlow's log says nothing.
            raise StopIteration("the data set is gone")
        return method(*arrays)

    return tf.numpy_function(call, values, dtypes)


def _draw(total, number, seed):
    """Returns a mask of `total` images of which `number` are drawn."""
    is_drawn = np.zeros([total], bool)
    rng = np.random.default_rng(seed)
    is_drawn[rng.choice(total, number, replace=False)] = True
    return is_drawn


def _finish(batches: tf.data.Dataset, num_batches: int) -> tf.data.Dataset:
    """Returns a pipeline whose length is known and which runs ahead."""
    options = tf.data.Options()
    # Deleting an iterator waits for its autotuning thread, which at times
    # sleeps on for seconds (TensorFlow 2.21): the end of an epoch would hang.
    options.autotune.enabled = False
    return (
        batches.apply(tf.data.experimental.assert_cardinality(num_batches))
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(options)
    )


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """Returns how many files are left out, and the first few, in a line.

    Args:
      skipped: Their names, and what is wrong with each.
    """
    files = "1 file is" if len(skipped) == 1 else f"{len(skipped):,} files are"
    named = [
        f"{printable(name)} ({reason})"
        for name, reason in itertools.islice(skipped.items(), _NUM_NAMED)
    ]
    if len(skipped) > _NUM_NAMED:
        named.append("...")
    return f"{files} left out: {', '.join(named)}"


def file_error(name: str) -> DataError:
    """Returns the error of a file that is given as a data set and is none."""
    return DataError(
        f"{printable(name)}: it is a file: give a folder of pictures, or a "
        "file of NumPy (.npy, .npz)"
    )


def check_image_size(
    image_size: int | Sequence[int] | None,
) -> tuple[int, int] | None:
    """Returns the height and width that images are to get, if any.

    Args:
      image_size: As for `data.load`.

    Raises:
      DataError: Unless images of that size can be modelled.
    """
    if image_size is None:
        return None
    allowed = checks.ImageSize(2)
    if image_size not in allowed:
        raise DataError(
            f"`image_size` must be {allowed}, got {checks.short(image_size)}"
        )
    return checks.sides(allowed.convert(image_size))


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


def resize(
    image: tf.Tensor, size: tuple[int, int], square: int | None = None
) -> tf.Tensor:
    """Cuts the largest central part out of images and resizes that.

    Args:
      image: uint8 `[H, W, C]`, or `[n, H, W, C]`.
      size: Height and width of the result, in pixels, and the proportions of
        what is cut out.
      square: Side of the central square that it is cut out of, if not of all.

    Returns:
      uint8 `[..., *size, C]`, by an antialiased bilinear filter.
    """
    if square is not None:
        height, width = tf.unstack(tf.shape(image)[-3:-1])
        top, left = (height - square) // 2, (width - square) // 2
        image = image[..., top : top + square, left : left + square, :]
    image = image_files.crop(image, *size)
    image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
