"""RealNVP: a density over images, its sampler and its latent space."""

import copy
import functools
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_realnvp.flow import bijectors, networks, observations
from tf_realnvp.flow import dequantization as variational
from tf_realnvp.flow.architecture import ARCHITECTURE, Architecture
from tf_realnvp.flow.condition import Condition, Shapes
from tf_realnvp.flow.multi_scale import MultiScale
from tf_realnvp.flow.values import Values
from tf_realnvp.flow.visible import VisiblePixels
from tf_realnvp.utils import private, ranges, tensors
from tf_realnvp.utils.named import each
from tf_realnvp.utils.ranges import WholeNumber, WholeNumbers, check
from tf_realnvp.utils.tensors import stateless_seed


class RealNVP(tf.Module):
    """A RealNVP density over images.

    The values of an image are levels, `uint8`, or `uint16` if there are more
    than 256; or they are real numbers, `float32`, with `num_colors=None`. From
    image to latents, the flow is dequantization, scaling and logit, or for real
    numbers a standardization of each channel, followed by a multi-scale
    architecture (`multi_scale.MultiScale`) of couplings, by default three with
    checkerboard masks and three with channel masks at each scale but the last,
    which has four with checkerboard masks. All latents are standard normal. See
    sections 3.4 to 3.6 and 4.1 of https://arxiv.org/abs/1605.08803.

    #### Example

    ```python
    model = RealNVP(image_shape=(32, 32, 3))
    images = model.sample(36, seed=1)      # uint8 [36, 32, 32, 3]
    model.bits_per_dim(images)             # float32 [36]
    ```

    With `context_shape` the density is conditioned on a vector or an image for
    each image, or on several of them by name, which all methods take as
    `context=…`.

    ```python
    model = RealNVP(image_shape=(16, 16, 1), context_shape=(1,))
    fields = model.sample(36, context=[8.0])         # one for all images
    model.log_prob(fields, context=couplings)        # float [36, 1]
    ```

    With `num_classes` the couplings are conditioned on an integer label per
    image. The model then has a density for each class,
    `log_prob(images, label=…)`, and the mixture of these densities,
    `log_prob(images)`. It is also a classifier.

    ```python
    model = RealNVP(image_shape=(28, 28, 1), num_classes=10)
    sevens = model.sample(36, label=7)
    model.classify(sevens)                 # float32 [36, 10], log-probabilities
    ```

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
        if observe == "mask" and self.dequantization != "uniform":
            raise ValueError("`observe` 'mask' needs uniform dequantization.")
        self.condition = Condition(
            self.image_shape,
            self.num_classes,
            context_shape,
            observe == "mask",
            self.padding,
        )
        self.context_shape = self.condition.context_shape
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
        self.couplings = tuple(
            bijectors.AffineCoupling(
                *(mask, function, rescale, reshift),
                name=f"coupling_{index}",
            )
            for index, ((_, mask), function, (rescale, reshift)) in (
                enumerate(
                    zip(
                        self._scales.layout(),
                        functions,
                        _pairs(self._log_scale_variables),
                        strict=True,
                    )
                )
            )
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
    ) -> "RealNVP":
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

        model = object.__new__(RealNVP)
        model.__dict__.update(self.__dict__)
        model._set_flow(
            [function(network) for network in self.networks],
            [function(network) for network in self._noise_networks],
        )
        return model

    def clone(self) -> "RealNVP":
        """Returns a copy of the model, with its own variables."""
        return copy.deepcopy(self)

    def __reduce__(self):
        # TFP distributions can be neither pickled nor copied.
        metadata = dict(self.metadata)
        values = [variable.numpy() for variable in self.variables]
        return _restore, (self.get_config(), self.name, metadata, values)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, except `name`."""
        names = [*ARCHITECTURE, "num_classes", "class_probs", "context_shape"]
        given = _given(**{name: getattr(self, name) for name in names})
        shape, num_colors = self.image_shape, self.num_colors
        return {"image_shape": shape, "num_colors": num_colors, **given}

    def assign(self, other: "RealNVP") -> None:
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

    def save(
        self, path: str | os.PathLike, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Writes this model as a SavedModel; see `serving.export.save`.

        Args:
          path: Directory to write. It and its parents are created if needed. An
            existing model is replaced only once the new one is complete.
          metadata: Additional entries of `metadata.json`. They override entries
            of the model's `metadata`.

        Raises:
          UsageError, ModelError, ValueError, TypeError: As `export.save`.
        """
        # Imported here so that the model itself does not depend on files.
        from tf_realnvp.serving import export

        export.save(self, path, metadata)

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

    def log_prob(
        self, images: tf.Tensor, seed=None, label=None, context=None
    ) -> tf.Tensor:
        """Returns a lower bound on the log-probability of images, in nats.

        The bound holds in expectation over the dequantization noise
        (https://arxiv.org/abs/1511.01844, section 3.1). Each call uses one
        sample of the noise.

        For real numbers, it is the log-density of the images as given, without
        noise.

        Args:
          images: Integer `[n, H, W, C]` in `0 ... num_colors - 1`; for a model
            of real numbers floating-point, finite.
          seed: Signed 64-bit integer; or two integers of shape `[2]`, each
            reduced to its lowest 32 bits. The same seed gives the same noise.
            Default: new noise in each call. Real numbers get none.
          label: Class to condition on: an integer for all images, or integers
            `[n]`, one per image. Default: the mixture of all classes, if the
            model has classes.
          context: For a model with `context_shape`, real numbers of that shape,
            for all images, or `[n, *context_shape]`, one for each; by name if
            there are several. Required, unless the model observes masks: then
            nothing is visible.

        Returns:
          Float32 `[n]`, in nats per image.

        Raises:
          TypeError: If `seed` or `label` are not integers, or `images` are not
            of the kind of the model.
          ValueError: If `images`, `seed`, `label` or `context` have the wrong
            shape, or if the model has no classes or context and one is given,
            or has a context and none is given.
          tf.errors.InvalidArgumentError: If a component, `seed` or a label is
            out of range.
        """
        points = self.dequantize(images, seed)
        condition = self.condition(points, label, context)
        return self.log_density(points, **condition)

    def log_prob_each(
        self, images: tf.Tensor, seeds: tf.Tensor, label=None, context=None
    ) -> tf.Tensor:
        """Returns the same lower bound as `log_prob`, with one seed per image.

        The result for an image depends on that image and its seed only, not on
        the rest of the batch. Up to rounding it is
        `log_prob(images[i : i + 1], seeds[i])`.

        Args:
          images: As for `log_prob`.
          seeds: Signed 64-bit integers `[n]`.
          label: As for `log_prob`.
          context: As for `log_prob`.

        Returns:
          Float32 `[n]`, in nats per image.

        Raises:
          TypeError: If `images`, `seeds` or `label` are not integers.
          ValueError: If `images`, `seeds` or `label` have the wrong shape, or
            if a `label` is given and the model has no classes.
          tf.errors.InvalidArgumentError: If a component, a seed or a label is
            out of range, or the number of seeds or labels is not `n`.
        """
        points = self.dequantize_each(images, seeds)
        condition = self.condition(points, label, context)
        return self.log_density(points, **condition)

    def log_density(
        self, points: tf.Tensor, label=None, context=None
    ) -> tf.Tensor:
        """Returns the log-density of dequantized images, in nats.

        Like `distribution.log_prob`, but the batch may be empty.

        Args:
          points: Dequantized images `[n, H, W, C]`, such as `dequantize`
            returns.
          label: As for `log_prob`, but not checked.
          context: As for `log_prob`, for each image, float32, and not checked.

        Returns:
          Float32 `[n]`.
        """
        if label is None and self.num_classes is not None:
            joint = self.log_joint(points, context=context)
            return tf.reduce_logsumexp(joint, axis=-1)
        # A new tensor, since TFP's cache may hold a result for the caller's
        # tensor that was computed with earlier weights.
        points = tf.identity(tf.cast(points, tf.float32))
        if label is not None:
            label = tf.broadcast_to(label, tf.shape(points)[:1])
        if context is None and self.visible:
            context = self.condition.nothing_visible(tf.shape(points)[0])

        def log_prob(points, **condition):
            if not self.visible:
                return self.distribution.log_prob(points, **condition)
            points = self.visible.in_points(points, condition["context"])
            of_all = self.distribution.log_prob(points, **condition)
            return of_all - self.visible.log_prob(points, condition["context"])

        condition = _given(label=label, context=context)
        return _apply(log_prob, points, condition)

    def estimate(self, context: Any) -> tf.Tensor:
        """Returns about the mean of the images given their context.

        It is the output of the U-Net of the context: in one pass, it is nearer
        to the image than a sample is, and smoother.

        Args:
          context: As for `log_prob`, one for each; at least one is an image.

        Returns:
          Float32 `[n, H, W, C]`, in levels, not rounded; or real numbers.
        """

        def apply(unused_zeros, context):
            points = self._to_logits[0].forward(
                self.condition.estimate(context)
            )
            return points - self.values.middle

        n = tf.shape(tf.nest.flatten(context)[0])[0]
        zeros = tf.zeros([n, *self.image_shape])
        return _apply(apply, zeros, self.condition(zeros, context=context))

    def squared_errors(self, points: tf.Tensor, context: Any) -> tf.Tensor:
        """Returns the squared errors of the estimates of images, `[n]`.

        Errors are measured on values scaled to [0, 1], or on standardized real
        numbers. For a model of masks, only pixels that are not visible count.

        Args:
          points: As for `log_density`.
          context: As for `log_density`.
        """

        def apply(points, context):
            scaled = self._to_logits[0].inverse(points)
            errors = tf.square(self.condition.estimate(context) - scaled)
            if self.visible:
                errors *= 1.0 - observations.split_visible(context)[1]
            return tf.reduce_sum(errors, axis=[1, 2, 3])

        return _apply(apply, points, {"context": context})

    def log_joint(
        self,
        points: tf.Tensor,
        log_density: Callable[..., tf.Tensor] | None = None,
        context: Any = None,
    ) -> tf.Tensor:
        """Returns the joint log-density of points and each class.

        Its log-sum-exp over the classes is the log-density of the mixture; its
        log-softmax is the log-probabilities of the classes.

        Args:
          points: As for `log_density`.
          log_density: Function to use in place of the method `log_density`,
            such as one that has been traced already.
          context: As for `log_density`.

        Returns:
          Float32 `[n, num_classes]`, `log_density(points, label)` plus the
          logarithm of the class's probability.

        Raises:
          ValueError: If the model has no classes.
        """
        if self.num_classes is None:
            raise ValueError("The model has no classes to tell apart.")

        def given(label):
            # A new tensor, since TFP's cache would otherwise leak results for
            # `points` out of the loop.
            own = tf.identity(points)
            labels = tf.fill([tf.shape(own)[0]], label)
            return (log_density or self.log_density)(own, labels, context)

        # One class at a time, to save memory.
        log_probs = tf.map_fn(
            given,
            tf.range(self.num_classes),
            fn_output_signature=tf.TensorSpec([None], tf.float32),
            parallel_iterations=1,
        )
        return tf.transpose(log_probs) + tf.math.log(
            tf.constant(self.class_probs, tf.float32)
        )

    def _through_flow(self, direction, batch, label, context):
        """Applies one direction of the flow, without noise, to a batch."""
        if label is None and self.num_classes is not None:
            raise ValueError(
                "`label` must be given: latents are those of a class, and the "
                f"model has {self.num_classes}."
            )

        def apply(batch, **condition):
            if self.visible:
                place = {"forward": "in_latents", "inverse": "in_points"}
                show = getattr(self.visible, place[direction])
                batch = show(batch, condition["context"])
            encoded = self.condition.encode(condition)
            kwargs = bijectors.condition_kwargs(self.bijector, **encoded)
            return getattr(self._without_noise, direction)(batch, **kwargs)

        return _apply(apply, batch, self.condition(batch, label, context))

    def classify(self, images: tf.Tensor, seed=None, context=None) -> tf.Tensor:
        """Returns the log-probabilities of all classes, given images.

        Applies Bayes' rule to the densities, with the prior `class_probs`. All
        classes are evaluated with the same noise.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.
          context: As for `log_prob`.

        Returns:
          Float32 `[n, num_classes]`, normalized.

        Raises:
          ValueError: If the model has no classes, or as `log_prob`.
          TypeError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        points = self.dequantize(images, seed)
        condition = self.condition(points, None, context)
        return tf.nn.log_softmax(self.log_joint(points, **condition))

    def dequantize(self, images: tf.Tensor, seed=None) -> tf.Tensor:
        """Adds uniform noise in `[0, 1)` to levels; checks real numbers only.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.

        Returns:
          Float32 `[n, H, W, C]` in `[0, num_colors]`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        images = tensors.images(images, self.image_shape, self.num_colors)
        return self.add_noise(images, stateless_seed(seed))

    def dequantize_each(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Adds uniform noise to images, with one seed per image.

        Args:
          images: As for `log_prob`.
          seeds: As for `log_prob_each`.

        Returns:
          Float32 `[n, H, W, C]` in `[0, num_colors]`. Each image gets the same
          noise as in a batch of one, `dequantize(images[i : i + 1], seeds[i])`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As
            `log_prob_each`.
        """
        images = tensors.images(images, self.image_shape, self.num_colors)
        seeds = tensors.stateless_seeds(seeds, tf.shape(images)[0])
        # One image at a time: stateless operations take a single seed.
        return tf.map_fn(
            lambda pair: self.add_noise(*pair),
            (images, seeds),
            fn_output_signature=tf.TensorSpec(self.image_shape, tf.float32),
        )

    def add_noise(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Adds uniform noise to images, like `dequantize`, without checks.

        Args:
          images: `[..., H, W, C]`, levels in `0 ... num_colors - 1`, or real
            numbers, to which nothing is added.
          seed: Int32 `[2]`.

        Returns:
          Float32 `[..., H, W, C]`; of levels in `[0, num_colors]`.
        """
        if self.values.are_real:
            return tf.cast(images, tf.float32)
        seed = tfp.random.sanitize_seed(seed, salt="dequantize")
        noise = tf.random.stateless_uniform(tf.shape(images), seed)
        return tf.cast(images, tf.float32) + noise

    def bits_per_dim(
        self, images: tf.Tensor, seed=None, label=None, context=None
    ) -> tf.Tensor:
        """Returns an upper bound on the code length of images, in bits/dim.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.
          label: As for `log_prob`.
          context: As for `log_prob`.

        Returns:
          Float32 `[n]`, `-log_prob(images) / (H * W * C * log(2))`.

        Raises:
          ValueError: If the model is of real numbers, or as `log_prob`.
          TypeError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        if self.values.are_real:
            raise ValueError("Real numbers have no bits: use `nats_per_dim`.")
        log_prob = self.log_prob(images, seed, label, context)
        return self.values.per_dim(log_prob, self.num_dims)

    def nats_per_dim(
        self, images: tf.Tensor, seed=None, label=None, context=None
    ) -> tf.Tensor:
        """Returns `-log_prob(images) / (H * W * C)`, float32 `[n]`.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.
          label: As for `log_prob`.
          context: As for `log_prob`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        return -self.log_prob(images, seed, label, context) / self.num_dims

    def sample(
        self, n, temperature=1.0, seed=None, label=None, context=None
    ) -> tf.Tensor:
        """Draws images.

        Args:
          n: Number of images, an `int` or an integer scalar `Tensor`.
          temperature: Factor on the standard deviation of the latents. Values
            below 1 give less varied images.
          seed: Signed 64-bit integer; or two integers of shape `[2]`, each
            reduced to its lowest 32 bits. The same seed gives the same images.
            Default: new images in each call.
          label: Class to sample from: an integer for all images, or integers
            `[n]`, one per image. Default: drawn by `sample_labels(n, seed)`, if
            the model has classes.
          context: As for `log_prob`.

        Returns:
          Images `[n, H, W, C]`, `uint8`, `uint16` or `float32`.

        Raises:
          TypeError: If `n`, `seed` or `label` is not an integer, or
            `temperature` is not a number.
          ValueError: If an argument has the wrong shape, or if a `label` is
            given and the model has no classes.
          tf.errors.InvalidArgumentError: If `n` or `temperature` is negative,
            if `n * H * W * C` exceeds 31 bits, if `temperature` is not finite
            or so high that float32 overflows, or if `seed` or a label is out of
            range.
        """
        if self.num_classes is not None and label is None:
            seed = stateless_seed(seed)
            label = self.sample_labels(n, seed)
        latents = self.sample_latents(n, temperature, seed)
        return self.decode(latents, label, context)

    def sample_labels(self, n, seed=None) -> tf.Tensor:
        """Draws labels from the prior `class_probs`.

        Args:
          n: As for `sample`.
          seed: As for `sample`.

        Returns:
          Int32 `[n]`.

        Raises:
          ValueError: If the model has no classes, or as `sample`.
          TypeError, tf.errors.InvalidArgumentError: As `sample`.
        """
        if self.num_classes is None:
            raise ValueError("The model has no classes to draw.")
        n = tensors.count(n, "n", maximum=tf.int32.max // self.num_dims)
        seed = tfp.random.sanitize_seed(stateless_seed(seed), salt="label")
        logits = tf.math.log(tf.constant([self.class_probs], tf.float32))
        return tf.random.stateless_categorical(
            logits, tf.cast(n, tf.int32), seed, tf.int32
        )[0]

    def sample_latents(self, n, temperature=1.0, seed=None) -> tf.Tensor:
        """Draws latents; `sample` returns `decode(sample_latents(...))`.

        Args:
          n: As for `sample`.
          temperature: As for `sample`.
          seed: As for `sample`.

        Returns:
          Float32 latents `[n, H / 2, W / 2, 4 * C]`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As `sample`.
        """
        # TensorFlow indexes the components of a batch with int32.
        n = tensors.count(n, "n", maximum=tf.int32.max // self.num_dims)
        temperature = tensors.non_negative(temperature, "temperature")
        seed = tfp.random.sanitize_seed(stateless_seed(seed), salt="sample")
        latents = self.distribution.distribution.sample(n, seed=seed)
        return tf.debugging.check_numerics(
            temperature * latents,
            "`temperature` must be lower: the latents overflow.",
        )

    def encode(self, images: tf.Tensor, label=None, context=None) -> tf.Tensor:
        """Returns the latents of images.

        Each component is dequantized to the middle of its level, so `decode`
        recovers the image. Real numbers are recovered up to rounding.

        Args:
          images: As for `log_prob`.
          label: Class to condition on: an integer for all images, or integers
            `[n]`, one per image. Required if the model has classes.
          context: As for `log_prob`.

        Returns:
          Float32 latents `[n, H / 2, W / 2, 4 * C]`. The last `2 * C` channels
          are factored out at the first scale and hold the finest detail.

        Raises:
          ValueError: If the model has classes and no `label` is given, or as
            `log_prob`.
          TypeError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        images = tensors.images(images, self.image_shape, self.num_colors)
        points = tf.cast(images, tf.float32) + self.values.middle
        return self._through_flow("inverse", points, label, context)

    def decode(self, latents: tf.Tensor, label=None, context=None) -> tf.Tensor:
        """Returns the images of latents.

        Args:
          latents: Real numbers `[n, H / 2, W / 2, 4 * C]`.
          label: As for `encode`. The label and the context that an image was
            encoded with recover it.
          context: As for `log_prob`.

        Returns:
          Images `[n, H, W, C]`, `uint8`, `uint16` or `float32`.

        Raises:
          TypeError: If `latents` are not real numbers, or `label` is not
            integers.
          ValueError: If `latents` or `label` have the wrong shape, or as
            `encode`.
          tf.errors.InvalidArgumentError: If a latent is not finite or so large
            that float32 overflows, or if a label is out of range.
        """
        latents = tensors.finite(latents, "latents", self.latent_shape)
        points = self.decode_points(latents, label, context)
        # An overflow of float32 ends in inf - inf, a NaN.
        points = tf.debugging.check_numerics(
            points,
            "`latents` must be smaller (or the `temperature` that they are "
            "drawn at): decoding them overflows.",
        )
        if self.num_colors is None:
            return points
        # The inverse of the logit extends beyond the levels on both sides.
        images = tf.clip_by_value(tf.floor(points), 0.0, self.num_colors - 1.0)
        return tf.cast(images, self.values.dtype)

    def decode_points(
        self, latents: tf.Tensor, label=None, context=None
    ) -> tf.Tensor:
        """Returns the dequantized images of latents, without checks.

        They are smooth in the latents, as those of `bijector.forward` are not
        with variational dequantization. `decode` rounds them down.

        Args:
          latents: Float32 `[n, H / 2, W / 2, 4 * C]`.
          label: As for `encode`.
          context: As for `log_prob`.

        Returns:
          Float32 `[n, H, W, C]`, in the support of `distribution`. Latents that
          are too large give NaN.
        """
        return self._through_flow("forward", latents, label, context)


def _restore(config, name, metadata, values):
    """Rebuilds a model that was cloned or pickled."""
    model = RealNVP(**config, name=name)
    model.metadata = metadata
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
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


@private.evicting_graph_tensors()
def _apply(function, batch, condition):
    """Applies a function that runs networks to a batch that may be empty.

    Args:
      function: Called with a batch, and its condition as keyword arguments.
      batch: `[n, ...]`.
      condition: What `Condition` returns.

    Returns:
      The output of `function`, `[n, ...]`.
    """
    condition = tf.nest.map_structure(_at_least_one, condition)
    return function(_at_least_one(batch), **condition)[: tf.shape(batch)[0]]


def _given(**arguments):
    return {k: v for k, v in arguments.items() if v is not None}


def _at_least_one(batch):
    """Adds an example to an empty batch.

    With oneDNN the output of a convolution of an empty batch has the shape of
    its input, so later operations fail.
    """
    if batch.shape[0]:
        return batch
    missing = tf.maximum(1 - tf.shape(batch)[0], 0)
    return tf.pad(batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1))
