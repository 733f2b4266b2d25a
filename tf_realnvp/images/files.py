"""Picture files, and the images of a model that they show.

Training and the commands read pictures in the same way: JPEG and PNG, told by
what is in them and not by their names, upright as EXIF says, and pixel for
pixel what TensorFlow decodes.
"""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from tf_realnvp.images import plots
from tf_realnvp.utils import checks, files
from tf_realnvp.utils.errors import ImageError
from tf_realnvp.utils.messages import printable

_START_OF_JPEG = b"\xff\xd8\xff"
_START_OF_PNG = b"\x89PNG\r\n\x1a\n"
_NO_PICTURE = "it is neither PNG nor JPEG"
# Places of bytes in a PNG.
_BIT_DEPTH = 24
_COLOR_TYPE = 25
_GREY_TYPES = (0, 4)  # Without and with an alpha channel.
# Pillow decodes a PNG to find the orientation, so that this has to be rare.
_EXIF_IN_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


class Header(NamedTuple):
    """What is known of a picture that is not decoded.

    Attributes:
      height: In pixels, when it is upright.
      width: Likewise.
      is_grey: Whether it has one channel, or one and an alpha channel.
      is_jpeg: Whether it is a JPEG.
      is_cmyk: Whether its colours are those of print.
      has_16_bits: Whether its components have 16 bits, of which decoding keeps
        the 8 highest.
      orientation: EXIF's number, from 1 (upright) to 8.
    """

    height: int
    width: int
    is_grey: bool
    is_jpeg: bool = False
    is_cmyk: bool = False
    has_16_bits: bool = False
    orientation: int = 1


def load(path: str | os.PathLike) -> bytes:
    """Returns what is in a file of a picture.

    Args:
      path: A regular file, or a link to one. What may block or never end, such
        as a named pipe, is not opened. Of an archive or a video, which may be
        larger than the memory, no more than the start is read.

    Raises:
      ImageError: If it can't be read, or is neither PNG nor JPEG.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            is_link = os.path.islink(path)
            raise ImageError(
                "links to folders are not followed"
                if is_link
                else "it is a folder"
            )
        if not stat.S_ISREG(mode):
            raise ImageError("it is not a regular file")
        with open(path, "rb") as file:
            start = file.read(len(_START_OF_PNG))
            if not start.startswith((_START_OF_JPEG, _START_OF_PNG)):
                raise ImageError(_NO_PICTURE)
            return start + file.read()
    except OSError as error:
        raise ImageError(error.strerror) from error


@contextlib.contextmanager
def silent() -> Iterator[Callable[[], bool]]:
    """Keeps off standard error what libraries have to say of pictures.

    Yields:
      A function that tells whether libjpeg complained since its last call.
    """
    with warnings.catch_warnings(action="ignore"):
        yield lambda: False


def look(content: bytes) -> Header:
    """Looks at a file, and makes sure that there is a whole picture in it.

    The checksums of a PNG are compared. A JPEG has none: it is decoded, at an
    eighth of its size. What libjpeg recovers from is no error, but makes it
    complain: it is to be called inside of `silent`.

    Args:
      content: What `load` returned.

    Raises:
      ImageError: If it is no such picture; the message says why.
    """
    is_jpeg = content.startswith(_START_OF_JPEG)
    try:
        return (_look_at_jpeg if is_jpeg else _look_at_png)(content)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow's own.
        raise ImageError(
            f"it is too large: more than {limit:,} pixels"
        ) from error
    except Exception as error:  # Pillow raises nearly anything.
        raise ImageError("it is damaged") from error


def _look_at_jpeg(content):
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        header = _header(image, image.mode == "L", _orientation(image))
        is_cmyk = image.mode == "CMYK"
    tf.io.decode_jpeg(content, ratio=8)
    return header._replace(is_jpeg=True, is_cmyk=is_cmyk)


def _look_at_png(content):
    orientation = 1
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if getattr(image, "is_animated", False):
            raise ImageError("it is animated")
        image.verify()
    if any(mark in content for mark in _EXIF_IN_PNG):
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            orientation = _orientation(image)
    header = _header(image, content[_COLOR_TYPE] in _GREY_TYPES, orientation)
    return header._replace(has_16_bits=content[_BIT_DEPTH] == 16)


def _orientation(image):
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Of EXIF data that are damaged.
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _header(image, is_grey, orientation):
    width, height = image.size
    if orientation > 4:  # It lies on its side.
        width, height = height, width
    return Header(height, width, is_grey, orientation=orientation)


def decode(
    content: bytes, channels: int, orientation: int, by_pillow: bool
) -> np.ndarray:
    """Decodes a picture.

    Args:
      content: What is in the file.
      channels: 1 or 3.
      orientation: EXIF's number.
      by_pillow: Whether Pillow decodes it, which must be a JPEG. Its pixels are
        slightly others, and it says nothing of what it recovers from.

    Returns:
      `uint8` `[H, W, channels]`, upright.
    """
    if by_pillow:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        pixels = pixels.reshape(*pixels.shape[:2], channels)
    else:
        pixels = tf.io.decode_image(
            content, channels, expand_animations=False
        ).numpy()
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def load_image(path: str | os.PathLike, channels: int) -> np.ndarray:
    """Reads a picture in its own size.

    Args:
      path: PNG or JPEG file.
      channels: 1 or 3.

    Returns:
      `uint8` `[H, W, channels]`, upright.

    Raises:
      ImageError: If it can't be read; the message says why, not which it is.
    """
    content = load(path)
    with silent() as has_complained:
        header = look(content)
        is_faulty = header.is_jpeg and has_complained()
        # TensorFlow does not make grey of CMYK.
        by_pillow = is_faulty or (header.is_cmyk and channels == 1)
        try:
            return decode(content, channels, header.orientation, by_pillow)
        except tf.errors.OpError as error:
            raise ImageError("it is damaged") from error


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
      ImageError: If the file can't be read, or holds no such picture.
    """
    height, width, channels = image_shape
    try:
        pixels = load_image(path, channels)
    except ImageError as error:
        name = printable(os.fspath(path))
        raise ImageError(f"cannot read the picture {name}: {error}") from error
    if pixels.shape[:2] != (height, width):
        pixels = tf.image.resize(
            crop(pixels, height, width), [height, width], antialias=True
        )
    return _levels(np.asarray(pixels), num_colors)


def _levels(pixels, num_colors):
    """Returns what `plots.pixels` maps to some pixels, or near them."""
    num_bits = checks.bits_of_levels(num_colors)
    if num_bits is not None:  # As training leaves bits out.
        return np.round(pixels).astype(np.uint8) >> (8 - num_bits)
    return np.round(pixels * ((num_colors - 1) / 255.0)).astype(np.uint8)


def crop(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Cuts out the largest central part of some proportions.

    Args:
      pixels: `[..., H, W, C]`; `H` and `W` may be known only when it runs.
      height: Of the proportions.
      width: Likewise.

    Returns:
      `[..., h, w, C]`, with `h` to `w` as `height` to `width`, rounded, and `h`
      or `w` all that there is.
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
    """Writes an image as a picture of the same size, a pixel for a pixel.

    Args:
      path: PNG file to write.
      image: `uint8` `[H, W, C]` in `0 ... num_colors - 1`, with `C` 1 or 3.
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
