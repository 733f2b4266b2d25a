"""Out-of-distribution detection: is an image like a model's training images?

The likelihood alone does not tell: a flow finds many images that are nothing
like its training images more likely than those (https://arxiv.org/abs/1810.09136).
The methods here correct it. All have one form: from measurements of normal
images a method makes a score, and the score maps measurements of any images to
how anomalous each of them is. No method sees an anomalous image before.

```python
measure = detection.Measurer(model)
score = detection.combined(measure(training_images))
scores = score(measure(images))  # float64 [n], higher: more anomalous
reference = score(measure(other_images))
detection.p_values(scores, reference)
detection.set_p_value(scores, reference)
```
"""

import concurrent.futures
import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import tensorflow as tf
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from tf_realnvp import bit_maps
from tf_realnvp.model import RealNVP
from tf_realnvp.utils.overlap import overlapped
from tf_realnvp.utils.units import bits_from_nats

MIN_NORMAL = 10  # Images: with fewer there is nothing to fit.

_MAX_CELLS = 8  # Along a side, of the grid that costs are summed over.
_MAX_COMPONENTS = 5  # Of the mixture of Gaussians.
_IMAGES_PER_COMPONENT = 50
_NUM_FOLDS = 5
_OVERFLOW = 1e30  # Nats in the place of what float32 does not hold.
_FAR = 1e6  # Standard deviations, beyond which all is as far.
_OUTLIER = 10.0  # Standard deviations, beyond which a normal image is one.
_MOST_OUTLIERS = 0.05  # Share of the images; if more are, they are a kind.
_QUARTILES = 1.349  # Distance of those of a normal distribution.
_RIDGE = 1e-3  # Variance of a component, at least, where all have one.
_CODERS: tuple[dict[str, Any], ...] = (
    {"format": "PNG", "optimize": True},
    {"format": "WEBP", "lossless": True, "quality": 100},
)


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the methods need to know of images.

    Attributes:
      num_dims: Number of components of an image.
      log_prob: Float64 `[n]`, nats, as `RealNVP.log_prob_each` gives.
      costs: Float32 `[n, S, 2, rows, columns]`, nats: `bit_maps.costs`, summed
        over the cells of a grid of at most 8 x 8.
      coded_bits: Float64 `[n]`, bits that a lossless coder takes.
      label: Int64 `[n]`, the likeliest class, which `costs` are given; 0 if the
        model has no classes.
    """

    num_dims: int
    log_prob: np.ndarray
    costs: np.ndarray
    coded_bits: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.log_prob)

    def take(self, which: np.ndarray) -> "Measurements":
        """Returns those of some of the images.

        Args:
          which: Their numbers, or boolean `[n]`.
        """
        return Measurements(
            self.num_dims, *(values[which] for values in self._arrays())
        )

    @staticmethod
    def concatenate(parts: Sequence["Measurements"]) -> "Measurements":
        """Returns the measurements of several sets of images as one."""
        columns = zip(*(part._arrays() for part in parts), strict=True)
        return Measurements(parts[0].num_dims, *map(np.concatenate, columns))

    def _arrays(self):
        return self.log_prob, self.costs, self.coded_bits, self.label

    @property
    def bits(self) -> np.ndarray:
        """Float64 `[n]`, the code length that the model gives, in bits."""
        return bits_from_nats(-self.log_prob)

    @property
    def bits_per_dim(self) -> np.ndarray:
        """Float64 `[n]`, `bits` for each component."""
        return self.bits / self.num_dims


Score = Callable[[Measurements], np.ndarray]
Method = Callable[[Measurements], Score]


class Measurer:
    """Measures images by a model, in one pass of the flow.

    A model with classes takes a pass more for each of them. What images cost is
    given the likeliest class of each; their log-probability is that of the
    mixture.
    """

    def __init__(self, model: RealNVP, batch_size: int = 64):
        """Makes it; the flow is traced once, at the first images.

        Args:
          model: The model.
          batch_size: Images in a pass. No image's measurements depend on it,
            but for rounding.
        """
        self._model = model
        self._batch_size = batch_size

        def measure(images, seed):
            """Returns costs, classes, and log p(x) - log p(x | class)."""
            seeds = tf.fill([tf.shape(images)[0]], seed)
            points = model.dequantize_each(images, seeds)
            if model.num_classes is None:
                none = tf.zeros_like(seeds)
                return bit_maps.costs(model, points), none, none
            posterior = tf.nn.log_softmax(model.log_joint(points))
            label = tf.argmax(posterior, axis=-1)
            prior = tf.math.log(tf.constant(model.class_probs, tf.float32))
            return (
                bit_maps.costs(model, points, label),
                label,
                # Bayes' rule: p(class | x) = p(class) p(x | class) / p(x).
                tf.gather(prior, label) - tf.reduce_max(posterior, axis=-1),
            )

        self._measure = tf.function(
            measure,
            input_signature=[
                tf.TensorSpec([None, *model.image_shape], tf.uint8),
                tf.TensorSpec([], tf.int64),
            ],
            autograph=False,
        )

    def __call__(
        self,
        images: np.ndarray,
        seed: int = 0,
        on_batch: Callable[[Measurements], None] | None = None,
    ) -> Measurements:
        """Measures images.

        Args:
          images: `uint8` `[n, H, W, C]` in `0 ... num_colors - 1`, at least
            one.
          seed: Seed of the dequantization noise, of 64 bits, the same for each
            image: what is measured depends on that image alone.
          on_batch: Is called with the measurements of each batch.

        Returns:
          Their measurements.

        Raises:
          ValueError: If the images are of another shape or dtype.
        """
        parts = []
        for batch, costs, label, difference in self._batches(images, seed):
            given = -costs.sum(axis=(1, 2, 3, 4), dtype=np.float64)
            part = Measurements(
                num_dims=self._model.num_dims,
                log_prob=given + difference,
                costs=_sum_over_cells(costs),
                coded_bits=coded_bits(batch),
                label=label,
            )
            if on_batch is not None:
                on_batch(part)
            parts.append(part)
        return Measurements.concatenate(parts)

    def maps(self, images: np.ndarray, seed: int = 0) -> np.ndarray:
        """Returns bit maps: what each position of images costs.

        Args:
          images: As above.
          seed: As above.

        Returns:
          Float32 `[n, H, W]`, bits. The sum of a map is the image's code
          length, `-log_prob / log(2)`; if the model has classes, that given the
          likeliest of them.
        """
        return np.concatenate(
            [
                bits_from_nats(costs.sum(axis=(1, 2), dtype=np.float64))
                for _, costs, *_ in self._batches(images, seed)
            ]
        ).astype(np.float32)

    def _batches(self, images, seed):
        """Returns batches, and what of them is measured, made finite.

        Returns:
          For each the images, their costs `[n, S, 2, H, W]`, their classes,
          and how much more log p(x) is than log p(x | class).
        """
        images, shape = np.asarray(images), list(self._model.image_shape)
        if images.dtype != np.uint8 or list(images.shape[1:]) != shape:
            # TensorFlow would cast them, or never return from its next call.
            raise ValueError(
                f"`images` must be uint8 [n, {str(shape)[1:]}, "
                f"got {images.dtype} {list(images.shape)}."
            )

        def measure(start):
            batch = images[start : start + self._batch_size]
            tensors = self._measure(batch, tf.constant(seed, tf.int64))
            costs, label, difference = (tensor.numpy() for tensor in tensors)
            # What float32 does not hold is as unlikely as can be.
            costs = np.nan_to_num(
                costs, nan=_OVERFLOW, posinf=_OVERFLOW, neginf=-_OVERFLOW
            )
            return batch, costs, label, np.nan_to_num(difference)

        return overlapped(measure, range(0, len(images), self._batch_size))


def _sum_over_cells(costs):
    """Sums the last two axes over the cells of a grid."""
    for axis in (-2, -1):
        size = costs.shape[axis]
        count = min(_MAX_CELLS, size // 2)
        starts = np.arange(count) * size // count
        costs = np.add.reduceat(costs, starts, axis=axis)
    return costs


def coded_bits(images: np.ndarray) -> np.ndarray:
    """Returns how many bits lossless coders take for images.

    Args:
      images: `uint8` `[n, H, W, C]`. Where `C` is neither 1 nor 3 the channels
        are coded side by side.

    Returns:
      Float64 `[n]`: for each the shorter of PNG and lossless WebP.
    """

    def length(image):
        if image.shape[-1] != 3:
            image = image.transpose(0, 2, 1).reshape(len(image), -1)
        lengths = []
        for options in _CODERS:
            with io.BytesIO() as file:
                Image.fromarray(image).save(file, **options)
                lengths.append(file.tell())
        return 8.0 * min(lengths)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array(list(pool.map(length, np.asarray(images))), np.float64)


def likelihood(normal: Measurements) -> Score:
    """The negative log-likelihood, in nats.

    Args:
      normal: Of normal images; it needs none.

    Returns:
      The score, which maps measurements of `n` images to float64 `[n]`.
    """
    return lambda seen: -seen.log_prob


def typicality(normal: Measurements) -> Score:
    """The distance of the log-likelihood from that of normal images, in nats.

    With batches of one image, https://arxiv.org/abs/1906.02994: what is much
    more likely than normal images is no more typical than what is much less.

    Args:
      normal: Of normal images, whose mean log-likelihood it takes.

    Returns:
      As `likelihood`.
    """
    mean = normal.log_prob.mean()
    return lambda seen: np.abs(seen.log_prob - mean)


def complexity(normal: Measurements) -> Score:
    """The model's bits, beyond those that a lossless coder takes.

    https://arxiv.org/abs/1909.11480: simple images are likely under any model
    of images, and a coder knows that as well. The difference is a log-ratio of
    likelihoods, of the coder's model to this one.

    Args:
      normal: Of normal images; it needs none.

    Returns:
      As `likelihood`; in bits.
    """
    return lambda seen: seen.bits - seen.coded_bits


def scales(normal: Measurements) -> Score:
    """What each scale of the flow finds anomalous.

    For each scale the log-density of its latents, which is their squared norm
    but for constants, and its part of the log-det; under a mixture of up to
    five Gaussians that is fitted to normal images, standardized.

    Args:
      normal: Of normal images, to which the mixture is fitted.

    Returns:
      As `likelihood`; the negative log-density under the mixture, in nats.
    """
    features = _standardize(lambda seen: seen.costs.sum(axis=(3, 4)), normal)
    components = len(normal) // _IMAGES_PER_COMPONENT
    mixture = GaussianMixture(
        min(max(components, 1), _MAX_COMPONENTS),
        reg_covar=_RIDGE,
        n_init=2,
        random_state=0,
    )
    with warnings.catch_warnings(action="ignore"):  # That it goes on rising.
        mixture.fit(features(normal))
    return lambda seen: -mixture.score_samples(features(seen))


def places(normal: Measurements) -> Score:
    """What each scale of the flow finds anomalous, and where.

    The same as for `scales`, but by the cells of a grid of at most 8 x 8: the
    distance from the mean of normal images (Mahalanobis), with the covariance
    of Ledoit and Wolf, which shrinks towards a multiple of the identity where
    there are few images (https://doi.org/10.1016/S0047-259X(03)00096-4).

    Args:
      normal: Of normal images, whose mean and covariance it takes.

    Returns:
      As `likelihood`; the logarithm of the squared distance.
    """
    features = _standardize(lambda seen: seen.costs, normal)
    covariance = LedoitWolf().fit(features(normal))

    def score(seen):
        squares = covariance.mahalanobis(features(seen))
        return np.log(np.maximum(squares, np.finfo(np.float64).tiny))

    return score


def combined(normal: Measurements) -> Score:
    """The sum of `complexity`, `scales` and `places`, in standard deviations.

    The first two find what is wrong with the whole of an image, the third with
    a part of it. Mean and standard deviation of each are those of normal images
    that the method was not fitted to, in five folds. Images whose scores are
    then farther from the median of their fold than ten standard deviations, as
    the quartiles tell them, are outliers, and are left out if they are at most
    5 %.

    Args:
      normal: Of normal images.

    Returns:
      As `likelihood`; in standard deviations.
    """
    methods = (complexity, scales, places)
    held_out = [_held_out(method, normal) for method in methods]
    is_outlier = np.any([outliers for _, outliers in held_out], axis=0)
    if 0 < is_outlier.mean() <= _MOST_OUTLIERS:
        # A single one could make a deviation so large that its method counts
        # for nothing.
        normal = normal.take(~is_outlier)
        held_out = [_held_out(method, normal) for method in methods]
    terms = [
        (method(normal), scores.mean(), max(scores.std(), 1e-9))
        for method, (scores, _) in zip(methods, held_out, strict=True)
    ]
    return lambda seen: sum(
        (term(seen) - mean) / deviation for term, mean, deviation in terms
    )


METHODS: dict[str, Method] = {
    "likelihood": likelihood,
    "typicality": typicality,
    "complexity": complexity,
    "scales": scales,
    "places": places,
    "combined": combined,
}
# The best in the mean over what was measured: see docs/detection_evidence.md.
DEFAULT = "combined"


def fit(normal: Measurements) -> dict[str, Score]:
    """Returns the scores of all methods, by their names.

    Args:
      normal: Of normal images.

    Raises:
      ValueError: If there are fewer than `MIN_NORMAL`.
    """
    if len(normal) < MIN_NORMAL:
        raise ValueError(
            f"`normal` must be of at least {MIN_NORMAL} images, got "
            f"{len(normal)}."
        )
    return {name: method(normal) for name, method in METHODS.items()}


def _standardize(features, normal):
    """Returns features with zero mean and unit variance over normal images."""

    def flat(seen):
        return features(seen).reshape(len(seen), -1).astype(np.float64)

    scaler = StandardScaler().fit(flat(normal))
    return lambda seen: np.clip(scaler.transform(flat(seen)), -_FAR, _FAR)


def _held_out(method, normal):
    """Scores normal images by fits to the other folds.

    Returns:
      The scores, and which are too far from others of their fold: what another
      fold is scored by was fitted to other images.
    """
    scores, is_outlier = np.zeros(len(normal)), np.zeros(len(normal), bool)
    for fold in range(_NUM_FOLDS):
        own = np.arange(len(normal)) % _NUM_FOLDS == fold
        scores[own] = method(normal.take(~own))(normal.take(own))
        low, median, high = np.quantile(scores[own], [0.25, 0.5, 0.75])
        limit = _OUTLIER * (high - low) / _QUARTILES or np.inf
        is_outlier[own] = np.abs(scores[own] - median) > limit
    return scores, is_outlier


def p_values(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns how often normal images are as anomalous as these.

    If an image is of the same kind as the reference, its p-value is at most `p`
    with a probability of at most `p`: a threshold on it is a rate of false
    alarms. That holds for images that neither the method was fitted to nor the
    model was trained on, as those of the reference must not be.

    Args:
      scores: Of images, `[n]`.
      reference: Of normal images by the same method, `[m]`.

    Returns:
      Float64 `[n]`, `(1 + k) / (m + 1)`, where `k` of the reference have that
      score or a higher one.
    """
    below = np.searchsorted(np.sort(reference), scores, side="left")
    return (1.0 + len(reference) - below) / (len(reference) + 1.0)


def set_p_value(scores: np.ndarray, reference: np.ndarray) -> float:
    """Returns how often as many normal images differ as much from the others.

    The test of Mann and Whitney (https://doi.org/10.1214/aoms/1177730491)
    whether scores tend to be higher, or lower, than those of the reference: it
    finds a shift of all images that is too small to be seen in one of them. It
    holds under the conditions of `p_values`, for images that are independent of
    each other.

    Args:
      scores: Of a set of images, `[n]`.
      reference: Of normal images by the same method, `[m]`.

    Returns:
      The p-value.
    """
    return float(scipy.stats.mannwhitneyu(scores, reference).pvalue)


class Reference:
    """Normal images, by which others are judged.

    The methods are fitted to half of them, and p-values go by the others.

    Attributes:
      method: Name of the method that p-values are of.
      others: Numbers of the images that p-values go by.
    """

    def __init__(self, normal: Measurements, seed: int = 0):
        """Fits the methods.

        Args:
          normal: Of normal images, which the model was not trained on.
          seed: Seed of the choice of the halves.

        Raises:
          ValueError: If there are too few, as `fit`.
        """
        self.method = DEFAULT
        order = np.random.default_rng(seed).permutation(len(normal))
        fitted, self.others = np.split(order, [len(normal) // 2])
        self._methods = fit(normal.take(fitted))
        self._scores = self._methods[DEFAULT](normal.take(self.others))

    def __call__(self, measured: Measurements) -> dict[str, np.ndarray]:
        """Returns scores of images by all methods, and their `p_value`.

        Args:
          measured: Of the images.
        """
        scores = {name: of(measured) for name, of in self._methods.items()}
        return scores | {"p_value": p_values(scores[DEFAULT], self._scores)}

    def set_p_value(self, scores: Sequence[float] | np.ndarray) -> float:
        """Returns the p-value of images together, as `detection.set_p_value`.

        Args:
          scores: Theirs by `method`, `[n]`.
        """
        return set_p_value(np.asarray(scores), self._scores)


class Estimate(NamedTuple):
    """A figure, and how far chance may have moved it.

    Attributes:
      value: The figure.
      low: Lower end of an interval that holds it in 95 % of bootstrap samples.
      high: Its upper end.
    """

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """How well scores tell anomalous images from normal ones.

    Attributes:
      auroc: Chance that an anomalous image has a higher score than a normal
        one; equal scores count a half. Without any skill it is 0.5.
      aupr: Average precision of finding the anomalous ones. Without any skill
        it is their share.
      fpr95: False alarms at 95 % detection: the share of normal images that
        score at least as high as the threshold that finds 95 % of the
        anomalous ones. Without any skill it is 0.95.
    """

    auroc: Estimate
    aupr: Estimate
    fpr95: Estimate


def compare(
    normal: Sequence[float] | np.ndarray,
    anomalous: Sequence[float] | np.ndarray,
    seed: int = 0,
    num_draws: int = 1000,
) -> Comparison:
    """Measures how well scores tell anomalous images from normal ones.

    Args:
      normal: Scores of normal images, `[n]`.
      anomalous: Scores of anomalous images, `[m]`.
      seed: Seed of the bootstrap.
      num_draws: Number of its samples, in each of which both sets are drawn
        anew, with replacement.

    Raises:
      ValueError: If one of them is empty, or has a NaN.
    """
    sets = np.asarray(normal), np.asarray(anomalous)
    if any(len(scores) == 0 or np.isnan(scores).any() for scores in sets):
        raise ValueError("`normal` and `anomalous` must be scores, none NaN.")
    # All thresholds, the highest first, and which of them each score is.
    thresholds, both = np.unique(-np.concatenate(sets), return_inverse=True)
    ranks = np.split(both, [len(normal)])

    def count(sample):
        return np.bincount(sample, minlength=len(thresholds))

    def draw(sample):
        return sample[rng.integers(len(sample), size=len(sample))]

    once, rng = count(ranks[1]), np.random.default_rng(seed)
    draws = [
        _figures(once, *(count(draw(sample)) for sample in ranks))
        for _ in range(num_draws)
    ]
    ends = np.quantile(draws, (0.025, 0.975), axis=0)
    columns = zip(_figures(once, *map(count, ranks)), *ends, strict=True)
    return Comparison(*(Estimate(*map(float, column)) for column in columns))


def _figures(once, normal, anomalous):
    """Returns AUROC, AUPR and FPR of a sample.

    Args:
      once: Number of anomalous images at each threshold, the highest first.
      normal: Of normal images in the sample, likewise.
      anomalous: Of anomalous images in it, likewise.
    """
    false, true = np.cumsum(normal), np.cumsum(anomalous)
    # Normal images that are lower, and half of those that are equal.
    lower = false[-1] - false + normal / 2.0
    auroc = anomalous @ lower / (true[-1] * false[-1])
    # Copies that were drawn are no ties: each is as far down as their mean.
    found = true - np.maximum(anomalous - once, 0) / 2.0
    aupr = anomalous @ (found / np.maximum(found + false, 1)) / true[-1]
    first = np.argmax(true >= 0.95 * true[-1])
    return auroc, aupr, false[first] / false[-1]
