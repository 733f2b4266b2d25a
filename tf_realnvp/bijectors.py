"""The bijectors of RealNVP that TensorFlow Probability does not have.

They follow TFP's direction: `forward` maps latents to images (sampling) and
`inverse` maps images to latents (density). Each works alone in any `tfb.Chain`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_realnvp.utils import checks


def checkerboard_mask(
    event_shape: Sequence[int], keep_odd: bool = True
) -> np.ndarray:
    """Returns a mask that alternates over the pixels of an image.

    Section 3.4 and figure 3 (left) of https://arxiv.org/abs/1605.08803.

    Args:
      event_shape: `[H, W, C]`, the image's shape.
      keep_odd: Whether to keep the pixels whose `row + column` is odd; the
        others are kept if not.

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

    The channel-wise mask of section 3.4 of https://arxiv.org/abs/1605.08803,
    alternating rather than in two blocks.

    Args:
      event_shape: `[H, W, C]`, the image's shape.
      keep_odd: Whether to keep the channels of odd index; those of even index
        are kept if not.

    Returns:
      Boolean array `[H, W, C]`, `True` where a component is kept.
    """
    odd = np.arange(event_shape[-1]) % 2 == 1
    return np.broadcast_to(odd if keep_odd else ~odd, event_shape).copy()


class SinglePassBijector(tfb.Bijector):
    """A bijector that computes a value and its log-det together.

    TFP asks a bijector for its value and for its log-det in separate calls. A
    subclass here gives both at once, and the log-det waits in TFP's own cache
    beside the value until it is asked for, so that whatever the two share (a
    coupling network) is evaluated once.
    """

    # By identity. TFP's cache asks for the hash in every call, and TFP's own
    # goes through all parameters, a third of the time of an eager log-density.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def _forward_and_log_det(self, x, **condition):
        """Returns `forward(x)` and the log-det of `forward` at `x`."""
        raise NotImplementedError

    def _inverse_and_log_det(self, y, **condition):
        """Returns `inverse(y)` and the log-det of `inverse` at `y`."""
        raise NotImplementedError

    # TFP's cache files the log-det of the inverse as 'ildj', whichever
    # direction was computed, and finds it by either end of the pair (x, y) and
    # the condition: one tensor under two conditions has two entries.

    def _forward(self, x, **condition):
        y, fldj = self._forward_and_log_det(x, **condition)
        self._cache.forward_attributes(x, **condition)["ildj"] = -fldj
        return y

    def _inverse(self, y, **condition):
        x, ildj = self._inverse_and_log_det(y, **condition)
        self._cache.inverse_attributes(y, **condition)["ildj"] = ildj
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


class AffineCoupling(SinglePassBijector):
    r"""Affine coupling layer with a mask.

    The components where the mask is `True` pass unchanged, and condition an
    elementwise affine bijector of the others. With the boolean mask `m` (1
    where a component is kept) and the conditioner `network`, called `f` here,
    the inverse maps an image `x` to

    ```none
    a, t  = split(f(m * x), 2, axis=-1)
    log_s = (1 - m) * (rescale * tanh(a) + reshift)
    z     = x * exp(log_s) + (1 - m) * t
    ```

    and `forward` undoes it: `x = (z - (1 - m) * t) * exp(-log_s)`, with the
    same `log_s` and `t`, since `m * z = m * x`. The Jacobian is triangular, so
    the log-det of the inverse is `sum(log_s)`. Equations 4 to 9 of
    https://arxiv.org/abs/1605.08803.

    The arithmetic is done in the dtype of the event, whatever the network
    computes in, and the kept part passes bit for bit.

    Keyword arguments of `forward`, `inverse` and the log-dets are conditions:
    tensors whose shapes begin with the batch shape of the event, labels for
    example. The network gets each by its name, with the batch shape flattened
    to `N`. In a chain `condition_kwargs` brings them to all couplings.

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
    """

    def __init__(
        self,
        mask,
        network: Callable[..., tf.Tensor],
        rescale=1.0,
        reshift=0.0,
        validate_args: bool = False,
        name: str = "affine_coupling",
    ):
        """Makes an affine coupling.

        Args:
          mask: Boolean array `[..., C]` with the shape of an event, `True`
            where a component is kept. Its rank is the bijector's
            `forward_min_event_ndims`.
          network: The conditioner: a callable that maps the kept components,
            a float tensor `[N, ..., C]` with zeros elsewhere, to a float tensor
            `[N, ..., 2 * C]`; any leading batch shape of the bijector's input
            is flattened to `N`. It is given conditions as keywords.
          rescale: Scalar, the amplitude of the log-scale.
          reshift: Scalar, the offset of the log-scale.
          validate_args: Whether to check shapes at run time where they are not
            known before.
          name: Name of the bijector's operations.

        Raises:
          TypeError: If `mask` is not boolean or `network` is not callable.
          ValueError: If `mask`, `rescale` or `reshift` is of a wrong rank.
        """
        parameters = dict(locals())
        mask = np.asarray(mask)
        _check_coupling(mask, network, rescale, reshift)
        with tf.name_scope(name) as name:
            self._mask = mask
            self._network = network
            self._rescale = rescale
            self._reshift = reshift
            super().__init__(
                forward_min_event_ndims=mask.ndim,
                validate_args=validate_args,
                parameters=parameters,
                name=name,
            )

    @property
    def mask(self) -> np.ndarray:
        """Boolean array with an event's shape, `True` where it is kept."""
        return self._mask

    @property
    def network(self) -> Callable[..., tf.Tensor]:
        """The conditioner, which is given the kept components."""
        return self._network

    @property
    def rescale(self):
        """Scalar, the amplitude of the log-scale."""
        return self._rescale

    @property
    def reshift(self):
        """Scalar, the offset of the log-scale."""
        return self._reshift

    def _forward_and_log_det(self, x, **condition):
        log_scale, shift = self._log_scale_and_shift(x, condition)
        y = tf.where(self._mask, x, (x - shift) * tf.exp(-log_scale))
        return y, -self._sum_over_event(log_scale)

    def inverse_and_log_scale(
        self, y: tf.Tensor, **condition
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `inverse(y)`, and what each component adds to its log-det.

        The network runs once for both.

        Args:
          y: A tensor of events, `[..., *mask.shape]`.
          **condition: As for `inverse`.

        Returns:
          `inverse(y)`, and the log-scale, both of the shape and dtype of `y`.
          The sum of the log-scale over an event is the log-det of the inverse;
          it is 0 where a component is kept.
        """
        log_scale, shift = self._log_scale_and_shift(y, condition)
        x = tf.where(self._mask, y, y * tf.exp(log_scale) + shift)
        return x, log_scale

    def _inverse_and_log_det(self, y, **condition):
        x, log_scale = self.inverse_and_log_scale(y, **condition)
        return x, self._sum_over_event(log_scale)

    def _log_scale_and_shift(self, event, condition):
        """Runs the network on the kept part of `event`, once."""
        zero = tf.zeros([], event.dtype)
        with tf.control_dependencies(self._event_shape_assertions(event)):
            kept = tf.where(self._mask, event, zero)
        outputs = self._network(
            tf.reshape(kept, (-1,) + self._mask.shape),
            **{
                name: self._flatten_condition(value, name, event)
                for name, value in condition.items()
            },
        )
        outputs = tf.cast(self._check_outputs(outputs), event.dtype)
        scale, shift = tf.split(outputs, 2, axis=-1)
        rescale, reshift = (
            tf.cast(value, event.dtype)
            for value in (self._rescale, self._reshift)
        )
        log_scale = tf.where(
            self._mask, zero, rescale * tf.tanh(scale) + reshift
        )
        shape = tf.shape(event)
        return tf.reshape(log_scale, shape), tf.reshape(shift, shape)

    def _flatten_condition(self, value, name, event):
        """Flattens the batch shape, which a condition begins with."""
        value = tf.convert_to_tensor(value)
        batch_shape = event.shape[: -self._mask.ndim]
        if batch_shape.rank is not None and value.shape.rank is not None:
            if not value.shape[: batch_shape.rank].is_compatible_with(
                batch_shape
            ):
                raise ValueError(
                    f"The shape of the condition `{name}` must begin with that "
                    f"of the batch, {batch_shape}, got {value.shape}."
                )
        rank = batch_shape.rank
        if rank is None:
            rank = tf.rank(event) - self._mask.ndim
        return tf.reshape(
            value, tf.concat([[-1], tf.shape(value)[rank:]], axis=0)
        )

    def _sum_over_event(self, value):
        return tf.reduce_sum(value, axis=range(-self._mask.ndim, 0))

    def _event_shape_assertions(self, event):
        """Checks the event's shape now if it is known, else at run time."""
        event_shape = event.shape[-self._mask.ndim :]
        if not event_shape.is_compatible_with(self._mask.shape):
            raise ValueError(
                f"The event's shape must be that of the mask, "
                f"{self._mask.shape}, got an event of shape {event_shape}."
            )
        if not self.validate_args or event_shape.is_fully_defined():
            return []
        return [
            tf.debugging.assert_equal(
                tf.shape(event)[-self._mask.ndim :],
                self._mask.shape,
                message="The event's shape must be that of the mask.",
            )
        ]

    def _check_outputs(self, outputs):
        """Returns what the network returned, if it has the right shape."""
        if isinstance(outputs, tuple | list):
            raise TypeError(
                "`network` must return one tensor, log-scale and shift side by "
                f"side along the last axis, got {len(outputs)} of them."
            )
        outputs = tf.convert_to_tensor(outputs)
        expected = self._mask.shape[:-1] + (2 * self._mask.shape[-1],)
        if not outputs.shape[1:].is_compatible_with(expected):
            raise ValueError(
                f"`network` must return a tensor of shape {(None,) + expected}"
                f" for events of shape {self._mask.shape}, got {outputs.shape}."
            )
        return outputs


class Squeeze(tfb.Bijector):
    """Trades resolution for channels.

    The inverse maps an image `[..., H, W, C]` to
    `[..., H / block_size, W / block_size, block_size**2 * C]`, the squeezing
    operation of section 3.6 of https://arxiv.org/abs/1605.08803, in the order
    of `tf.nn.space_to_depth`; `forward` maps it back. Only the order of the
    components changes, so the log-det is 0.
    """

    def __init__(
        self,
        block_size: int = 2,
        validate_args: bool = False,
        name: str = "squeeze",
    ):
        """Makes a squeeze.

        Args:
          block_size: Height and width in pixels of the blocks that become one
            pixel each, at least 2.
          validate_args: Unused: `tf.nn.space_to_depth` always checks shapes.
          name: Name of the bijector's operations.

        Raises:
          ValueError: If `block_size` is not a whole number of at least 2.
        """
        parameters = dict(locals())
        block_size = checks.check(
            block_size, "block_size", checks.WholeNumber(2)
        )
        with tf.name_scope(name) as name:
            self._block_size = block_size
            super().__init__(
                forward_min_event_ndims=3,
                is_constant_jacobian=True,
                validate_args=validate_args,
                parameters=parameters,
                name=name,
            )

    @property
    def block_size(self) -> int:
        """Height and width in pixels of the blocks that become one pixel."""
        return self._block_size

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    @property
    def _is_permutation(self):
        return True

    def _forward(self, x):
        y = tf.nn.depth_to_space(_flatten_batch(x), self._block_size)
        y = tf.reshape(y, self._forward_event_shape_tensor(tf.shape(x)))
        return tf.ensure_shape(y, self._forward_event_shape(x.shape))

    def _inverse(self, y):
        x = tf.nn.space_to_depth(_flatten_batch(y), self._block_size)
        x = tf.reshape(x, self._inverse_event_shape_tensor(tf.shape(y)))
        return tf.ensure_shape(x, self._inverse_event_shape(y.shape))

    def _forward_log_det_jacobian(self, x):
        return tf.zeros([], x.dtype)

    def _inverse_log_det_jacobian(self, y):
        return tf.zeros([], y.dtype)

    # The four functions below take shapes of whole batches too.

    def _forward_event_shape(self, input_shape):
        if input_shape.rank is None:
            return input_shape
        block = self._block_size
        *batch, height, width, channels = input_shape.dims
        return tf.TensorShape(
            [*batch, height * block, width * block, channels // block**2]
        )

    def _inverse_event_shape(self, output_shape):
        if output_shape.rank is None:
            return output_shape
        block = self._block_size
        *batch, height, width, channels = output_shape.dims
        return tf.TensorShape(
            [*batch, height // block, width // block, channels * block**2]
        )

    def _forward_event_shape_tensor(self, input_shape):
        block = self._block_size
        batch, size, channels = tf.split(input_shape, [-1, 2, 1])
        return tf.concat([batch, size * block, channels // block**2], axis=0)

    def _inverse_event_shape_tensor(self, output_shape):
        block = self._block_size
        batch, size, channels = tf.split(output_shape, [-1, 2, 1])
        return tf.concat([batch, size // block, channels * block**2], axis=0)


class FactorOut(SinglePassBijector):
    """Transforms the first half of the channels and keeps the second half.

    The multi-scale split, section 3.6 and equations 14 to 16 of
    https://arxiv.org/abs/1605.08803: in the inverse the second half of the
    channels are latents already, and the first half go on through `bijector`.
    The log-det is that of `bijector`, which gets all keyword arguments.
    """

    def __init__(
        self,
        bijector: tfb.Bijector | None = None,
        validate_args: bool = False,
        name: str = "factor_out",
    ):
        """Makes a multi-scale split.

        Args:
          bijector: Transforms the first half of the last axis and keeps its
            shape. Default: `tfb.Identity()`.
          validate_args: Unused: `bijector` checks what it is given.
          name: Name of the bijector's operations.

        Raises:
          TypeError: If `bijector` is no `tfb.Bijector`.
          ValueError: If `bijector` changes the rank of an event. One that
            changes its shape shows when it is first used.
        """
        parameters = dict(locals())
        bijector = tfb.Identity() if bijector is None else bijector
        if not isinstance(bijector, tfb.Bijector):
            raise TypeError(
                f"`bijector` must be a `tfb.Bijector`, got {bijector!r}."
            )
        event_ndims = bijector.forward_min_event_ndims
        if event_ndims != bijector.inverse_min_event_ndims:
            raise ValueError(
                "`bijector` must keep the rank of an event, got one that maps "
                f"rank {event_ndims} to {bijector.inverse_min_event_ndims}."
            )
        with tf.name_scope(name) as name:
            self._bijector = bijector
            super().__init__(
                forward_min_event_ndims=max(event_ndims, 1),
                is_constant_jacobian=bijector.is_constant_jacobian,
                validate_args=validate_args,
                parameters=parameters,
                name=name,
            )

    @property
    def bijector(self) -> tfb.Bijector:
        """The bijector of the first half of the channels."""
        return self._bijector

    def _forward_and_log_det(self, x, **kwargs):
        first, second = _halve_channels(x)
        # The cache forgets what nothing refers to: `new_first` keeps it.
        new_first = self._bijector.forward(first, **kwargs)
        new_first = self._same_shape(new_first, first)
        fldj = self._bijector.forward_log_det_jacobian(
            first, event_ndims=self.forward_min_event_ndims, **kwargs
        )
        return tf.concat([new_first, second], axis=-1), fldj

    def _inverse_and_log_det(self, y, **kwargs):
        first, second = _halve_channels(y)
        new_first = self._bijector.inverse(first, **kwargs)
        new_first = self._same_shape(new_first, first)
        ildj = self._bijector.inverse_log_det_jacobian(
            first, event_ndims=self.inverse_min_event_ndims, **kwargs
        )
        return tf.concat([new_first, second], axis=-1), ildj

    def _same_shape(self, new_first, first):
        if not new_first.shape.is_compatible_with(first.shape):
            raise ValueError(
                "`bijector` must keep the shape of an event, but "
                f"{self._bijector.name} maps {first.shape} to "
                f"{new_first.shape}."
            )
        return new_first


def condition_kwargs(bijector: tfb.Bijector, **condition) -> dict[str, Any]:
    """Returns the keyword arguments that bring a condition to all couplings.

    A `tfb.Chain` routes them by the names of its parts, which must differ.

    #### Example

    ```python
    kwargs = condition_kwargs(chain, label=labels)
    chain.inverse(images, **kwargs)
    flow.log_prob(images, bijector_kwargs=kwargs)
    ```

    Args:
      bijector: A bijector with couplings inside.
      **condition: What the networks of the couplings get.

    Returns:
      The keyword arguments of `forward`, `inverse` and the log-dets of
      `bijector`.

    Raises:
      ValueError: If parts of a chain that take a condition have the same name,
        and more parts inside.
    """
    if isinstance(bijector, AffineCoupling):
        return condition
    inner = getattr(bijector, "bijector", None)
    if isinstance(inner, tfb.Bijector):  # `FactorOut` and `tfb.Invert`.
        return condition_kwargs(inner, **condition)
    if isinstance(bijector, tfb.Composition):
        nested: dict[str, Any] = {}
        for part in bijector.bijectors:
            if kwargs := condition_kwargs(part, **condition):
                if nested.setdefault(part.name, kwargs) != kwargs:
                    raise ValueError(
                        f"two parts of `{bijector.name}` are called "
                        f"`{part.name}`: give them names that differ"
                    )
        return nested
    return {}


def _check_coupling(mask, network, rescale, reshift):
    """Checks the arguments of an `AffineCoupling`."""
    if mask.dtype != np.bool_:
        raise TypeError(f"`mask` must be boolean, got dtype {mask.dtype}.")
    if mask.ndim < 1:
        raise ValueError("`mask` must have at least one axis, got a scalar.")
    if not callable(network):
        raise TypeError(f"`network` must be callable, got {network!r}.")
    for name, value in (("rescale", rescale), ("reshift", reshift)):
        shape = tf.TensorShape(getattr(value, "shape", np.shape(value)))
        if not shape.is_compatible_with([]):
            raise ValueError(f"`{name}` must be a scalar, got shape {shape}.")


def _flatten_batch(images):
    """Reshapes `[..., H, W, C]` to `[N, H, W, C]`."""
    flat = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], axis=0))
    if images.shape.rank is not None:
        flat = tf.ensure_shape(flat, [None, *images.shape[-3:]])
    return flat


def _halve_channels(value):
    """Splits the last axis in two halves."""
    channels = value.shape[-1]
    if channels is not None and channels % 2:
        raise ValueError(
            "The number of channels must be even, "
            f"got an event of shape {value.shape}."
        )
    return tf.split(value, 2, axis=-1)
