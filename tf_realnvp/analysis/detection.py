"""Out-of-distribution detection: is an image like a model's training images?

The likelihood alone is not enough: a flow may assign a higher likelihood to
out-of-distribution images than to its training images
(https://arxiv.org/abs/1810.09136). The methods in this module correct for this.
A method is fitted to measurements of normal images and returns a score. The
score maps measurements of images to a number per image, higher for more
anomalous images. No method is fitted to anomalous images.

```python
measure = detection.Measurer(model)
score = detection.combined(measure(training_images))
scores = score(measure(images))  # float64 [n], higher: more anomalous
reference = score(measure(other_images))
significance.p_values(scores, reference)
significance.set_p_value(scores, reference)
```
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

# What is measured is a part of this module to its users.
from tf_realnvp.analysis.measuring import Measurements as Measurements
from tf_realnvp.analysis.measuring import Measurer as Measurer
from tf_realnvp.analysis.measuring import coded_bits as coded_bits
from tf_realnvp.analysis.significance import p_values, set_p_value
from tf_realnvp.errors import ImageError

MIN_NORMAL = 10  # Smallest number of normal images to fit the methods to.

_MAX_COMPONENTS = 5  # Components of the mixture of Gaussians.
_IMAGES_PER_COMPONENT = 50
_NUM_FOLDS = 5
_FAR = 1e6  # Standard deviations that features are clipped to.
_OUTLIER = 10.0  # Standard deviations beyond which an image is an outlier.
_MOST_OUTLIERS = 0.05  # Largest fraction of images to drop as outliers.
_QUARTILES = 1.349  # Interquartile range of a standard normal distribution.
_RIDGE = 1e-3  # Added to variances of standardized features.
_MOST_TILES = 20_000  # To fit the methods to.


class Score:
    """Maps measurements of `n` images to scores, float64 `[n]`.

    Attributes:
      of_tensors: The same function, but the measurements may be tensors of a
        graph, as is the result.
    """

    def __init__(self, of_tensors: Callable[[Measurements], Any]):
        self.of_tensors = of_tensors

    def __call__(self, seen: Measurements) -> np.ndarray:
        return np.asarray(self.of_tensors(seen))


Method = Callable[[Measurements], Score]


def likelihood(normal: Measurements) -> Score:
    """The negative log-likelihood, in nats.

    Args:
      normal: Measurements of normal images; unused.

    Returns:
      The score, which maps measurements of `n` images to float64 `[n]`.
    """
    return Score(lambda seen: -seen.log_prob)


def typicality(normal: Measurements) -> Score:
    """The distance of the log-likelihood from its normal mean, in nats.

    The typicality test of https://arxiv.org/abs/1906.02994, with batches of one
    image: images that are much more likely than normal images are as atypical
    as images that are much less likely.

    Args:
      normal: Measurements of normal images, which give the mean.

    Returns:
      The score, as for `likelihood`.
    """
    mean = normal.log_prob.mean()
    return Score(lambda seen: tf.abs(seen.log_prob - mean))


def complexity(normal: Measurements) -> Score:
    """The model's code length minus that of a lossless coder, in bits.

    See https://arxiv.org/abs/1909.11480: simple images are likely under any
    model of images, including the implicit model of a lossless coder. The
    difference is the log-likelihood ratio of the coder to this model.

    Args:
      normal: Measurements of normal images; unused.

    Returns:
      The score, as for `likelihood`; in bits.
    """
    return Score(lambda seen: -seen.log_prob / math.log(2.0) - seen.coded_bits)


def scales(normal: Measurements) -> Score:
    """The negative log-density of statistics of each scale of the flow.

    The features are, for each scale, the log-density of its latents (their
    squared norm up to constants) and its contribution to the log-det. They are
    standardized, and a mixture of up to five Gaussians is fitted to those of
    normal images.

    Args:
      normal: Measurements of normal images, to which the mixture is fitted.

    Returns:
      The score, as for `likelihood`: the negative log-density under the
      mixture, in nats.
    """
    features = _standardize(
        lambda seen: tf.reduce_sum(seen.costs, axis=[3, 4]), normal
    )
    count = min(max(len(normal) // _IMAGES_PER_COMPONENT, 1), _MAX_COMPONENTS)
    mixture = GaussianMixture(count, reg_covar=_RIDGE, n_init=2, random_state=0)
    with warnings.catch_warnings(action="ignore"):  # That it goes on rising.
        mixture.fit(features(normal).numpy())
    factors = mixture.precisions_cholesky_
    log_weights = np.log(mixture.weights_) + np.linalg.slogdet(factors)[1]
    log_weights -= 0.5 * math.log(2.0 * math.pi) * factors.shape[-1]

    def score(seen):
        offsets = features(seen)[:, tf.newaxis] - mixture.means_
        white = tf.einsum("nkd,kde->nke", offsets, factors)
        squares = tf.reduce_sum(white**2, axis=-1)
        return -tf.reduce_logsumexp(log_weights - 0.5 * squares, axis=-1)

    return Score(score)


def local(normal: Measurements) -> Score:
    """The Mahalanobis distance of statistics of each scale and position.

    The features are those of `scales`, for each cell of a grid of at most
    8 x 8. The distance is from the mean of normal images. It uses the
    Ledoit-Wolf covariance, which is shrunk towards a multiple of the identity
    if there are few images (https://doi.org/10.1016/S0047-259X(03)00096-4).

    Args:
      normal: Measurements of normal images, which give mean and covariance.

    Returns:
      The score, as for `likelihood`: the logarithm of the squared distance.
    """
    features = _standardize(lambda seen: seen.costs, normal)
    covariance = LedoitWolf().fit(features(normal).numpy())

    def score(seen):
        offsets = features(seen) - covariance.location_
        squares = tf.matmul(offsets, covariance.precision_) * offsets
        tiny = np.finfo(np.float64).tiny
        return tf.math.log(tf.maximum(tf.reduce_sum(squares, axis=1), tiny))

    return Score(score)


def region(normal: Measurements) -> Score:
    """The most unusual region of a tile, for small faults.

    The features are the mean of the highest and of the lowest costs of regions
    of 3x3 and of 12x12 pixels, and the least contrast of 4x4 pixels.

    Args:
      normal: Measurements of tiles of normal images.

    Returns:
      The score, as for `likelihood`; the highest feature, in standard
      deviations.
    """
    features = _standardize(lambda seen: seen.regions, normal)
    return Score(lambda seen: tf.reduce_max(features(seen), axis=1))


def combined(normal: Measurements) -> Score:
    """The sum of `complexity`, `scales` and `local`, each standardized.

    `complexity` and `scales` detect anomalies of a whole image, `local`
    detects local anomalies, and for tiles `region` is added, which detects
    small ones anywhere. For real numbers there is no `complexity`. The mean
    and standard deviation of each score are estimated by five-fold
    cross-validation on the normal images. An image is an outlier if a score is
    more than ten standard deviations (estimated from the quartiles) from the
    median of its fold. Outliers are dropped if they are at most 5 % of the
    images.

    Args:
      normal: Measurements of normal images.

    Returns:
      The score, as for `likelihood`; in standard deviations.
    """
    parts = complexity, scales, local, region
    methods = [m for m in methods_for(normal).values() if m in parts]
    held_out = [_held_out(method, normal) for method in methods]
    is_outlier = np.any([outliers for _, outliers in held_out], axis=0)
    if 0 < is_outlier.mean() <= _MOST_OUTLIERS:
        # A single outlier could inflate the standard deviation of a score so
        # much that the score no longer contributes.
        normal = normal.take(~is_outlier)
        held_out = [_held_out(method, normal) for method in methods]
    terms = [
        (method(normal).of_tensors, scores.mean(), max(scores.std(), 1e-9))
        for method, (scores, _) in zip(methods, held_out, strict=True)
    ]
    return Score(
        lambda seen: sum(
            (term(seen) - mean) / deviation for term, mean, deviation in terms
        )
    )


_ALL = likelihood, typicality, complexity, scales, local, region, combined
METHODS: dict[str, Method] = {method.__name__: method for method in _ALL}
# The best on average over all experiments: benchmarks/results/detection.md.
DEFAULT = "combined"


def methods_for(normal: Measurements) -> dict[str, Method]:
    """Returns `METHODS`, with `complexity` for levels, and `region` for tiles.

    Args:
      normal: Measurements of normal images.
    """
    left_out = {
        "complexity": np.isnan(normal.coded_bits).any(),
        "region": not normal.regions.size,
    }
    return {n: m for n, m in METHODS.items() if not left_out.get(n)}


def fit(normal: Measurements) -> dict[str, Score]:
    """Fits all methods and returns their scores, by name.

    Args:
      normal: Measurements of normal images.

    Raises:
      ValueError: If there are fewer than `MIN_NORMAL` images.
    """
    if len(normal) < MIN_NORMAL:
        raise ValueError(f"{MIN_NORMAL} images are needed, got {len(normal)}.")
    if normal.regions.size:  # Few images have many tiles.
        step = math.ceil(len(normal) / _MOST_TILES)
        normal = normal.take(slice(None, None, step))
    return {n: method(normal) for n, method in methods_for(normal).items()}


def _standardize(features, normal):
    """Returns features with zero mean and unit variance over normal images."""

    def flat(seen):
        values = tf.cast(features(seen), tf.float64)
        return tf.reshape(values, [-1, math.prod(values.shape[1:])])

    scaler = StandardScaler().fit(flat(normal).numpy())
    return lambda seen: tf.clip_by_value(
        (flat(seen) - scaler.mean_) / scaler.scale_, -_FAR, _FAR
    )


def _held_out(method, normal):
    """Scores the normal images of each fold by a fit to the other folds.

    Returns:
      The scores, and a mask of the outliers. Outliers are determined within a
      fold, since scores of different folds come from different fits.
    """
    scores, is_outlier = np.zeros(len(normal)), np.zeros(len(normal), bool)
    for fold in range(_NUM_FOLDS):
        in_fold = np.arange(len(normal)) % _NUM_FOLDS == fold
        score = method(normal.take(~in_fold))
        scores[in_fold] = score(normal.take(in_fold))
        low, median, high = np.quantile(scores[in_fold], [0.25, 0.5, 0.75])
        limit = _OUTLIER * (high - low) / _QUARTILES or np.inf
        is_outlier[in_fold] = np.abs(scores[in_fold] - median) > limit
    return scores, is_outlier


class Reference:
    """Scores and p-values of images, relative to normal images.

    All methods are fitted to one half of the normal images. The other half is
    the reference for p-values.

    Attributes:
      others: Indices of the normal images that are the reference for p-values.
    """

    def __init__(self, normal: Measurements, seed: int = 0):
        """Fits the methods.

        Args:
          normal: Measurements of normal images that the model was not trained
            on.
          seed: Seed of the split into halves.

        Raises:
          ValueError: If there are fewer than `2 * MIN_NORMAL` images.
        """
        rows = normal.rows
        order = np.random.default_rng(seed).permutation(len(rows))
        fitted, self.others = np.split(order, [len(rows) // 2])

        def take(images):
            return normal.take(np.concatenate([rows[k] for k in images]))

        self._methods = fit(take(fitted))
        others = take(self.others)
        self._scores = others.of_images(self._methods[DEFAULT](others))
        self._most_tiles = max(map(len, rows))

    def __call__(self, measured: Measurements) -> dict[str, np.ndarray]:
        """Returns the scores of images by all methods, and their `p_value`.

        Args:
          measured: Measurements of the images.

        Returns:
          Arrays `[n]`: the scores by name of the method, and `p_value`. The
          score of an image is the highest of its tiles.

        Raises:
          ImageError: If an image has more tiles than those of the reference,
            whose highest scores would be lower for that alone.
        """
        most = max(map(len, measured.rows))
        if most > self._most_tiles:
            raise ImageError(
                f"an image has {most:,} tiles, more than those of the "
                f"reference, {self._most_tiles:,}: its p-value would be too low"
            )
        scores = {
            name: measured.of_images(score(measured))
            for name, score in self._methods.items()
        }
        return scores | {"p_value": p_values(scores[DEFAULT], self._scores)}

    def in_graph(self, measured: Measurements) -> dict[str, tf.Tensor]:
        """Returns score and p-value of tensors, as a part of a graph.

        Args:
          measured: Measurements of the images or tiles.

        Returns:
          `score`, of the method `DEFAULT`, and `p_value`, float64 `[n]`.
        """
        score = self._methods[DEFAULT].of_tensors(measured)
        is_higher = self._scores >= score[:, tf.newaxis]
        count = tf.reduce_sum(tf.cast(is_higher, tf.float64), axis=1)
        p_value = (1.0 + count) / (len(self._scores) + 1.0)
        return {"score": score, "p_value": p_value}

    def set_p_value(self, scores: Sequence[float] | np.ndarray) -> float:
        """Returns the p-value of a set of images.

        Args:
          scores: Scores of the images by the method `DEFAULT`, `[n]`.
        """
        return set_p_value(np.asarray(scores), self._scores)
