"""Measures restorations of test images, beside other methods.

`python -m benchmarks.restoration models/realnvp_fashion_mnist_classes` prints,
for each task and method, PSNR and SSIM of what was restored: the mean over test
images and its standard error. For the samples it prints how often held-out
pixels lie within their central 90 %, the rank correlation of their standard
deviation with the error, and the time. `--find_label` does not give the label.
The rivals take `pip install scikit-image opencv-python-headless bm3d`; what is
not installed is left out. Of images with fewer than 256 levels, these are
spread over 0 to 255.
"""

import argparse
import importlib
import time

import numpy as np

from tf_realnvp.utils import runtime

_NUM_SHOWN = 8  # Images in the figures.
TASKS = ("centre", "half", "random", "scratch", "noise 25", "noise 50")


def main() -> None:
    """Prints a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--find_label", action="store_true")
    parser.add_argument("--unet", type=float, default=0.0)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument(
        "--out",
        help="start of the names of NumPy files and figures of each task",
    )
    flags = parser.parse_args()
    runtime.configure()

    from tf_realnvp import restoration
    from tf_realnvp.cli import image_sets
    from tf_realnvp.serving.saved_model import SavedModel

    read = SavedModel(flags.model)
    model = read.model
    loader = image_sets.Loader(read, flags.data_dir)
    dataset = loader.load_dataset(None, labels=bool(read.class_names))
    step = 255.0 / model.values.highest  # Between two levels.
    train, images = (
        np.rint(step * dataset.take(split, range(number))).astype(np.uint8)
        for split, number in (("train", dataset.num_train), ("test", flags.n))
    )
    label = None
    if read.class_names and not flags.find_label:
        label = dataset.splits["test"].labels[: flags.n]
    for task in flags.tasks:
        rng = np.random.default_rng(flags.seed)
        given, mask, noise = make_task(task, images, rng)
        where = np.ones_like(mask) if noise else mask
        print(f"{task}: {flags.n} images, {where.mean():.0%} restored")
        for name, method in rivals(train, noise).items():
            report(name, method(given, mask), images, where)
        if flags.unet:
            network = train_unet(task, train, rng, 60.0 * flags.unet)
            inputs = unet_inputs(given, mask)
            restored = 255.0 * network.predict(inputs, verbose=0)
            report("U-Net", restored, images, where)
        start = time.perf_counter()
        found = restoration.restore(
            model,
            np.rint(given / step).astype(np.uint8),
            mask,
            noise and noise / step,
            label,
            flags.samples,
            flags.seed,
        )
        seconds = time.perf_counter() - start
        report("likeliest", step * found.images, images, where)
        if flags.samples:
            report("a sample", step * found.samples[:, 0], images, where)
            report("mean of samples", step * found.mean, images, where)
            calibrate(found, images / step, where)
        if flags.find_label:
            truth = dataset.splits["test"].labels[: flags.n]
            print(f"label right: {np.mean(found.label == truth):.3f}")
        print(f"{seconds:.0f} s", flush=True)
        if flags.out:
            kept = {k: v for k, v in vars(found).items() if v is not None}
            levels = (np.rint(its / step) for its in (images, given))
            kept |= dict(zip(("original", "given"), levels, strict=True))
            kept["mask"] = mask
            np.savez_compressed(f"{flags.out}_{task}.npz", **kept)
            draw(f"{flags.out}_{task}.png", kept, model.num_colors)


def make_task(task, images, rng):
    """Returns what is given of images, a mask, and the noise."""
    n, height, width, _ = images.shape
    mask = np.zeros([n, height, width, 1], bool)
    noise = float(task.split()[1]) if task.startswith("noise") else None
    if task == "centre":
        mask[
            :,
            height // 4 : height - height // 4,
            width // 4 : width - width // 4,
        ] = True
    elif task == "eyes":  # Of aligned faces.
        rows, columns = (
            slice(round(low * size), round(high * size))
            for low, high, size in ((0.18, 0.38, height), (0.15, 0.85, width))
        )
        mask[:, rows, columns] = True
    elif task == "half":
        mask[:, height // 2 :] = True
    elif task == "random":
        mask = rng.random(mask.shape) < 0.9
    elif task == "scratch":  # Three pixels wide, from side to side.
        for its in mask:
            ends = rng.uniform(0.2 * height, 0.8 * height, size=2)
            rows = np.linspace(*ends, width).astype(int)
            for offset in (-1, 0, 1):
                its[rows + offset, range(width)] = True
    if noise is None:
        return np.where(mask, 0, images).astype(np.uint8), mask, None
    noisy = images + rng.normal(scale=noise, size=images.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), mask, noise


def rivals(train, noise):
    """Returns the other methods: functions of given images and masks."""
    flat = train.reshape(len(train), -1).astype(np.float32)

    def nearest(given, mask):
        found = []
        for image, its in zip(given, mask, strict=True):
            known = np.flatnonzero(~np.broadcast_to(its, image.shape))
            errors = flat[:, known] - image.ravel()[known]
            found.append(train[np.square(errors).sum(axis=1).argmin()])
        return np.stack(found)

    mean = np.broadcast_to(train.mean(axis=0), train[:1].shape)

    def each(function):
        def run(given, mask):
            pairs = zip(given, mask[..., 0], strict=True)
            restored = np.stack([function(*pair) for pair in pairs])
            return restored.reshape(given.shape)

        return run

    methods = {
        "nearest training image": nearest,
        "mean training image": lambda given, _: np.repeat(mean, len(given), 0),
    }
    if noise is not None:
        methods["as it is"] = lambda given, _: given
    found = dict(map(_optional, ("skimage.restoration", "cv2", "bm3d")))
    if (skimage := found["skimage.restoration"]) and noise is None:
        methods["biharmonic"] = each(
            lambda image, its: (
                255.0
                * skimage.inpaint_biharmonic(
                    image / 255.0, its, channel_axis=-1
                )
            )
        )
    if skimage and noise:  # With weights that suit training images.
        methods["total variation"] = each(
            lambda image, _: (
                255.0
                * skimage.denoise_tv_chambolle(
                    image / 255.0, 0.5 * noise / 255.0, channel_axis=-1
                )
            )
        )
        methods["non-local means"] = each(
            lambda image, _: (
                255.0
                * skimage.denoise_nl_means(
                    image / 255.0,
                    5,
                    9,
                    0.7 * noise / 255.0,
                    sigma=noise / 255.0,
                    fast_mode=False,
                    channel_axis=-1,
                )
            )
        )
    if (cv2 := found["cv2"]) and noise is None:
        for name in ("TELEA", "NS"):
            methods[f"OpenCV {name}"] = each(
                lambda image, its, name=name: cv2.inpaint(
                    image, its.astype(np.uint8), 3, vars(cv2)[f"INPAINT_{name}"]
                )
            )
    if (bm3d := found["bm3d"]) and noise:
        methods["BM3D"] = each(
            lambda image, _: 255.0 * bm3d.bm3d(image / 255.0, noise / 255.0)
        )
    return methods


def train_unet(task, train, rng, seconds):
    """Trains a U-Net on the mean squared error of one task, for a time."""
    import keras

    layers = keras.layers
    inputs = layers.Input([*train.shape[1:3], train.shape[3] + 1])
    x, skips = inputs, []
    for filters in (32, 64):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    for _ in range(2):
        x = layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    for filters, skip in zip((64, 32), reversed(skips), strict=True):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    network = keras.Model(
        inputs, layers.Conv2D(train.shape[3], 3, padding="same")(x)
    )
    network.compile(keras.optimizers.Adam(1e-3), "mse")
    start, done = time.process_time(), 0.0
    while done < 1.0:
        network.optimizer.learning_rate.assign(1e-3 * (1.0 - 0.95 * done))
        for _ in range(20):
            batch = train[rng.integers(len(train), size=64)]
            given, mask, _ = make_task(task, batch, rng)
            network.train_on_batch(unet_inputs(given, mask), batch / 255.0)
        done = (time.process_time() - start) / seconds
    return network


def unet_inputs(given, mask):
    return np.concatenate([given / 255.0, mask], axis=-1).astype(np.float32)


def _optional(name):
    """Returns the name of a module, and the module if it is installed."""
    try:
        return name, importlib.import_module(name)
    except ImportError:
        return name, None


def report(name, restored, images, where) -> None:
    """Prints PSNR and SSIM inside of what was restored."""
    restored = np.clip(np.asarray(restored, np.float64), 0, 255)
    values = [psnr(restored, images, where)]
    if metrics := _optional("skimage.metrics")[1]:
        maps = [
            metrics.structural_similarity(
                *pair, data_range=255, channel_axis=-1, full=True
            )[1]
            for pair in zip(images.astype(float), restored, strict=True)
        ]
        values.append(
            np.average(maps, axis=(1, 2, 3), weights=_whole(where, maps))
        )
    texts = [f"  {name:24}"]
    for its, digits in zip(values, (2, 3), strict=False):
        error = its.std(ddof=1) / len(its) ** 0.5
        texts.append(f"{its.mean():.{digits}f} ({error:.{digits}f})")
    print(*texts, flush=True)


def _whole(where, maps):
    return np.broadcast_to(where, np.shape(maps)).astype(float)


def draw(path, kept, num_colors) -> None:
    """Draws some of the images, their restorations and their spread."""
    from tf_realnvp.images import plots

    few = {name: its[:_NUM_SHOWN] for name, its in kept.items()}
    shown, spread = {"likeliest": few["images"]}, None
    if "samples" in few:
        samples = np.moveaxis(few["samples"], 1, 0)
        shown |= {f"sample {k}": its for k, its in enumerate(samples, 1)}
        shown["mean"] = np.rint(few["mean"])
        spread = few["std"].mean(axis=-1) * (255.0 / (num_colors - 1))
    shown["original"] = few["original"]
    plots.save_restorations(
        path, few["given"], few["mask"], shown, spread, num_colors
    )


def psnr(restored, images, where):
    """Returns the PSNR `[n]` of what was restored, in dB."""
    weights = _whole(where, images)
    squares = np.square(restored - images)
    mean = np.average(squares, axis=(1, 2, 3), weights=weights)
    return 10.0 * np.log10(255.0**2 / np.maximum(mean, 1e-2))


def calibrate(found, images, where) -> None:
    """Prints how well the samples tell the errors."""
    import scipy.stats

    where = np.broadcast_to(where, images.shape)
    errors = np.abs(found.mean - images)[where]
    std = found.std[where]
    inside = errors <= 1.645 * std + 0.5
    is_open = std > 0.5
    low, high = np.quantile(found.samples, (0.05, 0.95), axis=1)
    between = ((images >= low) & (images <= high))[where]
    correlation = scipy.stats.spearmanr(errors, std).statistic
    print(
        f"within 1.645 standard deviations: {inside.mean():.3f}; where they "
        f"are above half a level: {inside[is_open].mean():.3f}; within the "
        f"5 and 95 % quantiles of the samples: {between.mean():.3f}; "
        f"Spearman's coefficient {correlation:.3f}; R-hat "
        f"{np.median(found.r_hat):.2f}, acceptance "
        f"{found.acceptance.mean():.2f}"
    )


if __name__ == "__main__":
    main()
