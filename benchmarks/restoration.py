"""Compares restorations of test images with other methods.

`python -m benchmarks.restoration realnvp_fashion_mnist_masks` prints,
for each task and method, PSNR and SSIM of what was restored: the mean over test
images and its standard error (benchmarks/results/restoration.md). For samples
it prints how often held-out pixels lie within their central 90 %, the rank
correlation of their standard deviation with the error, and the time. `--unet`
trains a U-Net for each task, for so many minutes of processor time. `--out` is
the start of the names of a NumPy file and a figure of each task. Other methods
need `pip install scikit-image opencv-python-headless bm3d`; those not installed
are left out. Levels of images with fewer than 256 are spread over 0 to 255.

The tasks `lowres 4`, `gray` and `noise 25` are for models that observe them.
The Fréchet distance of 8x8 patches is then in squared levels a component: small
if the texture is that of images, which a mean of all answers lacks.
"""

import dataclasses
import importlib
import time

import numpy as np

from benchmarks import frechet, measuring

_NUM_SHOWN = 8  # Images in the figures.


def main() -> None:
    """Prints the results of each task."""
    flags = measuring.parse_flags(
        __doc__,
        "model",
        **measuring.OF_IMAGES,
        n=200,
        samples=8,
        seed=0,
        unet=0.0,
        tasks=["centre", "half", "random"],
        out=str,
    )

    saved = measuring.load(flags.model)
    dataset = measuring.load_dataset(saved, flags)
    step = 255.0 / saved.values.highest  # Between two levels.
    (train, _), (images, labels) = (
        measuring.take(dataset, split, number)
        for split, number in (("train", None), ("test", flags.n))
    )
    train, images = (
        np.rint(step * values).astype(np.uint8) for values in (train, images)
    )
    for task in flags.tasks:
        restore(task, saved, step, train, images, labels, flags)


def restore(task, model, step, train, images, labels, flags) -> None:
    """Prints the results of a task.

    Args:
      task: Name of the task.
      model: The `RealNVP`.
      step: Difference of two of its levels, in levels of 255.
      train: Training images, uint8 `[m, H, W, C]`.
      images: Test images, uint8 `[n, H, W, C]`.
      labels: Labels of the test images, `[n]`, or `None`.
      flags: The flags of the program.
    """
    import tensorflow as tf

    from tf_realnvp import restoration

    rng = np.random.default_rng(flags.seed)
    given, mask, noise = make_task(task, images, rng)
    where = mask if mask.any() else np.ones_like(mask)
    print(f"{task}: {len(images)} images, {where.mean():.0%} restored")
    if given.shape != images.shape:
        large = tf.image.resize(given, images.shape[1:3], "bicubic")
        report("bicubic", np.broadcast_to(large, images.shape), images, where)
    else:
        for name, method in other_methods(train, noise).items():
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
        labels,
        flags.samples,
        flags.seed,
    )
    seconds = time.perf_counter() - start
    report("restored", step * found.images, images, where)
    report("a sample", step * found.samples[:, 0], images, where)
    report("mean of samples", step * found.mean, images, where)
    calibrate(model.values, found, images / step, where)
    print(f"{seconds:.0f} s", flush=True)
    if flags.out:
        arrays = {k: v for k, v in vars(found).items() if v is not None}
        arrays["restored"] = arrays.pop("images")
        arrays["original"] = np.rint(images / step)
        arrays["given"] = np.rint(enlarged(given, mask) / step)
        arrays["mask"] = mask
        np.savez_compressed(f"{flags.out}_{task}.npz", **arrays)
        draw(f"{flags.out}_{task}.png", arrays, model.num_colors)


def make_task(task, images, rng):
    """Returns what is given of images, a mask, and the noise."""
    n, height, width, _ = images.shape
    mask = np.zeros([n, height, width, 1], bool)
    if task.startswith(("gray", "lowres")):
        from tf_realnvp import observations
        from tf_realnvp.flow.values import Values

        observe = observations.named(task.replace(" ", ":"), Values(256))
        return observe(images, None).numpy().astype(np.uint8), mask, None
    if task.startswith("noise"):
        noise = float(task.split()[1])
        noisy = images + rng.normal(scale=noise, size=images.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), mask, noise
    rectangles = {  # Shares of the height and the width.
        "centre": (0.25, 0.75, 0.25, 0.75),
        "eyes": (0.18, 0.38, 0.15, 0.85),  # Of aligned faces.
        "half": (0.5, 1.0, 0.0, 1.0),
    }
    if task in rectangles:
        top, bottom, left, right = rectangles[task]
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        mask[:, rows, columns] = True
    elif task == "random":
        mask = rng.random(mask.shape) < 0.9
    return np.where(mask, 0, images).astype(np.uint8), mask, None


def other_methods(train, noise):
    """Returns functions of given images and masks, by name."""
    flat = train.reshape(len(train), -1).astype(np.float32)

    def nearest(image, missing):
        known = np.flatnonzero(
            ~np.broadcast_to(missing[..., np.newaxis], image.shape)
        )
        errors = flat[:, known] - image.ravel()[known]
        return train[np.square(errors).sum(axis=1).argmin()]

    methods = {"nearest training image": nearest}
    skimage, cv2, bm3d = map(_optional, ("skimage.restoration", "cv2", "bm3d"))
    if noise is None:
        if skimage:
            methods["biharmonic"] = lambda image, missing: (
                255.0
                * skimage.inpaint_biharmonic(
                    image / 255.0, missing, channel_axis=-1
                )
            )
        for name in ("TELEA", "NS") if cv2 else ():
            kind = vars(cv2)[f"INPAINT_{name}"]
            methods[f"OpenCV {name}"] = lambda image, missing, kind=kind: (
                cv2.inpaint(image, missing.astype(np.uint8), 3, kind)
            )
    elif bm3d:
        methods["BM3D"] = lambda image, _: (
            255.0 * bm3d.bm3d(image / 255.0, noise / 255.0)
        )

    def for_each(method):
        def run(given, mask):
            pairs = zip(given, mask[..., 0], strict=True)
            return np.stack([method(*p) for p in pairs]).reshape(given.shape)

        return run

    return {name: for_each(method) for name, method in methods.items()}


def train_unet(task, train, rng, seconds):
    """Trains a U-Net on the mean squared error of a task, for a time."""
    import keras

    layers = keras.layers

    def convolve(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    first = unet_inputs(*make_task(task, train[:1], rng)[:2])
    inputs = layers.Input(first.shape[1:])
    x, skips = inputs, []
    for filters in (32, 64):
        skips.append(convolve(x, filters))
        x = layers.MaxPooling2D()(skips[-1])
    x = convolve(x, 128)
    for filters, skip in zip((64, 32), reversed(skips), strict=True):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
        x = convolve(x, filters)
    outputs = layers.Conv2D(train.shape[3], 3, padding="same")(x)
    network = keras.Model(inputs, outputs)
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
    """Returns the images and the mask as channels, float32."""
    channels = [enlarged(given, mask) / 255.0, mask]
    return np.concatenate(channels, axis=-1).astype(np.float32)


def enlarged(given, like):
    """Repeats the pixels of images to the height and width of others."""
    factor = like.shape[1] // given.shape[1]
    return given.repeat(factor, axis=1).repeat(factor, axis=2)


def _optional(name):
    """Returns a module, or `None` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def report(name, restored, images, where) -> None:
    """Prints PSNR, SSIM and distance of patches of what was restored."""
    restored = np.clip(np.asarray(restored, np.float64), 0, 255)
    weights = np.broadcast_to(where, images.shape).astype(float)

    def mean(values):
        return np.average(values, axis=(1, 2, 3), weights=weights)

    squares = np.maximum(mean(np.square(restored - images)), 1e-2)
    values = [10.0 * np.log10(255.0**2 / squares)]
    if metrics := _optional("skimage.metrics"):
        maps = [
            metrics.structural_similarity(
                *pair, data_range=255, channel_axis=-1, full=True
            )[1]
            for pair in zip(images.astype(float), restored, strict=True)
        ]
        values.append(mean(maps))
    texts = [f"  {name:24}"]
    for of_images, digits in zip(values, (2, 3), strict=False):
        error = of_images.std(ddof=1) / len(of_images) ** 0.5
        texts.append(f"{of_images.mean():.{digits}f} ({error:.{digits}f})")
    if where.all():
        texts.append(f"{of_patches(restored, images):.1f}")
    print(*texts, flush=True)


def of_patches(restored, images, size=8):
    """Returns the Fréchet distance of patches, in squared levels a component.

    Args:
      restored: `[n, H, W, C]`.
      images: Images to compare with, `[n, H, W, C]`.
      size: Height and width of the patches.
    """
    n, height, width, channels = images.shape
    height, width = height // size, width // size

    def patches(values):
        values = values[:, : size * height, : size * width].astype(float)
        rows = values.reshape(n, height, size, width, size, channels)
        return rows.swapaxes(2, 3).reshape(n * height * width, -1)

    both = patches(restored), patches(images)
    return frechet.frechet(*both) / both[0].shape[1]


def draw(path, arrays, num_colors) -> None:
    """Draws some of the images, their restorations and their spread."""
    from tf_realnvp.analysis import plots

    few = {name: array[:_NUM_SHOWN] for name, array in arrays.items()}
    shown = {"restored": few["restored"]}
    samples = np.moveaxis(few["samples"], 1, 0)
    shown |= {f"sample {k}": images for k, images in enumerate(samples, 1)}
    shown["mean"] = np.rint(few["mean"])
    spread = few["std"].mean(axis=-1) * (255.0 / (num_colors - 1))
    shown["original"] = few["original"]
    plots.save_restorations(
        path, few["given"], few["mask"], shown, spread, num_colors
    )


def calibrate(values, found, images, where) -> None:
    """Prints how well the spread of the samples predicts the errors."""
    import scipy.stats

    from tf_realnvp import restoration

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
        f"Spearman's coefficient {correlation:.3f}"
    )
    halves = [
        (
            dataclasses.replace(
                found, mean=found.mean[part], std=found.std[part]
            ),
            images[part],
            where[part],
        )
        for part in (np.s_[0::2], np.s_[1::2])
    ]
    held = []
    for coverage in (0.5, 0.8, 0.9, 0.95):
        (restored, truth, missing), other = halves
        factor = restoration.interval_factor(
            values, restored, truth, coverage, missing
        )
        restored, truth, missing = other
        low, high = restoration.interval(values, restored, factor, missing)
        is_held = (low <= truth) & (truth <= high)
        held.append(f"{is_held[missing].mean():.3f} for {coverage:.0%}")
    print(f"intervals by the other half hold {', '.join(held)}")


if __name__ == "__main__":
    main()
