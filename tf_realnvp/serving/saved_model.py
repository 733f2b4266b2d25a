"""A model in a folder, applied to any number of images."""

import functools
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tf_realnvp.data import hashing
from tf_realnvp.errors import ModelError, UsageError, reason
from tf_realnvp.flow.values import Values
from tf_realnvp.serving import metadata
from tf_realnvp.utils import runtime
from tf_realnvp.utils.batches import overlapped
from tf_realnvp.utils.named import each

if TYPE_CHECKING:
    from tf_realnvp.flow.observations import Observe
    from tf_realnvp.flow.real_nvp import RealNVP

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
      observe: What is observed of an image, if anything, as for `RealNVP`.
      context_shape: As for `RealNVP`.
      log_prior: Log-probabilities of the classes, `[len(class_names)]`. A model
        without classes has a single one, `[1]`.
    """

    def __init__(self, path: str | os.PathLike):
        """Loads a model.

        The folder is looked at before TensorFlow is imported, which takes
        seconds.

        Args:
          path: The folder that `export.save` wrote.

        Raises:
          ModelError: If there is no model, or it cannot be loaded.
        """
        content = metadata.read(path)
        self._path = path
        self.image_shape = tuple(content["image_shape"])
        self.values = Values(content["num_colors"])
        self.num_colors = self.values.num_colors
        self.num_dims = math.prod(self.image_shape)
        self.class_names = metadata.class_names(content)
        self.source = content.get("source", content.get("dataset"))
        hashes = content.get("training_hashes", "")
        self.training_hashes = hashing.parse_sketch(hashes)
        self.dropped_bits = content.get("dropped_bits", 0)
        self.observe = content.get("observe")
        self.context_shape = each(tuple, content.get("context_shape"))
        with np.errstate(divide="ignore"):  # A class may have probability zero.
            self.log_prior = np.log(content.get("class_probs") or [1.0])
        runtime.configure()
        import tensorflow as tf

        from tf_realnvp.utils import tensors

        images = tf.TensorSpec([None, *self.image_shape], self.values.dtype)
        self._specs = tensors.condition_specs(
            bool(self.class_names), self.context_shape
        )

        def traced(function, seed_shape):
            seed = tf.TensorSpec(seed_shape, tf.int64)
            specs = [images, seed, *self._specs.values()]
            return tf.function(function, specs, autograph=False)

        try:
            self._saved = tf.saved_model.load(os.fspath(path))
            self._log_prob = traced(self._saved.log_prob, [])
            self._log_prob_each = traced(self._saved.log_prob_each, [None])
        except Exception as error:  # TensorFlow may raise anything.
            raise ModelError(
                f"the model in {path} cannot be loaded: {reason(error)}"
            ) from error

    @functools.cached_property
    def model(self) -> "RealNVP":
        """The `RealNVP`, which takes longer to build than its SavedModel."""
        from tf_realnvp.serving import weights

        return weights.load_model(self._path)

    @property
    def observation(self) -> "Observe | None":
        """The observation that is named `observe`, if any."""
        from tf_realnvp.flow import observations

        return observations.named(self.observe, self.values)

    def sample(
        self,
        n: int,
        temperature: float,
        seed: int,
        label: int | np.ndarray | None = None,
        context: Any = None,
        numbers: Iterable[int] | None = None,
    ) -> Iterator[np.ndarray]:
        """Draws images, in batches of at most `BATCH_SIZE`.

        Args:
          n: Number of images.
          temperature: Factor on the standard deviation of the latents.
          seed: Seed from 0 to 2**32 - 1. The first batch equals the output of
            the saved function `sample` for the same seed.
          label: For a model with classes, the class of all images, or of each,
            `[n]`; `None` to draw the classes.
          context: As for `RealNVP.sample`.
          numbers: Numbers of the batches to draw, from 0. Default: all.

        Returns:
          Iterator over batches of images `[m, H, W, C]`. They are drawn on
          demand, up to two batches ahead.
        """
        label = -1 if label is None else label
        condition = self._condition(n, label, context)

        def draw(part):
            inputs = {
                "n": np.int32(min(n - part.start, BATCH_SIZE)),
                "temperature": np.float32(temperature),
                "seed": np.int64(stream(seed, part.start // BATCH_SIZE)),
            }
            return self._call("sample", inputs, condition, part, "images")

        if numbers is None:
            numbers = range(math.ceil(n / BATCH_SIZE))
        starts = (number * BATCH_SIZE for number in numbers)
        parts = (slice(start, start + BATCH_SIZE) for start in starts)
        return overlapped(draw, parts)

    def score_each(self, images: np.ndarray, seed: int, context=None) -> Scores:
        """Scores each image as if it were alone in a batch.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          seed: Seed of the dequantization noise of each image, a 64-bit
            integer.
          context: As for `RealNVP.log_prob`. Default: for a model that observes
            images, what it observes of these; of masks, nothing.
        """
        log_probs = self.log_prob_of_classes(images, seed, True, context)
        label = (log_probs + self.log_prior).argmax(axis=1)
        return Scores(self.mixture(log_probs), label)

    def mixture(self, log_probs: np.ndarray) -> np.ndarray:
        """Returns the log-probabilities of the mixture of the classes.

        Args:
          log_probs: Log-probabilities given each class, `[...,
            len(log_prior)]`.

        Returns:
          Float64 `[...]`.
        """
        return np.logaddexp.reduce(log_probs + self.log_prior, axis=-1)

    def log_prob_of_classes(
        self, images: np.ndarray, seed: int, each: bool = False, context=None
    ) -> np.ndarray:
        """Returns the log-probabilities of images given each class.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          seed: Seed of the dequantization noise, a 64-bit integer. The noise is
            the same for all classes.
          each: Whether all images get the same noise, so that the result for an
            image does not depend on the others.
          context: As for `score_each`.

        Returns:
          Float64 `[n, len(log_prior)]`, in nats. Adding `log_prior` gives the
          joint log-probability of images and classes. A model without classes
          counts as having a single class.
        """
        from tf_realnvp.flow import observations

        n = len(images)
        function = self._log_prob_each if each else self._log_prob
        seeds = np.full([n] if each else [], seed, np.int64)
        context = observations.given(self, images, context)
        columns = [
            function(images, seeds, *self._condition(n, k, context).values())
            for k in range(len(self.log_prior))
        ]
        return np.stack(columns, axis=1).astype(np.float64)

    def encode(self, images: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns the latents of images; `decode` recovers the images.

        Args:
          images: `[n, H, W, C]`, of `values.dtype`.
          label: Labels of the images, `[n]`; unused without classes.

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

            log_probs = np.concatenate([*overlapped(measure, _parts(images))])
            if together:
                log_probs[:] = log_probs.sum(axis=0)
            labels = (log_probs + self.log_prior).argmax(axis=1)
        return self.encode(images, labels), labels

    def decode(self, latents: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns the images of latents.

        Args:
          latents: Float32 `[n, H / 2, W / 2, 4 * C]`.
          label: As for `encode`.

        Returns:
          Images `[n, H, W, C]`, of `values.dtype`.
        """
        return self._in_batches("decode", "latents", latents, "images", label)

    def _in_batches(self, signature, name, values, output, labels):
        condition = self._condition(len(values), labels)

        def compute(part):
            inputs = {name: values[part]}
            return self._call(signature, inputs, condition, part, output)

        return np.concatenate([*overlapped(compute, _parts(values))])

    def check_context(self, context: Any = None) -> None:
        """Raises a `UsageError` unless images can have a context.

        Args:
          context: As for `score_each`.
        """
        if context is not None or self.observe is None:
            self._condition(BATCH_SIZE, 0, context)

    def _condition(self, n, label, context=None):
        """Returns what `n` images are conditioned on, as `condition_specs`."""
        import tensorflow as tf

        from tf_realnvp.utils import tensors

        if context is None and self.observe == "mask":
            context = np.zeros(self.context_shape)  # Nothing is visible.
        if context is None and self.context_shape is not None:
            raise UsageError(
                f"the model needs a context of shape {self.context_shape}, "
                "which only `sample` and `score` take (--context), and Python"
            )
        try:
            context = tensors.context(context, self.context_shape, n)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise UsageError(reason(error)) from error
        label = np.broadcast_to(np.int32(label), [n])
        given = {"label": label, "context": context}
        return {name: given[name] for name in self._specs}

    def _call(self, signature, inputs, condition, part, output):
        """Calls a signature, with a slice of the condition."""
        import tensorflow as tf

        names = [spec.name for spec in tf.nest.flatten(self._specs)]
        values = [value[part] for value in tf.nest.flatten(condition)]
        inputs |= dict(zip(names, values, strict=True))
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return self._saved.signatures[signature](**tensors)[output].numpy()


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
