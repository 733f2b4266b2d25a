"""Image files, and figures of images."""

import importlib


def __getattr__(name):
    # Imported at first use: Matplotlib takes a second.
    if name not in ("files", "plots"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
