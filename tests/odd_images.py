"""Image files such as damage, cameras and scanners make them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin


def noise(mode: str, height: int = 12, width: int = 12) -> Image.Image:
    """Returns an image of noise of one of Pillow's modes."""
    if mode in ("1", "P"):
        return noise("L" if mode == "1" else "RGB", height, width).convert(mode)
    size = {"L": 1, "LA": 2, "I;16": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.random.default_rng(height * width).bytes(height * width * size)
    return Image.frombytes(mode, (width, height), pixels)


def encode(image: Image.Image, kind: str, orientation: int = 1) -> bytes:
    """Returns an image as a file, with an orientation in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def undecodable_png() -> bytes:
    """Returns a PNG of 8x8 whose checksums are right, and whose pixels not."""
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    PngImagePlugin.putchunk(file, b"IHDR", header)
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(bytes(9)))
    PngImagePlugin.putchunk(file, b"IEND")
    return file.getvalue()
