"""Measures how well anomalous images, and the faults in them, are found.

`python -m benchmarks.detection realnvp_fashion_mnist` puts faults into test
images (`benchmarks.faults`) and tells them from other test images without
faults. `--pairs upside_down sets --unusual DIR` tells test images from others
that are upside down, and from another data set. It prints AUROC, and the false
alarms at 95 % detection, by every method, and by `pixels`, which uses no model:
the distance from the mean of the training images (Mahalanobis, as in the method
`places`) of levels and local contrast in the cells of a grid. For faults at a
known place it prints the AUROC over all pixels of the bit maps, and of local
contrast.

`--pairs p_values` measures whether p-values of test images are uniform.
`--num_fitted 10 100 1000` measures how many images the methods must be fitted
to: it prints the mean AUROC over the pairs. `--groups 10 50` prints how often
groups of so many images are found by their joint p-value, at 5 % false alarms,
and with `p_values` how many false alarms there are. `--gradients` adds a method
that did not prove useful: the norms of the gradients of the log-likelihood for
each tensor of weights (https://arxiv.org/abs/2403.01485).

`--write DIR --left_out CLASS` writes a data set of TensorFlow Datasets as
folders of images: DIR/normal without a class, to train on, and DIR/unusual, its
test images of that class.
"""

import argparse
import dataclasses
import pathlib

import numpy as np
from scipy import ndimage

_PLACES = ("scratch", "patch")
_SPLITS = 20
_NUM_GROUPS = 1000
_ALARM = 0.05  # P-value.


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--pairs", nargs="*", default=None)
    parser.add_argument("--unusual", nargs="*", default=[])
    parser.add_argument("--normal", default=None)
    parser.add_argument("--fit", default=None)
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--max_images", type=int, default=2000)
    parser.add_argument("--num_fitted", type=int, nargs="*", default=[])
    parser.add_argument("--groups", type=int, nargs="*", default=[])
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", default=None)
    parser.add_argument("--left_out", type=int, default=0)
    flags = parser.parse_args()
    if flags.write is not None:
        write_without_a_class(flags)
        return

    from tf_realnvp.utils import runtime

    runtime.configure()
    from benchmarks import faults
    from tf_realnvp import detection
    from tf_realnvp.cli import image_sets
    from tf_realnvp.serving.saved_model import SavedModel

    content = SavedModel(flags.model)
    model = content.model
    measure = detection.Measurer(model)
    sizes = flags.max_images, flags.seed
    loader = image_sets.Loader(content, flags.data_dir, *sizes)
    both = dataclasses.replace(loader, max_images=2 * flags.max_images)
    fitted = both.load("fit", flags.fit, "train", 20).images
    images = both.load("normal", flags.normal, "test").images
    images = np.random.default_rng(flags.seed).permutation(images)
    normal, others = np.array_split(images, 2)
    known = measure(fitted, flags.seed)
    scores = detection.fit(known)
    other_scores = {"pixels": fit_pixels(fitted)}
    if flags.gradients:
        other_scores["gradients"] = fit_gradients(model, fitted)
    seen = measure(normal, flags.seed)
    of_normal = {key: score(normal) for key, score in other_scores.items()}
    levels = content.num_colors
    pairs = flags.pairs or [*faults.FAULTS, "upside_down"]
    rows, place_rows, measured = {}, [], []
    group_rows = {}

    def add(name, unusual):
        its = measure(unusual, flags.seed)
        measured.append(its)
        columns = {
            **{k: (of_normal[k], s(unusual)) for k, s in other_scores.items()},
            **{key: (s(seen), s(its)) for key, s in scores.items()},
        }
        rows[name] = {
            key: detection.compare(*values, seed=flags.seed)
            for key, values in columns.items()
        }
        group_rows[name] = [
            find_groups(detection, *columns[detection.DEFAULT], size)
            for size in flags.groups
        ]

    for pair in pairs:
        if pair == "sets":
            for name in flags.unusual:
                unusual = loader.load("unusual", name, "test")
                add(pathlib.Path(name).name, unusual.images)
        elif pair == "upside_down":
            add(pair, others[:, ::-1, ::-1])
        elif pair == "p_values":
            print_uniformity(
                detection, measure(images, flags.seed), flags.groups
            )
        else:
            faulty, where = faults.put(pair, others, flags.seed, levels)
            add(pair, faulty)
            if pair in _PLACES:
                usual = measure.maps(fitted[:1000], flags.seed)
                maps = measure.maps(faulty, flags.seed)
                place_rows.append(
                    (pair, pixel_rocs(faulty, where, maps, usual))
                )
    if rows:
        print(
            f"{len(fitted):,} images fitted to, {len(normal):,} normal ones\n"
        )
        print_table("AUROC", rows, "auroc", mean=True)
        print_table("false alarms at 95 % detection", rows, "fpr95")
    if rows and flags.groups:
        print(f"| found, of groups of | {' | '.join(map(str, flags.groups))} |")
        print("| --- |" + " --- |" * len(flags.groups))
        for pair, rates in group_rows.items():
            cells = " | ".join(f"{rate:.3f}" for rate in rates)
            print(f"| {pair} | {cells} |")
        print()
    order = np.random.default_rng(flags.seed).permutation(len(fitted))
    for index, number in enumerate(flags.num_fitted):
        few = detection.fit(known.take(order[:number]))
        if index == 0:
            print(f"| images fitted to | {' | '.join(few)} |")
            print("| --- |" + " --- |" * len(few))
        means = [
            np.mean(
                [
                    detection.compare(
                        score(seen), score(its), num_draws=1
                    ).auroc.value
                    for its in measured
                ]
            )
            for score in few.values()
        ]
        print(f"| {number} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    if place_rows:
        names = list(place_rows[0][1])
        print(f"| AUROC over pixels | {' | '.join(names)} |")
        print("| --- |" + " --- |" * len(names))
        for pair, values in place_rows:
            cells = " | ".join(f"{values[name]:.3f}" for name in names)
            print(f"| {pair} | {cells} |")


def print_table(title, rows, figure, mean=False) -> None:
    """Prints a figure of all pairs and methods, with half the intervals."""
    methods = list(next(iter(rows.values())))
    print(f"| {title} | {' | '.join(methods)} |")
    print("| --- |" + " --- |" * len(methods))
    for pair, comparisons in rows.items():
        cells = []
        for method in methods:
            value, low, high = getattr(comparisons[method], figure)
            cells.append(f"{value:.3f} ± {(high - low) / 2:.3f}")
        print(f"| {pair} | {' | '.join(cells)} |")
    if mean:
        means = [
            np.mean([getattr(row[m], figure).value for row in rows.values()])
            for m in methods
        ]
        print(f"| mean | {' | '.join(f'{value:.3f}' for value in means)} |")
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
    return lambda seen: covariance.mahalanobis(scaler.transform(features(seen)))


def fit_gradients(model, images: np.ndarray):
    """Returns a score by the norms of the gradients of the log-likelihood.

    These are the squared norms for each tensor of weights; their logarithms are
    modelled as independent normals.

    Args:
      model: The model.
      images: Normal ones, uint8 `[n, H, W, C]`.
    """
    import tensorflow as tf
    from sklearn.preprocessing import StandardScaler

    weights = [variable.value for variable in model.trainable_variables]

    def squared_norms(image):
        points = model.dequantize_each(image[tf.newaxis], [0])
        with tf.GradientTape() as tape:
            log_prob = model.log_density(points)
        gradients = tape.gradient(log_prob, weights)
        return tf.stack([tf.reduce_sum(tf.square(g)) for g in gradients])

    traced = tf.function(squared_norms, autograph=False)

    def features(images):
        return np.log([traced(tf.constant(image)) for image in images])

    scaler = StandardScaler().fit(features(images))
    return lambda seen: np.square(scaler.transform(features(seen))).sum(axis=1)


def find_groups(detection, normal, unusual, size: int) -> float:
    """Returns the share of groups of images that their p-value finds.

    Args:
      detection: The module.
      normal: Scores of normal images `[n]`, the reference.
      unusual: Scores of anomalous images `[m]`, of which groups are drawn.
      size: Number of images in a group.
    """
    rng = np.random.default_rng(0)
    p_values = [
        detection.set_p_value(rng.choice(unusual, size, replace=False), normal)
        for _ in range(_NUM_GROUPS)
    ]
    return np.mean(np.array(p_values) <= _ALARM)


def pixel_rocs(images, where, maps, usual) -> dict[str, float]:
    """Returns the AUROC over all pixels of maps that may show a fault.

    Args:
      images: uint8 `[n, H, W, C]`.
      where: Boolean `[n, H, W]`.
      maps: Their bit maps `[n, H, W]`.
      usual: Bit maps of normal images.
    """
    from sklearn.metrics import roc_auc_score

    from tf_realnvp import bit_maps

    smooth = bit_maps.smooth
    return {
        name: roc_auc_score(where.ravel(), values.ravel())
        for name, values in (
            ("contrast", contrast(images)),
            ("contrast, smoothed", smooth(contrast(images))),
            ("bits", maps),
            ("bits, smoothed", smooth(maps)),
            (
                "bits, smoothed, relative to normal images",
                bit_maps.standardize(smooth(maps), smooth(usual)),
            ),
        )
    }


def print_uniformity(detection, measured, groups) -> None:
    """Prints in how many random splits p-values are uniform.

    Args:
      detection: The module.
      measured: Of normal images that the model was not trained on.
      groups: Sizes of groups. Each split is cut into groups, to count false
        alarms.
    """
    from scipy.stats import ks_2samp

    values, alarms = [], {size: [] for size in groups}
    for seed in range(_SPLITS):
        rng = np.random.default_rng(seed)
        order = np.array_split(rng.permutation(len(measured)), 3)
        score = detection.METHODS[detection.DEFAULT](measured.take(order[0]))
        reference, others = (score(measured.take(part)) for part in order[1:])
        p = detection.p_values(others, reference)
        grid = np.arange(1, len(reference) + 2) / (len(reference) + 1)
        values.append(ks_2samp(p, grid).pvalue)
        for size in groups:
            whole = others[: len(others) // size * size]
            alarms[size] += [
                detection.set_p_value(group, reference) <= _ALARM
                for group in whole.reshape(-1, size)
            ]
    passed = sum(value > 0.01 for value in values)
    print(
        f"p-values of {len(others):,} held-out images by {len(reference):,} "
        f"others are uniform (Kolmogorov-Smirnov, p > 0.01) in {passed} of "
        f"{_SPLITS} random splits; the least p is {min(values):.3f}\n"
    )
    for size, is_alarm in alarms.items():
        print(
            f"{np.mean(is_alarm):.3f} of {len(is_alarm):,} groups of {size} "
            f"have a p-value of at most {_ALARM}\n"
        )


def write_without_a_class(flags) -> None:
    """Writes a data set as folders, with one class apart."""
    import tensorflow_datasets as tfds
    from PIL import Image

    root = pathlib.Path(flags.write)
    for split in ("train", "test"):
        examples = tfds.load(flags.model, split=split, data_dir=flags.data_dir)
        for index, example in enumerate(tfds.as_numpy(examples)):
            is_left_out = example["label"] == flags.left_out
            if is_left_out and split == "train":
                continue
            folder = (
                root / "unusual" if is_left_out else root / "normal" / split
            )
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(example["image"].squeeze())
            picture.save(folder / f"{index:05d}.png")
    print(root)


if __name__ == "__main__":
    main()
