"""The multi-scale architecture: which couplings there are, in which order."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tensorflow_probability import bijectors as tfb

from tf_realnvp.flow import bijectors


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """The architecture of section 3.6 of https://arxiv.org/abs/1605.08803.

    Each scale but the last has couplings with checkerboard masks, a squeeze,
    and couplings with channel masks; half of the channels are then factored
    out, and the other half is the input of the next scale. The last scale has
    couplings with checkerboard masks only.

    Attributes:
      image_shape: `(H, W, C)` in pixels and channels.
      num_scales: Number of scales, from 2 to `max_num_scales(image_shape)`.
      num_couplings: Numbers of couplings: with checkerboard masks and with
        channel masks at each scale but the last, and at the last scale.
      channel_masks: "alternating": all keep the channels of odd or of even
        index. "mixed": the first two keep the half of the channels that goes
        through the next scale, or the half that is factored out; the next two
        keep the channels of odd or of even index; and so on.
    """

    image_shape: tuple[int, ...]
    num_scales: int
    num_couplings: tuple[int, ...]
    channel_masks: str

    def __post_init__(self):
        if self.num_scales > (largest := max_num_scales(self.image_shape)):
            raise ValueError(
                f"`num_scales` must be at most {largest} for images of shape "
                f"{self.image_shape}, got {self.num_scales}."
            )

    def layout(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields name and mask of couplings, from image to latents."""
        checkerboards, channels, last = self.num_couplings
        height, width, depth = self.image_shape
        for scale in range(self.num_scales):
            is_last = scale == self.num_scales - 1
            of = "last_scale" if is_last else f"scale_{scale}"
            shape = height, width, depth
            for index in range(last if is_last else checkerboards):
                mask = bijectors.checkerboard_mask(shape, index % 2 == 0)
                yield f"{of}/checkerboard_{index}", mask
            # The squeeze; half of the channels are factored out after it.
            height, width, depth = height // 2, width // 2, 2 * depth
            shape = height, width, 2 * depth
            for index in range(0 if is_last else channels):
                mask = bijectors.channel_mask(shape, index % 2 == 0)
                if self.channel_masks == "mixed" and index % 4 < 2:
                    mask = bijectors.half_mask(shape, index % 2 == 0)
                yield f"{of}/channel_{index}", mask

    def steps(
        self, couplings: Iterable[tfb.Bijector], scale: int = 0
    ) -> list[tfb.Bijector]:
        """Returns the bijectors of a scale and of all later scales.

        Args:
          couplings: The couplings of these scales, from image to latents.
          scale: Index of the scale.

        Returns:
          The parts of a `tfb.Chain` whose inverse goes from image to latents.
        """
        couplings = iter(couplings)
        if scale == self.num_scales - 1:
            return list(couplings)
        num_checkerboards, num_channels, _ = self.num_couplings
        steps = [
            *itertools.islice(couplings, num_checkerboards),
            bijectors.Squeeze(),
            *itertools.islice(couplings, num_channels),
            bijectors.FactorOut(
                tfb.Chain(
                    self.steps(couplings, scale + 1), name=f"scale_{scale + 1}"
                )
            ),
        ]
        if scale > 0:
            # `FactorOut` requires a bijector that keeps the event shape.
            steps.append(tfb.Invert(bijectors.Squeeze()))
        return steps


def max_num_scales(image_shape: Sequence[int]) -> int:
    """Returns the largest `num_scales` for images of a shape.

    Each scale beyond the second requires sides that can be halved once more,
    and leaves at least two pixels at the last scale, so that a checkerboard
    mask keeps some components and changes others. Two scales are always
    allowed, even if the last scale is a single pixel.

    Args:
      image_shape: `(H, W, C)` in pixels and channels; `H` and `W` even.
    """
    height, width = (size // 2 for size in image_shape[:2])
    num_scales = 2
    while height % 2 == 0 and width % 2 == 0 and height * width > 4:
        height, width = height // 2, width // 2
        num_scales += 1
    return num_scales
