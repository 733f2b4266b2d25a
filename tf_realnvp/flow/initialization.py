"""Data-dependent initialization."""

import numpy as np
import tensorflow as tf

from tf_realnvp.flow import bijectors, networks
from tf_realnvp.flow.bijectors import AffineCoupling
from tf_realnvp.flow.real_nvp import RealNVP

_KERNEL_SIZE = 3
# A fit requires at least this many positions per unknown.
_POSITIONS_PER_UNKNOWN = 10
_RIDGE = 1e-4


def initialize(model: RealNVP, images: tf.Tensor, seed: int) -> None:
    """Initializes every coupling with the best linear prediction.

    A new model is the identity between logits and latents. Neighbouring pixels
    are strongly correlated, however, which can be exploited before training.
    Each coupling in turn, from image to latents, is fitted by least squares: it
    predicts the transformed components from the kept components in a 3x3
    window, subtracts the prediction and scales the residual to unit variance.
    Couplings with frozen variables, and everything else in the model, stay
    unchanged. All weights can be trained as usual afterwards.

    With several workers, call this function in the scope of their strategy. All
    workers get the weights of the first.

    Args:
      model: A new model; its weights are changed in place.
      images: Training images, integers `[n, H, W, C]`; about 100 are enough.
      seed: Seed of the dequantization noise.
    """
    points = model.dequantize(images, seed)
    bijectors.fold(model.bijector, points, _fit)
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        _agree(strategy, model.variables)


def _fit(step, points, *unused):
    """Returns the output of a step of the flow; fits it if it is a coupling."""
    if isinstance(step, AffineCoupling):
        return _fit_coupling(step, points)
    return step.inverse(points)


def _fit_coupling(coupling, points):
    if coupling.mask.all():
        return points  # On a grid of one pixel, the mask may keep everything.
    network = coupling.network
    if not all(v.trainable for v in (*network.weights, coupling.reshift)):
        # Frozen: leave it unchanged. Any label will do, and no context, since
        # what a new model makes of them is zero.
        label = {}
        if network.num_classes is not None:
            label["label"] = tf.zeros(points.shape[:1], tf.int32)
        return coupling.inverse(points, **label)
    kernel, bias, log_scale = _predict_changed(
        coupling.mask, points, network.can_be_linear, network.padding
    )
    # `reshift` holds the mean log-scale, the network the differences from it.
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
    # Equals the coupling with its network, at a hundredth of the cost.
    linear = AffineCoupling(
        coupling.mask,
        lambda x: networks.conv2d(x, (kernel, bias), network.padding),
        coupling.rescale,
        coupling.reshift,
    )
    return linear.inverse(points)


def _agree(strategy, variables):
    """Assigns the first worker's values in all workers.

    Values computed by each worker may differ by rounding, and training would
    then diverge between workers.
    """
    flat = tf.concat([tf.reshape(v.value, [-1]) for v in variables], axis=0)
    sizes = [v.shape.num_elements() for v in variables]
    *parts, _ = tf.split(strategy.gather(flat, axis=0), [*sizes, -1])
    for variable, part in zip(variables, parts, strict=True):
        variable.assign(tf.reshape(part, variable.shape))


def _predict_changed(mask, points, use_kept, padding):
    """Predicts the components that a coupling changes from the kept ones.

    Args:
      mask: Boolean `[H, W, C]`, `True` where a component is kept.
      points: Float32 `[n, H, W, C]`.
      use_kept: Whether to use the kept components, or to predict the mean.
      padding: As for `networks.padded`.

    Returns:
      `kernel` `[3, 3, C, C]` and `bias` `[C]` of a convolution of the kept
      components; and the negative logarithm of the standard deviation of the
      error, `[C]`, NaN for channels that are kept everywhere.
    """
    size, channels = _KERNEL_SIZE, mask.shape[-1]
    visible = tf.where(mask, points, 0.0)
    visible, to_add = networks.padded(visible, size, padding)
    patches = tf.image.extract_patches(
        visible, [1, size, size, 1], [1] * 4, [1] * 4, to_add
    ).numpy()
    points = points.numpy()
    kernel = np.zeros((size * size * channels, channels))
    bias = np.zeros(channels)
    log_scale = np.full(channels, np.nan)
    # Channels that are kept at the same positions share their predictors.
    for kept in np.unique(mask, axis=-1).transpose(2, 0, 1):
        inputs = patches[:, ~kept].reshape(-1, len(kernel)).astype(np.float64)
        num_unknowns = len(inputs) // _POSITIONS_PER_UNKNOWN
        predicts = use_kept and mask.any() and num_unknowns >= len(kernel)
        if predicts:
            mean_input = inputs.mean(axis=0)
            inputs -= mean_input
            gram = inputs.T @ inputs
            # A ridge, since components that are never kept are zero.
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
