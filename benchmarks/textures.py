"""Measures how well small faults are found on textures, by a model of tiles.

`python -m benchmarks.textures --write gravel gravel.png` cuts a picture into
a folder of images: the left five eighths to train on, the rest for testing.
`python -m benchmarks.textures realnvp_gravel gravel.png --other grass.png`
then puts faults into crops of the right part, and prints the AUROC of each
method, of `pixels` (as `benchmarks.detection`), and of `filters`: the distance
from the mean of a bank of filters at each pixel, by their covariance, on
average over the twelve most distant pixels. The methods are fitted to crops of
the left part. The table is in benchmarks/results/detection.md.

`--flag 200` prints, of 200 random mixtures with 5 % of images with a fault, how
many of the flagged images are normal at a false discovery rate of 5 %, and how
many of the faulty ones are flagged.
"""

import pathlib

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks import detection as images_detection
from benchmarks import faults, measuring

_PAIRS = "scratch", "patch", "inlay", "hole", "blur", "noise", "brightness"
_SHARE = 0.05  # Of images with a fault in a mixture; and the rate.


def main() -> None:
    """Prints the tables."""
    flags = measuring.parse_flags(
        __doc__,
        "model",
        "picture",
        write=False,
        other=str,
        num_crops=500,
        flag=0,
        seed=0,
    )
    picture = np.asarray(Image.open(flags.picture).convert("L"))
    left, right = np.split(picture, [picture.shape[1] * 5 // 8], axis=1)
    if flags.write:
        write(pathlib.Path(flags.model), left, right)
        return
    model = measuring.load(flags.model)
    from tf_realnvp import detection, significance

    size, count = model.image_shape[0], flags.num_crops
    rng = np.random.default_rng(flags.seed)
    fitted = crops(left, size, 2 * count, rng)
    normal, others = (crops(right, size, count, rng) for _ in range(2))
    inlays = crops(np.asarray(Image.open(flags.other)), size, count, rng)
    measure = detection.Measurer(model)
    methods = detection.fit(measure(fitted))
    without_model = {
        "pixels": images_detection.fit_pixels(fitted),
        "filters": fit_filters(fitted),
    }

    def score(images):
        measured = measure(images)
        scores = {name: method(measured) for name, method in methods.items()}
        return {name: f(images) for name, f in without_model.items()} | scores

    of_normal, rows, found = score(normal), {}, {}
    for pair in _PAIRS:
        source = inlays if pair == "inlay" else others
        faulty, _ = faults.put(pair, others, flags.seed, others=source)
        found[pair] = score(faulty)
        rows[pair] = {
            name: significance.compare(of_normal[name], scores, num_draws=200)
            for name, scores in found[pair].items()
        }
    images_detection.print_comparisons("AUROC", rows, "auroc", mean=True)
    if flags.flag:
        scores = {k: v[detection.DEFAULT] for k, v in found.items()}
        flag(of_normal[detection.DEFAULT], scores, flags.flag)


def crops(picture, size, count, rng) -> np.ndarray:
    """Returns square parts at random places, uint8 `[count, size, size, 1]`."""
    top, left = (rng.integers(0, n - size, count) for n in picture.shape)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (size, size))
    return windows[top, left][..., np.newaxis].copy()


def write(folder, left, right) -> None:
    """Writes the parts of a picture as images to train on and to test."""
    half = len(left) // 2
    parts = {"train/a": left[:half], "train/b": left[half:], "test/c": right}
    for name, part in parts.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(part).save(path)
    print(folder)


def fit_filters(images: np.ndarray):
    """Returns a score of images by local features, without a model."""
    from sklearn.covariance import EmpiricalCovariance

    def features(images):
        levels = images[..., 0].astype(np.float64)
        orders = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
        bank = [
            ndimage.gaussian_filter(levels, (0, sigma, sigma), (0, *order))
            for sigma in (0.7, 1.4, 2.8)
            for order in orders
        ]
        return np.stack(bank, axis=-1)[:, 2:-2, 2:-2]

    few = features(images)
    fitted = EmpiricalCovariance().fit(few.reshape(-1, few.shape[-1]))

    def score(images):
        errors = features(images) - fitted.location_
        distances = np.sum(errors @ fitted.precision_ * errors, axis=-1)
        flat = np.sort(distances.reshape(len(images), -1))
        return flat[:, -12:].mean(axis=1)

    return score


def flag(normal, faulty, number) -> None:
    """Prints what is flagged in random mixtures.

    Args:
      normal: Scores of normal images.
      faulty: Scores of images with a fault, by its name.
      number: How many mixtures.
    """
    from tf_realnvp import significance

    measuring.print_header("fault", "flagged that are normal", "found")
    for pair, unusual in faulty.items():
        shares = []
        for seed in range(number):
            rng = np.random.default_rng(seed)
            shuffled = rng.permutation(normal)
            good, reference = np.split(shuffled, [len(shuffled) // 5])
            count = round(len(good) * _SHARE / (1.0 - _SHARE))
            scores = np.append(good, rng.choice(unusual, count, replace=False))
            p_values = significance.p_values(scores, reference)
            limit = significance.highest_flagged(p_values, _SHARE)
            is_flagged = p_values <= limit
            alarms, hits = np.split(is_flagged, [len(good)])
            shares.append(
                (alarms.sum() / max(is_flagged.sum(), 1), hits.mean())
            )
        measuring.print_row(
            pair, *(f"{v:.3f}" for v in np.mean(shares, axis=0))
        )


if __name__ == "__main__":
    main()
