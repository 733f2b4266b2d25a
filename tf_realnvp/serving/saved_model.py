"""A model in a folder, applied to any number of images."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tf_realnvp.serving import metadata
from tf_realnvp.utils import hashing, runtime
from tf_realnvp.utils.overlap import overlapped

BATCH_SIZE = 64  # Limits the memory for many images.


class Scores(NamedTuple):
    """Log-probabilities of images.

    Attributes:
      log_prob: Float64 `[n]`, in nats per image.
      label: Int64 `[n]`, the likeliest class; 0 if the model has no classes.
    """

    log_prob: np.ndarray
    label: np.ndarray


class SavedModel:
    """A model written by `export.save`, and what its metadata say.

    Attributes:
      model: The `RealNVP`.
      image_shape: `(H, W, C)`.
      num_colors: Number of levels of a component; `None` for real numbers.
      values: What the values of the images are.
      num_dims: Number of components of an image, `H * W * C`.
      class_names: Names of the classes, if there are any; by default their
        indices.
      source: The training data set, as an argument of `data.load`, or `None`.
      training_hashes: Hashes in the sketch of the training images; empty if
        there is none, as for data sets of TFDS.
      dropped_bits: Number of lowest bits that the levels lack, of the values
        that files of 16 bits hold.
      log_prior: Log-probabilities of the classes, `[len(class_names)]`. A model
        without classes has a single one, `[1]`.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int | None = None):
        """Loads a model.

        The folder is looked at before TensorFlow is imported, which takes
        seconds.

        Args:
          path: The folder that `export.save` wrote.
          num_threads: As for `runtime.configure`.

        Raises:
          ModelError: If there is no model, or it cannot be loaded.
        """
        content = metadata.read(path)
        self.class_names = metadata.class_names(content)
        self.source = content.get("source", content.get("dataset"))
        hashes = content.get("training_hashes", "")
        self.training_hashes = hashing.parse_sketch(hashes)
        self.dropped_bits = content.get("dropped_bits", 0)
        runtime.configure(num_threads=num_threads)
        import tensorflow as tf

        from tf_realnvp.serving import weights

        model = self.model = weights.load_model(path)
        self.image_shape, self.num_colors = model.image_shape, model.num_colors
        self.values, self.num_dims = model.values, model.num_dims
        with np.errstate(divide="ignore"):  # A class may have probability zero.
            self.log_prior = np.log(np.array(model.class_probs or (1.0,)))
        images = tf.TensorSpec([None, *self.image_shape], self.values.dtype)
        latents = tf.TensorSpec([None, *model.latent_shape], tf.float32)
        label = [tf.TensorSpec([None], tf.int32)] * bool(self.class_names)

        def traced(function, *signature):
            return tf.function(function, signature, autograph=False)

        # `n` and the shape of `label` vary from batch to batch.
        self._sample = tf.function(
            model.sample, autograph=False, reduce_retracing=True
        )
        self._encode = traced(model.encode, images, *label)
        self._decode = traced(model.decode, latents, *label)
        seed = tf.TensorSpec([], tf.int64)
        self._log_prob = traced(model.log_prob, images, seed, *label)
        seeds = tf.TensorSpec([None], tf.int64)
        self._log_prob_each = traced(model.log_prob_each, images, seeds, *label)

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
        import tensorflow as tf

        labels = np.broadcast_to(-1 if label is None else label, [n])

        def draw(part):
            its = None if label is None else tf.constant(labels[part], tf.int32)
            return self._sample(
                tf.constant(len(labels[part])),
                tf.constant(temperature, tf.float32),
                tf.constant(stream(seed, part.start // BATCH_SIZE), tf.int64),
                its,
            ).numpy()

        return overlapped(draw, _parts(labels))

    def score_each(self, images: np.ndarray, seed: int) -> Scores:
        """Scores each image as if it were alone in a batch.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          seed: Seed of the dequantization noise of each image, a 64-bit
            integer.
        """
        given = self.log_prob_of_classes(images, seed, each=True)
        label = (given + self.log_prior).argmax(axis=1)
        return Scores(self.mixture(given), label)

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
          each: Whether all images get the same noise, so that the result for an
            image does not depend on the others.

        Returns:
          Float64 `[n, len(log_prior)]`, in nats. Adding `log_prior` gives the
          joint log-probability of images and classes. A model without classes
          counts as having a single class.
        """
        n = len(images)
        function = self._log_prob_each if each else self._log_prob
        seeds = np.full([n] if each else [], seed, np.int64)
        labels = [[np.full(n, k)] for k in range(len(self.class_names))] or [[]]
        given = [function(images, seeds, *label).numpy() for label in labels]
        return np.stack(given, axis=1).astype(np.float64)

    def encode(self, images: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns the latents of images; `decode` recovers the images.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          label: Labels of the images, `[n]`; unused without classes.

        Returns:
          Float32 `[n, H / 2, W / 2, 4 * C]`.
        """
        return self._in_batches(self._encode, images, label)

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

    def decode(self, latents: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns the images of latents.

        Args:
          latents: Float32 `[n, H / 2, W / 2, 4 * C]`.
          label: As for `encode`.

        Returns:
          Images `[n, H, W, C]`, of `values.dtype`.
        """
        return self._in_batches(self._decode, latents, label)

    def _in_batches(self, function, values, labels):
        def compute(part):
            label = [labels[part]] if self.class_names else []
            return function(values[part], *label).numpy()

        return np.concatenate([*overlapped(compute, _parts(values))])


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
