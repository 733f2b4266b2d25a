"""RealNVP for images, on TensorFlow, Keras and TensorFlow Probability."""

import importlib
from typing import TYPE_CHECKING

from tf_realnvp.version import __version__

if TYPE_CHECKING:
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
    "importance",
    "initialization",
    "latents",
    "load",
    "networks",
    "observations",
    "pytorch",
    "restoration",
    "runtime",
    "significance",
    "train",
]

# The modules of all names that are not themselves modules here.
_HOMES = {
    "AffineCoupling": "bijectors",
    "FactorOut": "bijectors",
    "RealNVP": "model",
    "Squeeze": "bijectors",
    "errors": "utils.errors",
    "load": "api",
    "runtime": "utils.runtime",
    "train": "api",
}


def __getattr__(name):
    # TensorFlow takes seconds to import: `run.py --help` does without.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    return getattr(home, name, home)


def __dir__():
    return sorted({*globals(), *__all__})
