"""RealNVP for images, on TensorFlow, Keras and TensorFlow Probability."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tf_realnvp.api import load as load
    from tf_realnvp.api import train as train
    from tf_realnvp.flow.bijectors import AffineCoupling as AffineCoupling
    from tf_realnvp.flow.bijectors import FactorOut as FactorOut
    from tf_realnvp.flow.bijectors import Squeeze as Squeeze
    from tf_realnvp.flow.real_nvp import RealNVP as RealNVP

__version__ = "0.2.0"

# The modules that public names are, or are of.
_HOMES = {
    "AffineCoupling": "flow.bijectors",
    "FactorOut": "flow.bijectors",
    "RealNVP": "flow.real_nvp",
    "Squeeze": "flow.bijectors",
    "batched": "analysis.batched",
    "bijectors": "flow.bijectors",
    "bit_maps": "analysis.bit_maps",
    "data": "data",
    "detection": "analysis.detection",
    "errors": "errors",
    "image_files": "data.image_files",
    "importance": "analysis.importance",
    "initialization": "flow.initialization",
    "latents": "analysis.latents",
    "load": "api",
    "networks": "flow.networks",
    "observations": "flow.observations",
    "plots": "analysis.plots",
    "pytorch": "serving.pytorch",
    "restoration": "analysis.restoration",
    "runtime": "utils.runtime",
    "significance": "analysis.significance",
    "train": "api",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    # TensorFlow takes seconds to import: `run.py --help` does without.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, name, home)


def __dir__():
    return sorted({*globals(), *__all__})
