"""A U-Net, which estimates an image from what is known of it."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_realnvp.flow import networks

_FILTERS = 32  # At the first level; each further level has twice as many.
_MOST_FILTERS = 128
_LOWEST_SIDE = 7
_GAIN = 2.0**0.5  # Initially; makes up for what ReLUs take away.


class UNet(networks.WeightNormalized):
    """A U-Net (https://arxiv.org/abs/1505.04597), weight-normalized.

    It halves the grid as long as both sides are even and at least 7 pixels
    remain, and sees all of a small image.
    """

    def __init__(
        self,
        channels_in: int,
        image_shape: Sequence[int],
        padding: str = "same",
    ):
        """Creates the network and its weights.

        Args:
          channels_in: Number of channels of its inputs.
          image_shape: `(H, W, C)` of its outputs. Inputs have the same grid.
          padding: As for `networks.padded`.
        """
        super().__init__(autocast=False, name="estimator")
        self._padding = padding
        height, width, channels = image_shape
        sizes = [_FILTERS]
        while (
            height % 2 == width % 2 == 0
            and min(height, width) >= 2 * _LOWEST_SIDE
        ):
            height, width = height // 2, width // 2
            sizes.append(min(2 * sizes[-1], _MOST_FILTERS))
        lowest = sizes[-1]
        self._down = [
            self._two(f"down_{size}_{index}", before, size)
            for index, (before, size) in enumerate(
                zip([channels_in, *sizes], sizes, strict=False)
            )
        ]
        self._whole = self._add("whole", 1, lowest, lowest)
        self._lowest = self._two("lowest", lowest, lowest)
        self._up = [
            self._two(f"up_{index}", below + size, size)
            for index, (below, size) in enumerate(
                zip(sizes[:0:-1], sizes[-2::-1], strict=True)
            )
        ]
        self._last = self._add("last", 3, _FILTERS, channels)
        self.built = True

    def call(self, inputs):
        hidden, skips = inputs, []
        for convolutions in self._down[:-1]:
            hidden = self._convolve(hidden, *convolutions)
            skips.append(hidden)
            hidden = tf.nn.max_pool2d(hidden, 2, 2, "VALID")
        hidden = self._convolve(hidden, *self._down[-1])
        # What the whole image is like, for each pixel.
        mean = tf.reduce_mean(hidden, axis=[1, 2], keepdims=True)
        hidden += self._convolve(mean, self._whole)
        hidden = self._convolve(hidden, *self._lowest)
        for convolutions, skip in zip(self._up, reversed(skips), strict=True):
            hidden = networks.on_grid(hidden, skip.shape[1])
            hidden = tf.concat([hidden, skip], axis=-1)
            hidden = self._convolve(hidden, *convolutions)
        return networks.weight_norm_conv2d(hidden, self._last, self._padding)

    def _add(self, name, kernel_size, channels_in, channels_out):
        gain = keras.initializers.Constant(_GAIN)
        return self.add_convolution(
            name, kernel_size, channels_in, channels_out, gain=gain
        )

    def _two(self, name, channels_in, channels_out):
        first = self._add(f"{name}_first", 3, channels_in, channels_out)
        return first, self._add(f"{name}_second", 3, channels_out, channels_out)

    def _convolve(self, hidden, *convolutions):
        for convolution in convolutions:
            hidden = tf.nn.relu(
                networks.weight_norm_conv2d(hidden, convolution, self._padding)
            )
        return hidden
