"""A U-Net, which estimates an image from what is known of it."""

import functools
from collections.abc import Sequence

import keras

_FILTERS = 32  # At the first level; each further level has twice as many.
_MOST_FILTERS = 128
_LOWEST_SIDE = 7


def unet(channels_in: int, image_shape: Sequence[int]) -> keras.Model:
    """Returns a U-Net (https://arxiv.org/abs/1505.04597).

    It halves the grid as long as both sides are even and at least 7 pixels
    remain, and sees all of a small image.

    Args:
      channels_in: Number of channels of its inputs.
      image_shape: `(H, W, C)` of its outputs. Inputs have the same grid.
    """
    layers = keras.layers
    convolution = functools.partial(
        layers.Conv2D, kernel_size=3, padding="same", dtype="float32"
    )

    def convolve(features, filters):
        for _ in range(2):
            features = convolution(filters, activation="relu")(features)
        return features

    height, width, channels = image_shape
    features = inputs = layers.Input([height, width, channels_in])
    skips, filters = [], _FILTERS
    while (
        height % 2 == width % 2 == 0 and min(height, width) >= 2 * _LOWEST_SIDE
    ):
        features = convolve(features, filters)
        skips.append(features)
        features = layers.MaxPooling2D(dtype="float32")(features)
        height, width = height // 2, width // 2
        filters = min(2 * filters, _MOST_FILTERS)
    features = convolve(features, filters)
    # What the whole image is like, for each pixel.
    pool = layers.GlobalAveragePooling2D(keepdims=True, dtype="float32")
    whole = layers.Dense(filters, "relu", dtype="float32")(pool(features))
    features = layers.Add(dtype="float32")([features, whole])
    features = convolve(features, filters)
    for skip in reversed(skips):
        features = layers.UpSampling2D(dtype="float32")(features)
        features = layers.Concatenate(dtype="float32")([features, skip])
        features = convolve(features, skip.shape[-1])
    return keras.Model(inputs, convolution(channels)(features))
