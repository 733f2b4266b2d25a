"""RealNVP for images, on TensorFlow, Keras and TensorFlow Probability."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tf_realnvp import (
        bijectors,
        bit_maps,
        data,
        detection,
        images,
        initialization,
        latents,
        networks,
        pytorch,
    )
    from tf_realnvp.api import load, train
    from tf_realnvp.bijectors import AffineCoupling, FactorOut, Squeeze
    from tf_realnvp.model import RealNVP
    from tf_realnvp.utils import errors, runtime

__all__ = [
    "AffineCoupling",
    "FactorOut",
    "RealNVP",
    "Squeeze",
    "__version__",
    "bijectors",
    "bit_maps",
    "data",
    "detection",
    "errors",
    "images",
    "initialization",
    "latents",
    "load",
    "networks",
    "pytorch",
    "runtime",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "AffineCoupling": "bijectors",
    "FactorOut": "bijectors",
    "RealNVP": "model",
    "Squeeze": "bijectors",
    "load": "api",
    "train": "api",
}
_MODULES = {"errors": "utils.errors", "runtime": "utils.runtime"}


def __getattr__(name):
    # TensorFlow takes seconds to import: `run.py --help` does without.
    if name in _HOMES:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(home, name)
    if name in __all__:
        path = _MODULES.get(name, name)
        return importlib.import_module(f"{__name__}.{path}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
