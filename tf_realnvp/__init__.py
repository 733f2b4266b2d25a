"""RealNVP for images, on TensorFlow, Keras and TensorFlow Probability."""

__all__ = ["RealNVP"]


def __getattr__(name):
    # TensorFlow takes seconds to import: `run.py --help` does without.
    if name == "RealNVP":
        from tf_realnvp.model import RealNVP

        return RealNVP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
