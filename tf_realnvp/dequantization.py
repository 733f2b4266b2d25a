"""Variational dequantization: noise that a small flow draws for each image.

Levels are integers, and the flow is a density of real numbers: noise between 0
and 1 is added to each component. Uniform noise asks the density to be flat
within each cell of the levels, which affine couplings are not. Here the noise
`u` has a density `q(u | x)` that is learned with the flow, section 3.1 of
https://arxiv.org/abs/1902.00275:

    log P(x) >= E_q [log p(x + u) - log q(u | x)]
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_realnvp import bijectors

NUM_COUPLINGS = 4
FILTERS = 32
NUM_BLOCKS = 1

_LEAST = 2.0**-24  # `tf.random` draws multiples of 2**-23, and zero.


class NoiseFlow(tf.Module):
    """Maps uniform noise to noise that suits an image.

    From uniform noise `v` to `u`: a logit, affine couplings with checkerboard
    masks, whose networks see the image beside what they keep, and a sigmoid.
    While all couplings are the identity `u` is `v`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_colors: int,
        functions: Sequence[Callable[[tf.Tensor], tf.Tensor]],
        scalars: Sequence[keras.Variable],
        name: str = "noise_flow",
    ):
        """Makes it of networks, which it does not own.

        Args:
          image_shape: `(H, W, C)`.
          num_colors: Number of levels of a component.
          functions: The networks: each maps what a coupling keeps and the
            image, `[n, H, W, 2 * C]`, to `[n, H, W, 2 * C]`.
          scalars: `rescale` and `reshift` of each coupling, one after another.
          name: Name of the module.
        """
        super().__init__(name=name)
        self._num_colors = num_colors
        self._couplings = [
            bijectors.AffineCoupling(
                bijectors.checkerboard_mask(image_shape, index % 2 == 0),
                _beside_image(function),
                rescale=scalars[2 * index],
                reshift=scalars[2 * index + 1],
                name=f"noise_{index}",
            )
            for index, function in enumerate(functions)
        ]

    def __call__(
        self, images: tf.Tensor, noise: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws noise.

        Args:
          images: Integers `[n, H, W, C]` in `0 ... num_colors - 1`.
          noise: Float32 of that shape, uniform in `[0, 1)`.

        Returns:
          Float32 noise in `[0, 1]`, and what each component adds to its
          log-density `log q(u | x)`, nats, both of the shape of `images`.
        """
        centred = tf.cast(images, noise.dtype) / (self._num_colors - 1) - 0.5
        noise = tf.maximum(noise, _LEAST)
        logits = tf.math.log(noise) - tf.math.log1p(-noise)
        log_prob = tf.math.log(noise) + tf.math.log1p(-noise)
        for coupling in self._couplings:
            logits, log_scale = coupling.inverse_and_log_scale(
                logits, image=4.0 * centred
            )
            log_prob -= log_scale
        log_prob += tf.nn.softplus(logits) + tf.nn.softplus(-logits)
        return tf.sigmoid(logits), log_prob


def _beside_image(function):
    """Returns a network of what is kept that also sees the image."""
    return lambda kept, image: function(tf.concat([kept, image], axis=-1))
