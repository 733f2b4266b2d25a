"""What scores say: p-values, and how well they separate two sets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


def p_values(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns conformal p-values: how often normal images score as high.

    If an image comes from the same distribution as the reference images, its
    p-value is at most `p` with a probability of at most `p`, so a threshold on
    p-values bounds the false alarm rate. This requires that neither the image
    nor the reference images were used to fit the method or to train the model.

    Args:
      scores: Scores of images, `[n]`.
      reference: Scores of normal images by the same method, `[m]`.

    Returns:
      Float64 `[n]`, `(1 + k) / (m + 1)`, where `k` is the number of reference
      scores that are equal or higher.
    """
    below = np.searchsorted(np.sort(reference), scores, side="left")
    return (1.0 + len(reference) - below) / (len(reference) + 1.0)


def highest_flagged(p_values: np.ndarray, fdr: float) -> float:
    """Returns the highest p-value to flag, by Benjamini and Hochberg.

    Of the images that are flagged, the share that is normal is at most `fdr` on
    average (https://doi.org/10.1111/j.2517-6161.1995.tb02031.x). This also
    holds for conformal p-values, which share a reference
    (https://doi.org/10.1214/22-AOS2244).

    Args:
      p_values: P-values of all images, `[n]`.
      fdr: The false discovery rate, between 0 and 1.

    Returns:
      The p-value, 0 if no image is to be flagged.
    """
    is_flagged = scipy.stats.false_discovery_control(p_values) <= fdr
    return float(p_values[is_flagged].max(initial=0.0))


def set_p_value(scores: np.ndarray, reference: np.ndarray) -> float:
    """Returns the p-value of a set of images, by the Mann-Whitney U test.

    The two-sided test (https://doi.org/10.1214/aoms/1177730491) checks whether
    scores tend to be higher or lower than those of the reference. It detects a
    shift of a whole set that is too small to detect in a single image. The
    conditions of `p_values` apply, and the images must be independent.

    Args:
      scores: Scores of a set of images, `[n]`.
      reference: Scores of normal images by the same method, `[m]`.

    Returns:
      The p-value.
    """
    return float(scipy.stats.mannwhitneyu(scores, reference).pvalue)


class Estimate(NamedTuple):
    """An estimate with its 95 % bootstrap confidence interval.

    Attributes:
      value: The estimate.
      low: Lower end of the interval, the 2.5 % quantile of bootstrap samples.
      high: Upper end of the interval, the 97.5 % quantile.
    """

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """How well scores tell anomalous images from normal ones.

    Attributes:
      auroc: Area under the ROC curve: probability that an anomalous image has a
        higher score than a normal one; ties count one half. 0.5 at chance.
      aupr: Average precision for anomalous images. At chance, the fraction of
        anomalous images.
      fpr95: False positive rate at 95 % detection: fraction of normal images
        that score at or above the threshold that detects 95 % of the anomalous
        images. 0.95 at chance.
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
      num_draws: Number of bootstrap samples. Each resamples both sets with
        replacement.

    Raises:
      ValueError: If one of the sets is empty or has a NaN.
    """
    sets = np.asarray(normal), np.asarray(anomalous)
    if any(len(scores) == 0 or np.isnan(scores).any() for scores in sets):
        raise ValueError("`normal` and `anomalous` must be scores, none NaN.")
    # All thresholds, the highest first, and the index of each score's.
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
      normal: Number of normal images in the sample at each threshold.
      anomalous: Number of anomalous images in the sample at each threshold.
    """
    false, true = np.cumsum(normal), np.cumsum(anomalous)
    # Normal images with lower scores, plus half of those with equal scores.
    lower = false[-1] - false + normal / 2.0
    auroc = anomalous @ lower / (true[-1] * false[-1])
    # Copies from resampling are not ties: each gets the mean rank of all.
    mean = true - np.maximum(anomalous - once, 0) / 2.0
    aupr = anomalous @ (mean / np.maximum(mean + false, 1)) / true[-1]
    first = np.argmax(true >= 0.95 * true[-1])
    return auroc, aupr, false[first] / false[-1]
