"""The coupling network of RealNVP: a weight-normalised residual network.

Weight normalisation (https://arxiv.org/abs/1602.07868, equation 2) writes every
convolution kernel as `gain * direction / ||direction||`, with the norm over all
axes but that of the output channels.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_realnvp import checks


class CouplingNetwork(keras.Model):
    """The network that gives a coupling its log-scale and shift.

    Section 3.4 of https://arxiv.org/abs/1605.08803 asks for a deep
    convolutional residual network with weight normalisation. The last
    convolution's gain starts at zero, so that a new network returns zeros and
    its coupling is the identity.

    The network maps images `[N, H, W, channels]` of any size to
    `[N, H, W, 2 * channels]`. It computes in the dtype of its input, whatever
    that is: the same weights, which are float32, serve bfloat16 training and
    float32 evaluation.
    """

    def __init__(
        self, channels: int, filters: int = 128, num_blocks: int = 8, **kwargs
    ):
        """Makes the network, and its weights.

        Args:
          channels: Number of input channels.
          filters: Number of channels inside; must be even.
          num_blocks: Number of residual blocks.
          **kwargs: Passed to `keras.Model`.

        Raises:
          ValueError: If a number is not at least 1, or `filters` odd.
        """
        channels = checks.whole_number(channels, "channels", 1)
        filters = checks.whole_number(filters, "filters", 2, even=True)
        num_blocks = checks.whole_number(num_blocks, "num_blocks", 1)
        super().__init__(autocast=False, **kwargs)
        self.channels = channels
        self.filters = filters
        self.num_blocks = num_blocks
        as_is = {"autocast": False}
        self.first = WeightNormConv2D(filters, 3, name="first", **as_is)
        self.blocks = ResidualBlocks(
            filters, num_blocks, name="blocks", **as_is
        )
        self.last = WeightNormConv2D(
            2 * channels, 3, gain_initializer="zeros", name="last", **as_is
        )
        self.first.build((None, None, None, channels))
        self.blocks.build((None, None, None, filters))
        self.last.build((None, None, None, filters))
        self.built = True

    def call(self, inputs):
        return _coupling_network(inputs, self._convolutions())

    def shared(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the network's outputs, by a function of networks like it.

        All networks of one shape share one trace and, since that is not
        inlined, what TensorFlow makes of it: training starts seconds earlier
        and takes less memory. What is inlined runs a little faster once it is
        saved, for then TensorFlow fuses more.

        Args:
          inputs: Images `[N, H, W, channels]`.

        Returns:
          `[N, H, W, 2 * channels]`.
        """
        return _shared_coupling_network(inputs, self._convolutions())

    def recomputed(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the same as `shared`, and keeps little for the gradient.

        Of what lies between, only what the 3x3 convolutions inside the blocks
        give stays in memory, which is two thirds of the work and a fifth of the
        bytes; the rest is computed again when the gradient is, block by block.

        Args:
          inputs: Images `[N, H, W, channels]`.

        Returns:
          `[N, H, W, 2 * channels]`.
        """
        return _recomputed_coupling_network(inputs, self._convolutions())

    def _convolutions(self):
        first, blocks, last = self.first, self.blocks, self.last
        return tf.nest.map_structure(
            tf.convert_to_tensor,
            (first.convolution, blocks.convolutions, last.convolution),
        )

    @property
    def can_be_linear(self) -> bool:
        """Whether there are enough filters for `assign_linear`."""
        return self.filters >= 2 * self.channels

    def assign_linear(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Makes the network a convolution, from where it can be trained.

        Two channels for each input, one for either sign of it, pass through the
        network as they are to the last convolution. The other channels stay,
        and count for nothing yet.

        Args:
          kernel: `[3, 3, channels, 2 * channels]`.
          bias: `[2 * channels]`.

        Raises:
          ValueError: If `kernel` is not zero and `filters` is less than
            `2 * channels`.
        """
        last = self.last.direction.numpy()
        norm = np.sqrt(np.square(last).sum(axis=(0, 1, 2)))
        signed = np.zeros_like(last)
        if np.any(kernel):
            if not self.can_be_linear:
                raise ValueError(
                    f"A network of {self.channels} channels needs "
                    f"{2 * self.channels} filters to be a convolution, got "
                    f"{self.filters}."
                )
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
        """Makes the first channels inside `relu(x)` and `relu(-x)`."""
        signs = np.concatenate(
            [np.eye(self.channels), -np.eye(self.channels)], axis=1
        )
        num_signs = 2 * self.channels
        first = self.first.direction.numpy()
        first[..., :num_signs] = 0.0
        first[1, 1, :, :num_signs] = signs
        self.first.direction.assign(first)
        # So that the residual blocks add nothing to them.
        expand_gain = self.blocks.expand_gain.numpy()
        expand_gain[:, :num_signs] = 0.0
        self.blocks.expand_gain.assign(expand_gain)

    def get_config(self):
        return super().get_config() | {
            "channels": self.channels,
            "filters": self.filters,
            "num_blocks": self.num_blocks,
        }


def weight_norm(direction: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
    """Returns `gain * direction / ||direction||`, convolution kernels.

    Args:
      direction: `[..., height, width, channels_in, channels_out]`.
      gain: `[..., channels_out]`, the norm that each kernel gets.

    Returns:
      Kernels of the shape of `direction`.
    """
    gain = gain[..., tf.newaxis, tf.newaxis, tf.newaxis, :]
    return gain * tf.math.l2_normalize(direction, axis=(-4, -3, -2))


class WeightNormConv2D(keras.layers.Layer):
    """Convolution with a weight-normalised kernel, stride 1, SAME, a bias."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        gain_initializer: str | keras.Initializer = "ones",
        **kwargs,
    ):
        """Makes the layer.

        Args:
          filters: Number of output channels.
          kernel_size: Height and width of the kernel in pixels.
          gain_initializer: Initial value of the norm of each kernel.
          **kwargs: Passed to `keras.layers.Layer`.

        Raises:
          ValueError: If a number is not at least 1.
        """
        super().__init__(**kwargs)
        self.filters = checks.whole_number(filters, "filters", 1)
        self.kernel_size = checks.whole_number(kernel_size, "kernel_size", 1)
        self.gain_initializer = keras.initializers.get(gain_initializer)

    def build(self, input_shape):
        size = self.kernel_size
        shape = (size, size, input_shape[-1], self.filters)
        _add_convolution_weights(self, shape, self.gain_initializer)

    def call(self, inputs):
        return _weight_norm_conv2d(inputs, self.convolution)

    @property
    def convolution(self) -> tuple[keras.Variable, ...]:
        """Direction, gain and bias."""
        return self.direction, self.gain, self.bias

    def compute_output_spec(self, inputs):
        shape = (*inputs.shape[:-1], self.filters)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "gain_initializer": keras.initializers.serialize(
                self.gain_initializer
            ),
        }


class ResidualBlocks(keras.layers.Layer):
    """A stack of residual blocks whose weights are stacked, too.

    Each block adds `conv1x1(relu(conv3x3(relu(conv1x1(h)))))` to its input `h`,
    with half as many channels inside. The blocks differ in their
    values only, so one variable holds a weight of all of them,
    `[num_blocks, ...]`: nine variables in place of nine for each block, and one
    weight normalisation for all, which makes building and tracing a model
    several times faster.
    """

    def __init__(self, filters: int, num_blocks: int, **kwargs):
        """Makes the layer.

        Args:
          filters: Number of input and output channels; must be even.
          num_blocks: Number of residual blocks.
          **kwargs: Passed to `keras.layers.Layer`.

        Raises:
          ValueError: If a number is not at least 1, or `filters` odd.
        """
        super().__init__(**kwargs)
        self.filters = checks.whole_number(filters, "filters", 2, even=True)
        self.num_blocks = checks.whole_number(num_blocks, "num_blocks", 1)

    def build(self, input_shape):
        blocks, outer, inner = self.num_blocks, self.filters, self.filters // 2
        for name, kernel_size, *channels in (
            ("reduce", 1, outer, inner),
            ("transform", 3, inner, inner),
            ("expand", 1, inner, outer),
        ):
            shape = (blocks, kernel_size, kernel_size, *channels)
            _add_convolution_weights(self, shape, "ones", f"{name}_")

    def call(self, inputs):
        outputs, _ = _residual_blocks(inputs, self.convolutions)
        return outputs

    @property
    def convolutions(self) -> tuple[tuple[keras.Variable, ...], ...]:
        """Directions, gains and biases of each convolution of a block.

        The first axis of all is that of the blocks.
        """
        return tuple(
            tuple(
                getattr(self, f"{name}_{weight}")
                for weight in ("direction", "gain", "bias")
            )
            for name in ("reduce", "transform", "expand")
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "num_blocks": self.num_blocks,
        }


def _add_convolution_weights(layer, shape, gain_initializer, prefix=""):
    """Adds the weights of a convolution, or of a stack of them, to a layer.

    They stay float32 under a mixed policy: a norm needs its digits.

    Args:
      layer: The layer, of which each weight becomes an attribute.
      shape: `[..., height, width, channels_in, channels_out]`.
      gain_initializer: Initial value of the gains.
      prefix: What the names of the attributes begin with.
    """
    per_output = (*shape[:-4], shape[-1])
    for name, weight_shape, initializer in (
        ("direction", shape, keras.initializers.RandomNormal(stddev=0.05)),
        ("gain", per_output, gain_initializer),
        ("bias", per_output, "zeros"),
    ):
        weight = layer.add_weight(
            shape=weight_shape,
            initializer=initializer,
            name=prefix + name,
            autocast=False,
        )
        setattr(layer, prefix + name, weight)


def _run(inputs, convolutions):
    """Applies a coupling network, given its weights."""
    outputs, _ = _outputs_and_middles(inputs, convolutions)
    return outputs


_not_inlined = {"_noinline": True}
_coupling_network = tf.function(_run, autograph=False)
_shared_coupling_network = tf.function(
    _run, autograph=False, experimental_attributes=_not_inlined
)


@tf.function(autograph=False, experimental_attributes=_not_inlined)
def _recomputed_coupling_network(inputs, convolutions):
    """Likewise, and computes most of it again for the gradient."""

    @tf.custom_gradient
    def run(inputs, *weights):
        packed = tf.nest.pack_sequence_as(convolutions, weights)
        outputs, middles = _outputs_and_middles(inputs, packed)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch([inputs, *weights])
                again, _ = _outputs_and_middles(inputs, packed, middles)
            return tape.gradient(again, [inputs, *weights], upstream)

        return outputs, gradient

    return run(inputs, *tf.nest.flatten(convolutions))


def _outputs_and_middles(inputs, convolutions, middles=None):
    """Applies a coupling network; see `_residual_blocks` for `middles`."""
    first, blocks, last = convolutions
    hidden = tf.nn.relu(_weight_norm_conv2d(inputs, first))
    hidden, middles = _residual_blocks(hidden, blocks, middles)
    return _weight_norm_conv2d(tf.nn.relu(hidden), last), middles


def _residual_blocks(inputs, convolutions, middles=None):
    """Applies residual blocks.

    Args:
      inputs: Features `[N, H, W, filters]`.
      convolutions: Stacked directions, gains and biases of each convolution of
        a block.
      middles: What the 3x3 convolutions give after their ReLU, if that is
        known: it is then not computed again, but the gradient is as if it were.

    Returns:
      Outputs `[N, H, W, filters]`, and what the 3x3 convolutions give after
      their ReLU: for each block `[N, H, W, filters / 2]`, or an empty list if
      `middles` are known.
    """
    stacks = [
        zip(
            tf.unstack(weight_norm(direction, gain)),
            tf.unstack(bias),
            strict=True,
        )
        for direction, gain, bias in convolutions
    ]
    outputs, new_middles = inputs, []
    for index, block in enumerate(zip(*stacks, strict=True)):
        if middles is None:
            reduce, transform, expand = block
            hidden = tf.nn.relu(_conv2d(outputs, *reduce))
            hidden = tf.nn.relu(_conv2d(hidden, *transform))
            new_middles.append(hidden)
            outputs += _conv2d(hidden, *expand)
        else:
            outputs = _known_residual_block(outputs, block, middles[index])
    return outputs, new_middles


def _known_residual_block(inputs, convolutions, middle):
    """Applies a residual block, and keeps only what it is given.

    Args:
      inputs: Features `[N, H, W, filters]`.
      convolutions: Kernel and bias of each of the three convolutions.
      middle: What the second one gives after its ReLU.

    Returns:
      Outputs of the shape of `inputs`.
    """

    @tf.custom_gradient
    def run(inputs, *weights):
        reduce, transform, expand = weights[:2], weights[2:4], weights[4:]

        def gradient(upstream):
            # Not before `upstream` is there, or all that was to be spared would
            # be in memory at once.
            with tf.control_dependencies([upstream]):
                block_inputs, second = map(tf.identity, (inputs, middle))
            first = tf.nn.relu(_conv2d(block_inputs, *reduce))
            to_second, *to_expand = _conv2d_gradients(second, expand, upstream)
            to_first, *to_transform = _conv2d_gradients(
                first, transform, _relu_gradient(second, to_second)
            )
            to_inputs, *to_reduce = _conv2d_gradients(
                block_inputs, reduce, _relu_gradient(first, to_first)
            )
            return upstream + to_inputs, *to_reduce, *to_transform, *to_expand

        return inputs + _conv2d(middle, *expand), gradient

    weights = [tf.cast(w, inputs.dtype) for pair in convolutions for w in pair]
    return run(inputs, *weights)


def _weight_norm_conv2d(inputs, convolution):
    direction, gain, bias = convolution
    return _conv2d(inputs, weight_norm(direction, gain), bias)


def _conv2d(inputs, kernel, bias):
    """Convolves in the dtype of `inputs`."""
    kernel, bias = tf.cast(kernel, inputs.dtype), tf.cast(bias, inputs.dtype)
    outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")
    return tf.nn.bias_add(outputs, bias)


def _conv2d_gradients(inputs, weights, upstream):
    """Returns the gradients of `_conv2d` to inputs, kernel and bias."""
    kernel, _ = weights
    convolution = {
        "out_backprop": upstream,
        "strides": [1, 1, 1, 1],
        "padding": "SAME",
    }
    return (
        tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs), filter=kernel, **convolution
        ),
        tf.raw_ops.Conv2DBackpropFilter(
            input=inputs, filter_sizes=kernel.shape, **convolution
        ),
        tf.raw_ops.BiasAddGrad(out_backprop=upstream),
    )


def _relu_gradient(outputs, upstream):
    return tf.raw_ops.ReluGrad(gradients=upstream, features=outputs)
