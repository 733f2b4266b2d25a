"""The settings of a model, which do not depend on its images.

This module does not import TensorFlow, which takes seconds.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from tf_realnvp.utils import ranges
from tf_realnvp.utils.ranges import (
    Name,
    OneOf,
    RealNumber,
    WholeNumber,
    WholeNumbers,
)


def setting(same: str, allowed: Any, help: str, default: Any = None) -> Any:
    """Returns a field of settings, in which `None` selects the default.

    Args:
      same: Scope within which the value must not change: "model", an argument
        of `RealNVP`, fixed for the whole run; "run", fixed whenever the run is
        resumed; "job", equal in all workers of a job; "", free.
      allowed: Its range.
      help: Help text. The default is appended unless the text states it.
      default: The default.
    """
    if type(default) in (int, float, str) and "(default:" not in help:
        help = f"{help} (default: {default})"
    metadata = dict(same=same, allowed=allowed, help=help, default=default)
    return dataclasses.field(default=None, metadata=metadata)


_of_model = functools.partial(setting, "model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The arguments of `RealNVP` that do not depend on the images.

    `field.metadata["help"]` describes each. `None` selects the default.

    Raises:
      ValueError: If a setting is out of range.
    """

    filters: int = _of_model(
        WholeNumber(2, even=True),
        "hidden channels of the coupling networks, an even number (default: "
        "128, for digits 96)",
        128,
    )
    num_blocks: int = _of_model(
        WholeNumber(1, 1000),
        "residual blocks per coupling network (default: 8, for digits 1)",
        8,
    )
    alpha: float = _of_model(
        # Outside of this range, float32 rounds the highest levels to 1, or to
        # each other.
        RealNumber(1e-6, includes_low=True, below=0.999),
        "margin that keeps the logit finite: levels are scaled to the interval "
        "from X/2 to 1 - X/2",
        0.1,
    )
    num_scales: int = _of_model(
        WholeNumber(2),
        "number of scales, each of half the height and width of the last",
        2,
    )
    num_couplings: tuple[int, ...] = _of_model(
        WholeNumbers(1, 1000),
        "numbers of couplings with checkerboard and with channel masks at each "
        "scale but the last, and at the last scale (default: 3,3,4)",
        (3, 3, 4),
    )
    channel_masks: str = _of_model(
        OneOf(("alternating", "mixed")),
        "what couplings with channel masks keep: alternating: every other "
        "channel; mixed: in turn halves of the channels and every other one, "
        "which learns faster at first (default: alternating, for digits mixed)",
        "alternating",
    )
    dequantization: str = _of_model(
        OneOf(("uniform", "variational")),
        "noise that is added to the levels; variational: learned, and slower",
        "uniform",
    )
    padding: str = _of_model(
        OneOf(("same", "periodic")),
        "what convolutions see beyond the edges of images: same: zeros; "
        "periodic: the opposite edge, for lattices, panoramas and tiles",
        "same",
    )
    observe: str | None = _of_model(
        Name(),
        "train the density of images given what is observed of them: mask (any "
        "visible pixels), lowres:N (height and width divided by N), gray, or "
        "noise:X (standard deviation X, in levels of 255) (default: nothing)",
    )

    def __post_init__(self):
        self._settle({})

    def _settle(self, defaults: Mapping[str, Any]) -> None:
        """Puts defaults in the place of `None`, and checks all settings.

        Args:
          defaults: What precedes the defaults of the fields, by name.
        """
        for field in dataclasses.fields(self):
            name, default = field.name, field.metadata["default"]
            value = getattr(self, name)
            if value is None:
                value = defaults.get(name, default)
            if value is not None:
                value = ranges.check(value, name, field.metadata["allowed"])
            vars(self)[name] = value

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of `RealNVP` that do not depend on the images."""
        return {name: getattr(self, name) for name in ARCHITECTURE}


# Their names.
ARCHITECTURE = tuple(field.name for field in dataclasses.fields(Architecture))
