"""The coupling network of RealNVP: a weight-normalised residual network.

Weight normalisation (https://arxiv.org/abs/1602.07868, equation 2) writes every
convolution kernel as `gain * direction / ||direction||`, with the norm over all
axes but that of the output channels.
"""

import keras
import tensorflow as tf


def coupling_network(
    channels: int,
    filters: int = 128,
    num_blocks: int = 8,
    name: str | None = None,
) -> keras.Sequential:
    """Makes the network that gives a coupling its log-scale and shift.

    Section 3.4 of https://arxiv.org/abs/1605.08803 asks for a deep
    convolutional residual network with weight normalisation. The last
    convolution's gain starts at zero, so that a new network returns zeros and
    its coupling is the identity.

    Args:
      channels: Number of input channels.
      filters: Number of channels inside; must be even.
      num_blocks: Number of residual blocks.
      name: Name of the model.

    Returns:
      Model that maps images `[N, H, W, channels]` of any size to
      `[N, H, W, 2 * channels]`.
    """
    return keras.Sequential(
        [
            keras.Input((None, None, channels)),
            WeightNormConv2D(filters, 3, name="first"),
            keras.layers.ReLU(name="first_relu"),
            ResidualBlocks(filters, num_blocks, name="blocks"),
            keras.layers.ReLU(name="last_relu"),
            WeightNormConv2D(
                2 * channels, 3, gain_initializer="zeros", name="last"
            ),
        ],
        name=name,
    )


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
        """
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.gain_initializer = keras.initializers.get(gain_initializer)

    def build(self, input_shape):
        size = self.kernel_size
        shape = (size, size, input_shape[-1], self.filters)
        _add_convolution_weights(self, shape, self.gain_initializer)

    def call(self, inputs):
        kernel = weight_norm(self.direction, self.gain)
        return _conv2d(inputs, kernel, self.bias)

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

    Each block adds `conv1x1(relu(conv3x3(relu(conv1x1(relu(h))))))` to its
    input `h`, with half as many channels inside. The blocks differ in their
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
        """
        super().__init__(**kwargs)
        self.filters = filters
        self.num_blocks = num_blocks

    def build(self, input_shape):
        blocks, outer, inner = self.num_blocks, self.filters, self.filters // 2
        self.convolutions = [
            _add_convolution_weights(self, shape, "ones", prefix)
            for prefix, shape in (
                ("reduce_", (blocks, 1, 1, outer, inner)),
                ("transform_", (blocks, 3, 3, inner, inner)),
                ("expand_", (blocks, 1, 1, inner, outer)),
            )
        ]

    def call(self, inputs):
        weights = tf.nest.map_structure(
            tf.convert_to_tensor, list(self.convolutions)
        )
        return _residual_blocks(inputs, weights)

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
      layer: The layer. Each weight becomes an attribute of it, since a
        checkpoint passes over variables in a list of tuples.
      shape: `[..., height, width, channels_in, channels_out]`.
      gain_initializer: Initial value of the gains.
      prefix: What the names of the attributes begin with.

    Returns:
      The directions, gains and biases.
    """
    per_output = (*shape[:-4], shape[-1])
    weights = {}
    for name, weight_shape, initializer in (
        ("direction", shape, keras.initializers.RandomNormal(stddev=0.05)),
        ("gain", per_output, gain_initializer),
        ("bias", per_output, "zeros"),
    ):
        weights[name] = layer.add_weight(
            shape=weight_shape,
            initializer=initializer,
            name=prefix + name,
            autocast=False,
        )
        setattr(layer, prefix + name, weights[name])
    return tuple(weights.values())


@tf.function(autograph=False)
def _residual_blocks(inputs, convolutions):
    """Applies residual blocks.

    A function of its weights: all networks of one width share one trace of it
    and of its gradient.

    Args:
      inputs: Features `[N, H, W, filters]`.
      convolutions: Stacked directions, gains and biases of each convolution of
        a block.
    """
    stacks = [
        zip(
            tf.unstack(weight_norm(direction, gain)),
            tf.unstack(bias),
            strict=True,
        )
        for direction, gain, bias in convolutions
    ]
    outputs = inputs
    for block in zip(*stacks, strict=True):
        hidden = outputs
        for kernel, bias in block:
            hidden = _conv2d(tf.nn.relu(hidden), kernel, bias)
        outputs += hidden
    return outputs


def _conv2d(inputs, kernel, bias):
    """Convolves in the dtype of `inputs`."""
    kernel, bias = tf.cast(kernel, inputs.dtype), tf.cast(bias, inputs.dtype)
    outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")
    return tf.nn.bias_add(outputs, bias)
