"""A model read back from its SavedModel, with TensorFlow alone."""

import math
import os
from collections.abc import Iterator

import numpy as np

from tf_realnvp import runtime
from tf_realnvp.errors import ModelError, printable
from tf_realnvp.serving import metadata
from tf_realnvp.serving.metadata import describe_images

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
        content = metadata.read(path)
        self.image_shape, self.num_colors = (
            content.image_shape,
            content.num_colors,
        )
        self.dataset = content.source
        runtime.configure()
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(os.fspath(path))
        except Exception as error:  # TensorFlow raises nearly anything.
            reason = (str(error).splitlines() or ["no details"])[0]
            raise ModelError(
                f"the SavedModel in {printable(path)} cannot be loaded: "
                f"{reason}"
            ) from error
        signatures = getattr(self._model, "signatures", {})
        if not hasattr(self._model, "log_prob") or any(
            name not in signatures for name in _SIGNATURES
        ):
            raise metadata.other_model(path)
        self._compare_metadata(path)
        self._log_prob = self._traced("log_prob", [])
        self._log_prob_each = None
        if hasattr(self._model, "log_prob_each"):  # Older models have none.
            self._log_prob_each = self._traced("log_prob_each", [None])

    def _traced(self, name, seed_shape):
        """Returns a function of the model, traced for batches of all sizes."""
        import tensorflow as tf

        return tf.function(
            getattr(self._model, name),
            input_signature=[
                tf.TensorSpec([None, *self.image_shape], tf.uint8),
                tf.TensorSpec(seed_shape, tf.int64),
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
            mine = describe_images(self.image_shape, self.num_colors)
            its = describe_images(image_shape, num_colors)
            raise ModelError(
                f"{printable(path)} is damaged: by its {metadata.FILE} the "
                f"images are {mine}, by its SavedModel {its}"
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

    def log_prob_each(self, images: np.ndarray, seed: int) -> np.ndarray:
        """Returns what `log_prob` gives for each image alone.

        All get the same noise, and none depends on those beside it. Models that
        were saved by older versions take one at a time, which is slower.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
          seed: Seed of the dequantization noise of each, of 64 bits.

        Returns:
          Float64 `[n]`, nats for a whole image.
        """
        if self._log_prob_each is None:
            one_by_one = [self.log_prob(image[None], seed) for image in images]
            return np.concatenate([np.zeros(0), *one_by_one])
        seeds = np.full(len(images), seed, np.int64)
        return self._log_prob_each(images, seeds).numpy().astype(np.float64)

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
