"""Reading and writing image files.

Training and the commands read files in the same way: JPEG and PNG, detected by
content rather than by name, rotated upright as EXIF says, with exactly the
pixels that TensorFlow decodes.
"""

import io
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from tf_realnvp.images import plots
from tf_realnvp.utils import checks, files
from tf_realnvp.utils.errors import ImageError, reason

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # Of JPEG and of PNG.
# Offsets of bytes in a PNG file.
_BIT_DEPTH = 24
_COLOR_TYPE = 25
_GREY_TYPES = (0, 4)  # Without and with an alpha channel.
# EXIF markers: reading the orientation decodes a PNG, and few have one.
_EXIF_IN_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
# For each EXIF orientation, 1 to 8: whether to transpose the image, then the
# strides of its rows and columns, where -1 reverses them.
_UPRIGHT = (
    *((0, 1, 1), (0, 1, -1), (0, -1, -1), (0, -1, 1)),
    *((1, 1, 1), (1, 1, -1), (1, -1, -1), (1, -1, 1)),
)


class Header(NamedTuple):
    """Properties of an image that are known without decoding it.

    Attributes:
      height: Height of the upright image in pixels.
      width: Width of the upright image in pixels.
      is_grey: Whether it has one channel, or one and an alpha channel.
      has_16_bits: Whether components have 16 bits; decoding keeps the 8
        highest.
      orientation: EXIF orientation, from 1 (upright) to 8.
    """

    height: int
    width: int
    is_grey: bool
    has_16_bits: bool
    orientation: int


def load(path: str | os.PathLike) -> bytes:
    """Returns the content of an image file.

    Args:
      path: A regular file, or a link to one. Pipes and devices are not opened,
        since they may never end. Files of other formats are only read at the
        start, since they may be larger than the memory.

    Raises:
      ImageError: If the file is neither PNG nor JPEG.
      OSError: If it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError("it is not a regular file")
    with open(path, "rb") as file:
        start = file.read(8)
        if not start.startswith(_SIGNATURES):
            raise ImageError("it is neither PNG nor JPEG")
        return start + file.read()


def look(content: bytes) -> Header:
    """Checks that a file holds a complete image, faster than by decoding it.

    For a PNG, the checksums are verified. A JPEG has no checksums and is
    decoded at an eighth of its size.

    Args:
      content: Content of the file, from `load`.

    Raises:
      ImageError: If the image is damaged, animated or too large.
    """
    try:
        image = _open(content)
        is_png = image.format == "PNG"
        is_animated = is_png and getattr(image, "is_animated", False)
        if is_png:
            image.verify()
        else:
            tf.io.decode_jpeg(content, ratio=8)
    except Image.DecompressionBombError as error:
        raise ImageError(f"it is too large: {error}") from error
    except Exception as error:  # Pillow may raise anything.
        raise ImageError("it is damaged") from error
    if is_animated:
        raise ImageError("it is animated")
    has_exif = not is_png or any(mark in content for mark in _EXIF_IN_PNG)
    orientation = _orientation(content) if has_exif else 1
    # Orientations above 4 swap height and width.
    height, width = image.size if orientation > 4 else image.size[::-1]
    return Header(
        height,
        width,
        is_grey=(
            content[_COLOR_TYPE] in _GREY_TYPES if is_png else image.mode == "L"
        ),
        has_16_bits=is_png and content[_BIT_DEPTH] == 16,
        orientation=orientation,
    )


def _open(content):
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))


def _orientation(content):
    try:
        orientation = _open(content).getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Damaged EXIF data.
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def decode(
    content: bytes | tf.Tensor, channels: int, orientation: int | tf.Tensor
) -> tf.Tensor:
    """Decodes an image, eagerly or in a graph.

    Args:
      content: Content of the file.
      channels: 1 or 3, or 4 for a PNG: then the last is the opacity.
      orientation: EXIF orientation.

    Returns:
      uint8 `[H, W, channels]`, upright.
    """
    pixels = tf.io.decode_image(content, channels, expand_animations=False)
    on_its_side, rows, columns = tf.unstack(
        tf.gather(_UPRIGHT, orientation - 1)
    )
    axes = tf.where(on_its_side == 1, [1, 0, 2], [0, 1, 2])
    pixels = tf.transpose(pixels, axes)[::rows, ::columns]
    return tf.ensure_shape(pixels, [None, None, channels])


def read_pixels(path: str | os.PathLike, channels: int) -> np.ndarray:
    """Reads an image at its original size.

    Args:
      path: PNG or JPEG file.
      channels: As for `decode`.

    Returns:
      uint8 `[H, W, channels]`, upright.

    Raises:
      ImageError: If it is not an image; the message does not name the file.
      OSError: If it cannot be read.
    """
    content = load(path)
    header = look(content)
    try:
        return decode(content, channels, header.orientation).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"it cannot be decoded: {reason(error)}") from error


def read(
    path: str | os.PathLike, image_shape: Sequence[int], num_colors: int = 256
) -> np.ndarray:
    """Reads an image file in the shape and levels of a model.

    If the size differs, the image is center-cropped and resized by an
    antialiased bilinear filter. Colour is converted to grey, or grey to colour,
    if necessary. Images written by `write` are recovered exactly.

    Args:
      path: PNG or JPEG file.
      image_shape: `(H, W, C)` of the model's images, with `C` 1 or 3.
      num_colors: Number of levels of a component.

    Returns:
      uint8 `[H, W, C]` in `0 ... num_colors - 1`.

    Raises:
      ImageError: If the file cannot be read, or is not such an image.
    """
    height, width, channels = image_shape
    try:
        pixels = read_pixels(path, channels)
    except (ImageError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError(
            f"cannot read the image {os.fspath(path)}: {why}"
        ) from error
    if pixels.shape[:2] != (height, width):
        pixels = tf.image.resize(
            crop(pixels, height, width), [height, width], antialias=True
        ).numpy()
    num_bits = checks.bits_of_levels(num_colors)
    if num_bits is not None:  # As `ImageDataset.keep_bits` does.
        return np.round(pixels).astype(np.uint8) >> (8 - num_bits)
    return np.round(pixels * ((num_colors - 1) / 255.0)).astype(np.uint8)


def read_missing(
    path: str | os.PathLike,
    image_shape: Sequence[int],
    mask: str | os.PathLike | None = None,
) -> np.ndarray:
    """Returns which pixels of an image file are missing.

    These are the transparent pixels of a PNG file, and those that are white in
    a mask. If `read` resizes the image, a pixel is missing where a part of it
    is.

    Args:
      path: As for `read`.
      image_shape: As for `read`.
      mask: Image file of the same size; optional.

    Returns:
      Boolean `[H, W, 1]`.

    Raises:
      ImageError: If a file cannot be read, or the sizes differ.
    """
    height, width, _ = image_shape
    is_png = load(path).startswith(_SIGNATURES[1])
    pixels = read_pixels(path, 4 if is_png else 3)
    is_missing = pixels[..., 3:4] < 128 if is_png else pixels[..., :1] < 0
    if mask is not None:
        masked = read_pixels(mask, 1) >= 128
        if masked.shape != is_missing.shape:
            own, its = (
                f"{columns}x{rows}"
                for rows, columns, _ in (is_missing.shape, masked.shape)
            )
            raise ImageError(
                f"{os.fspath(mask)} has {its} pixels, and {os.fspath(path)} "
                f"{own}"
            )
        is_missing |= masked
    part = crop(is_missing.astype(np.float32), height, width)
    return tf.image.resize(part, [height, width], antialias=True).numpy() > 1e-3


def crop(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns the largest central crop with given proportions.

    Args:
      pixels: `[..., H, W, C]`; `H` and `W` may be unknown when traced.
      height: Height in the proportions.
      width: Width in the proportions.

    Returns:
      `[..., h, w, C]`, where `h / w` is `height / width` up to rounding, and
      `h = H` or `w = W`.
    """
    shape = tf.shape(pixels, tf.int64)
    full_height, full_width = shape[-3], shape[-2]

    def part(of, numerator, denominator):
        rounded = (2 * of * numerator + denominator) // (2 * denominator)
        return tf.maximum(rounded, 1)

    new_height = tf.minimum(full_height, part(full_width, height, width))
    new_width = tf.minimum(full_width, part(full_height, width, height))
    top = (full_height - new_height) // 2
    left = (full_width - new_width) // 2
    return pixels[..., top : top + new_height, left : left + new_width, :]


def write(
    path: str | os.PathLike, image: np.ndarray, num_colors: int = 256
) -> None:
    """Writes an image to a file, pixel for pixel.

    Args:
      path: PNG file to write.
      image: uint8 `[H, W, C]` in `0 ... num_colors - 1`, with `C` 1 or 3.
      num_colors: Number of levels; the last one is shown as white.
    """
    with files.replace_file(path) as new:
        new.write_bytes(encode(image, num_colors))


def encode(image: np.ndarray, num_colors: int = 256) -> bytes:
    """Returns the content of the file that `write` writes.

    Args:
      image: As for `write`.
      num_colors: As for `write`.
    """
    return tf.io.encode_png(plots.pixels(image, num_colors)).numpy()
