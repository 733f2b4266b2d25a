"""Reading and writing image files.

Training and the commands read files in the same way: JPEG, PNG and TIFF,
detected by content rather than by name, rotated upright as EXIF says, with
exactly the pixels that TensorFlow decodes, or Pillow of a TIFF. Levels beyond
256 are the values of files with 16 bits. Real numbers are in `.npy` files, one
an image.
"""

import io
import os
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from tf_realnvp.errors import ImageError, reason
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import files
from tf_realnvp.utils.ranges import FLOAT32_MAX

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_SIGNATURES = (b"\xff\xd8\xff", _PNG, *_TIFF)  # The first is of JPEG.
_TIFF_MODES = ("L", "RGB", "I;16", "I;16B")
_PHOTOMETRIC, _BLACK_IS_ZERO = ExifTags.Base.PhotometricInterpretation, 1
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


def load(path: str | os.PathLike | bytes) -> bytes:
    """Returns the content of an image file.

    Args:
      path: The file, or its content. If it is of another format, only its start
        is read, since it may be larger than the memory.

    Raises:
      ImageError: If the file is neither PNG nor JPEG nor TIFF.
      OSError: If it cannot be read.
    """
    with _opened(path) as file:
        start = file.read(8)
        if not start.startswith(_SIGNATURES):
            raise ImageError("it is neither PNG nor JPEG nor TIFF")
        return start + file.read()


def _opened(path):
    if isinstance(path, bytes):
        return io.BytesIO(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # A pipe would be waited for.
        raise ImageError("it is not a regular file")
    return open(path, "rb")


def look(content: bytes) -> Header:
    """Checks that a file holds a complete image, faster than by decoding it.

    For a PNG, the checksums are verified. A JPEG has no checksums and is
    decoded at an eighth of its size. Files of 16 bits are decoded.

    Args:
      content: Content of the file, from `load`.

    Raises:
      ImageError: If the image is damaged or too large.
    """
    is_tiff, content, highest = content.startswith(_TIFF), as_png(content), None
    try:
        image = _open(content)
        is_png = image.format == "PNG"
        if is_png:
            image.verify()
            is_grey = content[_COLOR_TYPE] in _GREY_TYPES
        else:
            tf.io.decode_jpeg(content, ratio=8)
            is_grey = image.mode == "L"
        if is_png and content[_BIT_DEPTH] == 16:
            highest = int(decode(content, 3, 1, np.uint16).numpy().max())
    except Image.DecompressionBombError as error:
        raise ImageError(f"it is too large: {error}") from error
    except Exception as error:  # Pillow may raise anything.
        raise ImageError("it is damaged") from error
    has_exif = not is_png or any(mark in content for mark in _EXIF_IN_PNG)
    orientation = _orientation(content) if has_exif else 1
    # Orientations above 4 swap height and width.
    height, width = image.size if orientation > 4 else image.size[::-1]
    return Header(height, width, is_grey, highest, is_tiff, orientation)


def as_png(content: bytes) -> bytes:
    """Returns a TIFF as a PNG of the same pixels, upright; else the content.

    Args:
      content: Content of the file.

    Raises:
      ImageError: If it is a TIFF that Pillow cannot read, or of several pages.
    """
    if not content.startswith(_TIFF):
        return content
    try:
        with Image.open(io.BytesIO(content)) as image, io.BytesIO() as png:
            is_stack = getattr(image, "is_animated", False)
            # Pillow halves colours of 16 bits, and does not invert grey ones.
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            is_deep = max(tags[ExifTags.Base.BitsPerSample]) > 8
            is_other = is_deep and tags[_PHOTOMETRIC] != _BLACK_IS_ZERO
            if image.mode not in _TIFF_MODES or is_stack or is_other:
                raise ValueError(image.mode)
            image.save(png, "PNG")
            return png.getvalue()
    except Exception as error:  # Pillow may raise anything.
        raise ImageError("it is a TIFF that cannot be read") from error


def _open(content):
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))


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
    dtype: Any = np.uint8,
) -> tf.Tensor:
    """Decodes an image, eagerly or in a graph.

    Args:
      content: Content of the file, other than a TIFF.
      channels: 1 or 3, or 4 for a PNG: then the last is the opacity.
      orientation: EXIF orientation.
      dtype: uint8, for the 8 highest bits; or uint16, to which values of 8 bits
        are scaled.

    Returns:
      `[H, W, channels]` of `dtype`, upright.
    """
    pixels = tf.io.decode_image(
        content, channels, tf.as_dtype(dtype), expand_animations=False
    )
    transposed, rows, columns = tf.unstack(tf.gather(_UPRIGHT, orientation - 1))
    axes = tf.where(transposed == 1, [1, 0, 2], [0, 1, 2])
    pixels = tf.transpose(pixels, axes)[::rows, ::columns]
    return tf.ensure_shape(pixels, [None, None, channels])


def read_pixels(
    path: str | os.PathLike | bytes, channels: int, dtype: Any = np.uint8
) -> np.ndarray:
    """Reads an image at its original size.

    Args:
      path: PNG, JPEG or TIFF file, or its content.
      channels: As for `decode`.
      dtype: As for `decode`. Files of 8 bits are not read as uint16.

    Returns:
      `[H, W, channels]` of `dtype`, upright.

    Raises:
      ImageError: If it is not an image; the message does not name the file.
      OSError: If it cannot be read.
    """
    content = as_png(load(path))
    header = look(content)
    if dtype == np.uint16 and header.highest is None:
        raise ImageError("it has 8 bits, and 16 are needed")
    # TensorFlow makes a color image of CMYK, but no grey one.
    is_cmyk = channels == 1 and _open(content).mode == "CMYK"
    decoded = 3 if is_cmyk else channels
    try:
        pixels = decode(content, decoded, header.orientation, dtype)
        if is_cmyk:
            pixels = tf.image.rgb_to_grayscale(pixels)
        return pixels.numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"it cannot be decoded: {reason(error)}") from error


def read(
    path: str | os.PathLike,
    image_shape: Sequence[int],
    values: Values | int | None = 256,
    content: bytes | None = None,
    has_tiles: bool = False,
) -> np.ndarray:
    """Reads an image file in the shape and levels of a model.

    If the size differs, the image is center-cropped and resized by an
    antialiased bilinear filter. Colour is converted to grey, or grey to colour,
    if necessary. Images written by `write` are recovered exactly.

    Args:
      path: PNG, JPEG or TIFF file; for real numbers an `.npy` file of the same
        shape, where a last axis of size 1 may be left out.
      image_shape: `(H, W, C)` of the model's images, with `C` 1 or 3 for
        levels.
      values: What its values are to be, such as `model.values`; or the number
        of levels, `None` for real numbers.
      content: Content of the file, if it has been read already.
      has_tiles: Whether the model's images are tiles of this one, which then is
        not resized.

    Returns:
      `[H, W, C]`, levels or real numbers.

    Raises:
      ImageError: If the file cannot be read, or is not such an image.
    """
    values, file = Values.of(values), path if content is None else content
    height, width, channels = image_shape
    try:
        if values.are_real:
            return _read_numbers(file, image_shape)
        pixels = read_pixels(file, channels, values.file_dtype)
        if has_tiles and (np.array(pixels.shape[:2]) < (height, width)).any():
            raise ImageError(f"it is smaller than a tile, {height}x{width}")
        if pixels.shape[:2] != (height, width) and not has_tiles:
            pixels = resize(pixels, (height, width)).numpy()
        return values.of_pixels(pixels)
    except (ImageError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError(
            f"cannot read the image {os.fspath(path)}: {why}"
        ) from error


def _read_numbers(path, image_shape):
    """Returns the real numbers of an `.npy` file, float32 `[H, W, C]`."""
    try:
        with _opened(path) as file:
            image = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise ImageError("it is not an .npy file of numbers") from error
    if image.ndim == 2:
        image = image[..., np.newaxis]
    if image.dtype.kind != "f" or image.shape != tuple(image_shape):
        raise ImageError(
            f"it must be floating-point {list(image_shape)}, got "
            f"{image.dtype} {list(image.shape)}"
        )
    if not float(np.abs(image).max()) <= FLOAT32_MAX:
        raise ImageError("its values are not all finite in float32")
    return image.astype(np.float32)


def read_missing(
    path: str | os.PathLike,
    image_shape: Sequence[int],
    mask: str | os.PathLike | None = None,
) -> np.ndarray:
    """Returns which pixels of an image file are missing.

    These are the transparent pixels of a PNG file, and those of a mask that are
    above half of its highest value, which may be 1 or white. (Edges may be
    grey, and black is not quite black in a JPEG.) If `read` resizes the image,
    a pixel is missing where a part of it is.

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
        masked = read_pixels(mask, 1)
        if masked.shape != is_missing.shape:
            raise ImageError(
                f"{os.fspath(mask)} is not of the size of {os.fspath(path)}"
            )
        is_missing |= masked > masked.max() / 2
    shares = resize(is_missing.astype(np.float32), (height, width))
    return shares.numpy() > 1e-3


def resize(pixels: Any, size: tuple[int, int]) -> tf.Tensor:
    """Resizes the largest central crop with the proportions of `size`.

    Args:
      pixels: `[..., H, W, C]`.
      size: Height and width of the result, in pixels.

    Returns:
      Float32 `[..., *size, C]`, by an antialiased bilinear filter.
    """
    return tf.image.resize(crop(pixels, *size), size, antialias=True)


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

    def scale(length, numerator, denominator):
        rounded = (2 * length * numerator + denominator) // (2 * denominator)
        return tf.maximum(rounded, 1)

    new_height = tf.minimum(full_height, scale(full_width, height, width))
    new_width = tf.minimum(full_width, scale(full_height, width, height))
    top = (full_height - new_height) // 2
    left = (full_width - new_width) // 2
    return pixels[..., top : top + new_height, left : left + new_width, :]


def write(
    path: str | os.PathLike,
    image: np.ndarray,
    values: Values | int | None = 256,
) -> None:
    """Writes an image to a file, pixel for pixel.

    Args:
      path: File to write: PNG, or `.npy` for real numbers.
      image: `[H, W, C]`, levels, with `C` 1 or 3; or real numbers.
      values: What its values are, as for `read`. Of up to 256 levels the last
        one is shown as white.
    """
    values = Values.of(values)
    with files.replace_file(path) as new, new.open("wb") as file:
        if values.are_real:
            np.save(file, image)
        else:
            file.write(tf.io.encode_png(values.to_pixels(image)).numpy())


def to_pixels(images: np.ndarray, num_colors: int = 256) -> np.ndarray:
    """Scales images to the full range from black to white.

    Args:
      images: Levels of any shape, in `0 ... num_colors - 1`.
      num_colors: Number of levels; the last one is shown as white.

    Returns:
      uint8 of the same shape, in `0 ... 255`.
    """
    return Values(num_colors).to_bytes(images)
