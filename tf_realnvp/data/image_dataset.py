"""`ImageDataset`: images in splits, and batches of them.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.config import DataDescription
from tf_realnvp.data.pipeline import DECODING, Cache, Pipeline
from tf_realnvp.data.splits import Split
from tf_realnvp.errors import DataError, reason
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import hashing
from tf_realnvp.utils.named import by_name, each

MAX_CACHE_BYTES = 4 * 2**30

_TAKEN_AT_ONCE = 256
# Errors of decoding that do not mean that the image is damaged.
_NO_DAMAGE = (tf.errors.ResourceExhaustedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Training and test images, and batches of them.

    Host memory is bounded. Decoded images are cached, which takes a byte for
    each component, two (uint16) or four (float32). If that exceeds
    `MAX_CACHE_BYTES`, nothing is cached and every pass decodes the images
    again. A pass that decodes training images also holds `shuffle_buffer`
    stored images.

    Damage of a stored image that `load` could not detect raises a TensorFlow
    error in the pass that decodes the image. `naming_damage` recognizes such
    errors.

    Attributes:
      name: Human-readable name. It is part of file names, so it has no path
        separators.
      image_shape: `(H, W, C)`.
      values: What the values of the images are.
      splits: The splits `train`, `test` and, after `hold_out`, `validation`.
      decode: Maps an image's index or record to the image, `[H, W, C]` of
        `values.dtype`, in a graph. A traced function must use the name scope
        `DECODING`. Of tiles, it may get a seed, int32 `[2]`, for a tile at a
        random place.
      are_tiles: Whether the images are tiles of larger ones. Then training
        images are at random places, others anew in each epoch, and tiles of the
        same hash are of the same image.
      shuffle_buffer: Size of the shuffle buffer, in stored training images;
        `None` for a uniform shuffle of all.
      flip: Whether training images are mirrored left to right at random.
      skipped: Names of the skipped files, with the reasons.
      image_fingerprint: One-line identifier of the images: data sets with equal
        fingerprints hold the same images in the same splits, in the same order.
        Computed from the hashes if not given.
      class_names: Names of the classes, if the images have labels.
      fingerprint: Identifier of the images and of the labels that the data set
        was created with. Computed if not given.
      explain_damage: Maps a TensorFlow error message about a stored image that
        cannot be decoded to a message that names the image and its damage.
      load_settings: The arguments `dataset`, `image_size` and `num_bits` of
        `data.load`, if it created the data set.
      source: A name with which `data.load` finds the data set from any folder,
        if it created it.
      observe: Maps images `[n, H, W, C]` and a seed, integers `[2]`, to their
        context, in TensorFlow (`observations`). The same batch of the same
        epoch is observed with the same seed.

    Raises:
      DataError: If a label is not in `0 ... len(class_names) - 1`, or `flip` is
        set with images as context.
    """

    name: str
    image_shape: tuple[int, int, int]
    values: Values
    splits: Mapping[str, Split]
    decode: Callable[..., tf.Tensor]
    are_tiles: bool = False
    shuffle_buffer: int | None = None
    flip: bool = False
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    explain_damage: Callable[[str], str] = str
    load_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None
    observe: Callable[[tf.Tensor, tf.Tensor], Any] | None = None

    def __post_init__(self):
        contexts = by_name(self.splits["train"].context).values()
        if self.flip and any(values.ndim == 4 for values in contexts):
            raise DataError(
                "`flip` mirrors the images, but not the images of their context"
            )
        if not self.image_fingerprint:
            hashes = (bytes(s.hashes) + b"\0" for s in self.splits.values())
            digest = hashlib.sha256(b"".join(hashes)).hexdigest()
            object.__setattr__(self, "image_fingerprint", digest)
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._fingerprint())

    def _fingerprint(self):
        if not self.class_names and self.splits["train"].context is None:
            return self.image_fingerprint
        digest = hashlib.sha256(self.image_fingerprint.encode())
        digest.update(repr(self.class_names).encode())
        for name, split in self.splits.items():
            for key, values in by_name(split.context).items():
                digest.update(key.encode() + values.tobytes())
            if not self.class_names:
                continue
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
    def context_shape(self) -> Any:
        """Shape of the context, as the argument of `RealNVP`."""
        return each(lambda v: tuple(v.shape[1:]), self.context("train", [0]))

    def context(self, split: str, positions: Sequence[int]) -> Any:
        """Returns the context of some images of a split.

        Observations have the same seed in all calls.

        Args:
          split: Name of the split, a key of `splits`.
          positions: Positions of the images in the split.

        Returns:
          The argument `context` of the methods of a `RealNVP`.
        """
        if self.observe is not None:
            images = self.take(split, positions)
            return self.observe(images, tf.constant([0, 0]))
        return self.splits[split].select(np.array(positions)).context

    @property
    def num_colors(self) -> int | None:
        """Number of levels of a component; `None` for real numbers."""
        return self.values.num_colors

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
        fields = dataclasses.fields(DataDescription)
        return DataDescription(*(getattr(self, f.name) for f in fields))

    @property
    def metadata(self) -> dict[str, Any]:
        """Description of the data for `RealNVP.metadata`."""
        metadata: dict[str, Any] = {"dataset": self.name, "source": self.source}
        if self.class_names:
            metadata["class_names"] = list(self.class_names)
        if self.values.dropped_bits:
            metadata["dropped_bits"] = self.values.dropped_bits
        if self.are_tiles:
            metadata["tiles"] = True
        metadata["training_hashes"] = self._training_hashes
        return metadata

    @functools.cached_property
    def _training_hashes(self) -> str:
        """The sketch of the training images.

        It samples the images with the lowest hashes; of TFDS, where hashes are
        not known, the first images, since TFDS has shuffled them.
        """
        keys = {
            name: split.hashes if len(split.hashes) else split.indices
            for name, split in self.splits.items()
            # Validation images have a part in the choice of the best epoch.
            if name != "test"
        }
        lowest = np.unique(np.concatenate([*keys.values()]))
        limit = lowest[: hashing.SKETCH_SIZE][-1]
        hashes: list[int] = []
        for name, key in keys.items():
            positions = np.flatnonzero(key <= limit)
            split = self.splits[name].select(positions)
            hashes += split.hashes.tolist()
            # A `tf.data.Dataset` has hashes of pixels, and reading it is slow.
            # Tiles are too many.
            has_pixels = split.records is None and not self.are_tiles
            if has_pixels or not len(split.hashes):
                images = self.take(name, positions.tolist())
                hashes += map(hashing.hash_of, images)
        return hashing.format_sketch(hashes)

    def check_fits(self, model: Any) -> None:
        """Checks that images and context are like those of a model.

        Args:
          model: The `RealNVP`.

        Raises:
          DataError: If they do not.
        """
        # What a model observes is computed from the images.
        shapes = None if model.observe else model.context_shape
        images, model_images = (
            f"{'x'.join(map(str, kind.image_shape))} with {kind.values}"
            + (f" and a context of shape {shape}" if shape else "")
            for kind, shape in ((self, self.context_shape), (model, shapes))
        )
        if images != model_images:
            raise DataError(
                f"the images of {self.name} are {images}, those of the model "
                f"{model_images}"
            )

    def relabel(self, class_names: Sequence[str]) -> "ImageDataset":
        """Returns this data set with labels renumbered, or removed.

        Args:
          class_names: Names of the classes, in the order of the new labels.
            They must include all of `self.class_names`. Empty to remove labels.
        """
        splits = {}
        for key, split in self.splits.items():
            labels = None
            if class_names:
                numbers = [class_names.index(name) for name in self.class_names]
                labels = np.array(numbers, np.int32)[split.labels]
            splits[key] = dataclasses.replace(split, labels=labels)
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
        train = self.splits["train"]
        if self.are_tiles:
            # Of images of their own, since training tiles overlap others.
            apart, train = train.split_images(num_validation, sequence)
            held_out, _ = apart.random_split(num_validation, sequence)
        else:
            held_out, train = train.random_split(num_validation, sequence)
        parts = {"train": train, "validation": held_out}
        return dataclasses.replace(self, splits={**self.splits, **parts})

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
        chosen, _ = self.splits["test"].random_split(num_images, seed)
        return dataclasses.replace(self, splits={**self.splits, "test": chosen})

    def keep_bits(self, num_bits: int) -> "ImageDataset":
        """Returns this data set with only the highest bits of each component.

        Args:
          num_bits: How many bits to keep.

        Raises:
          DataError: If the images do not have whole bits, or have fewer.
        """
        bits_before = self.values.num_bits
        if bits_before < max(num_bits, 8):
            raise DataError(
                f"the images of {self.name} have {self.values}, and bits can "
                f"only be left out of {max(2**num_bits, 256)} or more"
            )
        values = self.values.keep_bits(num_bits)

        def decode(*element):
            levels = self.decode(*element)
            levels = tf.bitwise.right_shift(levels, bits_before - num_bits)
            return tf.cast(levels, values.dtype)

        return dataclasses.replace(self, values=values, decode=decode)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and standard deviation of each training channel.

        Returns:
          Two arrays, float64 `[C]`, over the training images and all pixels.

        Raises:
          DataError: If a channel is constant up to rounding.
        """
        from sklearn.preprocessing import StandardScaler  # It takes a second.

        scaler = StandardScaler()
        for images, _ in self.batches("train", _TAKEN_AT_ONCE):
            pixels = np.float64(images).reshape(-1, self.image_shape[-1])
            scaler.partial_fit(pixels)
        deviation = np.sqrt(scaler.var_)
        # The scaler does not scale what is constant up to rounding.
        if constant := np.flatnonzero(scaler.scale_ != deviation).tolist():
            raise DataError(
                f"{self.name}: {', '.join(f'channel {c}' for c in constant)} "
                "of the training images is constant, and has no density: "
                "leave it out"
            )
        return scaler.mean_, deviation

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, skip: int = 0
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

        Returns:
          A prefetched dataset of pairs of images `[batch_size, H, W, C]` and a
          dictionary with their `label`, int32 `[batch_size]`, and `context`,
          if they have them. A last partial batch is dropped.
        """
        # spawn_key, since joining (seed, epoch) maps some pairs to one seed.
        sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
        graph_seed, op_seed, *seeds = sequence.generate_state(6).tolist()

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

            dataset = tf.data.Dataset.from_tensors(0).flat_map(shuffled)
            return dataset.skip(skip * batch_size)

        def flip_some(index, batch):
            places, images = batch
            key = tf.random.experimental.stateless_fold_in(seeds[:2], index)
            draws = tf.random.stateless_uniform([batch_size], key)
            is_flipped = draws[:, None, None, None] < 0.5
            return places, tf.where(is_flipped, tf.reverse(images, [2]), images)

        pipeline = self._pipelines["train"]
        if self.are_tiles:
            pipeline = dataclasses.replace(
                pipeline,
                decode=lambda number: self.decode(number, seeds[:2]),
                cache=None,
            )
        batches = pipeline.batches(batch_size, arrange, drop_remainder=True)
        if self.flip:
            batches = batches.enumerate(skip).map(flip_some)
        num_batches = max(0, self.num_train // batch_size - skip)
        return pipeline.finish(batches, num_batches, skip, seeds[2:])

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
        return batch[0]

    def batches(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Returns all images of a split in batches, in a fixed order.

        Args:
          split: Name of the split, a key of `splits`.
          batch_size: Images per batch.

        Returns:
          A prefetched dataset of pairs as in `train_batches`. The last batch
          may be smaller.
        """
        pipeline = self._pipelines[split]
        num_batches = math.ceil(pipeline.split.num_images / batch_size)
        return pipeline.finish(pipeline.batches(batch_size), num_batches)

    def take(self, split: str, numbers: Sequence[int]) -> np.ndarray:
        """Returns some images of a split.

        Args:
          split: Name of the split, a key of `splits`.
          numbers: Positions of the images in the split.

        Returns:
          `[n, H, W, C]`.
        """
        places, order = np.unique(np.array(numbers, int), return_inverse=True)
        chosen = self.splits[split].select(places)
        pipeline = Pipeline(chosen, self.decode, self.image_shape, None)
        with self.naming_damage():
            batches = pipeline.batches(_TAKEN_AT_ONCE)
            images = [batch.numpy() for _, batch in batches]
        none = np.zeros([0, *self.image_shape], self.values.dtype)
        return np.concatenate([none, *images])[order]

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

    @functools.cached_property
    def _pipelines(self) -> dict[str, Pipeline]:
        """Pipelines by name of the split, cached if all images fit."""
        shape, dtype = self.image_shape, np.dtype(self.values.dtype)
        num_images = sum(split.num_images for split in self.splits.values())
        num_bytes = num_images * math.prod(shape) * dtype.itemsize
        pipelines = {}
        for name, split in self.splits.items():
            cache = None
            if num_bytes <= MAX_CACHE_BYTES:
                cache = Cache([split.num_images, *shape], dtype)
            pipelines[name] = Pipeline(
                split, self.decode, shape, cache, self.observe
            )
        return pipelines
