"""A model read back from its SavedModel, with TensorFlow alone."""

import json
import math
import os
import pathlib
import reprlib
from collections.abc import Iterator

import numpy as np

from tf_realnvp import runtime
from tf_realnvp.errors import ModelError

METADATA_FILE = "metadata.json"
# Of the metadata. In format 1 there was no number.
FORMAT = 2
BATCH_SIZE = 64  # Limits the memory where a caller asks for many images.
_SIGNATURES = ("sample", "encode", "decode")


class SavedModel:
    """A model that `export.save` wrote.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels of a component.
      dataset: The data set that it was trained on, as `data.load` finds it, or
        `None` if its metadata do not tell.
    """

    def __init__(self, path: str | os.PathLike):
        """Loads a model.

        What is wrong with the folder shows before TensorFlow, which takes
        seconds, is set up and imported.

        Args:
          path: The folder that `export.save` wrote.

        Raises:
          ModelError: If there is no such model.
        """
        self.image_shape, self.num_colors, self.dataset = _read_metadata(path)
        runtime.configure()
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(os.fspath(path))
        except Exception as error:  # TensorFlow raises nearly anything.
            reason = (str(error).splitlines() or ["no details"])[0]
            raise ModelError(
                f"the SavedModel in {path} cannot be loaded: {reason}"
            ) from error
        signatures = getattr(self._model, "signatures", {})
        if not hasattr(self._model, "log_prob") or any(
            name not in signatures for name in _SIGNATURES
        ):
            raise _other_model(path)
        self._compare_metadata(path)
        # Traced once for batches of all sizes.
        self._log_prob = tf.function(
            self._model.log_prob,
            input_signature=[
                tf.TensorSpec([None, *self.image_shape], tf.uint8),
                tf.TensorSpec([], tf.int64),
            ],
            autograph=False,
        )

    def _compare_metadata(self, path):
        """Checks that the metadata are those of this SavedModel."""
        decoded = self._model.signatures["decode"].structured_outputs["images"]
        image_shape, num_colors = tuple(decoded.shape[1:]), self.num_colors
        if hasattr(self._model, "_num_colors"):  # Older models do not tell.
            num_colors = int(self._model._num_colors())
        if (image_shape, num_colors) != (self.image_shape, self.num_colors):
            raise ModelError(
                f"{path} is damaged: by its {METADATA_FILE} the images are "
                f"{_describe(self.image_shape, self.num_colors)}, by its "
                f"SavedModel {_describe(image_shape, num_colors)}"
            )

    @property
    def num_dims(self) -> int:
        """Number of components of an image, `H * W * C`."""
        return math.prod(self.image_shape)

    def sample(
        self, n: int, temperature: float, seed: int
    ) -> Iterator[np.ndarray]:
        """Draws images, in batches of at most `BATCH_SIZE`.

        Args:
          n: Number of images.
          temperature: Factor on the latents' standard deviation.
          seed: From 0 to 2**32 - 1. The first batch is what the saved
            function `sample` gives for the same seed.

        Yields:
          `uint8` images `[m, H, W, C]`.
        """
        import tensorflow as tf

        for index, start in enumerate(range(0, n, BATCH_SIZE)):
            yield self._model.signatures["sample"](
                n=tf.constant(min(BATCH_SIZE, n - start)),
                temperature=tf.constant(temperature, tf.float32),
                seed=tf.constant(stream(seed, index), tf.int64),
            )["images"].numpy()

    def log_prob(self, images: np.ndarray, seed: int) -> np.ndarray:
        """Returns a lower bound on the log-probability of images, in nats.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
          seed: Seed of the dequantization noise, of 64 bits.

        Returns:
          Float64 `[n]`, nats for a whole image.
        """
        import tensorflow as tf

        log_prob = self._log_prob(images, tf.constant(seed, tf.int64))
        return log_prob.numpy().astype(np.float64)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns the latents of images, from which `decode` makes them again.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.

        Returns:
          Float32 `[n, H / 2, W / 2, 4 * C]`.
        """
        return self._in_batches("encode", "images", images, "latents")

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns the images of latents.

        Args:
          latents: Float32 `[n, H / 2, W / 2, 4 * C]`.

        Returns:
          `uint8` images `[n, H, W, C]`.
        """
        return self._in_batches("decode", "latents", latents, "images")

    def _in_batches(self, signature, name, values, result):
        import tensorflow as tf

        function = self._model.signatures[signature]
        return np.concatenate(
            [
                function(
                    **{name: tf.constant(values[start : start + BATCH_SIZE])}
                )[result]
                for start in range(0, len(values), BATCH_SIZE)
            ]
        )


def stream(seed: int, index: int) -> int:
    """Returns the seed of one of the independent streams of a user's seed.

    The saved functions use both halves of a seed of 64 bits, so no two pairs
    share their noise.

    Args:
      seed: From 0 to 2**32 - 1. It is the seed of its stream 0.
      index: Number of the stream, from 0 to 2**31 - 1.
    """
    return seed + (index << 32)


def importance_bound(log_probs: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the mean of densities.

    It is a lower bound on the log-probability of an image, in expectation over
    the noise, and rises with the number of draws
    (https://arxiv.org/abs/1509.00519, theorem 1).

    Args:
      log_probs: Log-densities `[num_draws, n]` of images with several draws of
        noise.

    Returns:
      The bounds `[n]`.
    """
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def _other_model(path):
    return ModelError(f"{path} holds a SavedModel of another program")


def _describe(image_shape, num_colors):
    return f"{'x'.join(map(str, image_shape))} with {num_colors} levels"


def _read_metadata(path):
    """Returns image shape, number of levels and data set."""
    path = pathlib.Path(path)
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"there is no SavedModel in {path}: name the folder "
            "realnvp_DATASET that training wrote"
        )
    file = path / METADATA_FILE
    if not file.is_file():
        raise ModelError(
            f"{path} has no {METADATA_FILE}: it is of another program, or was "
            "not copied whole"
        )
    try:
        metadata = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    if not isinstance(metadata, dict) or not (
        {"image_shape", "num_colors"} <= metadata.keys()
    ):
        raise _other_model(path)
    version = metadata.get("format", 1)
    if version not in (1, FORMAT):
        raise ModelError(
            f"{path} is of another version of this program (format "
            f"{reprlib.repr(version)}, not {FORMAT}): use it with that version"
        )
    source = "source" if "source" in metadata else "dataset"
    for name, is_good in (
        ("image_shape", _is_image_shape),
        ("num_colors", _is_num_colors),
        (source, _is_source),
    ):
        value = metadata.get(name)
        if not is_good(value):
            raise ModelError(
                f"{file} is damaged: {name} is {reprlib.repr(value)}"
            )
    image_shape = tuple(metadata["image_shape"])
    return image_shape, metadata["num_colors"], metadata.get(source)


def _is_image_shape(value):
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(size) is int and size >= 1 for size in value)
        and math.prod(value) < 2**31
    )


def _is_num_colors(value):
    return type(value) is int and 2 <= value <= 256


def _is_source(value):
    """Returns whether a value is a data set's name, or a path, or `None`."""
    if not isinstance(value, str):
        return value is None
    try:  # Paths need not be text, and then have some surrogates.
        name = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return name != b"" and b"\0" not in name
