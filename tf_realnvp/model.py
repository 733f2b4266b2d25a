"""RealNVP: a density over images, its sampler and its latent space."""

import copy
import functools
import itertools
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

from tf_realnvp import (
    bijectors,
    networks,
    rematerialization,
    variational_dequantization,
)
from tf_realnvp.config import ARCHITECTURE
from tf_realnvp.utils import assertions, checks, units
from tf_realnvp.utils.assertions import stateless_seed
from tf_realnvp.utils.checks import WholeNumber, WholeNumbers, check


class RealNVP(tf.Module):
    """A RealNVP density over `uint8` images.

    From image to latents: dequantization, scaling and logit; then, at each
    scale but the last, three couplings with checkerboard masks, a squeeze,
    three couplings with channel masks, and the second half of the channels is
    factored out. The first half goes on to the next scale, and the last one has
    four couplings with checkerboard masks. All latents are standard normal. See
    sections 3.4 to 3.6 and 4.1 of https://arxiv.org/abs/1605.08803. The numbers
    of couplings are those of the default.

    #### Example

    ```python
    model = RealNVP(image_shape=(32, 32, 3))
    images = model.sample(36, seed=1)      # uint8 [36, 32, 32, 3]
    model.bits_per_dim(images)             # float32 [36]
    ```

    With `num_classes` the couplings depend on a label, an integer for each
    image: the model is a density for each class, `log_prob(images, label=…)`,
    and their mixture, `log_prob(images)`. So it also is a classifier.

    ```python
    model = RealNVP(image_shape=(28, 28, 1), num_classes=10)
    sevens = model.sample(36, label=7)
    model.classify(sevens)                 # float32 [36, 10], log-probabilities
    ```

    The model owns its variables (`variables`): TFP's objects do not
    see those of Keras.

    Attributes:
      metadata: What a saved model says of its data, a read-only mapping.
        `dataset` is its name, `source` with what `data.load` finds it, and
        there may be `class_names`. `train` and `tf_realnvp.load` set it.
      couplings: The couplings, from image to latents, in the order of
        `networks`.
      networks: The coupling networks, from image to latents.
      bijector: Maps latents to dequantized images, the support of
        `distribution`.
      distribution: The density of dequantized images, `[H, W, C]`, a
        `tfd.TransformedDistribution`; with classes it takes `label=…`. Its
        support reaches beyond `[0, num_colors]` by `alpha / (2 - 2 * alpha) *
        num_colors` on both sides, ends excluded; elsewhere `log_prob` is NaN,
        not -inf: MCMC is for latents, by way of `bijector`. Far latents are
        rounded to an end.
      latent_shape: `(H / 2, W / 2, 4 * C)`.
    """

    metadata: Mapping[str, Any]

    def __init__(
        self,
        image_shape: Sequence[int] = (32, 32, 3),
        num_colors: int = 256,
        filters: int = 128,
        num_blocks: int = 8,
        alpha: float = 0.1,
        num_scales: int = 2,
        num_couplings: Sequence[int] = (3, 3, 4),
        num_classes: int | None = None,
        class_probs: Sequence[float] | None = None,
        dequantization: str = "uniform",
        name: str = "real_nvp",
    ):
        """Makes a model with fresh weights.

        The weights are drawn by Keras's initializers:
        `keras.utils.set_random_seed` makes them repeatable.

        Args:
          image_shape: `(H, W, C)` in pixels and channels; `H` and `W` even,
            and divisible by two once more for each scale beyond two.
          num_colors: Number of levels of a component, 2 to 256.
          filters: Number of channels inside the coupling networks; even.
          num_blocks: Number of residual blocks of a coupling network.
          alpha: Margin that keeps the logit finite, between 0 and 1.
          num_scales: Number of resolutions that couplings work at, from 2 to
            `max_num_scales(image_shape)`; each has half the height and width of
            the one before.
          num_couplings: Numbers of couplings, each at least 1: with
            checkerboard masks and with channel masks at each scale but the
            last, and with checkerboard masks at the last.
          num_classes: Number of classes of images, at least 1. Default: the
            model knows no classes, and takes no labels.
          class_probs: Probability of each class, of which the mixture is made;
            their sum must be 1. Default: all the same.
          dequantization: What noise makes real numbers of levels: "uniform", or
            "variational", which is learned with the flow, see
            `VariationalDequantization`. `encode`, `decode` and `sample` do
            without.
          name: Name of the module, and of its distribution.

        Raises:
          ValueError: If an argument is out of its range.
        """
        super().__init__(name=name)
        self.metadata = {}
        self.image_shape = _check_image_shape(image_shape)
        self.num_colors = check(num_colors, "num_colors", WholeNumber(2, 256))
        self.filters: int = _check("filters", filters)
        self.num_blocks: int = _check("num_blocks", num_blocks)
        self.alpha: float = _check("alpha", alpha)
        self.num_scales: int = _check("num_scales", num_scales)
        self.num_couplings: tuple[int, ...] = _check(
            "num_couplings", num_couplings
        )
        self.dequantization: str = _check("dequantization", dequantization)
        if self.num_scales > (largest := max_num_scales(self.image_shape)):
            raise ValueError(
                f"`num_scales` must be at most {largest} for images of shape "
                f"{self.image_shape}, got {num_scales}."
            )
        if num_classes is not None:
            num_classes = check(num_classes, "num_classes", WholeNumber(1))
        self.num_classes = num_classes
        self.class_probs = _check_class_probs(class_probs, num_classes)
        height, width, channels = self.image_shape
        self.latent_shape = (height // 2, width // 2, 4 * channels)

        self.networks = [
            networks.CouplingNetwork(
                mask.shape[-1],
                self.filters,
                self.num_blocks,
                self.num_classes,
                name=f"coupling_{index}",
            )
            for index, (_, mask) in enumerate(self._layout())
        ]
        self._log_scale_variables = _scalars(self.networks)
        is_learned = self.dequantization == "variational"
        self._noise_networks = [
            networks.CouplingNetwork(
                2 * channels,
                variational_dequantization.FILTERS,
                variational_dequantization.NUM_BLOCKS,
                channels_out=2 * channels,
                name=f"noise_{index}",
            )
            for index in range(variational_dequantization.NUM_COUPLINGS)
            if is_learned
        ]
        self._noise_variables = _scalars(self._noise_networks)
        # A `tf.Module` that has the model as a part finds these, not Keras's.
        self._tf_variables = [v.value for v in self.variables]
        self._set_flow(self.networks, self._noise_networks)

    def __setattr__(self, name, value):
        if name == "metadata":
            value = types.MappingProxyType(dict(value))
        if name in ("metadata", "_tf_variables"):
            # TensorFlow would wrap the lists in it, and have the variables in
            # checkpoints twice.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _layout(self):
        """Yields name and mask of each coupling, from image to latents."""
        checkerboards, channels, last = self.num_couplings
        height, width, depth = self.image_shape
        for scale in range(self.num_scales):
            is_last = scale == self.num_scales - 1
            of = "last_scale" if is_last else f"scale_{scale}"
            shape = (height, width, depth)
            for index in range(last if is_last else checkerboards):
                mask = bijectors.checkerboard_mask(shape, index % 2 == 0)
                yield f"{of}/checkerboard_{index}", mask
            if not is_last:
                height, width, depth = height // 2, width // 2, 2 * depth
                shape = (height, width, 2 * depth)
                for index in range(channels):
                    mask = bijectors.channel_mask(shape, index % 2 == 0)
                    yield f"{of}/channel_{index}", mask

    def _set_flow(self, functions, noise_functions):
        """Makes the bijector and the distribution.

        Args:
          functions: What the couplings call, from image to latents.
          noise_functions: What those of the dequantization call.
        """
        self.couplings = tuple(
            bijectors.AffineCoupling(
                mask, function, rescale, reshift, name=f"coupling_{index}"
            )
            for index, ((_, mask), function, (rescale, reshift)) in enumerate(
                zip(
                    self._layout(),
                    functions,
                    _pairs(self._log_scale_variables),
                    strict=True,
                )
            )
        )
        # From image to latents, the order of the inverse.
        steps = [
            tfb.Scale(float(self.num_colors)),
            tfb.Sigmoid(
                low=-(self.alpha / 2) / (1 - self.alpha),
                high=(1 - self.alpha / 2) / (1 - self.alpha),
            ),
            *self._scale(0, iter(self.couplings)),
        ]
        # Noise within the cell of a level says nothing of the level.
        self._without_noise = tfb.Chain(steps, name="real_nvp")
        self.bijector = self._without_noise
        if noise_functions:
            noise = variational_dequantization.VariationalDequantization(
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
            kwargs_split_fn=lambda label: ({}, condition_kwargs(**label)),
            name=self.name,
        )

    def _scale(self, scale, couplings):
        """Returns the bijectors of a scale and of those that come after it.

        Args:
          scale: Its number.
          couplings: Iterator of their couplings, from image to latents.
        """
        if scale == self.num_scales - 1:
            return list(couplings)
        num_checkerboards, num_channels, _ = self.num_couplings
        steps = [
            *itertools.islice(couplings, num_checkerboards),
            bijectors.Squeeze(),
            *itertools.islice(couplings, num_channels),
            bijectors.FactorOut(tfb.Chain(self._scale(scale + 1, couplings))),
        ]
        if scale > 0:
            # A scale keeps the shape of its events, as `FactorOut` asks.
            steps.append(tfb.Invert(bijectors.Squeeze()))
        return steps

    def for_training(
        self, compute_dtype: str = "float32", recompute: bool = False
    ) -> "RealNVP":
        """Returns this model with networks that are cheaper to train.

        It shares all variables with this model, and what couplings do with the
        networks' outputs stays float32. With the defaults it computes the same
        as this model.

        Args:
          compute_dtype: What the networks compute in, "float32" or "bfloat16".
          recompute: Whether the networks are partly run again for the
            gradient, which takes less memory and more time.
        """

        def function(network):
            run = network.shared
            if recompute:
                run = functools.partial(
                    rematerialization.coupling_network, network
                )
            return lambda inputs, **label: run(
                tf.cast(inputs, compute_dtype), **label
            )

        model = object.__new__(RealNVP)
        model.__dict__.update(self.__dict__)
        model._set_flow(
            [function(network) for network in self.networks],
            [function(network) for network in self._noise_networks],
        )
        return model

    def clone(self) -> "RealNVP":
        """Returns another model with the same weights, in its own variables."""
        return copy.deepcopy(self)

    def __reduce__(self):
        # TFP's distributions can be neither pickled nor copied.
        metadata = dict(self.metadata)
        values = [variable.numpy() for variable in self.variables]
        return _restore, (self.get_config(), self.name, metadata, values)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, without the name."""
        names = ["image_shape", "num_colors", *ARCHITECTURE]
        if self.num_classes is not None:
            names += ["num_classes", "class_probs"]
        return {name: getattr(self, name) for name in names}

    def assign(self, other: "RealNVP") -> None:
        """Takes over the weights of another model of the same sizes."""
        for own, its in zip(self.variables, other.variables, strict=True):
            own.assign(its)

    def named_variables(self) -> dict[str, keras.Variable]:
        """Returns all weights, by names that say where in the flow they are.

        A model with more couplings at a scale, with classes or with variational
        dequantization has all names of a model without them, and more.
        """
        layout = [name for name, _ in self._layout()]
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
        return named

    def is_identity(self) -> bool:
        """Returns whether it changes no logits, as a new model does not."""
        changes = [
            *(network.last.gain for network in self.networks),
            *(network.last.bias for network in self.networks),
            *(coupling.reshift for coupling in self.couplings),
        ]
        return not any(np.any(variable.numpy()) for variable in changes)

    def save(
        self,
        path: str | os.PathLike,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes this model as a SavedModel, see `serving.export.save`.

        Args:
          path: Directory to write, made with its parents. A model that is
            there already stays as it is until the new one is complete.
          metadata: What else `metadata.json` is to say, beside `metadata` of
            the model and in its place.

        Raises:
          UsageError: If TensorFlow could not read what is written there, or if
            there is anything but a model.
          ValueError: If `metadata` contradict the model or themselves.
        """
        # Below this module nothing else knows of files.
        from tf_realnvp.serving import export

        export.save(self, path, metadata)

    @property
    def variables(self) -> tuple[keras.Variable, ...]:
        """All weights: of networks, couplings and noise."""
        return (
            *(v for n in self.networks for v in n.weights),
            *self._log_scale_variables,
            *(v for n in self._noise_networks for v in n.weights),
            *self._noise_variables,
        )

    @property
    def trainable_variables(self) -> tuple[keras.Variable, ...]:
        """Trainable variables: all whose `trainable` was left `True`.

        `model.networks[0].trainable = False` freezes a network.
        """
        return tuple(v for v in self.variables if v.trainable)

    @property
    def num_dims(self) -> int:
        """Number of components of an image, `H * W * C`."""
        return math.prod(self.image_shape)

    @property
    def num_parameters(self) -> int:
        """Number of scalars in `variables`."""
        return sum(v.shape.num_elements() for v in self.variables)

    def log_prob(self, images: tf.Tensor, seed=None, label=None) -> tf.Tensor:
        """Returns a lower bound on the log-probability of images, in nats.

        The bound holds in the mean over the dequantization noise, one draw of
        which is used here (https://arxiv.org/abs/1511.01844, section 3.1).

        Args:
          images: Integer `[n, H, W, C]` in `0 ... num_colors - 1`.
          seed: Integer of 64 bits with sign, or two, of shape `[2]`, of which
            the lowest 32 bits count; the same seed gives the same noise.
            Default: fresh noise in each call.
          label: Class of all images, an integer, or of each, integers `[n]`:
            the result is given the class. Default: it is that of the mixture of
            all classes, if the model has any.

        Returns:
          Float32 `[n]`, nats for a whole image.

        Raises:
          TypeError: If `images`, `seed` or `label` are not integers.
          ValueError: If `images`, `seed` or `label` are of another shape, or
            the model has no classes and there is a `label`.
          tf.errors.InvalidArgumentError: If a component, `seed` or a label is
            out of range.
        """
        points = self.dequantize(images, seed)
        return self.log_density(points, self._labels(label, points))

    def log_prob_each(
        self, images: tf.Tensor, seeds: tf.Tensor, label=None
    ) -> tf.Tensor:
        """Returns what `log_prob` does, with a seed for each image.

        What it gives for an image depends on that image and its seed, not on
        those beside it: `log_prob(images[i : i + 1], seeds[i])`, to rounding.

        Args:
          images: As for `log_prob`.
          seeds: Integers `[n]` of 64 bits with sign.
          label: As for `log_prob`.

        Returns:
          Float32 `[n]`, nats for a whole image.

        Raises:
          TypeError: If `images`, `seeds` or `label` are not integers.
          ValueError: If they are of another shape, or the model has no classes
            and there is a `label`.
          tf.errors.InvalidArgumentError: If a component, a seed or a label is
            out of range, or there is another number of seeds or labels.
        """
        points = self.dequantize_each(images, seeds)
        return self.log_density(points, self._labels(label, points))

    def log_density(
        self, points: tf.Tensor, label: tf.Tensor | int | None = None
    ) -> tf.Tensor:
        """Returns the log-density of dequantized images, in nats.

        It is `distribution.log_prob`, for batches that may be empty.

        Args:
          points: `[n, H, W, C]`, as `dequantize` gives them.
          label: As for `log_prob`, but not checked.

        Returns:
          Float32 `[n]`.
        """
        if label is None and self.num_classes is not None:
            return tf.reduce_logsumexp(self.log_joint(points), axis=-1)
        # Another tensor: of the caller's TFP's cache may know what it was with
        # weights of before.
        points = tf.identity(tf.cast(points, tf.float32))
        if label is not None:
            label = tf.broadcast_to(label, tf.shape(points)[:1])
        return _apply(self.distribution.log_prob, points, label)

    def log_joint(
        self,
        points: tf.Tensor,
        log_density: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Returns the log-density of points together with each class.

        Over the classes it sums up to the mixture, and normalized it gives
        their probabilities.

        Args:
          points: As for `log_density`.
          log_density: What computes that, if it is traced already. Default: the
            method.

        Returns:
          Float32 `[n, num_classes]`, `log_density(points, label)` plus the
          logarithm of the class's probability.

        Raises:
          ValueError: If the model has no classes.
        """
        if self.num_classes is None:
            raise ValueError("The model has no classes to tell apart.")

        def given(label):
            # Another tensor, since TFP's cache would hand on, out of the loop,
            # what it keeps of this one.
            own = tf.identity(points)
            labels = tf.fill([tf.shape(own)[0]], label)
            return (log_density or self.log_density)(own, labels)

        # One class after another, for memory's sake.
        log_probs = tf.map_fn(
            given,
            tf.range(self.num_classes),
            fn_output_signature=tf.TensorSpec([None], tf.float32),
            parallel_iterations=1,
        )
        return tf.transpose(log_probs) + tf.math.log(
            tf.constant(self.class_probs, tf.float32)
        )

    def _labels(self, label, batch):
        """Returns the labels that a caller gave for a batch, int32 `[n]`."""
        if label is None:
            return None
        if self.num_classes is None:
            raise ValueError(
                "`label` must not be given: the model has no classes."
            )
        return assertions.labels(label, self.num_classes, tf.shape(batch)[0])

    def _through_flow(self, function, batch, label):
        """Applies a direction of the flow without noise to a batch."""
        if label is None and self.num_classes is not None:
            raise ValueError(
                "`label` must be given: latents are those of a class, and the "
                f"model has {self.num_classes}."
            )

        def apply(batch, **label):
            kwargs = bijectors.condition_kwargs(self.bijector, **label)
            return function(batch, **kwargs)

        return _apply(apply, batch, self._labels(label, batch))

    def classify(self, images: tf.Tensor, seed=None) -> tf.Tensor:
        """Returns the log-probabilities of all classes, given images.

        They follow from the densities by Bayes' rule, with `class_probs` before
        an image is seen. All classes see the same noise.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.

        Returns:
          Float32 `[n, num_classes]`, normalized.

        Raises:
          ValueError: If the model has no classes, or as `log_prob`.
          TypeError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        return tf.nn.log_softmax(self.log_joint(self.dequantize(images, seed)))

    def dequantize(self, images: tf.Tensor, seed=None) -> tf.Tensor:
        """Adds uniform noise to images, which gives them a density.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.

        Returns:
          Float32 `[n, H, W, C]` in `[0, num_colors]`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        images = assertions.images(images, self.image_shape, self.num_colors)
        return self.add_noise(images, stateless_seed(seed))

    def dequantize_each(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Does what `dequantize` does, with a seed for each image.

        Args:
          images: As for `log_prob`.
          seeds: As for `log_prob_each`.

        Returns:
          Float32 `[n, H, W, C]` in `[0, num_colors]`. An image has the noise
          that it would have alone, in a batch of one, with its seed.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As
            `log_prob_each`.
        """
        images = assertions.images(images, self.image_shape, self.num_colors)
        seeds = assertions.stateless_seeds(seeds, tf.shape(images)[0])
        # One after another: no operation of TensorFlow takes many seeds.
        return tf.map_fn(
            lambda pair: self.add_noise(*pair),
            (images, seeds),
            fn_output_signature=tf.TensorSpec(self.image_shape, tf.float32),
        )

    def add_noise(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Does what `dequantize` does, and checks nothing: for training.

        Args:
          images: Integer `[..., H, W, C]` in `0 ... num_colors - 1`.
          seed: Int32 `[2]`.

        Returns:
          Float32 `[..., H, W, C]` in `[0, num_colors]`.
        """
        seed = tfp.random.sanitize_seed(seed, salt="dequantize")
        noise = tf.random.stateless_uniform(tf.shape(images), seed)
        return tf.cast(images, tf.float32) + noise

    def bits_per_dim(
        self, images: tf.Tensor, seed=None, label=None
    ) -> tf.Tensor:
        """Returns an upper bound on the code length of images, in bits/dim.

        Args:
          images: As for `log_prob`.
          seed: As for `log_prob`.
          label: As for `log_prob`.

        Returns:
          Float32 `[n]`, `-log_prob(images) / (H * W * C * log(2))`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        log_prob = self.log_prob(images, seed, label)
        return units.bits_per_dim(log_prob, self.num_dims)

    def sample(self, n, temperature=1.0, seed=None, label=None) -> tf.Tensor:
        """Draws images.

        Args:
          n: Number of images, an `int` or an integer scalar `Tensor`.
          temperature: Factor on the latents' standard deviation; less than 1
            gives less varied images.
          seed: Integer of 64 bits with sign, or two, of shape `[2]`, of which
            the lowest 32 bits count; the same seed gives the same images.
            Default: fresh ones in each call.
          label: Class of all images, an integer, or of each, integers `[n]`.
            Default: each is drawn, `sample_labels(n, seed)`, if there are any.

        Returns:
          `uint8` images `[n, H, W, C]`.

        Raises:
          TypeError: If `n`, `seed` or `label` is no integer, or `temperature`
            no number.
          ValueError: If one of them is of another shape, or the model has no
            classes and there is a `label`.
          tf.errors.InvalidArgumentError: If `n` or `temperature` is negative,
            `n * H * W * C` needs more than 31 bits, `temperature` is not finite
            or so high that float32 overflows, or `seed` or a label is out of
            range.
        """
        if self.num_classes is not None and label is None:
            seed = stateless_seed(seed)
            label = self.sample_labels(n, seed)
        return self.decode(self.sample_latents(n, temperature, seed), label)

    def sample_labels(self, n, seed=None) -> tf.Tensor:
        """Draws classes by their probabilities.

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
        n = assertions.count(n, "n", maximum=tf.int32.max // self.num_dims)
        seed = tfp.random.sanitize_seed(stateless_seed(seed), salt="label")
        logits = tf.math.log(tf.constant([self.class_probs], tf.float32))
        return tf.random.stateless_categorical(
            logits, tf.cast(n, tf.int32), seed, tf.int32
        )[0]

    def sample_latents(self, n, temperature=1.0, seed=None) -> tf.Tensor:
        """Draws latents, from which `decode` makes the images of `sample`.

        Args:
          n: As for `sample`.
          temperature: As for `sample`.
          seed: As for `sample`.

        Returns:
          Float32 latents `[n, H / 2, W / 2, 4 * C]`.

        Raises:
          TypeError, ValueError, tf.errors.InvalidArgumentError: As `sample`.
        """
        # TensorFlow counts the components of a batch in int32.
        n = assertions.count(n, "n", maximum=tf.int32.max // self.num_dims)
        temperature = assertions.non_negative(temperature, "temperature")
        seed = tfp.random.sanitize_seed(stateless_seed(seed), salt="sample")
        latents = self.distribution.distribution.sample(n, seed=seed)
        return tf.debugging.check_numerics(
            temperature * latents,
            "`temperature` must be lower: the latents overflow.",
        )

    def encode(self, images: tf.Tensor, label=None) -> tf.Tensor:
        """Returns the latents of images.

        Every component is dequantized to the middle of its level, so that
        `decode` gives the image back.

        Args:
          images: As for `log_prob`.
          label: Class of all images, an integer, or of each, integers `[n]`;
            it must be given if the model has classes.

        Returns:
          Float32 latents `[n, H / 2, W / 2, 4 * C]`. The last `2 * C` channels
          are what the first scale factored out, and hold the finest detail.

        Raises:
          ValueError: If there is no `label` and the model has classes, or as
            `log_prob`.
          TypeError, tf.errors.InvalidArgumentError: As `log_prob`.
        """
        images = assertions.images(images, self.image_shape, self.num_colors)
        points = tf.cast(images, tf.float32) + 0.5
        return self._through_flow(self._without_noise.inverse, points, label)

    def decode(self, latents: tf.Tensor, label=None) -> tf.Tensor:
        """Returns the images of latents.

        Args:
          latents: Real numbers `[n, H / 2, W / 2, 4 * C]`.
          label: As for `encode`; with the label that an image was encoded with,
            `decode` gives it back.

        Returns:
          `uint8` images `[n, H, W, C]`.

        Raises:
          TypeError: If `latents` are not real numbers, or `label` no integers.
          ValueError: If they are of another shape, or as `encode`.
          tf.errors.InvalidArgumentError: If a latent is not finite, or so large
            that float32 overflows, or a label is out of range.
        """
        latents = assertions.latents(latents, self.latent_shape)
        points = self._through_flow(self._without_noise.forward, latents, label)
        # Where float32 overflows, infinities meet.
        points = tf.debugging.check_numerics(
            points,
            "`latents` must be smaller (or the `temperature` that they are "
            "drawn at): decoding them overflows.",
        )
        # The inverse of the logit step reaches beyond the levels on both sides.
        images = tf.clip_by_value(tf.floor(points), 0.0, self.num_colors - 1.0)
        return tf.cast(images, tf.uint8)


def max_num_scales(image_shape: Sequence[int]) -> int:
    """Returns the largest `num_scales` that images of a shape can have.

    Each scale beyond the second needs sides that can be halved once more, and
    the last one two pixels, for its checkerboard masks to keep something and to
    change something. Two scales are always possible, if the last is of a pixel.

    Args:
      image_shape: `(H, W, C)` in pixels and channels; `H` and `W` even.
    """
    height, width = (size // 2 for size in image_shape[:2])
    num_scales = 2
    while height % 2 == 0 and width % 2 == 0 and height * width > 4:
        height, width = height // 2, width // 2
        num_scales += 1
    return num_scales


def _restore(config, name, metadata, values):
    """Returns a model like one that was cloned or pickled."""
    model = RealNVP(**config, name=name)
    model.metadata = metadata
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    return model


def _scalars(networks_):
    """Returns the variables `rescale` and `reshift`, in turn, of networks."""
    return [
        keras.Variable(
            value,
            dtype="float32",
            autocast=False,
            name=f"{network.name}_{name}",
        )
        for network in networks_
        for name, value in (("rescale", 1.0), ("reshift", 0.0))
    ]


def _pairs(scalars):
    """Returns `rescale` and `reshift` of each network."""
    return list(zip(scalars[::2], scalars[1::2], strict=True))


def _check(name, value):
    return check(value, name, ARCHITECTURE[name])


def _check_image_shape(image_shape) -> tuple[int, ...]:
    sizes = WholeNumbers(3, 1, 2**31 - 1)
    height, width, channels = check(tuple(image_shape), "image_shape", sizes)
    if height % 2 or width % 2:
        raise ValueError(
            "`image_shape` must have an even height and width, got "
            f"{checks.short(image_shape)}."
        )
    return height, width, channels


def _check_class_probs(class_probs, num_classes) -> tuple[float, ...] | None:
    """Returns the probabilities of the classes, `None` if there are none."""
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
            f"sum of 1, got {checks.short(class_probs)}."
        )
    return tuple(probs.tolist())


def _apply(function, batch, label):
    """Applies a function of networks to a batch that may be empty.

    Args:
      function: Called with a batch and, if there is one, `label`.
      batch: `[n, ...]`.
      label: `[n]`, or `None`.

    Returns:
      What `function` returns, `[n, ...]`.
    """
    condition = {} if label is None else {"label": _at_least_one(label)}
    return function(_at_least_one(batch), **condition)[: tf.shape(batch)[0]]


def _at_least_one(batch):
    """Adds an example to an empty batch.

    With oneDNN a convolution of an empty batch has the shape of its input, and
    what comes after it fails.
    """
    if batch.shape[0]:
        return batch
    missing = tf.maximum(1 - tf.shape(batch)[0], 0)
    return tf.pad(batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1))
