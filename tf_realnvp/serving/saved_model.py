"""A model read back from its SavedModel, with TensorFlow alone."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tf_realnvp.serving import metadata
from tf_realnvp.utils import runtime, units
from tf_realnvp.utils.errors import ModelError, reason
from tf_realnvp.utils.messages import counted
from tf_realnvp.utils.overlap import overlapped

BATCH_SIZE = 64  # Limits the memory where a caller asks for many images.


class Scores(NamedTuple):
    """How likely images are.

    Attributes:
      log_prob: Float64 `[n]`, nats for a whole image.
      bits_per_dim: Float64 `[n]`, the same in bits for each component.
      label: Int64 `[n]`, the likeliest class; 0 if the model has no classes.
    """

    log_prob: np.ndarray
    bits_per_dim: np.ndarray
    label: np.ndarray


class SavedModel:
    """A model that `export.save` wrote.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels of a component.
      source: The data set that it was trained on, as `data.load` finds it, or
        `None` if its metadata do not tell.
      class_names: Names of its classes; empty if it has none.
      log_prior: Logarithms of their probabilities, `[len(class_names)]`, or
        `[1]`, as of a single class, if it has none.
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
        self.image_shape = content.image_shape
        self.num_colors = content.num_colors
        self.source = content.source
        self.class_names = content.class_names
        with np.errstate(divide="ignore"):  # A class may have no chance.
            self.log_prior = np.log(np.array(content.class_probs or (1.0,)))
        runtime.configure()
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(os.fspath(path))
            outputs = {
                name: signature.structured_outputs
                for name, signature in self._model.signatures.items()
            }
            shape = outputs["decode"]["images"].shape[1:]
            given = outputs.get("classify", {}).get("class_log_probs")
            num_classes = 0 if given is None else given.shape[1]
            its = _describe(shape, int(self._model._num_colors()), num_classes)
            self._log_prob = self._traced("log_prob", [])
            self._log_prob_each = self._traced("log_prob_each", [None])
        except Exception as error:  # TensorFlow raises nearly anything.
            raise ModelError(
                f"the SavedModel in {path} cannot be loaded: {reason(error)}"
            ) from error
        own = _describe(
            self.image_shape, self.num_colors, len(self.class_names)
        )
        if its != own:
            raise ModelError(
                f"{path} is damaged: by its {metadata.FILE} the images are "
                f"{own}, by its SavedModel {its}"
            )

    def _traced(self, name, seed_shape):
        """Returns a function of the model, traced for batches of all sizes."""
        import tensorflow as tf

        function = getattr(self._model, name)
        specs = [
            tf.TensorSpec([None, *self.image_shape], tf.uint8),
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
          temperature: Factor on the latents' standard deviation.
          seed: From 0 to 2**32 - 1. The first batch is what the saved
            function `sample` gives for the same seed.
          label: Class of all images, or of each, `[n]`, for a model with
            classes; each is drawn if `None`.

        Returns:
          Batches of `uint8` images `[m, H, W, C]`, which are drawn as they are
          asked for, but for two ahead.
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

    def log_prob(
        self, images: np.ndarray, seed: int, label: int | None = None
    ) -> np.ndarray:
        """Returns a lower bound on the log-probability of images, in nats.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
          seed: Seed of the dequantization noise, of 64 bits.
          label: Class of all images, for a model with classes. Default: it is
            that of the mixture of all classes.

        Returns:
          Float64 `[n]`, nats for a whole image.
        """
        if label is None:
            return self.mixture(self.log_prob_of_classes(images, seed))
        return self._density(images, seed, label)

    def score_each(self, images: np.ndarray, seed: int) -> Scores:
        """Scores each image as `log_prob` does one alone.

        All get the same noise, and none depends on those beside it.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
          seed: Seed of the dequantization noise of each, of 64 bits.

        Returns:
          Log-probabilities, bits/dim and classes.
        """
        given = self.log_prob_of_classes(images, seed, each=True)
        log_prob = self.mixture(given)
        bits_per_dim = units.bits_per_dim(log_prob, self.num_dims)
        label = (given + self.log_prior).argmax(axis=1)
        return Scores(log_prob, bits_per_dim, label)

    def mixture(self, given: np.ndarray) -> np.ndarray:
        """Returns the log-probabilities of the mixture of the classes.

        Args:
          given: Those given each class, `[..., len(log_prior)]`.

        Returns:
          Float64 `[...]`.
        """
        return np.logaddexp.reduce(given + self.log_prior, axis=-1)

    def log_prob_of_classes(
        self, images: np.ndarray, seed: int, each: bool = False
    ) -> np.ndarray:
        """Returns the log-probability of images, given each of the classes.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`; the noise is the same for all classes.
          each: Whether each image gets the same noise, as in `score_each`.

        Returns:
          Float64 `[n, len(log_prior)]`, nats. With `log_prior` added it is the
          log-probability of images and classes together. A model without
          classes counts as one with a single class.
        """
        seeds = np.full(len(images), seed) if each else seed
        labels = range(len(self.log_prior))
        given = [self._density(images, seeds, label) for label in labels]
        return np.stack(given, axis=1)

    def _density(self, images, seeds, label):
        """Returns the log-probabilities of images, given a class of all."""
        import tensorflow as tf

        function = self._log_prob_each if np.ndim(seeds) else self._log_prob
        inputs = [images, tf.constant(seeds, tf.int64)]
        if self.class_names:
            inputs.append(np.full(len(images), label))
        return function(*inputs).numpy().astype(np.float64)

    def encode(
        self, images: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the latents of images, from which `decode` makes them again.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
          label: Their classes, `[n]`, if the model has any.

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
        """Encodes images whose classes are not known.

        Args:
          images: As for `encode`.
          label: Class of all. Default: the likeliest one of each.
          together: Whether that is the likeliest one of all together.

        Returns:
          The latents, and the labels that they are of, `[n]`; 0 if the model
          has no classes.
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
          `uint8` images `[n, H, W, C]`.
        """
        return self._in_batches("decode", "latents", latents, "images", label)

    def _in_batches(self, signature, name, values, output, label):
        def compute(part):
            inputs = {name: values[part]}
            return self._call(signature, inputs, label, part)[output].numpy()

        return np.concatenate([*overlapped(compute, _parts(values))])

    def _call(self, signature, inputs, labels, part):
        """Calls a signature, with a part of the labels if it takes any."""
        import tensorflow as tf

        if self.class_names:
            inputs["label"] = labels[part].astype(np.int32)
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return self._model.signatures[signature](**tensors)


def _parts(values):
    """Yields slices of as many values as are taken at once."""
    for start in range(0, len(values), BATCH_SIZE):
        yield slice(start, start + BATCH_SIZE)


def _describe(image_shape, num_colors, num_classes):
    images = metadata.describe_images(image_shape, num_colors)
    return f"{images} and {counted(num_classes, 'class')}"


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
