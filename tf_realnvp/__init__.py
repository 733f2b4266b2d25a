"""RealNVP for images, on TensorFlow, Keras and TensorFlow Probability."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tf_realnvp.api import load, train
    from tf_realnvp.bijectors import AffineCoupling, FactorOut, Squeeze
    from tf_realnvp.model import RealNVP

__all__ = [
    "AffineCoupling",
    "FactorOut",
    "RealNVP",
    "Squeeze",
    "__version__",
    "load",
    "train",
]

__version__ = "0.1.0"

_MODULES = {
    "AffineCoupling": "bijectors",
    "FactorOut": "bijectors",
    "RealNVP": "model",
    "Squeeze": "bijectors",
    "load": "api",
    "train": "api",
}


def __getattr__(name):
    # TensorFlow takes seconds to import: `run.py --help` does without.
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
