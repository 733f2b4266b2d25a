"""Measures how well anomalous images, and the faults in them, are found.

`python -m benchmarks.detection realnvp_fashion_mnist` puts faults into test
images (`benchmarks.faults`) and distinguishes them from other test images.
`--pairs upside_down sets --unusual DIR` distinguishes test images from others
upside down, and from another data set. It prints AUROC, and the false alarms at
95 % detection, of each method and of `pixels`, which uses no model: the
Mahalanobis distance from the mean of the training images, of levels and local
contrast in the cells of a grid. For faults at a known position it prints the
AUROC over all pixels of bit maps, and of local contrast. The tables are in
benchmarks/results/detection.md.

`--pairs p_values` tests whether p-values of test images are uniform.
`--num_fitted 10 100 1000` prints the mean AUROC over the pairs if the methods
are fitted to so many images. `--groups 10 50` prints how often groups of so
many images are found by their joint p-value, at 5 % false alarms, and with
`p_values` the false alarms.

`--write DIR --left_out CLASS` writes a data set of TensorFlow Datasets, named
instead of the model, as folders of images: DIR/normal without a class, to train
on, and DIR/unusual, the test images of that class.
"""

import dataclasses
import pathlib
import time

import numpy as np
from scipy import ndimage

from benchmarks import faults, measuring

_WITH_POSITION = ("scratch", "patch")
_NUM_SPLITS = 20
_NUM_GROUPS = 1000
_ALARM = 0.05  # P-value.


def main() -> None:
    """Prints the tables."""
    flags = measuring.parse_flags(
        __doc__,
        "model",
        pairs=[*faults.FAULTS, "upside_down"],
        unusual=[str],
        normal=str,
        fit=str,
        data_dir="datasets",
        max_images=2000,
        num_fitted=[int],
        groups=[int],
        seed=0,
        write=str,
        left_out=0,
    )
    if flags.write is not None:
        write_without_a_class(flags)
        return

    saved = measuring.load(flags.model)
    from tf_realnvp import detection, significance
    from tf_realnvp.cli import image_sets

    measure = detection.Measurer(saved)
    loader = image_sets.Loader(
        saved, flags.data_dir, flags.max_images, flags.seed
    )
    twice = dataclasses.replace(loader, max_images=2 * flags.max_images)
    fitted = twice.load("fit", flags.fit, "train", 20).images
    images = twice.load("normal", flags.normal, "test").images
    images = np.random.default_rng(flags.seed).permutation(images)
    normal, others = np.array_split(images, 2)
    measured_fitted = measure(fitted, flags.seed)
    pixels, methods = fit_pixels(fitted), detection.fit(measured_fitted)

    def score(images):
        """Returns measurements, their seconds, and scores by method."""
        start = time.perf_counter()
        measured = measure(images, flags.seed)
        seconds = time.perf_counter() - start
        scores = {name: method(measured) for name, method in methods.items()}
        return measured, seconds, {"pixels": pixels(images)} | scores

    measured_normal, seconds, normal_scores = score(normal)
    measured_pairs, rows, group_rows, pixel_rows = [], {}, {}, {}

    def add(name, unusual):
        """Adds a pair: the normal images and unusual ones."""
        measured, _, scores = score(unusual)
        measured_pairs.append(measured)
        rows[name] = {
            method: significance.compare(
                normal_scores[method], scores[method], seed=flags.seed
            )
            for method in scores
        }
        method = detection.DEFAULT
        group_rows[name] = [
            find_groups(normal_scores[method], scores[method], size)
            for size in flags.groups
        ]

    for pair in flags.pairs:
        if pair == "sets":
            for name in flags.unusual:
                unusual = loader.load("unusual", name, "test")
                add(pathlib.Path(name).name, unusual.images)
        elif pair == "upside_down":
            add(pair, others[:, ::-1, ::-1])
        elif pair == "p_values":
            check_p_values(measure(images, flags.seed), flags.groups)
        else:
            faulty, where = faults.put(
                pair, others, flags.seed, saved.num_colors
            )
            add(pair, faulty)
            if pair in _WITH_POSITION:
                usual = measure.maps(fitted[:1000], flags.seed)
                maps = measure.maps(faulty, flags.seed)
                pixel_rows[pair] = compare_pixels(faulty, where, maps, usual)
    if rows:
        print(
            f"{len(fitted):,} images fitted to, {len(normal):,} normal ones, "
            f"{1e3 * seconds / len(normal):.1f} ms to measure each\n"
        )
        print_comparisons("AUROC", rows, "auroc", mean=True)
        print_comparisons("false alarms at 95 % detection", rows, "fpr95")
    if rows and flags.groups:
        measuring.print_header("found, of groups of", *flags.groups)
        for pair, rates in group_rows.items():
            measuring.print_row(pair, *(f"{rate:.3f}" for rate in rates))
        print()
    order = np.random.default_rng(flags.seed).permutation(len(fitted))
    for index, number in enumerate(flags.num_fitted):
        refitted = detection.fit(measured_fitted.take(order[:number]))
        if index == 0:
            measuring.print_header("images fitted to", *refitted)
        means = [
            np.mean(
                [
                    significance.compare(
                        method(measured_normal), method(measured), num_draws=1
                    ).auroc.value
                    for measured in measured_pairs
                ]
            )
            for method in refitted.values()
        ]
        measuring.print_row(number, *(f"{mean:.3f}" for mean in means))
    for index, (pair, values) in enumerate(pixel_rows.items()):
        if index == 0:
            measuring.print_header("AUROC over pixels", *values)
        measuring.print_row(pair, *(f"{v:.3f}" for v in values.values()))


def print_comparisons(title, rows, figure, mean=False) -> None:
    """Prints a figure of all pairs and methods, with half the intervals."""
    methods = list(next(iter(rows.values())))
    measuring.print_header(title, *methods)
    values = {
        pair: [getattr(comparisons[method], figure) for method in methods]
        for pair, comparisons in rows.items()
    }
    for pair, figures in values.items():
        measuring.print_row(
            pair,
            *(f"{v:.3f} ± {(high - low) / 2:.3f}" for v, low, high in figures),
        )
    if mean:
        means = np.mean(list(values.values()), axis=0)[:, 0]
        measuring.print_row("mean", *(f"{value:.3f}" for value in means))
    print()


def contrast(images: np.ndarray) -> np.ndarray:
    """Returns how far pixels are from the mean of the nearest nine.

    Args:
      images: uint8 `[n, H, W, C]`.

    Returns:
      float64 `[n, H, W]`, the mean over the channels.
    """
    values = images.astype(np.float64)
    mean = ndimage.uniform_filter(values, (1, 3, 3, 1), mode="nearest")
    return np.abs(values - mean).mean(axis=-1)


def fit_pixels(images: np.ndarray):
    """Returns a score of images that uses no model.

    Args:
      images: Normal ones, uint8 `[n, H, W, C]`.
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.preprocessing import StandardScaler

    def features(images):
        levels = images.mean(axis=-1, dtype=np.float64)
        parts = []
        for values in (levels, np.log1p(contrast(images))):
            for axis in (1, 2):
                size = values.shape[axis]
                cells = min(8, size // 2)
                starts = np.arange(cells) * size // cells
                values = np.add.reduceat(values, starts, axis=axis)
            parts.append(values.reshape(len(images), -1))
        return np.concatenate(parts, axis=1)

    scaler = StandardScaler().fit(features(images))
    covariance = LedoitWolf().fit(scaler.transform(features(images)))
    return lambda images: covariance.mahalanobis(
        scaler.transform(features(images))
    )


def find_groups(normal: np.ndarray, unusual: np.ndarray, size: int) -> float:
    """Returns the share of groups of images that their p-value finds.

    Args:
      normal: Scores of normal images `[n]`, the reference.
      unusual: Scores of anomalous images `[m]`, of which groups are drawn.
      size: Number of images in a group.
    """
    from tf_realnvp import significance

    rng = np.random.default_rng(0)
    p_values = [
        significance.set_p_value(
            rng.choice(unusual, size, replace=False), normal
        )
        for _ in range(_NUM_GROUPS)
    ]
    return np.mean(np.array(p_values) <= _ALARM)


def compare_pixels(images, where, maps, usual) -> dict[str, float]:
    """Returns the AUROC over all pixels of maps that may show a fault.

    Args:
      images: uint8 `[n, H, W, C]`.
      where: Boolean `[n, H, W]`.
      maps: Their bit maps `[n, H, W]`.
      usual: Bit maps of normal images.
    """
    from sklearn.metrics import roc_auc_score

    from tf_realnvp.analysis.bit_maps import smooth, standardize

    return {
        name: roc_auc_score(where.ravel(), values.ravel())
        for name, values in (
            ("contrast", contrast(images)),
            ("contrast, smoothed", smooth(contrast(images))),
            ("bits", maps),
            ("bits, smoothed", smooth(maps)),
            (
                "bits, smoothed, relative to normal images",
                standardize(smooth(maps), smooth(usual)),
            ),
        )
    }


def check_p_values(measured, groups: list[int]) -> None:
    """Prints in how many random splits p-values are uniform.

    Args:
      measured: Measurements of normal images that the model has not seen.
      groups: Sizes of groups. Each split is cut into groups, to count false
        alarms.
    """
    from scipy.stats import ks_2samp

    from tf_realnvp import detection, significance

    values, alarms = [], {size: [] for size in groups}
    for seed in range(_NUM_SPLITS):
        rng = np.random.default_rng(seed)
        first, *rest = (
            measured.take(part)
            for part in np.array_split(rng.permutation(len(measured)), 3)
        )
        score = detection.METHODS[detection.DEFAULT](first)
        reference, others = map(score, rest)
        p = significance.p_values(others, reference)
        grid = np.arange(1, len(reference) + 2) / (len(reference) + 1)
        values.append(ks_2samp(p, grid).pvalue)
        for size in groups:
            whole = others[: len(others) // size * size]
            alarms[size] += [
                significance.set_p_value(group, reference) <= _ALARM
                for group in whole.reshape(-1, size)
            ]
    passed = sum(value > 0.01 for value in values)
    print(
        f"p-values of {len(others):,} held-out images by {len(reference):,} "
        f"others are uniform (Kolmogorov-Smirnov, p > 0.01) in {passed} of "
        f"{_NUM_SPLITS} random splits; the least p is {min(values):.3f}\n"
    )
    for size, is_alarm in alarms.items():
        print(
            f"{np.mean(is_alarm):.3f} of {len(is_alarm):,} groups of {size} "
            f"have a p-value of at most {_ALARM}\n"
        )


def write_without_a_class(flags) -> None:
    """Writes a data set as folders, without the images of a class."""
    import tensorflow_datasets as tfds
    from PIL import Image

    root = pathlib.Path(flags.write)
    for split in ("train", "test"):
        examples = tfds.load(flags.model, split=split, data_dir=flags.data_dir)
        for index, example in enumerate(tfds.as_numpy(examples)):
            folder = root / "normal" / split
            if example["label"] == flags.left_out:
                if split == "train":
                    continue
                folder = root / "unusual"
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(example["image"].squeeze())
            picture.save(folder / f"{index:05d}.png")
    print(root)


if __name__ == "__main__":
    main()
