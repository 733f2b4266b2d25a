"""The coupling network of RealNVP: a weight-normalized residual network.

Weight normalization (https://arxiv.org/abs/1602.07868, equation 2) writes every
convolution kernel as `gain * direction / ||direction||`. The norm is taken over
all axes except the output channels.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "tf_realnvp needs Keras with TensorFlow, and its backend is "
        f"{keras.config.backend()}: set the environment variable "
        "KERAS_BACKEND=tensorflow before Python starts"
    )


_MOST_CHANNELS = 32  # Of an image on a grid that is coarser by more than 2.


class Convolution(NamedTuple):
    """Weights of one weight-normalized convolution, or of a stack of them.

    Attributes:
      direction: `[..., height, width, channels_in, channels_out]`.
      gain: `[..., channels_out]`, the norm of each kernel.
      bias: `[..., channels_out]`.
    """

    direction: keras.Variable | tf.Tensor
    gain: keras.Variable | tf.Tensor
    bias: keras.Variable | tf.Tensor


class ResidualBlocks(NamedTuple):
    """The convolutions of all residual blocks, stacked along the first axis.

    All blocks have the same shapes, so one variable holds a given weight of
    every block: there are nine variables rather than nine per block, and one
    weight normalization. Building and tracing a model is several times faster.

    Attributes:
      reduce: 1x1 convolution from `filters` channels to half as many.
      transform: 3x3 convolution.
      expand: 1x1 convolution back to `filters` channels.
    """

    reduce: Convolution
    transform: Convolution
    expand: Convolution


class WeightNormalized(keras.Model):
    """A network of weight-normalized convolutions, with float32 weights."""

    def add_float32(self, name, shape, initializer):
        """Adds a float32 weight, even under a mixed-precision policy."""
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype="float32",
            name=name,
            autocast=False,
        )

    def add_convolution(
        self, name, kernel_size, channels_in, channels_out, *stack, gain="ones"
    ):
        """Adds the weights of a convolution, or of a `stack` of them."""

        def weight(part, shape, initializer):
            return self.add_float32(
                f"{name}_{part}", (*stack, *shape), initializer
            )

        kernel_shape = (kernel_size, kernel_size, channels_in, channels_out)
        normal = keras.initializers.RandomNormal(stddev=0.05)
        return Convolution(
            weight("direction", kernel_shape, normal),
            weight("gain", (channels_out,), gain),
            weight("bias", (channels_out,), "zeros"),
        )


@keras.saving.register_keras_serializable(package="tf_realnvp")
class CouplingNetwork(WeightNormalized):
    """The conditioner of a coupling, which computes its log-scale and shift.

    This is the deep convolutional residual network with weight normalization of
    section 3.4 of https://arxiv.org/abs/1605.08803. The gain of the last
    convolution is initialized to zero, so a new network returns zeros and its
    coupling is the identity.

    The network maps images `[N, H, W, channels]` of any size to
    `[N, H, W, channels_out]`. It computes in the dtype of its input: the same
    float32 weights are used for bfloat16 training and float32 evaluation. The
    last bias is added in float32, so the outputs are float32.

    A network may be conditioned on a label, and on the code and the images of a
    context: `network(inputs, label=labels)`. An embedding of the label and a
    linear map of the code are added to the features in each residual block,
    after its first convolution. A convolution of each image, on the grid of the
    inputs, is added to the first convolution. All of them are initialized to
    zero.

    Attributes:
      channels: Number of input channels.
      filters: Number of hidden channels.
      num_blocks: Number of residual blocks.
      num_classes: Number of classes, or `None`.
      channels_out: Number of output channels, `2 * channels` by default.
      first: The first `Convolution`, 3x3.
      blocks: The `ResidualBlocks`.
      last: The last `Convolution`, 3x3.
      embedding: Variable `[num_blocks, num_classes, filters / 2]`, or `None`.
      code_map: Variable `[num_blocks, code_size, filters / 2]`, or `None`.
      image_convolutions: A 3x3 `Convolution` for each image, by name.
      padding: As for `padded`.
    """

    def __init__(
        self,
        channels: int,
        filters: int = 128,
        num_blocks: int = 8,
        num_classes: int | None = None,
        channels_out: int | None = None,
        code_size: int | None = None,
        image_channels: Mapping[str, int] | None = None,
        padding: str = "same",
        **kwargs,
    ):
        """Creates the network and its weights.

        Args:
          channels: Number of input channels.
          filters: Number of hidden channels; must be even.
          num_blocks: Number of residual blocks.
          num_classes: Number of classes. Default: the network takes no labels.
          channels_out: Number of output channels. Default: `2 * channels`.
          code_size: Size of the code of the context. Default: it has none.
          image_channels: Numbers of channels of the images of the context, on
            the grid of the inputs, by name. Default: there are none.
          padding: As for `padded`.
          **kwargs: Passed to `keras.Model`.
        """
        super().__init__(autocast=False, **kwargs)
        self.channels = channels
        self.filters = filters
        self.num_blocks = num_blocks
        self.num_classes = num_classes
        self.channels_out = channels_out = channels_out or 2 * channels
        self.padding = padding
        inner = filters // 2
        self.first = self.add_convolution("first", 3, channels, filters)
        self.blocks = ResidualBlocks(
            self.add_convolution("reduce", 1, filters, inner, num_blocks),
            self.add_convolution("transform", 3, inner, inner, num_blocks),
            self.add_convolution("expand", 1, inner, filters, num_blocks),
        )
        self.last = self.add_convolution(
            "last", 3, filters, channels_out, gain="zeros"
        )

        def for_each_block(name, size):
            shape = num_blocks, size, inner
            return size and self.add_float32(name, shape, "zeros")

        self.embedding = for_each_block("embedding", num_classes)
        self.code_map = for_each_block("code_map", code_size)
        self.image_convolutions = {
            name: self.add_convolution(name, 3, size, filters, gain="zeros")
            for name, size in (image_channels or {}).items()
        }
        self.built = True

    def call(self, inputs, **condition):
        run, weights = _inlined, self.tensors(inputs, **condition)
        if tf.executing_eagerly():
            # A condition adds axes to biases.
            ranks = [weight.shape.rank for weight in tf.nest.flatten(weights)]
            run = _of_any_batch(
                *(self.filters, self.num_blocks, self.channels_out),
                *(self.padding, *inputs.shape[1:], *ranks),
            )
        return run(inputs, weights, self.padding)

    def shared(
        self, inputs: tf.Tensor, recompute: bool = False, /, **condition
    ) -> tf.Tensor:
        """Returns the network's outputs, by a function shared across networks.

        All networks of the same shape share one trace. The function is not
        inlined, so TensorFlow also optimizes it once: training starts seconds
        earlier and takes less memory. A SavedModel uses the inlined function,
        which runs slightly faster, since TensorFlow can fuse more operations.

        Args:
          inputs: Images `[N, H, W, channels]`.
          recompute: Whether to use rematerialization: most activations are
            computed again for the gradient, which saves memory.
          **condition: As for `tensors`.

        Returns:
          `[N, H, W, channels_out]`.
        """
        run = _rematerialized if recompute else _shared
        return run(inputs, self.tensors(inputs, **condition), self.padding)

    def tensors(
        self,
        inputs: tf.Tensor,
        label: tf.Tensor | None = None,
        code: tf.Tensor | None = None,
        **images: tf.Tensor,
    ) -> tuple[Convolution, ResidualBlocks, Convolution]:
        """Returns `first`, `blocks` and `last` as tensors.

        A function of these tensors is traced once for all networks of the same
        shape.

        Args:
          inputs: Images `[N, H, W, channels]`.
          label: Labels of the images, integers `[N]` below `num_classes`;
            `None` for a network without classes.
          code: The code of the context, `[N, code_size]`, if there is one.
          **images: The images of the context by name, `[N, h, w, K]`.

        Returns:
          The weights. With a label or a code, `blocks.reduce.bias` is
          `[num_blocks, N, filters / 2]`; with an image, `first.bias` is
          `[N, H, W, filters]`.

        Raises:
          ValueError: If the network has classes and `label` is `None`, or if it
            has none and a label is given.
        """
        first, blocks, last = tf.nest.map_structure(
            tf.convert_to_tensor, (self.first, self.blocks, self.last)
        )
        if (label is None) != (self.embedding is None):
            needs = "needs a" if label is None else "has no classes to take a"
            raise ValueError(f"`{self.name}` {needs} `label`.")
        bias = blocks.reduce.bias
        if label is not None or code is not None:
            bias = bias[:, tf.newaxis]
        if label is not None:
            # Along the second axis, so that the gradient is dense.
            embedding = tf.convert_to_tensor(self.embedding)
            bias += tf.gather(embedding, tf.cast(label, tf.int32), axis=1)
        if code is not None:
            bias += tf.einsum("nk,bkf->bnf", code, self.code_map)
        blocks = blocks._replace(reduce=blocks.reduce._replace(bias=bias))
        for name, image in images.items():
            image = on_grid(tf.cast(image, inputs.dtype), inputs.shape[1])
            convolution = self.image_convolutions[name]
            bias = tf.cast(first.bias, inputs.dtype)
            bias += weight_norm_conv2d(image, convolution, self.padding)
            first = first._replace(bias=bias)
        return first, blocks, last

    @property
    def can_be_linear(self) -> bool:
        """Whether `assign_linear` has enough filters for a nonzero kernel."""
        return self.filters >= 2 * self.channels

    def assign_linear(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Makes the network equal to one linear convolution; still trainable.

        Two hidden channels per input channel carry its positive and its
        negative part unchanged to the last convolution. The remaining hidden
        channels keep their weights, but do not contribute to the output yet.

        Args:
          kernel: `[3, 3, channels, channels_out]`; must be zero unless
            `can_be_linear`.
          bias: `[channels_out]`.
        """
        last = self.last.direction.numpy()
        norm = np.sqrt(np.square(last).sum(axis=(0, 1, 2)))
        signed = np.zeros_like(last)
        if np.any(kernel):
            self._let_inputs_through()
            both = np.concatenate([kernel, -kernel], axis=2)
            signed[:, :, : 2 * self.channels] = both
        gain = np.sqrt(np.square(signed).sum(axis=(0, 1, 2)))
        used = gain > 0.0
        last[..., used] = signed[..., used] * (norm[used] / gain[used])
        self.last.direction.assign(last)
        self.last.gain.assign(gain)
        self.last.bias.assign(bias)

    def _let_inputs_through(self):
        """Sets the first hidden channels to `relu(x)` and `relu(-x)`."""
        eye, num_signs = np.eye(self.channels), 2 * self.channels
        first = self.first.direction.numpy()
        first[..., :num_signs] = 0.0
        first[1, 1, :, :num_signs] = np.concatenate([eye, -eye], axis=1)
        self.first.direction.assign(first)
        for variable, value in (
            (self.first.gain, 1.0),
            (self.first.bias, 0.0),
            # The residual blocks must add nothing to these channels.
            (self.blocks.expand.gain, 0.0),
            (self.blocks.expand.bias, 0.0),
        ):
            values = variable.numpy()
            values[..., :num_signs] = value
            variable.assign(values)


def residual_block(hidden: tf.Tensor, block, padding: str) -> tf.Tensor:
    """Adds `conv1x1(relu(conv3x3(relu(conv1x1(hidden)))))` to `hidden`.

    Args:
      hidden: Features `[N, H, W, filters]`.
      block: Kernel and bias of each of the three convolutions.
      padding: As for `padded`.

    Returns:
      Features of the same shape.
    """
    features = _inner_features(hidden, block, padding)
    return hidden + conv2d(features, block[-1])


def _inner_features(hidden, block, padding):
    """Returns the features inside a block, after its 3x3 convolution."""
    reduce, transform, _ = block
    reduced = tf.nn.relu(conv2d(hidden, reduce))
    return tf.nn.relu(conv2d(reduced, transform, padding))


def coupling_network(
    inputs: tf.Tensor,
    weights: tuple[Convolution, ResidualBlocks, Convolution],
    padding: str = "same",
    apply_block: Callable[..., tf.Tensor] = residual_block,
) -> tf.Tensor:
    """Applies a coupling network with the given weights.

    Args:
      inputs: Images `[N, H, W, channels]`.
      weights: Weights from `CouplingNetwork.tensors`.
      padding: As for `padded`.
      apply_block: Function of the arguments of `residual_block`.

    Returns:
      `[N, H, W, channels_out]`.
    """
    first, blocks, last = weights
    hidden = tf.nn.relu(weight_norm_conv2d(inputs, first, padding))
    stacks = [
        zip(
            tf.unstack(weight_norm(stack.direction, stack.gain)),
            tf.unstack(stack.bias),
            strict=True,
        )
        for stack in blocks
    ]
    for block in zip(*stacks, strict=True):
        hidden = apply_block(hidden, block, padding)
    kernel = weight_norm(last.direction, last.gain)
    outputs = _convolve(tf.nn.relu(hidden), kernel, padding)
    # bfloat16 would round a large bias by more than a coupling can bear.
    return tf.nn.bias_add(tf.cast(outputs, last.bias.dtype), last.bias)


_inlined = tf.function(coupling_network, autograph=False)
_not_inlined = functools.partial(
    tf.function, autograph=False, experimental_attributes={"_noinline": True}
)
_shared = _not_inlined(coupling_network)


@functools.cache
def _of_any_batch(*unused_key):
    """Returns a `tf.function` per kind of network and image size.

    Each function has one trace for its first batch size and one for all others.
    If networks of several sizes shared a function, `reduce_retracing` would
    relax the shapes of the weights and images as well.
    """
    # Of functions that share their code, TensorFlow counts the traces together,
    # and warns of more than a few.
    own = functools.partial(coupling_network)
    return tf.function(own, autograph=False, reduce_retracing=True)


@_not_inlined
def _rematerialized(inputs, weights, padding):
    """Like `coupling_network`, but keeps less in memory for the gradient.

    Only the outputs of the 3x3 convolutions of the residual blocks are kept:
    two thirds of the work and a fifth of the bytes. All other activations are
    computed again, block by block. Training the default model took 1.42 GiB
    rather than 2.33 GiB in bfloat16, at 92 % of the speed, and 1.82 GiB rather
    than 3.67 GiB in float32 (`python -m benchmarks.training`, two cores of an
    Intel Xeon with AMX). `tf.recompute_grad` would also compute the 3x3
    convolutions again, and keep twice as much.
    """

    @tf.custom_gradient
    def run(inputs, *flat_weights):
        own_weights, kept = tf.nest.pack_sequence_as(weights, flat_weights), []

        def keep(hidden, block, padding):
            kept.append(_inner_features(hidden, block, padding))
            return hidden + conv2d(kept[-1], block[-1])

        outputs = coupling_network(inputs, own_weights, padding, keep)

        def gradient(upstream):
            again = iter(kept)

            def use_kept(hidden, block, padding):
                return _block_of_features(hidden, block, next(again), padding)

            with tf.GradientTape() as tape:
                tape.watch([inputs, *flat_weights])
                outputs = coupling_network(
                    inputs, own_weights, padding, use_kept
                )
            return tape.gradient(outputs, [inputs, *flat_weights], upstream)

        return outputs, gradient

    return run(inputs, *tf.nest.flatten(weights))


def _block_of_features(hidden, block, features, padding):
    """Applies a residual block, given its inner features, and keeps no others.

    Gradients flow through the features as if they were computed here.
    """

    @tf.custom_gradient
    def run(hidden, *flat_block):
        reduce, transform, expand = tf.nest.pack_sequence_as(block, flat_block)

        def gradient(upstream):
            # Wait for `upstream`: otherwise the recomputed activations of all
            # blocks could be in memory at once.
            with tf.control_dependencies([upstream]):
                inputs, second = map(tf.identity, (hidden, features))
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([inputs, second, *flat_block])
                first = tf.nn.relu(conv2d(inputs, reduce))
                # These two have gradients alone: TensorFlow does not run them.
                transformed = conv2d(first, transform, padding)
                expanded = conv2d(second, expand)
            to_second, *to_expand = tape.gradient(
                expanded, [second, *expand], upstream
            )
            to_inputs, *to_others = tape.gradient(
                transformed,
                [inputs, *reduce, *transform],
                tf.raw_ops.ReluGrad(gradients=to_second, features=second),
            )
            return upstream + to_inputs, *to_others, *to_expand

        return hidden + conv2d(features, expand), gradient

    return run(hidden, *tf.nest.flatten(block))


def weight_norm(direction: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
    """Returns the convolution kernels `gain * direction / ||direction||`.

    Args:
      direction: `[..., height, width, channels_in, channels_out]`.
      gain: `[..., channels_out]`, the norm of each kernel.

    Returns:
      Kernels of the shape of `direction`.
    """
    gain = gain[..., tf.newaxis, tf.newaxis, tf.newaxis, :]
    return gain * tf.math.l2_normalize(direction, axis=(-4, -3, -2))


def on_grid(images: tf.Tensor, height: int) -> tf.Tensor:
    """Brings images to the grid of a coupling.

    Args:
      images: `[N, h, w, K]`.
      height: Height of the grid. If it is lower, blocks of pixels become one
        each, of more channels, once averages leave 32 of them or blocks of 2x2;
        if it is higher, pixels are repeated.

    Returns:
      `[N, height, height / h * w, ...]`.
    """
    own_height = images.shape[1]
    if height < own_height:
        factor = own_height // height
        # Else most weights of a model of many scales would be for its context.
        while factor > 2 and images.shape[-1] * factor**2 > _MOST_CHANNELS:
            images = tf.nn.avg_pool2d(images, 2, 2, "VALID")
            factor //= 2
        return tf.nn.space_to_depth(images, factor)
    for axis in (1, 2):
        images = tf.repeat(images, height // own_height, axis=axis)
    return images


def padded(
    inputs: tf.Tensor, kernel_size: int, padding: str
) -> tuple[tf.Tensor, str]:
    """Pads the inputs of a convolution that keeps the height and width.

    Args:
      inputs: `[N, H, W, channels]`.
      kernel_size: 1 or 3.
      padding: "same", zeros around the inputs, or "periodic": the inputs wrap
        around, as on a torus.

    Returns:
      The inputs, and the padding that TensorFlow's operations are to add.
    """
    if padding == "same" or kernel_size == 1:
        return inputs, "SAME"
    rows = tf.concat([inputs[:, -1:], inputs, inputs[:, :1]], axis=1)
    return tf.concat([rows[:, :, -1:], rows, rows[:, :, :1]], axis=2), "VALID"


def conv2d(
    inputs: tf.Tensor,
    kernel_and_bias: tuple[tf.Tensor, tf.Tensor],
    padding: str = "same",
) -> tf.Tensor:
    """Convolves with stride 1, in the dtype of `inputs`.

    Args:
      inputs: `[N, H, W, channels_in]`.
      kernel_and_bias: `[height, width, channels_in, channels_out]`, and
        `[channels_out]`; or a bias per image, `[N, channels_out]`, or per
        pixel, `[N, H, W, channels_out]`.
      padding: As for `padded`.

    Returns:
      `[N, H, W, channels_out]`.
    """
    kernel, bias = kernel_and_bias
    outputs = _convolve(inputs, kernel, padding)
    bias = tf.cast(bias, inputs.dtype)
    if bias.shape.rank == 1:
        return tf.nn.bias_add(outputs, bias)
    if bias.shape.rank == 2:
        bias = bias[:, tf.newaxis, tf.newaxis]
    return outputs + bias


def _convolve(inputs, kernel, padding):
    kernel = tf.cast(kernel, inputs.dtype)
    inputs, to_add = padded(inputs, kernel.shape[0], padding)
    return tf.nn.conv2d(inputs, kernel, strides=1, padding=to_add)


def weight_norm_conv2d(
    inputs: tf.Tensor, convolution: Convolution, padding: str
) -> tf.Tensor:
    """Applies a weight-normalized convolution; see `conv2d`."""
    kernel = weight_norm(convolution.direction, convolution.gain)
    return conv2d(inputs, (kernel, convolution.bias), padding)
