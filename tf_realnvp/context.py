"""The context of a density: vectors and images that it is conditioned on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_realnvp.utils import assertions
from tf_realnvp.utils.named import by_name, unnamed

WIDTH = 128  # Of the network that vectors go through.

Shapes = Mapping[str, Sequence[int]] | Sequence[int] | None


class Context:
    """Checks, standardizes and encodes the context of a model.

    A vector `[n, K]` goes through a small dense network, once for all
    couplings. An image `[n, H, W, K]` goes to the couplings as it is. Both are
    standardized first.

    The names of a context begin with "context" here, since TFP takes some names
    of keyword arguments for its own.

    Attributes:
      shapes: Shapes by name, `(K,)` or `(H, W, K)`.
      argument: The same as the argument of the constructor has them.
      moments: Mean and standard deviation of the last axis by name, variables
        `[2, K]`.
      networks: The dense networks of vectors by name.
    """

    def __init__(self, shapes: Shapes, image_shape: Sequence[int]):
        """Creates the context.

        Args:
          shapes: Tuples by name, or that of a single one; `None` for none.
          image_shape: `(H, W, C)`.
        """
        self.argument = shapes
        self.shapes: dict[str, tuple[int, ...]] = by_name(shapes)
        sizes = [image_shape[:2]]
        while all(size % 2 == 0 for size in sizes[-1]):
            sizes.append(tuple(size // 2 for size in sizes[-1]))
        for shape in self.shapes.values():
            is_image = len(shape) == 3 and shape[:2] in sizes
            if not (is_image or len(shape) == 1) or min(shape) < 1:
                raise ValueError(
                    "`context_shape` must be (K,) or (H, W, K), or such shapes "
                    "by name, with the height and width of the images, "
                    f"{image_shape[:2]}, or these halved, got {shape}."
                )
        self.moments = {
            name: keras.Variable(
                np.repeat([[0.0], [1.0]], shape[-1], axis=1),
                trainable=False,
                dtype="float32",
                name=f"{name}_moments",
            )
            for name, shape in self.shapes.items()
        }
        self.networks = {
            name: _dense(name, math.prod(_coarse_shape(shape)))
            for name, shape in self.shapes.items()
        }

    @property
    def variables(self) -> list[keras.Variable]:
        """The moments, and the weights of the networks."""
        networks = self.networks.values()
        return [
            *self.moments.values(),
            *(v for n in networks for v in n.weights),
        ]

    def encoded_shapes(self, height: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes that coupling networks get on a grid, by name.

        Args:
          height: Height of the grid.
        """
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            self.shapes, (WIDTH,)
        )
        for name, shape in self.shapes.items():
            if len(shape) == 3:
                factor = max(1, shape[0] // height)
                grid = height, height, shape[-1] * factor**2
                shapes[f"{name}_grid"] = grid
        return shapes

    def check(self, context: Any, n: tf.Tensor) -> dict[str, tf.Tensor]:
        """Checks a caller's context and broadcasts it to `n` images.

        Args:
          context: Real numbers by name, or those of the only one; each of the
            shape `shapes[name]`, or one for each image, `[n, *shapes[name]]`.
          n: Number of images, an int32 scalar.

        Returns:
          Finite float32 `[n, *shapes[name]]` by name.

        Raises:
          ValueError: If names or shapes do not match; the message has both.
        """
        context = by_name(context)
        if context.keys() != self.shapes.keys():
            found = {name: np.shape(value) for name, value in context.items()}
            raise ValueError(
                f"`context` must have the shape {self.argument} for each image "
                f"(None: there is none), got {unnamed(found)}."
            )
        return {
            name: assertions.broadcast(context[name], name, shape, n)
            for name, shape in self.shapes.items()
        }

    @property
    def specs(self) -> Any:
        """The type of a context of `n` images, as the argument has it."""
        return unnamed(
            {
                name: tf.TensorSpec([None, *shape], tf.float32, name)
                for name, shape in self.shapes.items()
            }
        )

    def standardize(self, context: Any) -> None:
        """See `RealNVP.standardize_context`."""
        from sklearn.preprocessing import StandardScaler  # It takes a second.

        for name, values in by_name(context).items():
            values = np.asarray(values, np.float64)
            scaler = StandardScaler().fit(values.reshape(-1, values.shape[-1]))
            self.moments[name].assign([scaler.mean_, scaler.scale_])

    def encode(
        self, condition: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns a condition as coupling networks get it.

        Args:
          condition: The context by name, beside other conditions, which are
            returned as they are.
        """
        encoded = dict(condition)
        for name, shape in self.shapes.items():
            mean, std = tf.unstack(tf.convert_to_tensor(self.moments[name]))
            values = (condition[name] - mean) / std
            if len(shape) == 3:
                encoded[f"{name}_grid"] = values
                factor = shape[0] // _coarse_shape(shape)[0]
                values = tf.nn.avg_pool2d(values, factor, factor, "VALID")
            size = math.prod(_coarse_shape(shape))
            values = tf.reshape(values, [-1, size])
            encoded[name] = self.networks[name](values)
        return encoded


def _coarse_shape(shape):
    """Returns the shape of what the network of a context sees of it."""
    if len(shape) == 1:
        return shape
    height, width, channels = shape
    while height > 8 and height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
    return height, width, channels


def _dense(name, size):
    """Returns the network of a vector of some size."""
    network = keras.Sequential(
        [
            keras.layers.Dense(WIDTH, "silu", dtype="float32"),
            keras.layers.Dense(WIDTH, "silu", dtype="float32"),
        ],
        name=f"{name}_network",
    )
    network.build([None, size])
    return network
