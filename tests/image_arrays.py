"""Images as arrays, for the tests that only need some."""

import functools
import pathlib

import matplotlib.image
import numpy as np

from tf_realnvp import data
from tf_realnvp.data import image_files
from tf_realnvp.flow.values import Values


def random_images(*shape, num_colors=256, seed=0):
    """Noise in `0 ... num_colors - 1`, of the dtype of so many levels."""
    rng = np.random.default_rng(seed)
    dtype = Values(num_colors).dtype
    return rng.integers(num_colors, size=shape, dtype=dtype)


@functools.cache
def images_of_digits(split="test"):
    """All digits of a split, `[n, 4, 4, 1]` with 17 levels."""
    digits = data.load("digits", "", image_size=4)
    return digits.take(split, range(digits.splits[split].num_images))


def images_of(batches):
    """All images of some batches, `[n, H, W, C]`."""
    return np.concatenate([images.numpy() for images, _ in batches])


def as_set(images):
    """Images to compare whatever their order is."""
    return {image.tobytes() for image in np.asarray(images)}


def labels_of(dataset):
    """Labels by the bytes of their images, for training and testing."""
    batches = *dataset.train_batches(1, 0, 0), *dataset.batches("test", 1)
    return {
        image.numpy().tobytes(): int(condition["label"][0])
        for [image], condition in batches
    }


def write_images(folder, images, num_colors=256, names=None):
    """Writes images as the files of a folder.

    Args:
      folder: The folder, which is made if it is not there.
      images: The images.
      num_colors: Their number of levels; `None` for real numbers.
      names: Those of the files. Default: numbers, which sort as the images.

    Returns:
      The paths of the files.
    """
    suffix = Values(num_colors).suffix
    names = names or [f"{index:03d}{suffix}" for index in range(len(images))]
    paths = [pathlib.Path(folder, name) for name in names]
    for parent in (pathlib.Path(folder), *(path.parent for path in paths)):
        parent.mkdir(parents=True, exist_ok=True)
    for path, image in zip(paths, images, strict=True):
        image_files.write(path, image, num_colors)
    return paths


def read_png(path):
    """Pixels of a PNG file, `uint8` `[height, width, 3]`."""
    pixels = matplotlib.image.imread(path)
    return np.round(255 * pixels[..., :3]).astype(np.uint8)
