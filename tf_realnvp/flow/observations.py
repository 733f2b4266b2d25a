"""What is observed of an image, as the context of its density.

A model that is trained with an observation draws images given what is seen of
them: `model.sample(n, context=…)`. An observation is a function of images and a
seed, in TensorFlow. These can be named in `RealNVP(observe=…)`:

*   "mask": any visible pixels;
*   "lowres:4": the image at a quarter of its height and width;
*   "gray": the mean over the channels;
*   "noise:25": the image under Gaussian noise of standard deviation 25, in
    levels of 255, or in the unit of real numbers.

What is seen of levels is rounded to levels, as in a file.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_realnvp.flow.values import Values
from tf_realnvp.utils.ranges import RealNumber, WholeNumber, check

Observe = Callable[[tf.Tensor, tf.Tensor], Any]

_NUM_SCRATCHES = 4
# Of halves, boxes, scratches, scattered pixels, and of nothing at all.
_WEIGHTS = (0.2, 0.25, 0.15, 0.25, 0.15)


def visible_pixels(images: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """Returns the context of a model that observes "mask".

    Args:
      images: `[n, H, W, C]`.
      visible: `True` or any number but 0 where a pixel is seen. Its shape
        broadcasts to `[n, H, W, 1]`: a pixel is seen in all channels or none.

    Returns:
      Float32 `[n, H, W, C + 1]`: pixels, 0 if not visible, and where they are.
    """
    images = tf.cast(images, tf.float32)
    visible = tf.cast(tf.cast(visible, tf.bool), tf.float32)
    visible += tf.zeros_like(images[..., :1])
    return tf.concat([images * visible, visible], axis=-1)


def split_visible(context: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns visible pixels, and 1 where they are, both `[n, H, W, C]`.

    Args:
      context: What `visible_pixels` returned.
    """
    pixels, visible = context[..., :-1], context[..., -1:]
    return pixels, tf.broadcast_to(visible, tf.shape(pixels))


def random_masks(n: tf.Tensor, height: int, width: int, seed) -> tf.Tensor:
    """Draws which pixels of images are visible.

    The visible pixels are a half of the image, all but a box, all but
    scratches, 5 to 95 % of the pixels at random, or none.

    Args:
      n: Number of masks.
      height: Height in pixels.
      width: Width in pixels.
      seed: Int32 `[2]`.

    Returns:
      Float32 `[n, height, width, 1]`, 1 where a pixel is visible, else 0.
    """
    seeds = iter(tf.unstack(tf.random.split(seed, 8)))

    def uniform(*shape, low=0.0, high=1.0):
        return tf.random.stateless_uniform([n, *shape], next(seeds), low, high)

    def distance(angle, point):
        """Returns the distances to a line, positive on one side of it."""
        normal = tf.stack([tf.cos(angle), tf.sin(angle)], axis=-1)
        return tf.reduce_sum(normal * (grid - point), axis=-1)

    row = tf.linspace(0.5 / height, 1.0 - 0.5 / height, height)
    column = tf.linspace(0.5 / width, 1.0 - 0.5 / width, width)
    grid = tf.stack(tf.meshgrid(row, column, indexing="ij"), axis=-1)

    side = tf.math.floor(uniform(1, 1, high=4.0))
    halves = distance(math.pi / 2.0 * side, 0.5) < 0.0

    size = uniform(1, 1, 2, low=0.2, high=0.8)
    start = uniform(1, 1, 2) * (1.0 - size)
    in_box = tf.reduce_all((grid >= start) & (grid < start + size), axis=-1)

    angle = uniform(_NUM_SCRATCHES, 1, 1, high=math.pi)
    far = tf.abs(distance(angle, uniform(_NUM_SCRATCHES, 1, 1, 2)))
    on_scratch = tf.reduce_any(far < 0.75 / min(height, width), axis=1)

    scattered = uniform(height, width) < uniform(1, 1, low=0.05, high=0.95)
    nothing = tf.zeros_like(scattered)
    kinds = [halves, ~in_box, ~on_scratch, scattered, nothing]
    kind = tf.random.stateless_categorical(
        tf.math.log([_WEIGHTS]), n, next(seeds), tf.int32
    )[0]
    masks = tf.gather(tf.stack(kinds, axis=1), kind, batch_dims=1)
    return tf.cast(masks[..., tf.newaxis], tf.float32)


def given(model: Any, images: tf.Tensor, context: Any) -> Any:
    """Returns the context of images, by default what a model observes of them.

    Args:
      model: The `RealNVP`.
      images: `[n, H, W, C]`.
      context: The context, or `None`, which it stays if the model observes
        masks: nothing is visible.
    """
    if context is not None or model.observe in (None, "mask"):
        return context

    def observe(image):  # The same noise for each, wherever it is in a batch.
        return model.observation(image[tf.newaxis], tf.constant([0, 0]))[0]

    return tf.map_fn(observe, images, fn_output_signature=tf.float32)


def named(name: str | None, values: Values) -> Observe | None:
    """Returns an observation by its name.

    Args:
      name: As above; `None` for none.
      values: What the values of the images are.

    Raises:
      ValueError: If there is no observation of this name.
    """
    if name is None:
        return None
    kind, _, number = name.partition(":")
    if name not in ("mask", "gray", f"lowres:{number}", f"noise:{number}"):
        raise ValueError(
            "`observe` must be 'mask', 'gray', 'lowres:N' or 'noise:X', got "
            f"{name!r}."
        )
    unit = 1.0 if values.are_real else values.highest / 255.0
    if kind == "noise":
        sigma = unit * check(float(number), "noise", RealNumber())
    if kind == "lowres":
        factor = check(int(number), "lowres", WholeNumber(1))

    def observe(images, seed):
        n, (height, width) = tf.shape(images)[0], images.shape[1:3]
        pixels = tf.cast(images, tf.float32)
        if kind == "mask":
            masks = random_masks(n, height, width, seed)
            return visible_pixels(pixels, masks)
        if kind == "gray":
            seen = tf.reduce_mean(pixels, axis=-1, keepdims=True)
        elif kind == "noise":
            draws = tf.random.stateless_normal(tf.shape(images), seed)
            seen = pixels + sigma * draws
        else:
            if height % factor or width % factor:
                raise ValueError(
                    f"{height}x{width} is not divisible by {factor}."
                )
            seen = tf.nn.avg_pool2d(pixels, factor, factor, "VALID")
        if values.are_real:
            return seen
        # As a file can hold it.
        return tf.clip_by_value(tf.round(seen), 0.0, values.highest)

    return observe
