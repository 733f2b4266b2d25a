"""Initial weights that are fitted to images."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_realnvp.bijectors import AffineCoupling, FactorOut
from tf_realnvp.model import RealNVP

_KERNEL_SIZE = 3
# What is fitted to fewer positions than this times the unknowns stays.
_POSITIONS_PER_UNKNOWN = 10
_RIDGE = 1e-4


def initialize(model: RealNVP, images: tf.Tensor, seed: int) -> None:
    """Starts every coupling as the best linear prediction.

    A new model is the identity between logits and latents. Neighbouring pixels
    are much alike, though, and what they tell of one another is known before
    any training: each coupling in turn, from image to latents, predicts what it
    changes from the 3x3 pixels of what it keeps, by least squares, takes that
    away and scales the rest to unit variance. Nothing else
    of the model changes, nor does a coupling of which something is frozen, and
    all other weights are trained as before.

    With several workers it is to be called in the scope of their strategy: all
    of them get the weights of the first.

    Args:
      model: The model, new, whose weights are changed in place.
      images: Some training images, integers `[n, H, W, C]`: a hundred will do.
      seed: Seed of the dequantization noise.
    """
    _fit(model.bijector, model.dequantize(images, seed))
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        _agree(strategy, model.variables)


def _fit(bijector, points):
    """Fits the couplings in a bijector.

    Args:
      bijector: A bijector of the model.
      points: What its `inverse` gets, `[n, H, W, C]`.

    Returns:
      What its `inverse` now gives.
    """
    if isinstance(bijector, tfb.Composition):
        for part in bijector.bijectors:
            points = _fit(part, points)
        return points
    if isinstance(bijector, FactorOut):
        kept, factored_out = tf.split(points, 2, axis=-1)
        return tf.concat([_fit(bijector.bijector, kept), factored_out], -1)
    if isinstance(bijector, AffineCoupling):
        return _fit_coupling(bijector, points)
    return bijector.inverse(points)


def _fit_coupling(coupling, points):
    if coupling.mask.all():
        return points  # It changes nothing, on a grid of one pixel.
    network = coupling.network
    if not all(v.trainable for v in (*network.weights, coupling.reshift)):
        # Somebody wants it as it is. Of any class: all are alike at first.
        label = {}
        if network.num_classes is not None:
            label["label"] = tf.zeros(points.shape[:1], tf.int32)
        return coupling.inverse(points, **label)
    kernel, bias, log_scale = _predict_changed(
        coupling.mask, points, network.can_be_linear
    )
    # The mean is the scalar's, the differences are the network's.
    changed = np.isfinite(log_scale)
    reshift = log_scale[changed].mean()
    amplitude = float(coupling.rescale.numpy())
    differences = (np.where(changed, log_scale, reshift) - reshift) / amplitude
    to_scale = np.arctanh(np.clip(differences, -0.9, 0.9))
    scale = np.exp(amplitude * np.tanh(to_scale) + reshift)
    kernel = np.concatenate([np.zeros_like(kernel), -scale * kernel], axis=-1)
    bias = np.concatenate([to_scale, -scale * bias])
    coupling.reshift.assign(reshift)
    kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    network.assign_linear(kernel, bias)
    # The network gives the same, in a hundred times as long.
    linear = AffineCoupling(
        coupling.mask,
        lambda x: tf.nn.conv2d(x, kernel, 1, "SAME") + bias,
        coupling.rescale,
        coupling.reshift,
    )
    return linear.inverse(points)


def _agree(strategy, variables):
    """Gives all workers the values of the first.

    What they computed on their own may differ by rounding, and so would all
    that comes after.
    """

    @tf.function(autograph=False)
    def values_of_first():
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        shares = [
            tf.cast(is_first, tf.float32) * variable.value
            for variable in variables
        ]
        return context.all_reduce(tf.distribute.ReduceOp.SUM, shares)

    for variable, value in zip(
        variables, strategy.run(values_of_first), strict=True
    ):
        variable.assign(strategy.experimental_local_results(value)[0])


def _predict_changed(mask, points, use_kept):
    """Predicts what a coupling changes from what it keeps.

    Args:
      mask: Boolean `[H, W, C]`, `True` where a component is kept.
      points: Float32 `[n, H, W, C]`.
      use_kept: Whether to predict more than the mean.

    Returns:
      `kernel` `[3, 3, C, C]` and `bias` `[C]` of a convolution of what is kept;
      the negative log of the error's standard deviation `[C]`, NaN for channels
      that are kept everywhere.
    """
    size, channels = _KERNEL_SIZE, mask.shape[-1]
    patches = tf.image.extract_patches(
        tf.where(mask, points, 0.0),
        [1, size, size, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        "SAME",
    ).numpy()
    points = points.numpy()
    kernel = np.zeros((size * size * channels, channels))
    bias = np.zeros(channels)
    log_scale = np.full(channels, np.nan)
    # Channels that are kept at the same positions are predicted from the same.
    for kept in np.unique(mask, axis=-1).transpose(2, 0, 1):
        inputs = patches[:, ~kept].reshape(-1, len(kernel)).astype(np.float64)
        num_unknowns = len(inputs) // _POSITIONS_PER_UNKNOWN
        predicts = use_kept and mask.any() and num_unknowns >= len(kernel)
        if predicts:
            mean_input = inputs.mean(axis=0)
            inputs -= mean_input
            gram = inputs.T @ inputs
            # Components that are kept nowhere in the patch are zero.
            gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        is_member = np.all(mask == kept[..., np.newaxis], axis=(0, 1))
        for channel in np.flatnonzero(is_member & ~kept.all()):
            if num_unknowns < 1:
                log_scale[channel] = 0.0
                continue
            targets = points[:, ~kept, channel].reshape(-1).astype(np.float64)
            bias[channel] = targets.mean()
            targets -= bias[channel]
            if predicts:
                weights = np.linalg.solve(gram, inputs.T @ targets)
                kernel[:, channel] = weights
                bias[channel] -= mean_input @ weights
                targets -= inputs @ weights
            log_scale[channel] = -np.log(targets.std())
    return kernel.reshape(size, size, channels, channels), bias, log_scale
