"""A model read back from its SavedModel, with TensorFlow alone."""

import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tf_realnvp.serving import metadata
from tf_realnvp.serving.metadata import describe_images
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import ModelError, reason
from tf_realnvp.utils.messages import printable
from tf_realnvp.utils.overlap import overlapped

BATCH_SIZE = 64  # Limits the memory where a caller asks for many images.
_SIGNATURES = ("sample", "encode", "decode")


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
      log_prior: Logarithms of their probabilities, `[len(class_names)]`.
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
            self.log_prior = np.log(np.array(content.class_probs))
        runtime.configure()
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(os.fspath(path))
        except Exception as error:  # TensorFlow raises nearly anything.
            raise ModelError(
                f"the SavedModel in {printable(path)} cannot be loaded: "
                f"{reason(error)}"
            ) from error
        signatures = getattr(self._model, "signatures", {})
        if not hasattr(self._model, "log_prob") or any(
            name not in signatures for name in _SIGNATURES
        ):
            raise metadata.other_model(path)
        self._compare_metadata(path)
        self._log_prob = self._traced("log_prob", [])
        self._log_prob_each = self._one_by_one
        if hasattr(self._model, "log_prob_each"):  # Older models have none.
            self._log_prob_each = self._traced("log_prob_each", [None])

    def _traced(self, name, seed_shape):
        """Returns a function of the model, traced for batches of all sizes."""
        import tensorflow as tf

        specs = [
            tf.TensorSpec([None, *self.image_shape], tf.uint8),
            tf.TensorSpec(seed_shape, tf.int64),
        ]
        if self.class_names:
            specs.append(tf.TensorSpec([None], tf.int64))
        return tf.function(
            getattr(self._model, name),
            input_signature=specs,
            autograph=False,
        )

    def _one_by_one(self, images, seeds, *labels):
        """Does what `log_prob_each` of the model does, and takes longer."""
        import tensorflow as tf

        parts = [
            self._log_prob(
                images[i : i + 1], seed, *(label[i : i + 1] for label in labels)
            )
            for i, seed in enumerate(seeds)
        ]
        return tf.concat([tf.zeros([0]), *parts], axis=0)

    def _compare_metadata(self, path):
        """Checks that the metadata are those of this SavedModel."""
        decoded = self._model.signatures["decode"].structured_outputs["images"]
        image_shape, num_colors = tuple(decoded.shape[1:]), self.num_colors
        if hasattr(self._model, "_num_colors"):  # Older models do not tell.
            num_colors = int(self._model._num_colors())
        classes = 0
        if "classify" in self._model.signatures:
            outputs = self._model.signatures["classify"].structured_outputs
            classes = outputs["class_log_probs"].shape[1]
        if classes != len(self.class_names):
            raise ModelError(
                f"{printable(path)} is damaged: by its {metadata.FILE} there "
                f"are {len(self.class_names)} classes, by its SavedModel "
                f"{classes}"
            )
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
        import tensorflow as tf

        labels = np.broadcast_to(-1 if label is None else label, [n])

        def draw(start):
            part = labels[start : start + BATCH_SIZE]
            index = start // BATCH_SIZE
            return self._model.signatures["sample"](
                n=tf.constant(len(part)),
                temperature=tf.constant(temperature, tf.float32),
                seed=tf.constant(stream(seed, index), tf.int64),
                **self._labels(part),
            )["images"].numpy()

        return overlapped(draw, range(0, n, BATCH_SIZE))

    def _labels(self, labels):
        """Returns labels as the signatures take them."""
        import tensorflow as tf

        if not self.class_names:
            return {}
        return {"label": tf.constant(labels, tf.int32)}

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
        if label is not None:
            labels = np.full(len(images), label)
            return _run(self._log_prob, images, seed, labels)
        if self.class_names:
            joint = self.log_prob_of_classes(images, seed) + self.log_prior
            return np.logaddexp.reduce(joint, axis=1)
        return _run(self._log_prob, images, seed)

    def score_each(self, images: np.ndarray, seed: int) -> Scores:
        """Scores each image as `log_prob` does one alone.

        All get the same noise, and none depends on those beside it. Models that
        were saved by older versions take one at a time, which is slower.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`.
          seed: Seed of the dequantization noise of each, of 64 bits.

        Returns:
          Log-probabilities, bits/dim and classes.
        """
        label = np.zeros(len(images), np.int64)
        if self.class_names:
            given = self.log_prob_of_classes(images, seed, each=True)
            joint = given + self.log_prior
            log_prob = np.logaddexp.reduce(joint, axis=1)
            label = joint.argmax(axis=1)
        else:
            seeds = np.full(len(images), seed)
            log_prob = _run(self._log_prob_each, images, seeds)
        bits_per_dim = -log_prob / (self.num_dims * math.log(2.0))
        return Scores(log_prob, bits_per_dim, label)

    def log_prob_of_classes(
        self, images: np.ndarray, seed: int, each: bool = False
    ) -> np.ndarray:
        """Returns the log-probability of images, given each of the classes.

        For a model with classes.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`; the noise is the same for all classes.
          each: Whether each image gets the same noise, as in `score_each`.

        Returns:
          Float64 `[n, len(class_names)]`, nats. With `log_prior` added it is
          the log-probability of images and classes together.
        """
        function: Callable = self._log_prob
        seeds: int | np.ndarray = seed
        if each:
            function = self._log_prob_each
            seeds = np.full(len(images), seed)
        given = [
            _run(function, images, seeds, np.full(len(images), label))
            for label in range(len(self.class_names))
        ]
        return np.stack(given, axis=1)

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

            given = np.concatenate(list(overlapped(measure, _parts(images))))
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

    def _in_batches(self, signature, name, values, result, label):
        import tensorflow as tf

        function = self._model.signatures[signature]

        def compute(part):
            labels = {} if label is None else self._labels(label[part])
            inputs = {name: tf.constant(values[part])} | labels
            return function(**inputs)[result].numpy()

        return np.concatenate(list(overlapped(compute, _parts(values))))


def _parts(values):
    """Yields slices of as many values as are taken at once."""
    for start in range(0, len(values), BATCH_SIZE):
        yield slice(start, start + BATCH_SIZE)


def _run(log_prob, images, seed, *label):
    """Returns what a traced function gives, float64."""
    import tensorflow as tf

    seed = tf.constant(seed, tf.int64)
    return log_prob(images, seed, *label).numpy().astype(np.float64)


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
