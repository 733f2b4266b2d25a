"""What is observed of an image, as the context of its density.

A model that is trained with an observation draws images given what is seen of
them: `model.sample(n, context=…)`. An observation is a function of images and a
seed, in TensorFlow. These can be named in `RealNVP(observe=…)`:

*   "mask": any visible pixels;
*   "lowres:4": the image at a quarter of its height and width;
*   "gray": the mean over the channels;
*   "noise:25": the image under Gaussian noise of standard deviation 25, in
    levels of 255, or in the unit of real numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_realnvp.images.values import Values
from tf_realnvp.utils.named import each

Observe = Callable[[tf.Tensor, tf.Tensor], Any]

_NUM_SCRATCHES = 4
# Of halves, boxes, scratches, scattered pixels, nothing and everything.
_WEIGHTS = (0.2, 0.25, 0.15, 0.3, 0.05, 0.05)


def visible_pixels(images: tf.Tensor, is_visible: tf.Tensor) -> tf.Tensor:
    """Returns the context of a model that observes "mask".

    Args:
      images: `[n, H, W, C]`.
      is_visible: Numbers that broadcast to `[n, H, W, 1]`: 1 where a pixel is
        seen, else 0.

    Returns:
      Float32 `[n, H, W, C + 1]`: pixels, 0 if not visible, and where they are.
    """
    images = tf.cast(images, tf.float32)
    is_visible = tf.cast(is_visible, tf.float32)
    is_visible += tf.zeros_like(images[..., :1])
    return tf.concat([images * is_visible, is_visible], axis=-1)


def random_masks(n: tf.Tensor, height: int, width: int, seed) -> tf.Tensor:
    """Draws which pixels of images are visible.

    The visible pixels are a half of the image, all but a box, all but
    scratches, 5 to 95 % of the pixels at random, none or all.

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

    row = tf.linspace(0.5 / height, 1.0 - 0.5 / height, height)
    column = tf.linspace(0.5 / width, 1.0 - 0.5 / width, width)
    grid = tf.stack(tf.meshgrid(row, column, indexing="ij"), axis=-1)

    side = tf.math.floor(uniform(1, 1, high=4.0))
    halves = tf.where(side < 2.0, grid[..., 0], grid[..., 1]) < 0.5
    halves = tf.math.logical_xor(halves, tf.math.floormod(side, 2.0) > 0.0)

    size = uniform(1, 1, 2, low=0.2, high=0.8)
    start = uniform(1, 1, 2) * (1.0 - size)
    in_box = tf.reduce_all((grid >= start) & (grid < start + size), axis=-1)

    angle = uniform(1, 1, _NUM_SCRATCHES, high=math.pi)
    point = uniform(2, _NUM_SCRATCHES)[:, tf.newaxis, tf.newaxis]
    distance = tf.abs(
        tf.cos(angle) * (grid[..., :1] - point[:, :, :, 0])
        + tf.sin(angle) * (grid[..., 1:] - point[:, :, :, 1])
    )
    on_scratch = tf.reduce_any(distance < 0.75 / min(height, width), axis=-1)

    scattered = uniform(height, width) < uniform(1, 1, low=0.05, high=0.95)
    kinds = tf.stack(
        [
            halves,
            ~in_box,
            ~on_scratch,
            scattered,
            tf.zeros_like(scattered),
            tf.ones_like(scattered),
        ],
        axis=1,
    )
    kind = tf.random.stateless_categorical(
        tf.math.log([_WEIGHTS]), n, next(seeds), tf.int32
    )[0]
    masks = tf.gather(kinds, kind, batch_dims=1)
    return tf.cast(masks[..., tf.newaxis], tf.float32)


def shape(observe: Observe, image_shape: Sequence[int], values: Values) -> Any:
    """Returns the `context_shape` of an observation.

    Args:
      observe: The observation.
      image_shape: `(H, W, C)`.
      values: What the values of the images are.
    """
    image = tf.zeros([1, *image_shape], values.dtype)
    observed = observe(image, tf.constant([0, 0]))
    return each(lambda values: tuple(values.shape[1:]), observed)


def given(model: Any, images: tf.Tensor, context: Any) -> Any:
    """Returns the context of images, by default what a model observes of them.

    Args:
      model: A `RealNVP` or `SavedModel`.
      images: `[n, H, W, C]`.
      context: The context, or `None`, which it stays if the model observes
        masks: nothing is visible.
    """
    if context is None and model.observe not in (None, "mask"):
        return model.observation(images, tf.constant([0, 0]))
    return context


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
    number = name.partition(":")[2]
    unit = 1.0 if values.are_real else values.highest / 255.0

    def mask(images, seed):
        height, width = images.shape[1:3]
        masks = random_masks(tf.shape(images)[0], height, width, seed)
        return visible_pixels(images, masks)

    def noise(images, seed):
        draws = tf.random.stateless_normal(tf.shape(images), seed)
        return tf.cast(images, tf.float32) + unit * float(number) * draws

    def low_resolution(images, unused_seed):
        factor, (height, width) = int(number), images.shape[1:3]
        if height % factor or width % factor:
            raise ValueError(f"{height}x{width} is not divisible by {factor}.")
        images = tf.cast(images, tf.float32)
        return tf.nn.avg_pool2d(images, factor, factor, "VALID")

    def gray(images, unused_seed):
        return tf.reduce_mean(tf.cast(images, tf.float32), -1, keepdims=True)

    observations = {
        "mask": mask,
        "gray": gray,
        f"lowres:{number}": low_resolution,
        f"noise:{number}": noise,
    }
    if name not in observations:
        raise ValueError(
            "`observe` must be 'mask', 'gray', 'lowres:N' or 'noise:X', got "
            f"{name!r}."
        )
    return observations[name]
