"""Restoration: what is missing in an image, or under noise, and how sure it is.

A model is a prior of images. With what was observed it gives a posterior of the
latents, of which the likeliest and samples are found (`posterior`).

```python
restored = restoration.restore(model, images, mask, num_samples=8)
restored.images  # uint8 [n, H, W, C], the likeliest
restored.samples  # uint8 [n, 8, H, W, C], other answers
restored.std  # float32 [n, H, W, C], where they differ
```

A model that was trained to observe masks, or the kind of what was observed
(`RealNVP.observe`), has the density of images given that. Then samples are
drawn from it, and neither descent nor chains are needed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.analysis import posterior
from tf_realnvp.flow import observations
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import tensors
from tf_realnvp.utils.console import Progress, Silent
from tf_realnvp.utils.ranges import RealNumber, WholeNumber, check

_KNOWN_SIGMA = 5.0 / 255.0  # Of known pixels, relative to white.
_NUM_SAMPLES = 16  # Of a model that observes.


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Restored images. Fields that describe samples are `None` without any.

    Attributes:
      images: `[n, H, W, C]`, the images of the likeliest latents, in the dtype
        of the model's images; if the model observes what was observed, the mean
        of the samples and of `RealNVP.estimate`, which counts as 16 samples.
      log_density: Float32 `[n]`, `log p(z | y)` of these latents up to the
        constant, in nats; `None` for a mean, as are the last three.
      label: Int32 `[n]`, the class of each image; `None` without classes.
      samples: `[n, num_samples, H, W, C]` of the same dtype, the last image of
        each chain.
      mean: Float32 `[n, H, W, C]`, over all images of all chains.
      std: Float32 `[n, H, W, C]`, the standard deviation of the same.
      r_hat: Float32 `[n]`, median of the potential scale reduction of the
        restored components, a ratio of variances; far above 1 where chains stay
        in modes of their own.
      ess: Float32 `[n]`, median of their effective sample sizes.
      acceptance: Float32 `[n]`, mean acceptance probability of HMC.
    """

    images: np.ndarray
    log_density: np.ndarray | None = None
    label: np.ndarray | None = None
    samples: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    r_hat: np.ndarray | None = None
    ess: np.ndarray | None = None
    acceptance: np.ndarray | None = None


def restore(
    model: RealNVP,
    images: np.ndarray,
    mask: np.ndarray | None = None,
    noise: float | None = None,
    label: Any = None,
    num_samples: int = 0,
    seed: int = 0,
    observe: Callable[[tf.Tensor], tf.Tensor] | None = None,
    batch_size: int = 64,
    shows_progress: bool = False,
) -> Restoration:
    """Restores images of which only a part, or a noisy version, is known.

    Args:
      model: The model.
      images: What was observed, `[n, H, W, C]`, or of the shape that the model
        observes: levels; or with `noise`, finite numbers in the same unit. With
        `observe`, `[n, ...]` of the shape that it returns. Missing values are
        ignored, and may be NaN.
      mask: What is missing: `True`, or any number but 0. Its shape broadcasts
        to that of `images`. Default: nothing. A model that observes masks sees
        no channel of a pixel of which one is missing, and the known ones are
        put back. Where all of an image is missing, samples are those of the
        model, and the likeliest is the image of the mean of the latents.
      noise: Standard deviation of Gaussian noise on the observed values, in
        their unit; required for real numbers. Default: none; the known pixels
        stay as they are.
      label: Class of all images, or of each, `[n]`. Default: for a model with
        classes, that of the likeliest restoration, by a descent per class; a
        model that observes draws it by `class_probs`.
      num_samples: Number of samples of the posterior for each image, each from
        a chain of its own. A model that observes what was observed needs no
        chains, and draws 16 by default, in pairs of opposite latents.
      seed: Seed of the samples, which depend on `batch_size` as well.
      observe: Differentiable function from images, float32 `[m, H, W, C]` in
        levels, to what was observed of them. It takes `noise`.
      batch_size: Number of chains or descents that are computed together.
      shows_progress: Whether to show the progress on standard output.

    Raises:
      TypeError: If levels or labels are not integers.
      ValueError: If an argument has the wrong shape, is missing, or is a number
        out of range; or if a `label` is given and the model has no classes.
      tf.errors.InvalidArgumentError: If levels or labels are out of range, or
        other observed values are not finite.
      FailureError: If no finite density is found.
    """
    check(num_samples, "num_samples", WholeNumber(0))
    check(batch_size, "batch_size", WholeNumber(1))
    display = Progress if shows_progress else Silent
    draw = functools.partial(
        _draw, model, label, num_samples, seed, batch_size, display
    )
    if model.observe not in (None, "mask"):
        unit = 1.0 if model.values.are_real else model.values.highest / 255.0
        kind, _, number = model.observe.partition(":")
        is_other = noise is not None and not (
            kind == "noise" and math.isclose(float(number), noise / unit)
        )
        if is_other or observe is not None or np.any(mask):
            raise ValueError(f"The model observes {model.observe} alone.")
        seen = tensors.finite(images, "images", model.context_shape)
        return Restoration(**draw(seen))
    needs_noise = model.values.are_real and model.observe is None
    num_colors = model.num_colors
    if noise is not None:
        sigma, num_colors = check(noise, "noise", RealNumber()), None
        images = np.asarray(images, np.float32)
    elif mask is None or observe is not None or needs_noise:
        raise ValueError(
            "`noise` must be given with `observe`, for real numbers, and "
            "without a `mask`."
        )
    elif model.observe is None:
        sigma = _KNOWN_SIGMA * model.values.highest
    observe = observe or tf.identity
    shape = observe(tf.zeros([1, *model.image_shape])).shape[1:]
    images = np.asarray(images)
    mask = np.asarray(False if mask is None else mask)
    visible = np.broadcast_to(mask == 0, images.shape)
    images = np.where(visible, images, 0)
    images = tensors.images(images, shape, num_colors).numpy()
    if model.observe == "mask" and noise is None:
        seen = visible.all(axis=-1, keepdims=True)
        result = draw(observations.visible_pixels(images, seen))
        return _put_back(result, images, visible)
    n = len(images)
    if label is None:
        classes = np.arange(model.num_classes or 1, dtype=np.int32)
        labels = np.tile(classes, [n, 1])
    else:
        labels = tensors.labels(label, model.num_classes, n).numpy()
        labels = labels[:, np.newaxis]
    result = posterior.infer(
        model,
        observe,
        images,
        visible,
        labels,
        sigma,
        num_samples,
        seed,
        batch_size,
        display,
    )
    if num_samples:
        stays = visible if noise is None else False
        for name in ("r_hat", "ess"):
            values = np.ma.array(result[name], mask=stays)
            values = values.reshape(n, model.num_dims)
            result[name] = np.ma.median(values, axis=1).filled(np.nan)
    if model.num_classes is None:
        del result["label"]
    if noise is None:
        return _put_back(result, images, visible)
    return Restoration(**result)


def _draw(model, label, num_samples, seed, batch_size, display, context):
    """Restores images by samples of the density given what was observed."""
    n, num_samples = len(context), num_samples or _NUM_SAMPLES
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
    estimates = [
        model.estimate(context[start : start + batch_size])
        for start in range(0, max(1, n), batch_size)
    ]
    parts = []
    with display("restore", math.ceil(len(latents) / batch_size)) as progress:
        for start in range(0, max(1, len(latents)), batch_size):
            part = slice(start, start + batch_size)
            given = {name: values[part] for name, values in condition.items()}
            parts.append(model.decode(latents[part], **given))
            progress.update(1, len(parts[-1]))
    shape = n, num_samples, *model.image_shape
    samples = np.concatenate(parts).reshape(shape)
    mean = samples.mean(axis=1, dtype=np.float32)
    # Either may be the one that is nearer to the image.
    total = num_samples * mean + _NUM_SAMPLES * np.concatenate(estimates)
    images = model.values.nearest(total / (num_samples + _NUM_SAMPLES))
    result = {"samples": samples, "images": images}
    if label is not None:
        result["label"] = condition["label"][::num_samples]
    return result | {"mean": mean, "std": samples.std(axis=1, dtype=np.float32)}


def _put_back(result, images, visible):
    """Makes known values what they were, since a flow returns them rounded."""
    known = images[visible]
    result["images"][visible] = known
    if "samples" in result:
        result["mean"][visible], result["std"][visible] = known, 0.0
        result["samples"].swapaxes(0, 1)[:, visible] = known
    return Restoration(**result)


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
    return float(
        np.quantile(
            scores[np.broadcast_to(missing, scores.shape)],
            share,
            method="higher",
        )
    )


def _spread(values, restored):
    """Returns the spread of samples, which differ too little if they agree."""
    return restored.std + (values.middle or np.finfo(np.float32).eps)
