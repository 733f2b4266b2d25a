"""What the values of an image are: levels, or real numbers.

Levels are integers that have probabilities: their information is a code length,
in bits. Real numbers have a density, which depends on their unit: its logarithm
is in nats, and is no code length.

Files of 8 bits hold levels scaled to black and white. Files of 16 bits hold the
levels themselves, with zeros in place of dropped bits. Real numbers are in
`.npy` files.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from tf_realnvp.errors import ImageError
from tf_realnvp.utils.ranges import WholeNumber, check

_NUM_COLORS = WholeNumber(2, 2**16)


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of an image's components.

    Attributes:
      num_colors: Number of levels, `0 ... num_colors - 1`; `None` for real
        numbers.
      dropped_bits: Number of lowest bits that the levels lack, of the values
        that files of 16 bits hold.

    Raises:
      ValueError: If `num_colors` is out of range.
    """

    num_colors: int | None
    dropped_bits: int = 0

    @classmethod
    def of(cls, values: "Values | int | None") -> "Values":
        """Returns values that may be given as their number of levels alone."""
        return values if isinstance(values, Values) else cls(values)

    @classmethod
    def up_to(cls, highest: int) -> "Values":
        """Returns the levels of values of 16 bits, a power of two.

        Args:
          highest: The highest value of all images.
        """
        return cls(2 ** min(16, max(9, int(highest).bit_length())))

    def __post_init__(self):
        if self.num_colors is not None:
            value = check(self.num_colors, "num_colors", _NUM_COLORS)
            object.__setattr__(self, "num_colors", value)

    def __str__(self):
        if self.num_colors is None:
            return "real numbers"
        return f"{self.num_colors:,} levels"

    @property
    def are_real(self) -> bool:
        """Whether the values are real numbers."""
        return self.num_colors is None

    @property
    def highest(self) -> int:
        """The highest level."""
        assert self.num_colors is not None, "There is no highest real number."
        return self.num_colors - 1

    @property
    def num_bits(self) -> int:
        """Bits of a level; 0 unless their number is a power of two."""
        num_bits = (self.num_colors or 1).bit_length() - 1
        return num_bits if self.num_colors == 2**num_bits else 0

    @property
    def whole(self) -> "Values":
        """Levels of as many bits as a file has of which these were kept."""
        return Values(2 ** max(8, self.num_bits + self.dropped_bits))

    def keep_bits(self, num_bits: int) -> "Values":
        """Returns these levels, which have whole bits, with the highest only.

        Args:
          num_bits: How many bits to keep.
        """
        dropped = self.dropped_bits + self.num_bits - num_bits
        is_wide = self.file_dtype == np.uint16
        return Values(2**num_bits, dropped if is_wide else 0)

    @property
    def dtype(self) -> type[np.generic]:
        """Dtype of images: uint8, uint16 above 256 levels, or float32."""
        if self.num_colors is None:
            return np.float32
        return np.uint8 if self.num_colors <= 256 else np.uint16

    def fits(self, dtype: Any) -> bool:
        """Returns whether data of a dtype may have these values."""
        kind = np.floating if self.are_real else np.integer
        return np.issubdtype(dtype, kind)

    @property
    def measure(self) -> str:
        """Name of the measure of images: bits_per_dim or nats_per_dim."""
        return "nats_per_dim" if self.are_real else "bits_per_dim"

    @property
    def unit(self) -> str:
        """Unit of `measure`: bits/dim or nats/dim."""
        return self.measure.replace("_per_", "/")

    @property
    def total(self) -> str:
        """Unit of an image or a part of it: bits or nats."""
        return self.unit.removesuffix("/dim")

    @property
    def suffix(self) -> str:
        """Suffix of the files of single images."""
        return ".npy" if self.are_real else ".png"

    @property
    def file_dtype(self) -> type[np.generic]:
        """Dtype of the files of single images."""
        return np.uint16 if self.dropped_bits else self.dtype

    def to_pixels(self, levels: np.ndarray) -> np.ndarray:
        """Returns the pixels of a file of levels, in `file_dtype`."""
        if self.file_dtype == np.uint16:
            return np.asarray(levels).astype(np.uint16) << self.dropped_bits
        return self.to_bytes(levels)

    def to_bytes(self, levels: np.ndarray) -> np.ndarray:
        """Returns levels scaled from black to white, uint8 in `0 ... 255`."""
        levels = np.asarray(levels)  # `RealNVP.sample` returns a tensor.
        return np.round(levels * (255.0 / self.highest)).astype(np.uint8)

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the levels of pixels of a file, in `dtype`.

        Args:
          pixels: In `file_dtype`, or interpolated between such.

        Raises:
          ImageError: If a file of 16 bits has a higher level.
        """
        shift = self.dropped_bits
        if self.file_dtype == np.uint8:
            if not self.num_bits:
                return np.round(pixels * (self.highest / 255.0)).astype(
                    np.uint8
                )
            shift = 8 - self.num_bits  # As `ImageDataset.keep_bits` does.
        levels = np.round(pixels).astype(self.file_dtype) >> shift
        if (highest := levels.max()) > self.highest:
            raise ImageError(
                f"it has level {highest:,}, and the model has {self}"
            )
        return levels.astype(self.dtype)

    @property
    def middle(self) -> float:
        """Where the point of a value is that `encode` takes, from the value."""
        return 0.0 if self.are_real else 0.5

    def from_nats(self, nats: Any) -> Any:
        """Returns an amount of information in bits, or nats of real numbers.

        Args:
          nats: The amount in nats: a number, an array or a tensor.
        """
        return nats / self._nats_per_unit

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Returns the values nearest to real numbers, in `dtype`."""
        if not self.are_real:
            points = np.clip(np.round(points), 0, self.highest)
        return points.astype(self.dtype)

    def describe(self, nats_per_dim: Any) -> str:
        """Returns a loss with its unit, as text."""
        return f"{self.from_nats(nats_per_dim):.3f} {self.unit}"

    def per_dim(self, log_prob: Any, num_dims: int) -> Any:
        """Returns the negative log-density of images, in `unit`.

        Args:
          log_prob: Log-densities in nats: a number, an array or a tensor.
          num_dims: Number of dimensions of an image, `H * W * C`.
        """
        return -log_prob / (num_dims * self._nats_per_unit)

    @property
    def _nats_per_unit(self):
        return 1.0 if self.are_real else math.log(2.0)
