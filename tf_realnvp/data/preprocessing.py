"""Sizes to which images are resized."""

import tensorflow as tf

from tf_realnvp.data import image_files

_DEFAULT_SIZE = (32, 32)


def default_size(height: int | None, width: int | None) -> tuple[int, int]:
    """Returns the size that images get by default, which may be their own.

    Args:
      height: Height of all images in pixels; `None` if unknown or not the same.
      width: Width of all images, likewise.
    """
    if height and width and height % 2 == width % 2 == 0:
        if max(height, width) <= 64:
            return height, width
    return _DEFAULT_SIZE


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes the largest central crop with the proportions of `size`.

    Args:
      image: `[H, W, C]`, or `[n, H, W, C]`. It is returned as it is if it is
        known to have this size.
      size: Height and width of the result, in pixels.

    Returns:
      `[..., *size, C]` of the same dtype, by an antialiased bilinear filter.
    """
    if image.shape[-3:-1] == size:
        return image
    dtype = tf.as_dtype(image.dtype)
    image = image_files.resize(image, size)
    if dtype.is_integer:
        image = tf.clip_by_value(tf.round(image), 0, dtype.max)
    return tf.cast(image, dtype)
