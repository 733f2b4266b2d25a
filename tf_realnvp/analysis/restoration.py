"""Restoration: what is missing in an image, or under noise, and how sure it is.

A model that was trained to observe masks, or the kind of what was observed
(`RealNVP.observe`), has the density of images given that. Samples are drawn
from it, and their mean is improved by the model's own estimate.

```python
restored = restoration.restore(model, images, mask, num_samples=8)
restored.images  # uint8 [n, H, W, C]
restored.samples  # uint8 [n, 8, H, W, C], several answers
restored.std  # float32 [n, H, W, C], where they differ
```
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.flow import observations
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import tensors
from tf_realnvp.utils.batches import parts
from tf_realnvp.utils.console import Progress, Silent
from tf_realnvp.utils.ranges import WholeNumber, check

_NUM_SAMPLES = 16  # That `RealNVP.estimate` counts as.


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Restored images.

    Attributes:
      images: `[n, H, W, C]`, the mean of the samples and of `RealNVP.estimate`,
        which counts as 16 samples, in the dtype of the model's images.
      samples: `[n, num_samples, H, W, C]` of the same dtype.
      mean: Float32 `[n, H, W, C]`, the mean of the samples.
      std: Float32 `[n, H, W, C]`, their standard deviation.
      label: Int32 `[n]`, the class of each image; `None` without classes.
    """

    images: np.ndarray
    samples: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    label: np.ndarray | None = None


def restore(
    model: RealNVP,
    images: np.ndarray,
    mask: np.ndarray | None = None,
    label: Any = None,
    num_samples: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    shows_progress: bool = False,
) -> Restoration:
    """Restores images of which only a part, or another version, is known.

    Args:
      model: A model that observes masks, or what was observed.
      images: What was observed, in levels or real numbers: `[n, H, W, C]`, of
        which missing values are ignored, and may be NaN; or of the shape that
        the model observes.
      mask: What is missing, for a model that observes masks: `True`, or any
        number but 0. Its shape broadcasts to that of `images`. The model sees
        no channel of a pixel of which one is missing, and the known ones are
        put back. Default: nothing.
      label: Class of all images, or of each, `[n]`. Default: for a model with
        classes, drawn by `class_probs`.
      num_samples: Number of samples for each image, in pairs of opposite
        latents.
      seed: Seed of the samples.
      batch_size: Number of samples that are computed together.
      shows_progress: Whether to show the progress on standard output.

    Raises:
      TypeError: If levels or labels are not integers.
      ValueError: If the model observes nothing, or not masks but there is a
        `mask`; if an argument has the wrong shape or is out of range; or if a
        `label` is given and the model has no classes.
      tf.errors.InvalidArgumentError: If levels or labels are out of range, or
        other observed values are not finite.
    """
    check(num_samples, "num_samples", WholeNumber(1))
    check(batch_size, "batch_size", WholeNumber(1))
    settings = label, num_samples, seed, batch_size
    display = Progress if shows_progress else Silent
    if model.observe is None:
        raise ValueError(
            "The model observes nothing: train one from it, by `init_from` and "
            "`observe` 'mask'."
        )
    if model.observe != "mask":
        if np.any(mask):
            raise ValueError(f"The model observes {model.observe} alone.")
        seen = tensors.finite(images, "images", model.context_shape)
        return Restoration(**_draw(model, *settings, display, seen))
    images = np.asarray(images)
    mask = np.asarray(False if mask is None else mask)
    visible = np.broadcast_to(mask == 0, images.shape)
    images = np.where(visible, images, 0)
    images = tensors.images(images, model.image_shape, model.num_colors).numpy()
    seen = observations.visible_pixels(
        images, visible.all(axis=-1, keepdims=True)
    )
    result = _draw(model, *settings, display, seen)
    # A flow returns known values rounded.
    known = images[visible]
    result["images"][visible] = known
    result["mean"][visible], result["std"][visible] = known, 0.0
    result["samples"].swapaxes(0, 1)[:, visible] = known
    return Restoration(**result)


def _draw(model, label, num_samples, seed, batch_size, display, context):
    """Restores images by samples of the density given what was observed."""
    n = len(context)
    if label is None and model.num_classes is not None:
        label = model.sample_labels(n, seed)
    condition = tf.nest.map_structure(
        lambda values: np.repeat(values, num_samples, axis=0),
        model.condition(context, label, context),
    )
    # In pairs of opposite latents, whose mean varies less.
    half = (num_samples + 1) // 2
    latents = model.sample_latents(n * half, seed=seed)
    latents = tf.reshape(latents, [n, half, *latents.shape[1:]])
    latents = tf.concat([latents, -latents], axis=1)[:, :num_samples]
    latents = tf.reshape(latents, [n * num_samples, *latents.shape[2:]])
    slices = parts(max(1, n), batch_size)
    estimates = [model.estimate(context[part]) for part in slices]
    drawn = []
    with display("restore", math.ceil(len(latents) / batch_size)) as progress:
        for part in parts(max(1, len(latents)), batch_size):
            given = {name: values[part] for name, values in condition.items()}
            drawn.append(model.decode(latents[part], **given))
            progress.update(1, len(drawn[-1]))
    shape = n, num_samples, *model.image_shape
    samples = np.concatenate(drawn).reshape(shape)
    mean = samples.mean(axis=1, dtype=np.float32)
    # Either may be the one that is nearer to the image.
    total = num_samples * mean + _NUM_SAMPLES * np.concatenate(estimates)
    return {
        "images": model.values.nearest(total / (num_samples + _NUM_SAMPLES)),
        "samples": samples,
        "mean": mean,
        "std": samples.std(axis=1, dtype=np.float32),
        "label": None if label is None else condition["label"][::num_samples],
    }


def interval(
    values: Values,
    restored: Restoration,
    factor: float,
    missing: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of intervals that hold the true values.

    They are the mean of the samples plus and minus a multiple of their spread.

    Args:
      values: What the values of the images are, `model.values`.
      restored: Restored images with samples, `[n, H, W, C]`.
      factor: What `interval_factor` returns.
      missing: Where values are missing; broadcasts to the images. All others
        are their own interval. Default: everywhere.

    Returns:
      The lower and the upper ends, of the shape and dtype of the images.
    """
    middle = np.asarray(restored.mean)
    missing = np.asarray(True if missing is None else missing)
    reach = factor * np.where(missing, _spread(values, restored), 0.0)
    return values.nearest(middle - reach), values.nearest(middle + reach)


def interval_factor(
    values: Values,
    restored: Restoration,
    truth: np.ndarray,
    coverage: float,
    missing: np.ndarray | None = None,
) -> float:
    """Returns the factor on the spread with which intervals hold the truth.

    It is a conformal quantile (https://arxiv.org/abs/2107.07511): if other
    images come from the same distribution and miss the same, `interval` holds
    this share of their missing values, on average.

    Args:
      values: As for `interval`.
      restored: Restored images that the model was not trained on.
      truth: These images, `[n, H, W, C]`.
      coverage: The share of values that is to be held, between 0 and 1.
      missing: As for `interval`.
    """
    # Ends are rounded to levels, which reach half a level further.
    errors = np.abs(truth - restored.mean) - values.middle
    scores = np.maximum(errors, 0.0) / _spread(values, restored)
    missing = np.asarray(True if missing is None else missing)
    share = min(1.0, coverage * (1.0 + 1.0 / len(truth)))
    scores = scores[np.broadcast_to(missing, scores.shape)]
    return float(np.quantile(scores, share, method="higher"))


def _spread(values, restored):
    """Returns the spread of samples, which differ too little if they agree."""
    return restored.std + (values.middle or np.finfo(np.float32).eps)
