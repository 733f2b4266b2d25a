"""The flow of RealNVP: its networks and variables, its bijector and base."""

import copy
import functools
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_realnvp.flow import bijectors, networks, observations
from tf_realnvp.flow import dequantization as variational
from tf_realnvp.flow.architecture import ARCHITECTURE, Architecture
from tf_realnvp.flow.condition import Condition, Shapes
from tf_realnvp.flow.multi_scale import MultiScale
from tf_realnvp.flow.values import Values
from tf_realnvp.flow.visible import VisiblePixels
from tf_realnvp.utils import ranges
from tf_realnvp.utils.named import each
from tf_realnvp.utils.ranges import WholeNumber, WholeNumbers, check


class Flow(tf.Module):
    """A flow between images and latents, with what it is made of.

    `real_nvp.RealNVP` says what can be asked of it.

    Use `variables` of the model: TFP's bijectors and distributions do not track
    Keras variables.

    Attributes:
      metadata: Description of the data, a read-only mapping that is saved with
        the model: `dataset`, the name of the data set; `source`, the argument
        with which `data.load` finds it; and optionally `class_names`. Set by
        `train` and `tf_realnvp.load`.
      couplings: The couplings, from image to latents, in the order of
        `networks`.
      networks: The coupling networks, from image to latents.
      bijector: Maps latents to dequantized images, the support of
        `distribution`.
      distribution: A `tfd.TransformedDistribution` over dequantized images
        `[H, W, C]`; with classes its methods take `label=…`. Its support is the
        open interval that extends `[0, num_colors]` by `alpha / (2 - 2 * alpha)
        * num_colors` on both sides. Outside of it `log_prob` is NaN, not -inf,
        so run MCMC on the latents, through `bijector`. Latents far from zero
        are rounded to an end of the interval. Of real numbers, it is all of
        them.
      latent_shape: `(H / 2, W / 2, 4 * C)`.
      condition: What the density is conditioned on, a `Condition`.
      visible: The `VisiblePixels` of a model that observes masks, else `None`.
    """

    metadata: Mapping[str, Any]
    # The settings, as `Architecture` checks them.
    filters: int
    num_blocks: int
    alpha: float
    num_scales: int
    num_couplings: tuple[int, ...]
    dequantization: str
    observe: str | None
    padding: str
    channel_masks: str

    def __init__(
        self,
        image_shape: Sequence[int] = (32, 32, 3),
        num_colors: int | None = 256,
        filters: int = 128,
        num_blocks: int = 8,
        alpha: float = 0.1,
        num_scales: int = 2,
        num_couplings: Sequence[int] = (3, 3, 4),
        num_classes: int | None = None,
        class_probs: Sequence[float] | None = None,
        dequantization: str = "uniform",
        context_shape: Shapes = None,
        observe: str | None = None,
        padding: str = "same",
        channel_masks: str = "alternating",
        name: str = "real_nvp",
    ):
        """Creates a model with newly initialized weights.

        Keras's initializers draw the weights. Call
        `keras.utils.set_random_seed` first to make them reproducible.

        Args:
          image_shape: `(H, W, C)` in pixels and channels. `H` and `W` must be
            even, and divisible by two once more for each scale beyond the
            second.
          num_colors: Number of levels per component, 2 to 65,536; `None` for
            real numbers, which get no noise and no logit (`alpha` is unused).
          filters: Number of hidden channels of the coupling networks; even.
          num_blocks: Number of residual blocks per coupling network.
          alpha: Margin that keeps the logit finite, between 0 and 1.
          num_scales: Number of scales, from 2 to
            `multi_scale.max_num_scales(image_shape)`. Each scale has half the
            height and width of the one before.
          num_couplings: Three numbers of couplings, each at least 1: with
            checkerboard masks at each scale but the last, with channel masks at
            each scale but the last, and with checkerboard masks at the last
            scale.
          num_classes: Number of classes, at least 1. Default: an unconditional
            model, which takes no labels.
          class_probs: Prior probability of each class, the weights of the
            mixture; they must sum to 1. Default: uniform.
          dequantization: Noise that makes the levels continuous: "uniform", or
            "variational", which is learned with the flow (see
            `VariationalDequantization`). `encode`, `decode` and `sample` add no
            noise.
          context_shape: Shape of the context of an image: `(K,)` of a vector,
            `(H, W, K)` of an image whose height is that of the images, or a
            power of two times lower; or such shapes by name. Default: the
            density has no context.
          observe: What is observed of an image, which is then the context: see
            `observations`.
          padding: What convolutions see beyond the edges of images: "same",
            zeros, or "periodic", the opposite edge. A periodic model without
            context images commutes with translations by `2**num_scales`
            pixels, if the height and width are multiples of it.
          channel_masks: "alternating" or "mixed", as for
            `multi_scale.MultiScale`.
          name: Name of the module and of its distribution.

        Raises:
          ValueError: If an argument is out of its range.
        """
        arguments = dict(locals())
        super().__init__(name=name)
        self.metadata = {}
        self.image_shape = _check_image_shape(image_shape)
        self.num_colors = Values(num_colors).num_colors
        settings = {name: arguments[name] for name in ARCHITECTURE}
        self.__dict__.update(vars(Architecture(**settings)))
        self._scales = MultiScale(
            self.image_shape,
            self.num_scales,
            self.num_couplings,
            self.channel_masks,
        )
        if self.values.are_real and self.dequantization != "uniform":
            raise ValueError(
                "`dequantization` must be 'uniform' without levels."
            )
        if num_classes is not None:
            num_classes = check(num_classes, "num_classes", WholeNumber(1))
        self.num_classes = num_classes
        self.class_probs = _check_class_probs(class_probs, num_classes)
        height, width, channels = self.image_shape
        self.latent_shape = (height // 2, width // 2, 4 * channels)
        self.observation = observations.named(observe, self.values)
        if self.observation is not None:
            seen = self.observation(tf.zeros([1, *self.image_shape]), [0, 0])
            if each(tuple, context_shape) not in (None, tuple(seen.shape[1:])):
                raise ValueError("`observe` has a `context_shape` of its own.")
            context_shape = tuple(seen.shape[1:])
        self.condition = Condition(
            self.image_shape,
            self.num_classes,
            context_shape,
            observe == "mask",
            self.padding,
        )
        self.networks = [
            networks.CouplingNetwork(
                mask.shape[-1],
                self.filters,
                self.num_blocks,
                self.num_classes,
                **self.condition.sizes(mask.shape[0]),
                padding=self.padding,
                name=f"coupling_{index}",
            )
            for index, (_, mask) in enumerate(self._scales.layout())
        ]
        self._log_scale_variables = _scalars(self.networks)
        is_learned = self.dequantization == "variational"
        self._noise_networks = [
            networks.CouplingNetwork(
                2 * channels,
                variational.FILTERS,
                variational.NUM_BLOCKS,
                channels_out=2 * channels,
                padding=self.padding,
                name=f"noise_{index}",
            )
            for index in range(variational.NUM_COUPLINGS)
            if is_learned
        ]
        self._noise_variables = _scalars(self._noise_networks)
        self._moments = []
        if self.values.are_real:
            moments = np.repeat([[0.0], [1.0]], channels, axis=1)
            self._moments.append(_variable("moments", moments, False))
        # A `tf.Module` that contains the model tracks these, not Keras's. As an
        # attribute, TensorFlow would write them to checkpoints twice.
        self.__dict__["_tf_variables"] = [v.value for v in self.variables]
        self._set_flow(self.networks, self._noise_networks)

    def __setattr__(self, name, value):
        if name == "metadata":
            # TensorFlow would wrap a dictionary, and the lists inside.
            value = types.MappingProxyType(dict(value))
        super().__setattr__(name, value)

    def _set_flow(self, functions, noise_functions):
        """Creates the couplings, the bijector and the distribution.

        Args:
          functions: Conditioners of the couplings, from image to latents.
          noise_functions: Conditioners of the couplings of variational
            dequantization; empty for uniform dequantization.
        """
        masks = [mask for _, mask in self._scales.layout()]
        pairs = _pairs(self._log_scale_variables)
        parts = zip(masks, functions, pairs, strict=True)
        self.couplings = tuple(
            bijectors.AffineCoupling(
                mask, function, rescale, reshift, f"coupling_{index}"
            )
            for index, (mask, function, (rescale, reshift)) in enumerate(parts)
        )
        # From image to latents, the order in which the inverse applies them.
        if self.num_colors is None:
            steps = [bijectors.Standardize(*self._moments)]
        else:
            steps = [
                tfb.Scale(float(self.num_colors)),
                bijectors.Sigmoid(
                    low=-(self.alpha / 2) / (1 - self.alpha),
                    high=(1 - self.alpha / 2) / (1 - self.alpha),
                ),
            ]
        self._to_logits = tuple(steps)
        steps += self._scales.steps(self.couplings)
        # The noise within a level does not affect the level itself.
        self._without_noise = tfb.Chain(steps, name="real_nvp")
        self.visible: VisiblePixels | None = None
        if self.observe == "mask":
            self.visible = VisiblePixels(
                self._without_noise, self._to_logits, self.values.middle
            )
        self.bijector = self._without_noise
        if noise_functions and self.num_colors is not None:
            noise = variational.VariationalDequantization(
                self.image_shape,
                self.num_colors,
                noise_functions,
                _pairs(self._noise_variables),
            )
            self.bijector = tfb.Chain([noise, *steps], name="real_nvp")
        condition_kwargs = functools.partial(
            bijectors.condition_kwargs, self.bijector
        )
        self.distribution = tfd.TransformedDistribution(
            tfd.Sample(tfd.Normal(0.0, 1.0), self.latent_shape),
            self.bijector,
            kwargs_split_fn=lambda condition: (
                {},
                condition_kwargs(**self.condition.encode(condition)),
            ),
            name=self.name,
        )

    def for_training(
        self, compute_dtype: str = "float32", recompute: bool = False
    ) -> Self:
        """Returns a view of this model with networks that are cheaper to train.

        The view shares all variables with this model. Only the networks use
        `compute_dtype`; the couplings always compute in float32. With the
        default arguments its outputs are those of this model.

        Args:
          compute_dtype: Dtype of the networks' computations, "float32" or
            "bfloat16".
          recompute: Whether to use rematerialization: parts of the networks
            are computed again for the gradient, which saves memory and takes
            more time.
        """

        def function(network):
            return lambda inputs, **condition: network.shared(
                tf.cast(inputs, compute_dtype), recompute, **condition
            )

        model = object.__new__(type(self))
        model.__dict__.update(self.__dict__)
        model._set_flow(
            [function(network) for network in self.networks],
            [function(network) for network in self._noise_networks],
        )
        return model

    @property
    def context_shape(self) -> Any:
        """Shape of a context, or shapes by name; `None` without one."""
        return self.condition.context_shape

    def clone(self) -> Self:
        """Returns a copy of the model, with its own variables."""
        return copy.deepcopy(self)

    def __reduce__(self):
        # TFP distributions can be neither pickled nor copied.
        metadata = dict(self.metadata)
        values = [variable.numpy() for variable in self.variables]
        config = self.get_config() | {"name": self.name}
        given = type(self), config, metadata, values, self.frozen
        return _restore, given

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, except `name`."""
        names = [*ARCHITECTURE, "num_classes", "class_probs", "context_shape"]
        settings = {name: getattr(self, name) for name in names}
        given = {k: v for k, v in settings.items() if v is not None}
        shape, num_colors = self.image_shape, self.num_colors
        return {"image_shape": shape, "num_colors": num_colors, **given}

    def assign(self, other: "Flow") -> None:
        """Copies the weights of another model of the same architecture."""
        for own, its in zip(self.variables, other.variables, strict=True):
            own.assign(its)

    def named_variables(self) -> dict[str, keras.Variable]:
        """Returns all weights, keyed by their position in the flow.

        Adding couplings at a scale, classes or variational dequantization to a
        model adds names and changes none.
        """
        layout = [name for name, _ in self._scales.layout()]
        names = layout + [network.name for network in self._noise_networks]
        named = {}
        for name, network, (rescale, reshift) in zip(
            names,
            [*self.networks, *self._noise_networks],
            _pairs([*self._log_scale_variables, *self._noise_variables]),
            strict=True,
        ):
            for variable in network.weights:
                named[f"{name}/{variable.name}"] = variable
            named[f"{name}/rescale"] = rescale
            named[f"{name}/reshift"] = reshift
        if self._moments:
            named["moments"] = self._moments[0]
        for name, variable in self.condition.named_variables.items():
            named[f"context/{name}"] = variable
        return named

    def standardize(
        self, mean: Sequence[float] | float, std: Sequence[float] | float
    ) -> None:
        """Sets the standardization of a model of real numbers.

        Training does it by the training images.

        Args:
          mean: Mean of each channel, `[C]`, or of all.
          std: Standard deviation, likewise; positive.
        """
        [variable] = self._moments
        moments = np.zeros(variable.shape)
        moments[0], moments[1] = mean, std
        variable.assign(moments)

    def is_identity(self) -> bool:
        """Returns whether all couplings are the identity, as in a new model."""
        changes = [
            *(network.last.gain for network in self.networks),
            *(network.last.bias for network in self.networks),
            *(coupling.reshift for coupling in self.couplings),
        ]
        return not any(np.any(variable.numpy()) for variable in changes)

    @property
    def variables(self) -> tuple[keras.Variable, ...]:
        """All variables, those of variational dequantization included."""
        return (
            *(v for n in self.networks for v in n.weights),
            *self._log_scale_variables,
            *(v for n in self._noise_networks for v in n.weights),
            *self._noise_variables,
            *self._moments,
            *self.condition.named_variables.values(),
        )

    @property
    def trainable_variables(self) -> tuple[keras.Variable, ...]:
        """Trainable variables.

        `model.networks[0].trainable = False` freezes a network.
        """
        return tuple(v for v in self.variables if v.trainable)

    @property
    def frozen(self) -> list[int]:
        """Indices in `variables` of those that are not trainable."""
        return [i for i, v in enumerate(self.variables) if not v.trainable]

    def freeze(self, indices: Sequence[int]) -> None:
        """Makes variables of these indices not trainable."""
        for index in indices:
            self.variables[index].trainable = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, if there are any; by default their indices."""
        indices = range(self.num_classes or 0)
        return tuple(map(str, self.metadata.get("class_names", indices)))

    @property
    def values(self) -> Values:
        """What the values of its images are, and the bits that they lack."""
        return Values(self.num_colors, self.metadata.get("dropped_bits", 0))

    @property
    def num_dims(self) -> int:
        """Number of components of an image, `H * W * C`."""
        return math.prod(self.image_shape)

    @property
    def num_parameters(self) -> int:
        """Number of scalars in `variables`."""
        return sum(v.shape.num_elements() for v in self.variables)


def _restore(kind, config, metadata, values, frozen=()):
    """Rebuilds a model that was cloned or pickled."""
    model = kind(**config)
    model.metadata = metadata
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    model.freeze(frozen)
    return model


def _scalars(networks_):
    """Creates `rescale` and `reshift` for each network, in one flat list."""
    return [
        _variable(f"{network.name}_{name}", value)
        for network in networks_
        for name, value in (("rescale", 1.0), ("reshift", 0.0))
    ]


def _variable(name, value, trainable=True):
    return keras.Variable(
        value, trainable=trainable, dtype="float32", autocast=False, name=name
    )


def _pairs(scalars):
    """Groups the list of `_scalars` into pairs `(rescale, reshift)`."""
    return list(zip(scalars[::2], scalars[1::2], strict=True))


def _check_image_shape(image_shape) -> tuple[int, ...]:
    sizes = WholeNumbers(1, 2**31 - 1)
    height, width, channels = check(tuple(image_shape), "image_shape", sizes)
    if height % 2 or width % 2:
        raise ValueError(
            "`image_shape` must have an even height and width, got "
            f"{ranges.short(image_shape)}."
        )
    return height, width, channels


def _check_class_probs(class_probs, num_classes) -> tuple[float, ...] | None:
    """Returns the checked class probabilities, or `None` without classes."""
    if class_probs is None:
        return None if num_classes is None else (1 / num_classes,) * num_classes
    probs = np.asarray(class_probs, np.float64)
    if (
        probs.shape != (num_classes,)
        or not np.all(probs >= 0.0)
        or not math.isclose(probs.sum(), 1.0, abs_tol=1e-6)
    ):
        raise ValueError(
            "`class_probs` must be `num_classes` numbers of at least 0, with a "
            f"sum of 1, got {ranges.short(class_probs)}."
        )
    return tuple(probs.tolist())
