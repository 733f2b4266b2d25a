"""Splits: which images are for training, validation and testing."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.errors import DataError
from tf_realnvp.utils import hashing
from tf_realnvp.utils.named import each

_CHOSEN_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Split:
    """Images for one purpose, in a fixed order.

    Attributes:
      indices: Indices of the images in the source, integers `[num_images]`;
        increasing if there are `records`.
      labels: Labels of the images, int32 `[num_images]`, if any.
      records: The stored images of the whole source, unbatched, if it cannot
        read images by index.
      hashes: Hashes of the contents of the images, uint64 `[num_images]`; empty
        if they are not known, as for data sets of TFDS.
      context: The context of the images, float32 `[num_images, ...]`, or
        several by name, if any.
    """

    indices: np.ndarray
    labels: np.ndarray | None = None
    records: tf.data.Dataset | None = None
    hashes: np.ndarray = dataclasses.field(
        default_factory=lambda: hashing.hashes_of([])
    )
    context: Any = None

    @property
    def condition(self) -> dict[str, Any]:
        """The labels, as `label`, and the context, if there are any."""
        both = {"label": self.labels, "context": self.context}
        return {k: v for k, v in both.items() if v is not None}

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.indices)

    def stored(self) -> tf.data.Dataset:
        """Returns the stored form of the images: their records or indices."""
        if self.records is None:
            return tf.data.Dataset.from_tensor_slices(self.indices)
        is_chosen = np.zeros([1 + self.indices.max(initial=-1)], bool)
        is_chosen[self.indices] = True
        records = self.records.take(len(is_chosen))
        if is_chosen.all():
            return records
        # Some at once, since each call of a function takes microseconds.
        chosen = tf.data.Dataset.from_tensor_slices(is_chosen)
        pairs = tf.data.Dataset.zip(records, chosen).batch(_CHOSEN_AT_ONCE)
        return pairs.map(tf.boolean_mask).unbatch()

    def select(self, positions: np.ndarray | slice) -> "Split":
        """Returns a split of some of the images.

        Args:
          positions: Positions of the images in this split.
        """
        return dataclasses.replace(
            self,
            indices=self.indices[positions],
            labels=None if self.labels is None else self.labels[positions],
            hashes=self.hashes[positions] if len(self.hashes) else self.hashes,
            context=each(lambda values: values[positions], self.context),
        )

    def random_split(
        self, num_images: int, seed: int | np.random.SeedSequence
    ) -> tuple["Split", "Split"]:
        """Returns a split of random images and one of the rest, both in order.

        Args:
          num_images: Number of images in the first split.
          seed: Seed of the selection.
        """
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(self.num_images, num_images, replace=False))
        others = np.setdiff1d(np.arange(self.num_images), drawn)
        return self.select(drawn), self.select(others)

    def split_images(
        self, num_images: int, seed: int | np.random.SeedSequence
    ) -> tuple["Split", "Split"]:
        """Splits tiles by the images that they are of.

        Args:
          num_images: Least number of tiles in the first split.
          seed: Seed of the selection of the images.

        Raises:
          DataError: If no image is left for the second split.
        """
        hashes, owners, counts = np.unique(
            self.hashes, return_inverse=True, return_counts=True
        )
        order = np.random.default_rng(seed).permutation(len(hashes))
        number = np.searchsorted(np.cumsum(counts[order]), num_images) + 1
        if number >= len(hashes):
            raise DataError(
                f"{num_images} validation tiles leave no training image: there "
                f"are {len(hashes)}"
            )
        is_first = np.isin(owners, order[:number])
        return self.select(is_first), self.select(~is_first)


def make_splits(
    hashes: np.ndarray,
    labels: np.ndarray | None,
    num_train: int | None = None,
    records: tf.data.Dataset | None = None,
    context: Any = None,
) -> dict[str, Split]:
    """Returns the splits `train` and `test` of a source.

    Args:
      hashes: Hashes of all images, uint64 `[n]`.
      labels: Labels of all images, if any.
      num_train: Number of training images, which come first. Default: the
        images are split by their hashes (`hashing.split`).
      records: As for `Split`.
      context: Context of all images, if any, as for `Split`.

    Raises:
      DataError: If there are fewer than two images, or a split has none.
    """
    whole = Split(np.arange(len(hashes)), labels, records, hashes, context)
    if num_train is None:
        positions = hashing.split(hashes)
    else:
        positions = whole.indices[:num_train], whole.indices[num_train:]
    train, test = map(whole.select, positions)
    if not train.num_images or not test.num_images:
        raise DataError(
            f"training and test need an image each, got {len(hashes)}"
        )
    return {"train": train, "test": test}
