"""What the values of an image are: levels, or real numbers.

Levels are integers that have probabilities: their information is a code length,
in bits. Real numbers have a density, which depends on their unit: its logarithm
is in nats, and is no code length.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from tf_realnvp.utils.ranges import WholeNumber, check

_NUM_COLORS = WholeNumber(2, 2**16)


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of an image's components.

    Attributes:
      num_colors: Number of levels, `0 ... num_colors - 1`; `None` for real
        numbers.

    Raises:
      ValueError: If `num_colors` is out of range.
    """

    num_colors: int | None

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
