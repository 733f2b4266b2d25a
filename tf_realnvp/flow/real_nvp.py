"""RealNVP: a density over images, its sampler and its latent space."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp.flow import bijectors, observations
from tf_realnvp.flow.flow import Flow
from tf_realnvp.utils import private, tensors
from tf_realnvp.utils.tensors import stateless_seed


class RealNVP(Flow):
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

    Its networks, variables, bijector and distribution are those of its base
    class, `Flow`.
    """

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

        given = {"label": label, "context": context}
        condition = {k: v for k, v in given.items() if v is not None}
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
            scaled = self.condition.estimate(context)
            return self._to_logits[0].forward(scaled) - self.values.middle

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


def _at_least_one(batch):
    """Adds an example to an empty batch.

    With oneDNN the output of a convolution of an empty batch has the shape of
    its input, so later operations fail.
    """
    if batch.shape[0]:
        return batch
    missing = tf.maximum(1 - tf.shape(batch)[0], 0)
    return tf.pad(batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1))
