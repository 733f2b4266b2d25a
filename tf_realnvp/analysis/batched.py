"""A model applied to any number of images, in batches, as the commands do.

All results are NumPy arrays. An argument `label` or `context` is as for the
methods of `RealNVP`, and `None` where the model has none.
"""

import functools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_realnvp.flow import observations
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import named, tensors
from tf_realnvp.utils.batches import BATCH_SIZE, overlapped, parts, stream

if TYPE_CHECKING:
    from tf_realnvp.analysis.detection import Reference

_FEW = 3  # Batches are drawn before a graph would be traced.
_one_at_a_time = threading.Lock()


class Scores(NamedTuple):
    """Log-probabilities of images.

    Attributes:
      log_prob: Float64 `[n]`, in nats per image.
      label: Int64 `[n]`, the likeliest class; 0 if the model has no classes.
    """

    log_prob: np.ndarray
    label: np.ndarray


def _traced(model, name):
    """Returns a method of a model as a graph, for batches of any size.

    Its arguments are those of the method, the condition, if any, a dictionary.
    """
    with _one_at_a_time:  # Else two threads would trace one each.
        return _make_graph(model, name)


@functools.lru_cache(maxsize=4)
def _make_graph(model, name):
    images = tf.TensorSpec([None, *model.image_shape], model.values.dtype)
    seed = tf.TensorSpec([], tf.int64)
    condition = model.condition.specs
    arguments = {
        "dequantize": [images, seed, {}],
        "dequantize_each": [images, tf.TensorSpec([None], tf.int64), {}],
        "log_density": [tf.TensorSpec([None, *model.image_shape]), condition],
        "encode": [images, condition],
        "decode": [tf.TensorSpec([None, *model.latent_shape]), condition],
    }[name]
    method = getattr(model, name)
    return tf.function(
        lambda *args: method(*args[:-1], **args[-1]), arguments, autograph=False
    )


def sample(
    model: RealNVP,
    n: int,
    temperature: float,
    seed: int,
    label: Any = None,
    context: Any = None,
    numbers: Iterable[int] | None = None,
) -> Iterator[np.ndarray]:
    """Draws images, in batches of at most `BATCH_SIZE`.

    Args:
      model: The model.
      n: Number of images.
      temperature: Factor on the standard deviation of the latents.
      seed: Seed from 0 to 2**32 - 1. The first batch equals the output of
        `model.sample` for the same seed.
      label: As for `RealNVP.sample`.
      context: As for `RealNVP.sample`.
      numbers: Numbers of the batches to draw, from 0. Default: all.

    Returns:
      Iterator over batches of images `[m, H, W, C]`. They are drawn on demand,
      up to two batches ahead.
    """
    is_little = n <= _FEW * BATCH_SIZE
    graph = None if is_little else _traced(model, "decode")

    def draw(number):
        part = slice(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
        size = min(n - part.start, BATCH_SIZE)

        def own(values, shape):
            return values[part] if np.ndim(values) > len(shape) else values

        own_seed, own_label, own_context = stream(seed, number), label, context
        if label is not None:
            own_label = own(label, ())
        elif model.num_classes is not None:
            own_label = model.sample_labels(size, own_seed)
        if context is not None:
            own_context = named.each(own, context, model.context_shape)
        latents = model.sample_latents(size, temperature, own_seed)
        condition = model.condition(latents, own_label, own_context)
        if graph is None:
            return model.decode(latents, **condition).numpy()
        return graph(latents, condition).numpy()

    if numbers is None:
        numbers = range(math.ceil(n / BATCH_SIZE))
    return map(draw, numbers) if is_little else overlapped(draw, numbers)


def log_prior(model: RealNVP) -> np.ndarray:
    """Returns the log-probabilities of the classes, `[K]`; `[1]` without."""
    with np.errstate(divide="ignore"):  # A class may have probability zero.
        return np.log(model.class_probs or [1.0])


def mixture(model: RealNVP, log_probs: np.ndarray) -> np.ndarray:
    """Returns the log-probabilities of the mixture of the classes.

    Args:
      model: The model.
      log_probs: Log-probabilities given each class, `[..., K]`.

    Returns:
      Float64 `[...]`.
    """
    return np.logaddexp.reduce(log_probs + log_prior(model), axis=-1)


def log_prob_of_classes(
    model: RealNVP,
    images: np.ndarray,
    seed: int,
    each: bool = False,
    context: Any = None,
) -> np.ndarray:
    """Returns the log-probabilities of images given each class.

    Args:
      model: The model.
      images: `[n, H, W, C]`, of `model.values.dtype`.
      seed: Seed of the dequantization noise, a 64-bit integer. The noise is the
        same for all classes.
      each: Whether all images get the same noise, so that the result for an
        image does not depend on the others.
      context: As for `RealNVP.log_prob`. Default: for a model that observes
        images, what it observes of these; of masks, nothing.

    Returns:
      Float64 `[n, K]`, in nats. Adding `log_prior` gives the joint
      log-probability of images and classes. A model without classes counts as
      having a single class.
    """
    add_noise = _traced(model, "dequantize_each" if each else "dequantize")
    seeds = np.full([len(images)] if each else [], seed, np.int64)
    points = add_noise(images, seeds, {})
    log_density = _traced(model, "log_density")
    context = observations.given(model, images, context)
    condition = model.condition(images, context=context)  # Checked once.
    columns = []
    for k in range(model.num_classes or 1):
        if model.num_classes is not None:
            condition["label"] = np.full(len(images), k, np.int32)
        columns.append(log_density(points, condition))
    return np.stack(columns, axis=1).astype(np.float64)


def score_each(
    model: RealNVP, images: np.ndarray, seed: int, context: Any = None
) -> Scores:
    """Scores each image as if it were alone in a batch.

    Args:
      model: The model.
      images: As for `log_prob_of_classes`.
      seed: As for `log_prob_of_classes`.
      context: As for `log_prob_of_classes`.
    """
    log_probs = log_prob_of_classes(model, images, seed, True, context)
    label = (log_probs + log_prior(model)).argmax(axis=1)
    return Scores(mixture(model, log_probs), label)


def encode(model: RealNVP, images: np.ndarray, labels: Any) -> np.ndarray:
    """Returns the latents of images; `decode` recovers the images.

    Args:
      model: The model.
      images: `[n, H, W, C]`, of `model.values.dtype`.
      labels: Labels of the images, `[n]`; unused without classes.

    Returns:
      Float32 `[n, H / 2, W / 2, 4 * C]`.
    """
    return _in_batches(model, "encode", images, labels)


def decode(model: RealNVP, latents: np.ndarray, labels: Any) -> np.ndarray:
    """Returns the images of latents, of `model.values.dtype`.

    Args:
      model: The model.
      latents: Float32 `[n, H / 2, W / 2, 4 * C]`.
      labels: As for `encode`.
    """
    return _in_batches(model, "decode", latents, labels)


def encode_likeliest(
    model: RealNVP,
    images: np.ndarray,
    label: int | None = None,
    together: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes images, with their likeliest classes by default.

    Args:
      model: The model.
      images: As for `encode`.
      label: Class of all images. Default: the likeliest class of each.
      together: Whether the default is instead the likeliest class of all images
        together.

    Returns:
      The latents, and the labels used, `[n]`, which are 0 if the model has no
      classes.
    """
    if label is not None or model.num_classes is None:
        labels = np.full(len(images), label or 0)
    else:

        def measure(part):
            return log_prob_of_classes(model, images[part], 0, each=True)

        all_parts = overlapped(measure, parts(len(images)))
        log_probs = np.concatenate([*all_parts])
        if together:
            log_probs[:] = log_probs.sum(axis=0)
        labels = (log_probs + log_prior(model)).argmax(axis=1)
    return encode(model, images, labels), labels


def _in_batches(model, name, values, labels):
    """Applies `encode` or `decode` to batches."""
    label = None if model.num_classes is None else labels
    condition = model.condition(values, label)
    apply = _traced(model, name)

    def compute(part):
        own = tf.nest.map_structure(lambda values: values[part], condition)
        return apply(values[part], own).numpy()

    return np.concatenate([*overlapped(compute, parts(len(values)))])


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


def fill(model: RealNVP, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a batch of `BATCH_SIZE` that begins with some images.

    Convolutions and matrix products round in ways that depend on the size of a
    batch. In batches of one size the score of an image is the same in any batch
    and process, bit for bit, on processors of one kind.

    Args:
      model: The model.
      images: At most `BATCH_SIZE` images `[H, W, C]`, as for `model.log_prob`.
    """
    blank = np.zeros(model.image_shape, model.values.dtype)
    batch = np.stack([*images, *[blank] * (BATCH_SIZE - len(images))])
    checked = tensors.images(batch, model.image_shape, model.num_colors)
    return checked.numpy().astype(model.values.dtype)


def columns(
    model: RealNVP, scores: Any, reference: "Reference | None" = None
) -> dict[str, np.ndarray]:
    """Returns the columns that the command `score` writes, by name.

    Args:
      model: The model.
      scores: What `score_each` returned, or a `detection.Measurer`, which a
        reference and a model of tiles require.
      reference: Adds the scores of all methods, and p-values.
    """
    nats, label, values = scores.log_prob, scores.label, model.values
    if model.metadata.get("tiles"):
        nats = scores.of_images(nats, np.mean)
        label = scores.of_images(label, lambda x: np.bincount(x).argmax())
    result = {
        "log_prob": nats,
        values.measure: values.per_dim(nats, model.num_dims),
    }
    if model.class_names:
        result["likeliest_label"] = np.take(model.class_names, label)
    return result | (reference(scores) if reference is not None else {})
