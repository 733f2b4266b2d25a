"""Images known by their content: hashes, splits by hash, and sketches.

The hash of an image decides whether it is for training or for testing. So no
image changes sides if a data set is moved, renamed, sorted or extended, and
training images of one data set are never test images of another that is split
in this way.

A sketch is the hashes of a sample of the training images: of their files, and
of their pixels at the size and levels of the model. It tells whether others are
among them, even if they are encoded anew.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

TEST_SHARE = 0.1  # Of the images of a source that has no test images.
SKETCH_SIZE = 1000


def hash_of(content: bytes | np.ndarray) -> int:
    """Returns a 64-bit hash of the content of an image.

    Args:
      content: Its file or its pixels.
    """
    digest = hashlib.blake2b(bytes(content), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def hashes_of(contents: Iterable[bytes | np.ndarray]) -> np.ndarray:
    """Returns the hashes of images, uint64 `[n]`.

    Args:
      contents: As for `hash_of`.
    """
    return np.fromiter(map(hash_of, contents), np.uint64)


def split(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits images by their hashes.

    The lowest tenth of all possible hashes is for testing. Only if this leaves
    no test images or no training images, the image with the lowest or highest
    hash changes sides.

    Args:
      hashes: Hashes of the images, uint64 `[n]`.

    Returns:
      Indices of the training images and of the test images, in order.
    """
    num_test = int(np.sum(hashes < int(TEST_SHARE * 2**64)))
    num_test = max(1, min(num_test, len(hashes) - 1))
    ranked = np.argsort(hashes, kind="stable")
    return np.sort(ranked[num_test:]), np.sort(ranked[:num_test])


def format_sketch(hashes: Iterable[int]) -> str:
    """Returns hashes in hexadecimal, as `metadata.json` stores them.

    Args:
      hashes: The hashes of a sample of the images.
    """
    return " ".join(f"{hash_:016x}" for hash_ in sorted(set(hashes)))


def parse_sketch(text: str) -> frozenset[int]:
    """Returns the hashes of a sketch.

    Args:
      text: Output of `format_sketch`.

    Raises:
      ValueError: If it is none.
    """
    return frozenset(int(word, 16) for word in text.split())
