"""Variational dequantization: noise that is learned with the flow.

Levels are integers, and the flow is a density `p` of real numbers: to each
component noise between 0 and 1 is added. Uniform noise asks `p` to be flat
within the cell of each level, which affine couplings approximate badly. With
noise `u` of a density `q(u | x)` that depends on the image `x`, section 3.1 of
https://arxiv.org/abs/1902.00275,

    log P(x) >= E [log p(x + u) - log q(u | x)].

Where a flow makes `u` of uniform noise `v` the right side is the mean of `log
p(x + u) + log |du / dv|`: the log-density at `x + v` of a flow that has one
bijector more. So the noise stays uniform, and all else as it is.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_realnvp import bijectors

# Of the networks, and how many there are of them.
NUM_COUPLINGS = 4
FILTERS = 32
NUM_BLOCKS = 1

_LEAST = 2.0**-17  # As near to a level as float32 tells, at the highest ones.


class VariationalDequantization(bijectors.SinglePassBijector):
    """Maps noise within the cell of a level, depending on the image.

    The inverse maps `x + v`, with levels `x` and noise `v` in [0, 1), to `x +
    u`: a logit of `v`, affine couplings with checkerboard masks, whose networks
    see the image beside what they keep, and a sigmoid. While all couplings are
    the identity it is the identity.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_colors: int,
        networks: Sequence[Callable[[tf.Tensor], tf.Tensor]],
        scalars: Sequence[tuple[keras.Variable, keras.Variable]],
        name: str = "variational_dequantization",
    ):
        """Makes the bijector.

        Args:
          image_shape: `(H, W, C)`.
          num_colors: Number of levels of a component.
          networks: Each maps what a coupling keeps and the image, together
            `[n, H, W, 2 * C]`, to `[n, H, W, 2 * C]`.
          scalars: `rescale` and `reshift` of each coupling.
          name: Name of the bijector's operations.
        """
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self._num_colors = num_colors
            self._couplings = tuple(
                bijectors.AffineCoupling(
                    bijectors.checkerboard_mask(image_shape, index % 2 == 0),
                    _beside_image(network),
                    rescale,
                    reshift,
                    name=f"noise_{index}",
                )
                for index, (network, (rescale, reshift)) in enumerate(
                    zip(networks, scalars, strict=True)
                )
            )
            super().__init__(
                forward_min_event_ndims=3, parameters=parameters, name=name
            )

    def inverse_and_log_scale(
        self, y: tf.Tensor, **unused_condition
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `inverse(y)`, and what each component adds to its log-det.

        Args:
          y: Levels and noise, `[..., H, W, C]`.
          **unused_condition: As for `inverse`: the noise knows no labels.

        Returns:
          `inverse(y)`, and nats, both of the shape and dtype of `y`.
        """
        levels, logits, log_scale = _split(y)
        seen = self._seen(levels)
        for coupling in self._couplings:
            logits, more = coupling.inverse_and_log_scale(logits, image=seen)
            log_scale += more
        return levels + tf.sigmoid(logits), log_scale - _cost(logits)

    def _inverse_and_log_det(self, y, **unused_condition):
        x, log_scale = self.inverse_and_log_scale(y)
        return x, tf.reduce_sum(log_scale, axis=[-3, -2, -1])

    def _forward_and_log_det(self, x, **unused_condition):
        levels, logits, log_scale = _split(x)
        log_det = tf.reduce_sum(log_scale, axis=[-3, -2, -1])
        seen = self._seen(levels)
        for coupling in reversed(self._couplings):
            moved = coupling.forward(logits, image=seen)
            log_det += coupling.forward_log_det_jacobian(logits, image=seen)
            logits = moved
        log_det -= tf.reduce_sum(_cost(logits), axis=[-3, -2, -1])
        return levels + tf.sigmoid(logits), log_det

    def _seen(self, levels):
        """Returns the image as the networks see it, from -2 to 2."""
        return levels * (4.0 / (self._num_colors - 1)) - 2.0


def _split(points):
    """Returns levels, the logits of the noise, and their log-derivative."""
    levels = tf.floor(points)
    noise = tf.clip_by_value(points - levels, _LEAST, 1.0 - _LEAST)
    logits = tf.math.log(noise) - tf.math.log1p(-noise)
    return levels, logits, _cost(logits)


def _cost(logits):
    """Returns minus the log-derivative of the sigmoid."""
    return tf.nn.softplus(logits) + tf.nn.softplus(-logits)


def _beside_image(network):
    """Returns a network of what is kept that also sees the image."""
    return lambda kept, image: network(tf.concat([kept, image], axis=-1))
