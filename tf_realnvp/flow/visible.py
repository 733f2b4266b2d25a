"""The visible pixels of a model that observes masks.

Its couplings leave visible pixels alone, so that the flow takes them from
levels to logits, and to a place among the latents, and no further. The density
is of the missing pixels, given these.
"""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tf_realnvp.flow import bijectors
from tf_realnvp.flow.observations import split_visible


class VisiblePixels:
    """Puts visible pixels where they belong, and tells their part of a density.

    A context is what `observations.visible_pixels` returns.
    """

    def __init__(
        self,
        flow: tfb.Bijector,
        to_logits: Sequence[tfb.Bijector],
        middle: float,
    ):
        """Creates the object.

        Args:
          flow: Maps latents to points, the dequantized images.
          to_logits: The bijectors of the flow that are not couplings or places,
            from points to logits.
          middle: Noise of the visible pixels within their levels.
        """
        self._flow, self._to_logits, self._middle = flow, to_logits, middle

    def in_points(self, points: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """Returns points `[n, H, W, C]` with the visible pixels."""
        pixels, visible = split_visible(context)
        return tf.where(visible > 0.0, pixels + self._middle, points)

    def in_latents(self, latents: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """Returns latents `[n, H / 2, W / 2, 4 * C]` with visible pixels."""
        pixels, visible = split_visible(context)
        logits, _ = self._logits(pixels + self._middle)
        # Where the flow puts components, if its couplings change nothing.
        logits, visible = (
            bijectors.fold(self._flow, image, bijectors.rearrange)
            for image in (logits, visible)
        )
        return tf.where(visible > 0.0, logits, latents)

    def log_prob(self, points: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """Returns what visible pixels add to the log-density of points, `[n]`.

        A flow of independent components has this density of them.
        """
        _, visible = split_visible(context)
        logits, log_dets = self._logits(points)
        own = tfp.distributions.Normal(0.0, 1.0).log_prob(logits) + log_dets
        return tf.reduce_sum(visible * own, axis=[1, 2, 3])

    def _logits(self, points):
        """Returns the input of the first coupling, and parts of its log-det."""
        total, log_dets = points, tf.zeros_like(points)
        for step in self._to_logits:
            total, log_det = bijectors.inverse_and_log_scale(step, total)
            log_dets += log_det
        return total, log_dets
