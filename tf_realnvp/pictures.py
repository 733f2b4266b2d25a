"""Picture files, and the images of a model that they show."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_realnvp import files, plots, runtime


class PictureError(Exception):
    """A picture that can't be read; the message is meant for the user."""


def read(
    path: str | os.PathLike, image_shape: Sequence[int], num_colors: int = 256
) -> np.ndarray:
    """Reads a picture as an image of a model.

    A picture of another size is cropped to its middle and resized with an
    antialiased bilinear filter. Colour becomes grey, or grey colour, where the
    model asks for it. What `write` wrote comes back exactly.

    Args:
      path: PNG or JPEG file.
      image_shape: `(H, W, C)` of the model's images, with `C` 1 or 3.
      num_colors: Number of levels of a component.

    Returns:
      `uint8` `[H, W, C]` in `0 ... num_colors - 1`.

    Raises:
      PictureError: If the file can't be read, or holds no such picture.
    """
    height, width, channels = image_shape
    try:
        content = pathlib.Path(path).read_bytes()
        # The JPEG library writes to standard error itself.
        with runtime.silent_stderr():
            pixels = tf.io.decode_image(
                content, channels, expand_animations=False
            )
    except OSError as error:
        raise PictureError(
            f"cannot read the picture {path}: {error.strerror}"
        ) from error
    except tf.errors.OpError as error:
        raise PictureError(
            f"cannot read the picture {path}: it is neither PNG nor JPEG, or "
            "it is damaged"
        ) from error
    if pixels.shape[:2] != (height, width):
        pixels = tf.image.resize(
            _crop(pixels, height, width), [height, width], antialias=True
        )
    levels = np.round(pixels.numpy() * ((num_colors - 1) / 255.0))
    return levels.astype(np.uint8)


def _crop(pixels, height, width):
    """Cuts out the largest middle part that has the shape of an image."""
    scale = min(pixels.shape[0] / height, pixels.shape[1] / width)
    height = max(1, round(scale * height))
    width = max(1, round(scale * width))
    return tf.image.crop_to_bounding_box(
        pixels,
        (pixels.shape[0] - height) // 2,
        (pixels.shape[1] - width) // 2,
        height,
        width,
    )


def write(
    path: str | os.PathLike, image: np.ndarray, num_colors: int = 256
) -> None:
    """Writes an image as a picture of the same size, a pixel for a pixel.

    Args:
      path: PNG file to write.
      image: `uint8` `[H, W, C]` in `0 ... num_colors - 1`, with `C` 1 or 3.
      num_colors: Number of levels; the last one is shown as white.
    """
    content = tf.io.encode_png(plots.pixels(image, num_colors))
    with files.replace_file(path) as new:
        new.write_bytes(content.numpy())
