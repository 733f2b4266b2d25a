"""A small model of digits and its SavedModel, which takes seconds to write."""

import functools
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tf_realnvp import RealNVP
from tf_realnvp.serving import export

IMAGE_SHAPE = (4, 4, 1)
LATENT_SHAPE = (2, 2, 4)
NUM_COLORS = 17
METADATA = {"dataset": "digits", "lr": 3e-4}

# Goes with the process.
_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def model() -> RealNVP:
    """Returns the model, with weights off their initial values.

    With those every coupling is the identity.
    """
    keras.utils.set_random_seed(0)
    result = RealNVP(IMAGE_SHAPE, NUM_COLORS, filters=2, num_blocks=1)
    rng = np.random.default_rng(0)
    for variable in result.variables:
        variable.assign_add(rng.normal(scale=0.2, size=variable.shape))
    return result


@functools.cache
def saved() -> pathlib.Path:
    """Returns the folder of its SavedModel; change no more than a copy."""
    path = pathlib.Path(_FOLDER.name, "model")
    export.save(model(), path, METADATA)
    return path


@functools.cache
def loaded() -> tf.Module:
    """Returns what TensorFlow loads from it."""
    return tf.saved_model.load(str(saved()))


def images(n: int, seed: int = 0) -> np.ndarray:
    """Returns images such as it takes, of which the first has all extremes.

    Args:
      n: Number of images.
      seed: Seed of their pixels.
    """
    rng = np.random.default_rng(seed)
    result = rng.integers(NUM_COLORS, size=(n, *IMAGE_SHAPE)).astype(np.uint8)
    result[:1, 0, :2, 0] = 0, NUM_COLORS - 1
    return result
