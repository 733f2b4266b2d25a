"""Variational dequantization: noise that is learned with the flow.

Levels are integers, but the flow is a density `p` over real numbers, so noise
between 0 and 1 is added to each component. With uniform noise, `p` has to be
flat within each level, which affine couplings approximate poorly. With noise
`u` from a density `q(u | x)` that depends on the image `x` (section 3.1 of
https://arxiv.org/abs/1902.00275),

    log P(x) >= E [log p(x + u) - log q(u | x)].

If a flow maps uniform noise `v` to `u`, the right side is the mean of `log p(x
+ u) + log |du / dv|`, which is the log-density at `x + v` of a flow with one
additional bijector. So the noise stays uniform, and only this bijector is
added.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_realnvp.flow import bijectors

# Number of couplings, and the sizes of their networks.
NUM_COUPLINGS = 4
FILTERS = 32
NUM_BLOCKS = 1

_LEAST = 2.0**-17  # Distance to a level that float32 resolves at level 255.


class VariationalDequantization(bijectors.SinglePassBijector):
    """Transforms the noise within each level, conditioned on the image.

    The inverse maps `x + v`, with levels `x` and noise `v` in [0, 1), to `x +
    u`. The noise `u` is computed by a logit of `v`, affine couplings with
    checkerboard masks, whose networks also take the image, and a sigmoid. If
    all couplings are the identity, so is this bijector.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_colors: int,
        networks: Sequence[Callable[[tf.Tensor], tf.Tensor]],
        scalars: Sequence[tuple[keras.Variable, keras.Variable]],
        name: str = "variational_dequantization",
    ):
        """Creates the bijector.

        Args:
          image_shape: `(H, W, C)`.
          num_colors: Number of levels per component.
          networks: One conditioner per coupling. It maps the kept components
            and the image, concatenated to `[n, H, W, 2 * C]`, to
            `[n, H, W, 2 * C]`.
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
                    *pair,
                    name=f"noise_{index}",
                )
                for index, (network, pair) in enumerate(
                    zip(networks, scalars, strict=True)
                )
            )
            super().__init__(
                forward_min_event_ndims=3, parameters=parameters, name=name
            )

    def inverse_and_log_scale(
        self, y: tf.Tensor, visible=None, **unused_condition
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `inverse(y)`, and each component's part of its log-det.

        Args:
          y: Levels plus noise, `[..., H, W, C]`.
          visible: As for `AffineCoupling`: the noise of a component that is
            visible stays as it is, and tells nothing of the others.
          **unused_condition: Ignored; the noise does not depend on labels.

        Returns:
          `inverse(y)`, and the contributions to the log-det in nats, both of
          the shape and dtype of `y`.
        """
        levels, logits, log_scale = _split(y)
        condition = {"image": self._seen(levels), "visible": visible}
        for coupling in self._couplings:
            logits, more = coupling.inverse_and_log_scale(logits, **condition)
            log_scale += more
        return levels + tf.sigmoid(logits), log_scale - _cost(logits)

    def _forward_and_log_det(self, x, visible=None, **unused_condition):
        levels, logits, log_scale = _split(x)
        log_det = self._sum_over_event(log_scale)
        condition = {"image": self._seen(levels), "visible": visible}
        for coupling in reversed(self._couplings):
            moved = coupling.forward(logits, **condition)
            log_det += coupling.forward_log_det_jacobian(logits, **condition)
            logits = moved
        log_det -= self._sum_over_event(_cost(logits))
        return levels + tf.sigmoid(logits), log_det

    def _seen(self, levels):
        """Returns the image scaled to [-2, 2], the input of the networks."""
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
    """Wraps a network to take the kept components and the image."""
    return lambda kept, image: network(tf.concat([kept, image], axis=-1))
