"""Reading and writing image files.

Training and the commands read files in the same way: JPEG, PNG and TIFF,
detected by content rather than by name, rotated upright as EXIF says, with
exactly the pixels that TensorFlow decodes, or Pillow of a TIFF. Levels beyond
256 are the values of files with 16 bits. Real numbers are in `.npy` files, one
an image.
"""

import functools
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
from tf_realnvp.utils.values import Values

_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (b"\xff\xd8\xff", _PNG, b"II*\0", b"MM\0*")  # Of JPEG, and TIFF.
_TIFF_MODES = ("L", "RGB", "I;16", "I;16B")
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
      highest: The highest value, if components have 16 bits; else `None`.
      is_tiff: Whether it is a TIFF.
      orientation: EXIF orientation, from 1 (upright) to 8.
    """

    height: int
    width: int
    is_grey: bool
    highest: int | None
    is_tiff: bool
    orientation: int


def load(path: str | os.PathLike) -> bytes:
    """Returns the content of an image file.

    Args:
      path: A regular file, or a link to one. Pipes and devices are not opened,
        since they may never end. Files of other formats are only read at the
        start, since they may be larger than the memory.

    Raises:
      ImageError: If the file is neither PNG nor JPEG nor TIFF.
      OSError: If it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError("it is not a regular file")
    with open(path, "rb") as file:
        start = file.read(8)
        if not start.startswith(_SIGNATURES):
            raise ImageError("it is neither PNG nor JPEG nor TIFF")
        return start + file.read()


def look(content: bytes) -> Header:
    """Checks that a file holds a complete image, faster than by decoding it.

    For a PNG, the checksums are verified. A JPEG has no checksums and is
    decoded at an eighth of its size. TIFF and 16 bits are decoded.

    Args:
      content: Content of the file, from `load`.

    Raises:
      ImageError: If the image is damaged, animated or too large.
    """
    try:
        image = _open(content)
        is_png, is_tiff = image.format == "PNG", image.format == "TIFF"
        is_grey = image.mode in ("L", "I;16", "I;16B")
        is_animated = (is_png or is_tiff) and getattr(
            image, "is_animated", False
        )
        highest = None
        if is_png:
            image.verify()
            is_grey = content[_COLOR_TYPE] in _GREY_TYPES
            if content[_BIT_DEPTH] == 16:
                pixels = decode(content, 1 if is_grey else 3, 1, np.uint16)
                highest = int(pixels.numpy().max())
        elif is_tiff:
            if image.mode not in _TIFF_MODES:
                raise ImageError(f"it is a TIFF of the kind {image.mode}")
            if is_grey and image.mode != "L":
                highest = int(np.asarray(image).max())
            image.load()
        else:
            tf.io.decode_jpeg(content, ratio=8)
    except Image.DecompressionBombError as error:
        raise ImageError(f"it is too large: {error}") from error
    except ImageError:
        raise
    except Exception as error:  # Pillow may raise anything.
        raise ImageError("it is damaged") from error
    if is_animated:
        raise ImageError("it is animated")
    # Pillow turns a TIFF upright.
    has_exif = any(mark in content for mark in _EXIF_IN_PNG) or not is_png
    orientation = _orientation(content) if has_exif and not is_tiff else 1
    # Orientations above 4 swap height and width.
    height, width = image.size if orientation > 4 else image.size[::-1]
    return Header(height, width, is_grey, highest, is_tiff, orientation)


def _open(content):
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "TIFF"))


def _orientation(content):
    try:
        orientation = _open(content).getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Damaged EXIF data.
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def decode(
    content: bytes | tf.Tensor,
    channels: int,
    orientation: int | tf.Tensor,
    dtype: type[np.generic] = np.uint8,
    is_tiff: bool | tf.Tensor = False,
) -> tf.Tensor:
    """Decodes an image, eagerly or in a graph.

    Args:
      content: Content of the file.
      channels: 1 or 3, or 4 for a PNG: then the last is the opacity.
      orientation: EXIF orientation.
      dtype: uint8, for the 8 highest bits; or uint16, to which values of 8 bits
        are scaled.
      is_tiff: Whether it is a TIFF.

    Returns:
      `[H, W, channels]` of `dtype`, upright.
    """

    def by_tensorflow():
        return tf.io.decode_image(
            content, channels, tf.as_dtype(dtype), expand_animations=False
        )

    def by_pillow():
        return tf.numpy_function(
            functools.partial(_decode_tiff, channels, dtype),
            [content],
            tf.as_dtype(dtype),
        )

    if is_tiff is False:
        pixels = by_tensorflow()
    else:
        pixels = tf.cond(is_tiff, by_pillow, by_tensorflow)
    on_its_side, rows, columns = tf.unstack(
        tf.gather(_UPRIGHT, orientation - 1)
    )
    axes = tf.where(on_its_side == 1, [1, 0, 2], [0, 1, 2])
    pixels = tf.transpose(pixels, axes)[::rows, ::columns]
    return tf.ensure_shape(pixels, [None, None, channels])


def _decode_tiff(channels, dtype, content):
    """Returns the pixels of a TIFF, `[H, W, channels]` of a dtype."""
    image = _open(content)
    if image.mode in ("L", "RGB"):
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        pixels = pixels.astype(dtype) * (257 if dtype == np.uint16 else 1)
    else:
        pixels = np.asarray(image).astype(np.uint16)
        pixels = pixels if dtype == np.uint16 else (pixels >> 8).astype(dtype)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.broadcast_to(pixels, (*pixels.shape[:2], channels))


def read_pixels(
    path: str | os.PathLike,
    channels: int,
    dtype: type[np.generic] = np.uint8,
) -> np.ndarray:
    """Reads an image at its original size.

    Args:
      path: PNG, JPEG or TIFF file.
      channels: As for `decode`.
      dtype: As for `decode`.

    Returns:
      `[H, W, channels]` of `dtype`, upright.

    Raises:
      ImageError: If it is not an image; the message does not name the file.
      OSError: If it cannot be read.
    """
    content = load(path)
    header = look(content)
    try:
        return decode(
            content, channels, header.orientation, dtype, header.is_tiff
        ).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"it cannot be decoded: {reason(error)}") from error


def read(
    path: str | os.PathLike,
    image_shape: Sequence[int],
    num_colors: int | None = 256,
    dropped_bits: int = 0,
) -> np.ndarray:
    """Reads an image file in the shape and levels of a model.

    If the size differs, the image is center-cropped and resized by an
    antialiased bilinear filter. Colour is converted to grey, or grey to colour,
    if necessary. Images written by `write` are recovered exactly.

    Args:
      path: PNG, JPEG or TIFF file; for real numbers an `.npy` file of the same
        shape, with a last axis of size 1 or without it.
      image_shape: `(H, W, C)` of the model's images, with `C` 1 or 3 for
        levels.
      num_colors: Number of levels of a component; `None` for real numbers.
      dropped_bits: Number of lowest bits to drop of files with 16 bits, whose
        values are levels.

    Returns:
      `[H, W, C]`, levels in `0 ... num_colors - 1` or real numbers.

    Raises:
      ImageError: If the file cannot be read, or is not such an image.
    """
    height, width, channels = image_shape
    is_wide = dropped_bits > 0 or num_colors is None or num_colors > 256
    try:
        if num_colors is None:
            return _read_numbers(path, image_shape)
        dtype = np.uint16 if is_wide else np.uint8
        pixels = read_pixels(path, channels, dtype)
    except (ImageError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError(
            f"cannot read the image {os.fspath(path)}: {why}"
        ) from error
    if pixels.shape[:2] != (height, width):
        pixels = tf.image.resize(
            crop(pixels, height, width), [height, width], antialias=True
        ).numpy()
    if is_wide:
        levels = np.round(pixels).astype(np.uint16) >> dropped_bits
        if (highest := levels.max()) >= num_colors:
            raise ImageError(
                f"cannot read the image {os.fspath(path)}: it has levels up to "
                f"{highest:,}, and those of the model end at {num_colors - 1:,}"
            )
        return levels.astype(Values(num_colors).dtype)
    num_bits = checks.bits_of_levels(num_colors)
    if num_bits is not None:  # As `ImageDataset.keep_bits` does.
        return np.round(pixels).astype(np.uint8) >> (8 - num_bits)
    return np.round(pixels * ((num_colors - 1) / 255.0)).astype(np.uint8)


def _read_numbers(path, image_shape):
    """Returns the real numbers of an `.npy` file, float32 `[H, W, C]`."""
    try:
        found = np.load(path, allow_pickle=False)
        if found.dtype.kind != "f":
            raise ValueError(f"it has {found.dtype}, and no real numbers")
        image = found.astype(np.float32).reshape(image_shape)
    except (ValueError, EOFError, AttributeError) as error:
        raise ImageError(f"it is no .npy file of an image: {error}") from error
    if not np.all(np.isfinite(image)):
        raise ImageError("not all of its numbers are finite")
    return image


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
    is_png = load(path).startswith(_PNG)
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
    path: str | os.PathLike,
    image: np.ndarray,
    num_colors: int | None = 256,
    dropped_bits: int = 0,
) -> None:
    """Writes an image to a file, pixel for pixel.

    Args:
      path: File to write: PNG, or `.npy` for real numbers.
      image: `[H, W, C]`, levels in `0 ... num_colors - 1`, with `C` 1 or 3; or
        real numbers.
      num_colors: Number of levels; the last one is shown as white. Above 256,
        the file has 16 bits, and levels are its values. `None` for real
        numbers.
      dropped_bits: As for `read`.
    """
    with files.replace_file(path) as new:
        new.write_bytes(encode(image, num_colors, dropped_bits))


def encode(
    image: np.ndarray, num_colors: int | None = 256, dropped_bits: int = 0
) -> bytes:
    """Returns the content of the file that `write` writes.

    Args:
      image: As for `write`.
      num_colors: As for `write`.
      dropped_bits: As for `write`.
    """
    if num_colors is None:
        with io.BytesIO() as file:
            np.save(file, image)
            return file.getvalue()
    if num_colors > 256 or dropped_bits:
        levels = np.asarray(image).astype(np.uint16) << dropped_bits
        return tf.io.encode_png(levels).numpy()
    return tf.io.encode_png(plots.pixels(image, num_colors)).numpy()
