"""The context of a density: vectors and images that it is conditioned on."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_realnvp.utils import assertions

WIDTH = 64  # Of the network that vectors go through.

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

    def __init__(self, shapes: Shapes):
        """Creates the context.

        Args:
          shapes: Shapes by name, or the shape of a single one; `None` for none.
        """
        self.shapes = {
            name: tuple(map(int, shape))
            for name, shape in _by_name(shapes).items()
        }
        self.argument = _as_given(self.shapes)
        for name, shape in self.shapes.items():
            if len(shape) not in (1, 3) or min(shape) < 1:
                raise ValueError(
                    "`context_shape` must be (K,) or (H, W, K), or such shapes "
                    f"by name, got {shape} for {name!r}."
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
            name: _dense(name, *shape)
            for name, shape in self.shapes.items()
            if len(shape) == 1
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
        return {
            name: (WIDTH,)
            if len(shape) == 1
            else (height, height, shape[-1] * max(1, shape[0] // height) ** 2)
            for name, shape in self.shapes.items()
        }

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
        context = _by_name(context)
        if context.keys() != self.shapes.keys():
            found = {name: np.shape(value) for name, value in context.items()}
            raise ValueError(
                f"`context` must have the shape {self.argument} for each image "
                f"(None: there is none), got {_as_given(found)}."
            )
        return {
            name: assertions.broadcast(context[name], name, shape, n)
            for name, shape in self.shapes.items()
        }

    @property
    def specs(self) -> Any:
        """The type of a context of `n` images, as the argument has it."""
        return _as_given(
            {
                name: tf.TensorSpec([None, *shape], tf.float32, name)
                for name, shape in self.shapes.items()
            }
        )

    def standardize(self, context: Mapping[str, np.ndarray]) -> None:
        """Sets the standardization by the context of training images.

        Args:
          context: Arrays `[n, *shapes[name]]` by name. What is constant is not
            scaled.
        """
        for name, values in context.items():
            values = np.reshape(values, [-1, np.shape(values)[-1]])
            std = values.std(axis=0, dtype=np.float64)
            moments = [values.mean(axis=0, dtype=np.float64), std + (std == 0)]
            self.moments[name].assign(moments)

    def encode(
        self, condition: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns a condition as coupling networks get it.

        Args:
          condition: The context by name, beside other conditions, which are
            returned as they are.
        """
        encoded = dict(condition)
        for name, moments in self.moments.items():
            mean, std = tf.unstack(tf.convert_to_tensor(moments))
            encoded[name] = (condition[name] - mean) / std
            if name in self.networks:
                encoded[name] = self.networks[name](encoded[name])
        return encoded


def _by_name(values):
    """Returns values by name; a single one has the name "context"."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        return {"context": values}
    return {f"context_{name}": value for name, value in values.items()}


def _as_given(values):
    """Undoes `_by_name`."""
    if values.keys() <= {"context"}:
        return values.get("context")
    return {k.removeprefix("context_"): v for k, v in values.items()}


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
