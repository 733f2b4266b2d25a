"""Bijectors of RealNVP that TensorFlow Probability does not provide.

They follow TFP's convention: `forward` maps latents to images (sampling) and
`inverse` maps images to latents (density). All can be used in any `tfb.Chain`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_realnvp.utils import private


def checkerboard_mask(
    event_shape: Sequence[int], keep_odd: bool = True
) -> np.ndarray:
    """Returns a mask that alternates over the pixels of an image.

    Section 3.4 and figure 3 (left) of https://arxiv.org/abs/1605.08803.

    Args:
      event_shape: `[H, W, C]`, the shape of the image.
      keep_odd: Whether to keep the pixels whose `row + column` is odd rather
        than those where it is even.

    Returns:
      Boolean array `[H, W, C]`, `True` where a component is kept.
    """
    height, width, channels = event_shape
    odd = np.add.outer(np.arange(height), np.arange(width)) % 2 == 1
    mask = odd if keep_odd else ~odd
    return np.repeat(mask[:, :, np.newaxis], channels, axis=-1)


def channel_mask(
    event_shape: Sequence[int], keep_odd: bool = True
) -> np.ndarray:
    """Returns a mask that alternates over the channels of an image.

    Like the channel-wise mask of section 3.4 of
    https://arxiv.org/abs/1605.08803, `half_mask`, but not in two blocks.

    Args:
      event_shape: `[H, W, C]`, the shape of the image.
      keep_odd: Whether to keep the channels of odd rather than of even index.

    Returns:
      Boolean array `[H, W, C]`, `True` where a component is kept.
    """
    odd = np.arange(event_shape[-1]) % 2 == 1
    return np.broadcast_to(odd if keep_odd else ~odd, event_shape).copy()


def half_mask(
    event_shape: Sequence[int], keep_first: bool = True
) -> np.ndarray:
    """Returns a mask that keeps half of the channels of an image.

    The channel-wise mask of section 3.4 of https://arxiv.org/abs/1605.08803.

    Args:
      event_shape: `[H, W, C]`, the shape of the image.
      keep_first: Whether to keep the first rather than the last half.

    Returns:
      Boolean array `[H, W, C]`, `True` where a component is kept.
    """
    channels = event_shape[-1]
    first = np.arange(channels) < channels // 2
    return np.broadcast_to(first == keep_first, event_shape).copy()


class Sigmoid(tfb.Sigmoid):
    """`tfb.Sigmoid` between two bounds, without its custom gradient.

    TensorFlow never forgets a graph that has a custom gradient, and ONNX does
    not know of them. The values are the same.
    """

    def _forward_log_det_jacobian(self, x):
        log_derivative = -tf.nn.softplus(-x) - tf.nn.softplus(x)
        return log_derivative + tf.math.log(self.high - self.low)


class SinglePassBijector(tfb.Bijector):
    """A bijector that computes a value and its log-det together.

    TFP computes the value and the log-det of a bijector in separate calls. A
    subclass of this class computes both at once. The log-det is stored in TFP's
    cache beside the value, so that work shared by the two, such as running a
    coupling network, is done once.
    """

    # Compare by identity. TFP's cache hashes the bijector in every call, and
    # TFP's own hash visits all parameters, which takes a third of the time of
    # an eager log-density.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def _forward_and_log_det(self, x, **condition):
        """Returns `forward(x)` and the log-det of `forward` at `x`."""
        raise NotImplementedError

    def _inverse_and_log_det(self, y, **condition):
        """Returns `inverse(y)` and the log-det of `inverse` at `y`.

        By default, the log-det is a sum over the components of an event.
        """
        x, log_scale = self.inverse_and_log_scale(y, **condition)
        return x, self._sum_over_event(log_scale)

    def _sum_over_event(self, value):
        axes = range(-self.forward_min_event_ndims, 0)
        return tf.reduce_sum(value, axis=axes)

    def _forward(self, x, **condition):
        y, fldj = self._forward_and_log_det(x, **condition)
        private.remember_fldj(self, x, fldj, condition)
        return y

    def _inverse(self, y, **condition):
        x, ildj = self._inverse_and_log_det(y, **condition)
        private.remember_ildj(self, y, ildj, condition)
        return x

    def _forward_log_det_jacobian(self, x, **condition):
        _, fldj = self._forward_and_log_det(x, **condition)
        return fldj

    def _inverse_log_det_jacobian(self, y, **condition):
        _, ildj = self._inverse_and_log_det(y, **condition)
        return ildj

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}  # No parameter has a batch shape.


class Standardize(SinglePassBijector):
    """Standardization of each channel of an image, as its inverse.

    Attributes:
      moments: `[2, C]`, mean and standard deviation of each channel.
    """

    def __init__(self, moments, name: str = "standardize"):
        """Creates the bijector.

        Args:
          moments: As above; may be a variable.
          name: Name of the bijector's operations.
        """
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.moments = moments
            super().__init__(
                forward_min_event_ndims=3, parameters=parameters, name=name
            )

    def inverse_and_log_scale(
        self, y: tf.Tensor, **unused_condition
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `inverse(y)`, and each component's part of its log-det.

        Args:
          y: Images `[..., H, W, C]`.
          **unused_condition: Ignored.
        """
        mean, std = tf.unstack(tf.cast(self.moments, y.dtype))
        return (y - mean) / std, tf.zeros_like(y) - tf.math.log(std)

    def _forward_and_log_det(self, x, **unused_condition):
        mean, std = tf.unstack(tf.cast(self.moments, x.dtype))
        log_det = self._sum_over_event(tf.zeros_like(x) + tf.math.log(std))
        return x * std + mean, log_det


class AffineCoupling(SinglePassBijector):
    r"""Affine coupling layer with a mask.

    Components where the mask is `True` are kept unchanged. An elementwise
    affine bijector, conditioned on the kept components, transforms the rest.
    With the mask `m` (1 where a component is kept) and the conditioner `f`
    (`network`), the inverse maps an image `x` to

    ```none
    a, t  = split(f(m * x), 2, axis=-1)
    log_s = (1 - m) * (rescale * tanh(a) + reshift)
    z     = x * exp(log_s) + (1 - m) * t
    ```

    and `forward` maps `z` to `x = (z - (1 - m) * t) * exp(-log_s)`, with the
    same `log_s` and `t`, since `m * z = m * x`. The Jacobian is triangular, so
    the log-det of the inverse is `sum(log_s)`. See equations 4 to 9 of
    https://arxiv.org/abs/1605.08803.

    With the condition `visible`, of the shape of the event, `log_s` and `t` are
    also 0 where it is 1 rather than 0: a component that is visible passes
    unchanged (https://arxiv.org/abs/1909.06319). The network sees zeros there,
    and learns of what is visible by other conditions.

    The arithmetic uses the dtype of the event, whatever the dtype of the
    network's outputs. Kept components stay exactly as they are.

    Keyword arguments of `forward`, `inverse` and the log-dets are conditions,
    such as labels: tensors whose shape begins with the batch shape of the
    event. They are passed to the network as keyword arguments, with the batch
    shape flattened to `N`. In a chain, use `condition_kwargs` to pass a
    condition to all couplings.

    #### Example

    ```python
    network = tf.keras.Sequential([
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(2 * 4),
    ])
    coupling = AffineCoupling(mask=[True, True, False, False], network=network)
    flow = tfd.TransformedDistribution(
        tfd.Sample(tfd.Normal(0.0, 1.0), [4]), coupling)
    ```

    Attributes:
      mask: Boolean array with the shape of an event, `True` where a component
        is kept.
      network: The conditioner, a callable of the kept components.
      rescale: Scalar, the amplitude of the log-scale.
      reshift: Scalar, the offset of the log-scale.
    """

    def __init__(
        self,
        mask,
        network: Callable[..., tf.Tensor],
        rescale=1.0,
        reshift=0.0,
        name: str = "affine_coupling",
    ):
        """Creates an affine coupling.

        Args:
          mask: Boolean array `[..., C]` with the shape of an event, `True`
            where a component is kept. Its rank is the bijector's
            `forward_min_event_ndims`.
          network: The conditioner: a callable that maps the kept components,
            a float tensor `[N, ..., C]` with zeros elsewhere, to a float tensor
            `[N, ..., 2 * C]`. The batch shape of the bijector's input is
            flattened to `N`. Conditions are passed as keyword arguments.
          rescale: Scalar, the amplitude of the log-scale.
          reshift: Scalar, the offset of the log-scale.
          name: Name of the bijector's operations.
        """
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.mask = np.asarray(mask, bool)
            self.network = network
            self.rescale = rescale
            self.reshift = reshift
            super().__init__(
                forward_min_event_ndims=self.mask.ndim,
                parameters=parameters,
                name=name,
            )

    def _forward_and_log_det(self, x, **condition):
        log_scale, shift = self._log_scale_and_shift(x, condition)
        y = (x - shift) * tf.exp(-log_scale)
        return y, -self._sum_over_event(log_scale)

    def inverse_and_log_scale(
        self, y: tf.Tensor, **condition
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `inverse(y)` and the log-scale, in one run of the network.

        Args:
          y: A tensor of events, `[..., *mask.shape]`.
          **condition: Conditions, as for `inverse`.

        Returns:
          `inverse(y)` and the log-scale, both of the shape and dtype of `y`.
          The log-scale is each component's contribution to the log-det of the
          inverse, which is its sum over an event. It is 0 where a component is
          kept.
        """
        log_scale, shift = self._log_scale_and_shift(y, condition)
        return y * tf.exp(log_scale) + shift, log_scale

    def _log_scale_and_shift(self, event, condition):
        """Runs the network once on the kept components of `event`."""
        # Products take less time than `tf.where`, above all in the gradient.
        mask = tf.cast(self.mask, event.dtype)
        kept, changed = mask * event, 1.0 - mask
        visible = condition.pop("visible", None)
        if visible is not None:
            hidden = 1.0 - tf.cast(visible, event.dtype)
            kept, changed = hidden * kept, hidden * changed
        condition = {
            name: self._flatten_condition(value, event)
            for name, value in condition.items()
        }
        kept = tf.reshape(kept, (-1, *self.mask.shape))
        outputs = tf.cast(self.network(kept, **condition), event.dtype)
        outputs.shape.assert_is_compatible_with(
            (None, *self.mask.shape[:-1], 2 * self.mask.shape[-1])
        )
        scale, shift = tf.split(outputs, 2, axis=-1)
        rescale, reshift = (
            tf.cast(value, event.dtype)
            for value in (self.rescale, self.reshift)
        )
        shape = tf.shape(event)
        return tuple(
            tf.reshape(changed * value, shape)
            for value in (rescale * tf.tanh(scale) + reshift, shift)
        )

    def _flatten_condition(self, value, event):
        """Flattens the batch shape at the start of a condition's shape."""
        value = tf.convert_to_tensor(value)
        rest = tf.shape(value)[event.shape.rank - self.mask.ndim :]
        return tf.reshape(value, tf.concat([[-1], rest], axis=0))


class Squeeze(tfb.Bijector):
    """Trades resolution for channels.

    The inverse maps an image `[..., H, W, C]` to `[..., H / 2, W / 2, 4 * C]`:
    the squeezing operation of section 3.6 of https://arxiv.org/abs/1605.08803,
    with the component order of `tf.nn.space_to_depth`. Components are only
    reordered, so the log-det is 0.
    """

    def __init__(self, name: str = "squeeze"):
        """Creates a squeeze.

        Args:
          name: Name of the bijector's operations.
        """
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            super().__init__(
                forward_min_event_ndims=3,
                is_constant_jacobian=True,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, x):
        return _apply_to_images(tf.nn.depth_to_space, x)

    def _inverse(self, y):
        return _apply_to_images(tf.nn.space_to_depth, y)

    def _forward_log_det_jacobian(self, x):
        return tf.zeros([], x.dtype)

    def _inverse_log_det_jacobian(self, y):
        return tf.zeros([], y.dtype)

    def _forward_event_shape(self, input_shape):
        return tf.TensorShape(self._unsqueezed(input_shape.dims))

    def _inverse_event_shape(self, output_shape):
        return tf.TensorShape(self._squeezed(output_shape.dims))

    def _forward_event_shape_tensor(self, input_shape):
        return tf.stack(self._unsqueezed(tf.unstack(input_shape)))

    def _inverse_event_shape_tensor(self, output_shape):
        return tf.stack(self._squeezed(tf.unstack(output_shape)))

    def _unsqueezed(self, shape):
        *batch, height, width, channels = shape
        return [*batch, 2 * height, 2 * width, channels // 4]

    def _squeezed(self, shape):
        *batch, height, width, channels = shape
        return [*batch, height // 2, width // 2, 4 * channels]


class FactorOut(SinglePassBijector):
    """Transforms the first half of the channels and keeps the second half.

    This is the multi-scale split of section 3.6 and equations 14 to 16 of
    https://arxiv.org/abs/1605.08803. In the inverse, the second half of the
    channels is factored out as latents, and `bijector` transforms the first
    half. The log-det equals the log-det of `bijector`. All keyword arguments
    are passed to `bijector`.

    Attributes:
      bijector: The bijector of the first half of the channels.
    """

    def __init__(self, bijector: tfb.Bijector, name: str = "factor_out"):
        """Creates a multi-scale split.

        Args:
          bijector: Bijector of the first half of the last axis. It must keep
            the event shape.
          name: Name of the bijector's operations.
        """
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.bijector = bijector
            super().__init__(
                forward_min_event_ndims=max(
                    self.bijector.forward_min_event_ndims, 1
                ),
                is_constant_jacobian=self.bijector.is_constant_jacobian,
                parameters=parameters,
                name=name,
            )

    def _forward_and_log_det(self, x, **kwargs):
        own = self.bijector
        return self._apply(own.forward, own.forward_log_det_jacobian, x, kwargs)

    def _inverse_and_log_det(self, y, **kwargs):
        own = self.bijector
        return self._apply(own.inverse, own.inverse_log_det_jacobian, y, kwargs)

    def _apply(self, function, log_det, event, kwargs):
        first, second = tf.split(event, 2, axis=-1)
        # Names of operations do not grow with the scales: most of a SavedModel
        # beside its weights are names.
        with tf.name_scope(f"{self.bijector.name}/"):
            # TFP's cache holds weak references: `new_first` keeps the entry
            # alive.
            new_first = function(first, **kwargs)
            value = log_det(
                first, event_ndims=self.forward_min_event_ndims, **kwargs
            )
        return tf.concat([new_first, second], axis=-1), value


def condition_kwargs(bijector: tfb.Bijector, **condition) -> dict[str, Any]:
    """Returns the keyword arguments that pass a condition to all couplings.

    A `tfb.Chain` routes them by the names of its parts.

    #### Example

    ```python
    kwargs = condition_kwargs(chain, label=labels)
    chain.inverse(images, **kwargs)
    flow.log_prob(images, bijector_kwargs=kwargs)
    ```

    Args:
      bijector: A bijector with couplings inside.
      **condition: Conditions for the networks of the couplings, by name; and
        `visible`, `[N, H, W, C]`, which each coupling gets in the shape of its
        own events.

    Returns:
      Keyword arguments for `forward`, `inverse` and the log-dets of `bijector`.
    """
    visible = condition.pop("visible", None)
    return _route(bijector, condition, visible)[0]


def _route(bijector, condition, visible):
    """Returns keyword arguments of a bijector, and `visible` behind it."""
    if isinstance(bijector, FactorOut):
        first = None if visible is None else tf.split(visible, 2, axis=-1)[0]
        return _route(bijector.bijector, condition, first)[0], visible
    if isinstance(bijector, SinglePassBijector):
        own = {} if visible is None else {"visible": visible}
        return condition | own, visible
    nested: dict[str, Any] = {}
    for part in getattr(bijector, "bijectors", []):  # Of `tfb.Chain`.
        kwargs, visible = _route(part, condition, visible)
        if kwargs:
            nested[part.name] = nested.get(part.name, {}) | kwargs
    if visible is not None:
        visible = rearrange(bijector, visible)
    if hasattr(bijector, "bijector"):  # Of `tfb.Invert`.
        nested, _ = _route(bijector.bijector, condition, None)
    return nested, visible


def rearrange(step: tfb.Bijector, image: tf.Tensor, *unused) -> tf.Tensor:
    """Returns where a step puts the components of an image, in its inverse."""
    # Of `tfb.Invert`, what it inverts.
    reorders = isinstance(getattr(step, "bijector", step), Squeeze)
    return step.inverse(image) if reorders else image


def fold(
    bijector: tfb.Bijector,
    points: tf.Tensor,
    apply: Callable[..., tf.Tensor],
    leave: Callable[..., None] = lambda *unused: None,
    kwargs: Mapping[str, Any] | None = None,
    scale: int = 0,
) -> tf.Tensor:
    """Goes from an image to its latents, step by step.

    Args:
      bijector: A `tfb.Chain`. A part may be a `FactorOut` of another chain.
      points: Input of its inverse.
      apply: Function of a part other than `FactorOut`, its input, its keyword
        arguments and the index of the scale; returns its output.
      leave: Called with the latents that leave the flow at each scale, the
        index of the scale, and whether it is the last.
      kwargs: What `condition_kwargs` returned.
      scale: Index of the scale.

    Returns:
      The latents.
    """
    kwargs, is_last = kwargs or {}, True
    for step in steps_of(bijector):
        own = kwargs.get(step.name, {})
        if isinstance(step, FactorOut):
            first, second = tf.split(points, 2, axis=-1)
            leave(second, scale, False)
            first = fold(step.bijector, first, apply, leave, own, scale + 1)
            points, is_last = tf.concat([first, second], axis=-1), False
        else:
            points = apply(step, points, own, scale)
    if is_last:
        leave(points, scale, True)
    return points


def inverse_and_log_scale(
    step: tfb.Bijector, points: tf.Tensor, **condition
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `inverse(points)`, and each component's part of its log-det.

    Args:
      step: A bijector of this module that has such a method, or an elementwise
        one.
      points: `[..., H, W, C]`.
      **condition: Conditions, as for `inverse`.
    """
    if hasattr(step, "inverse_and_log_scale"):
        return step.inverse_and_log_scale(points, **condition)
    log_det = step.inverse_log_det_jacobian(points, event_ndims=0)
    return step.inverse(points), tf.broadcast_to(log_det, tf.shape(points))


def steps_of(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """Returns the bijectors of a chain and of the chains in it, in order.

    Args:
      bijector: A `tfb.Chain`, or a bijector that is not one.

    Returns:
      The bijectors, in the order in which the inverse applies them.
    """
    if isinstance(bijector, tfb.Composition):
        return [step for part in bijector.bijectors for step in steps_of(part)]
    return [bijector]


def _apply_to_images(function, images):
    """Applies a function of 2x2 blocks to images `[..., H, W, C]`."""
    shape = tf.shape(images)
    flat = tf.reshape(images, tf.concat([[-1], shape[-3:]], axis=0))
    outputs = function(flat, 2)
    new_shape = tf.concat([shape[:-3], tf.shape(outputs)[1:]], axis=0)
    return tf.ensure_shape(
        tf.reshape(outputs, new_shape), [*images.shape[:-3], *outputs.shape[1:]]
    )
