"""What a density is conditioned on: labels, and contexts."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_realnvp.flow.networks import on_grid
from tf_realnvp.flow.observations import split_visible, visible_pixels
from tf_realnvp.flow.unet import UNet
from tf_realnvp.utils import tensors
from tf_realnvp.utils.named import by_name, each, unnamed
from tf_realnvp.utils.ranges import WholeNumber, check

WIDTH = 128  # Of the network of each context.
# Of what `encode` returns beside images by their names.
_OWN_NAMES = {"code", "estimate", "label", "visible"}

Shapes = Mapping[str, Sequence[int]] | Sequence[int] | None


class Condition:
    """What the density of an image is conditioned on: its label and context.

    Calling it checks a label and a context, and `encode` makes of them what the
    coupling networks take.

    Each vector `[n, K]` or image `[n, H, W, K]` of a context is standardized
    and goes through a small dense network, once for all couplings. Images are
    also passed to the couplings, together with a U-Net's estimate of the
    modeled image. The U-Net is trained with squared error, so the estimate
    approximates the conditional mean given the images.

    Attributes:
      num_classes: Number of classes, or `None`.
      context_shape: `(K,)`, `(H, W, K)`, such shapes by name, or `None`.
      moments: Mean and standard deviation of the last axis by name, variables
        `[2, K]`.
      networks: The dense networks by name.
      estimator: The U-Net; `None` without images.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int | None = None,
        context_shape: Shapes = None,
        is_of_masks: bool = False,
        padding: str = "same",
    ):
        """Creates the condition and its variables.

        Args:
          image_shape: `(H, W, C)` of the images of the model.
          num_classes: As for `RealNVP`.
          context_shape: As for `RealNVP`.
          is_of_masks: Whether the context is what
            `observations.visible_pixels` returns.
          padding: As for `RealNVP`.
        """
        self._is_of_masks, self._image_shape = is_of_masks, image_shape
        self.num_classes = num_classes
        self.context_shape = each(tuple, context_shape)
        shapes = context_shape
        named = by_name(shapes)
        # TensorFlow names arguments of a SavedModel after them.
        names = [*shapes] if isinstance(shapes, Mapping) else ["only"]
        if not (
            all(isinstance(n, str) and re.match(r"(?a)\w+$", n) for n in names)
            and len({name.lower() for name in names}) == len(names) > 0
            and _OWN_NAMES.isdisjoint(names)
        ):
            raise ValueError(
                "`context_shape` must have names of letters, digits and _ that "
                f"differ by more than case, and not {sorted(_OWN_NAMES)}, got "
                f"{names}."
            )
        self._image_shapes = {k: v for k, v in named.items() if len(v) == 3}
        self.moments, self.networks = {}, {}
        layer = functools.partial(
            keras.layers.Dense, WIDTH, _silu, dtype="float32"
        )
        for name, shape in named.items():
            for size in shape:
                check(size, "context_shape", WholeNumber(1))
            is_image = len(shape) == 3 and image_shape[:2] in [
                (shape[0] << power, shape[1] << power) for power in range(31)
            ]
            if not (is_image or len(shape) == 1):
                raise ValueError(
                    "`context_shape` must be (K,) or (H, W, K), or such shapes "
                    "by name, with the height and width of the images, "
                    f"{image_shape[:2]}, or these halved, got {shape}."
                )
            self.moments[name] = keras.Variable(
                np.repeat([[0.0], [1.0]], shape[-1], axis=1),
                trainable=False,
                dtype="float32",
                autocast=False,
                name=f"{name}_moments",
            )
            self.networks[name] = keras.Sequential([layer(), layer()])
            self.networks[name].autocast = False
            self.networks[name].build(_flat(tf.zeros([1, *shape])).shape)
        channels = sum(shape[-1] for shape in self._image_shapes.values())
        self.estimator: Any = None
        if channels:
            self.estimator = UNet(channels, image_shape, padding)

    @property
    def specs(self) -> dict[str, Any]:
        """The types of a checked `label` and `context`, if there are any."""
        specs: dict[str, Any] = {}
        if self.num_classes is not None:
            specs["label"] = tf.TensorSpec([None], tf.int32, "label")
        named = {
            name: tf.TensorSpec([None, *shape], tf.float32, name)
            for name, shape in by_name(self.context_shape).items()
        }
        return specs | ({"context": unnamed(named)} if named else {})

    def __call__(
        self, batch: tf.Tensor, label: Any = None, context: Any = None
    ) -> dict[str, Any]:
        """Checks what a batch is conditioned on.

        Args:
          batch: `[n, ...]`.
          label: As for `RealNVP.log_prob`.
          context: As for `RealNVP.log_prob`.

        Returns:
          The keyword arguments of `RealNVP.log_density` that are not `None`:
          `label`, int32 `[n]`, and `context`, float32 `[n, *context_shape]`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As
            `RealNVP.log_prob`.
        """
        n = tf.shape(batch)[0]
        condition = {}
        if label is not None:
            condition["label"] = tensors.labels(label, self.num_classes, n)
        if context is None and self._is_of_masks:
            context = self.nothing_visible(n)
        if by_name(context).keys() != by_name(self.context_shape).keys():
            raise ValueError(
                f"`context` must have the shape {self.context_shape} for each "
                f"image (None: there is none), got {each(np.shape, context)}."
            )
        if context is not None:
            checked = functools.partial(_checked, n=n)
            condition["context"] = each(checked, context, self.context_shape)
        if self._is_of_masks:  # Whatever it has where nothing is seen.
            values = condition["context"]
            seen = visible_pixels(values[..., :-1], values[..., -1:])
            condition["context"] = seen
        return condition

    def nothing_visible(self, n: tf.Tensor) -> tf.Tensor:
        """Returns the context of `n` images of which no pixel is visible."""
        return tf.zeros([n, *self.context_shape])

    @property
    def named_variables(self) -> dict[str, keras.Variable]:
        """The moments, and the weights of the networks, by name."""
        named = {f"{k}/moments": v for k, v in self.moments.items()}
        networks = dict(self.networks)
        if self.estimator is not None:
            networks["estimator"] = self.estimator
        for name, network in networks.items():
            for index, variable in enumerate(network.weights):
                named[f"{name}/{index}"] = variable
        return named

    @property
    def is_standardized(self) -> bool:
        """Whether `standardize` has changed the moments."""
        moments = [v.numpy() for v in self.moments.values()]
        return any(
            np.any(mean != 0.0) | np.any(s != 1.0) for mean, s in moments
        )

    def standardize(self, context: Any) -> None:
        """Sets the standardization by the context of training images.

        What is constant is not scaled.

        Args:
          context: As for `RealNVP.log_prob`, one for each image.
        """
        from sklearn.preprocessing import StandardScaler  # It takes a second.

        for name, values in by_name(context).items():
            rows = np.reshape(np.float64(values), [-1, values.shape[-1]])
            scaler = StandardScaler().fit(rows)
            self.moments[name].assign([scaler.mean_, scaler.scale_])

    def sizes(self, height: int) -> dict[str, Any]:
        """Returns what a coupling network needs to know of encoded contexts.

        Args:
          height: Height of the grid of the coupling.
        """
        images = {k: tf.zeros([1, *v]) for k, v in self._image_shapes.items()}
        if images:
            images["estimate"] = tf.zeros([1, *self._image_shape])
        channels = {k: on_grid(v, height).shape[-1] for k, v in images.items()}
        code_size = WIDTH * len(self.networks) or None
        return {"code_size": code_size, "image_channels": channels}

    def encode(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a condition as coupling networks get it.

        Args:
          condition: What calling this object returned.

        Returns:
          The condition, with a context as `code`, `[n, WIDTH]` of each
          concatenated, and its images `[n, H, W, K]` by name, with their
          `estimate`; and `visible`, `[n, H, W, C]`, 1 where a pixel is.
        """
        encoded, codes = dict(condition), []
        context = encoded.pop("context", None)
        if self._is_of_masks and context is not None:
            _, encoded["visible"] = split_visible(context)
        standardized = self._standardized(context)
        for name, values in standardized.items():
            if values.shape.rank == 4:
                encoded[name] = values
            codes.append(self.networks[name](_flat(values)))
        if codes:
            encoded["code"] = tf.concat(codes, axis=1)
        if self.estimator is not None and standardized:
            encoded["estimate"] = tf.stop_gradient(self._estimate(standardized))
        return encoded

    def estimate(self, context: Any) -> tf.Tensor:
        """Returns the estimate of images given their context, `[n, H, W, C]`.

        Args:
          context: As for `RealNVP.log_density`.
        """
        return self._estimate(self._standardized(context))

    def _estimate(self, values):
        height = self._image_shape[0]
        images = [on_grid(values[name], height) for name in self._image_shapes]
        return self.estimator(tf.concat(images, axis=-1))

    def _standardized(self, context):
        values = by_name(context)
        if values.keys() != self.moments.keys():
            raise ValueError(
                f"`context` must be given: {[*self.moments]}, got {[*values]}."
            )
        standardized = {}  # In the order of the shapes, which codes have.
        for name, moments in self.moments.items():
            mean, std = tf.unstack(tf.convert_to_tensor(moments))
            standardized[name] = (values[name] - mean) / std
        return standardized


def _checked(values, shape, n):
    """Returns a context as finite float32 `[n, *shape]`."""
    kind = f"finite numbers of shape {shape}, for all images or for each of n"
    values = tensors.tensor(values, "context", kind, shape, (n, *shape))
    values = tensors.finite_float32(values, "context", kind)
    return tf.broadcast_to(values, [n, *shape])


def _silu(features):
    """SiLU, without TensorFlow's custom gradient, which keeps graphs alive."""
    return features * tf.sigmoid(features)


def _flat(values):
    """Returns what a network sees of a context, `[n, size]`."""
    if values.shape.rank == 4:
        height, width = values.shape[1:3]
        while height > 8 and height % 2 == width % 2 == 0:
            height, width = height // 2, width // 2
        factor = values.shape[1] // height
        values = tf.nn.avg_pool2d(values, factor, factor, "VALID")
    return tf.reshape(values, [-1, values.shape[1:].num_elements()])
