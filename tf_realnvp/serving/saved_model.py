"""Access to a SavedModel that only needs TensorFlow."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tf_realnvp.serving import metadata
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import ModelError, reason
from tf_realnvp.utils.overlap import overlapped

BATCH_SIZE = 64  # Limits the memory for many images.


class Scores(NamedTuple):
    """Log-probabilities of images.

    Attributes:
      log_prob: Float64 `[n]`, in nats per image.
      per_dim: Float64 `[n]`, the code length in bits per component; of real
        numbers, minus the log-density in nats per component.
      label: Int64 `[n]`, the likeliest class; 0 if the model has no classes.
    """

    log_prob: np.ndarray
    per_dim: np.ndarray
    label: np.ndarray


class SavedModel:
    """A model written by `export.save`.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels per component; `None` for real numbers.
      values: What the values of the images are.
      dropped_bits: As in `Metadata`.
      source: The training data set, as an argument of `data.load`; `None` if
        unknown.
      training_hashes: As in `Metadata`.
      class_names: Names of the classes; empty if there are none.
      log_prior: Log-probabilities of the classes, `[len(class_names)]`. A model
        without classes has a single one, `[1]`.
    """

    def __init__(self, path: str | os.PathLike):
        """Loads a model.

        The folder is checked before TensorFlow is imported, which takes
        seconds.

        Args:
          path: The folder that `export.save` wrote.

        Raises:
          ModelError: If there is no model, or it cannot be loaded.
        """
        content = metadata.read(path)
        self.image_shape = content.image_shape
        self.num_colors = content.num_colors
        self.values = content.values
        self.dropped_bits = content.dropped_bits
        self.source = content.source
        self.training_hashes = content.training_hashes
        self.class_names = content.class_names
        with np.errstate(divide="ignore"):  # A class may have probability zero.
            self.log_prior = np.log(np.array(content.class_probs or (1.0,)))
        runtime.configure()
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(os.fspath(path))
            self._log_prob = self._traced("log_prob", [])
            self._log_prob_each = self._traced("log_prob_each", [None])
        except Exception as error:  # TensorFlow may raise anything.
            raise ModelError(
                f"the SavedModel in {path} cannot be loaded: {reason(error)}"
            ) from error

    def _traced(self, name, seed_shape):
        """Returns a function of the model, traced for any batch size."""
        import tensorflow as tf

        function = getattr(self._model, name)
        specs = [
            tf.TensorSpec([None, *self.image_shape], self.values.dtype),
            tf.TensorSpec(seed_shape, tf.int64),
        ]
        if self.class_names:
            specs.append(tf.TensorSpec([None], tf.int64))
        return tf.function(function, input_signature=specs, autograph=False)

    @property
    def num_dims(self) -> int:
        """Number of components of an image, `H * W * C`."""
        return math.prod(self.image_shape)

    def sample(
        self,
        n: int,
        temperature: float,
        seed: int,
        label: int | np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:
        """Draws images, in batches of at most `BATCH_SIZE`.

        Args:
          n: Number of images.
          temperature: Factor on the standard deviation of the latents.
          seed: Seed from 0 to 2**32 - 1. The first batch equals the output of
            the saved function `sample` for the same seed.
          label: For a model with classes, the class of all images, or of each,
            `[n]`; `None` to draw the classes.

        Returns:
          Iterator over batches of images `[m, H, W, C]`. They are drawn on
          demand, up to two batches ahead.
        """
        labels = np.broadcast_to(-1 if label is None else label, [n])

        def draw(part):
            inputs = {
                "n": np.int32(len(labels[part])),
                "temperature": np.float32(temperature),
                "seed": np.int64(stream(seed, part.start // BATCH_SIZE)),
            }
            return self._call("sample", inputs, labels, part)["images"].numpy()

        return overlapped(draw, _parts(labels))

    def score_each(self, images: np.ndarray, seed: int) -> Scores:
        """Scores each image as if it were alone in a batch.

        All images get the same noise, so the score of an image does not depend
        on the others.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          seed: Seed of the dequantization noise of each image, a 64-bit
            integer.

        Returns:
          Log-probabilities, bits/dim (or nats/dim) and classes.
        """
        given = self.log_prob_of_classes(images, seed, each=True)
        log_prob = self.mixture(given)
        per_dim = self.values.per_dim(log_prob, self.num_dims)
        label = (given + self.log_prior).argmax(axis=1)
        return Scores(log_prob, per_dim, label)

    def mixture(self, given: np.ndarray) -> np.ndarray:
        """Returns the log-probabilities of the mixture of the classes.

        Args:
          given: Log-probabilities given each class, `[..., len(log_prior)]`.

        Returns:
          Float64 `[...]`.
        """
        return np.logaddexp.reduce(given + self.log_prior, axis=-1)

    def log_prob_of_classes(
        self, images: np.ndarray, seed: int, each: bool = False
    ) -> np.ndarray:
        """Returns the log-probabilities of images given each class.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          seed: Seed of the dequantization noise, a 64-bit integer. The noise is
            the same for all classes.
          each: Whether all images get the same noise, as in `score_each`.

        Returns:
          Float64 `[n, len(log_prior)]`, in nats. Adding `log_prior` gives the
          joint log-probability of images and classes. A model without classes
          counts as having a single class.
        """
        import tensorflow as tf

        n = len(images)
        function = self._log_prob_each if each else self._log_prob
        seeds = tf.constant([seed] * n if each else seed, tf.int64)
        labels = [[np.full(n, k)] for k in range(len(self.class_names))] or [[]]
        given = [function(images, seeds, *label).numpy() for label in labels]
        return np.stack(given, axis=1).astype(np.float64)

    def encode(
        self, images: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the latents of images; `decode` recovers the images.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          label: Labels of the images, `[n]`, for a model with classes.

        Returns:
          Float32 `[n, H / 2, W / 2, 4 * C]`.
        """
        return self._in_batches("encode", "images", images, "latents", label)

    def encode_likeliest(
        self,
        images: np.ndarray,
        label: int | None = None,
        together: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes images, with their likeliest classes by default.

        Args:
          images: As for `encode`.
          label: Class of all images. Default: the likeliest class of each.
          together: Whether the default is instead the likeliest class of all
            images together.

        Returns:
          The latents, and the labels used, `[n]`, which are 0 if the model has
          no classes.
        """
        if label is not None or not self.class_names:
            labels = np.full(len(images), label or 0)
        else:

            def measure(part):
                return self.log_prob_of_classes(images[part], 0, each=True)

            given = np.concatenate([*overlapped(measure, _parts(images))])
            if together:
                given[:] = given.sum(axis=0)
            labels = (given + self.log_prior).argmax(axis=1)
        return self.encode(images, labels), labels

    def decode(
        self, latents: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the images of latents.

        Args:
          latents: Float32 `[n, H / 2, W / 2, 4 * C]`.
          label: As for `encode`.

        Returns:
          Images `[n, H, W, C]`, of `values.dtype`.
        """
        return self._in_batches("decode", "latents", latents, "images", label)

    def _in_batches(self, signature, name, values, output, label):
        def compute(part):
            inputs = {name: values[part]}
            return self._call(signature, inputs, label, part)[output].numpy()

        return np.concatenate([*overlapped(compute, _parts(values))])

    def _call(self, signature, inputs, labels, part):
        """Calls a signature, with a slice of the labels if it takes any."""
        import tensorflow as tf

        if self.class_names:
            inputs["label"] = labels[part].astype(np.int32)
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return self._model.signatures[signature](**tensors)


def _parts(values):
    """Yields slices of at most `BATCH_SIZE` values."""
    for start in range(0, len(values), BATCH_SIZE):
        yield slice(start, start + BATCH_SIZE)


def stream(seed: int, index: int) -> int:
    """Returns the seed of an independent random stream.

    The saved functions use both halves of a 64-bit seed, so different pairs of
    `seed` and `index` have different noise.

    Args:
      seed: Seed from 0 to 2**32 - 1. Stream 0 has the same seed.
      index: Index of the stream, from 0 to 2**31 - 1.
    """
    return seed + (index << 32)


def importance_bound(log_probs: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the mean density over noise samples.

    In expectation over the noise, it is a lower bound on the log-probability of
    an image, and increases with the number of samples
    (https://arxiv.org/abs/1509.00519, theorem 1).

    Args:
      log_probs: Log-densities `[num_draws, n]` of images with several noise
        samples.

    Returns:
      The bounds `[n]`.
    """
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))
