"""Images as arrays, for the tests that only need some."""

import numpy as np


def random_images(*shape, num_colors=256, seed=0):
    """Noise, `uint8` in `0 ... num_colors - 1`."""
    rng = np.random.default_rng(seed)
    return rng.integers(num_colors, size=shape, dtype=np.uint8)


def images_of(batches):
    """All images of some batches, `[n, H, W, C]`."""
    return np.concatenate([batch.numpy() for batch in batches])


def as_set(images):
    """Images to compare whatever their order is."""
    return {image.tobytes() for image in np.asarray(images)}
