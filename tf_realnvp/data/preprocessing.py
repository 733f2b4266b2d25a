"""Sizes to which images are resized."""

import tensorflow as tf

from tf_realnvp.data import image_files

_DEFAULT_SIZE = (32, 32)


def default_size(
    height: int | None, width: int | None
) -> tuple[int, int] | None:
    """Returns the size to which images are resized by default.

    Args:
      height: Height of all images in pixels; `None` if unknown or not the same.
      width: Width of all images, likewise.

    Returns:
      Height and width, or `None` if images are not resized.
    """
    stays = all(n and n % 2 == 0 and n <= 64 for n in (height, width))
    return None if stays else _DEFAULT_SIZE


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes the largest central crop with the proportions of `size`.

    Args:
      image: `[H, W, C]`, or `[n, H, W, C]`.
      size: Height and width of the result, in pixels.

    Returns:
      `[..., *size, C]` of the same dtype, by an antialiased bilinear filter.
    """
    dtype = tf.as_dtype(image.dtype)
    image = image_files.crop(image, *size)
    image = tf.image.resize(image, size, antialias=True)
    if dtype.is_integer:
        image = tf.clip_by_value(tf.round(image), 0, dtype.max)
    return tf.cast(image, dtype)
