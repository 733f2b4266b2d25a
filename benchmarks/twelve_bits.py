"""Makes images of 12 bits, and some with a planted anomaly.

`python -m benchmarks.twelve_bits FOLDER` takes CIFAR10, whose images are
lossless, and writes to the folder (benchmarks/results/twelve_bits.md)

*   `twelve_bits.npz`: training and test images, 16x16, grey, of 4,096 levels;
*   `normal` and `unusual`: PNG files of 16 bits of other test images, without
    and with noise on a square of 4x4 pixels;
*   `eight_bits.npz`, `normal_8`, `unusual_8`: the same with 8 bits.

A pixel is the sum of 12 bytes, those of 2x2 pixels of three channels, plus
uniform noise, so that the lowest bits are noise like those of a sensor. These
are not images of a 12-bit sensor, but they have what 8 bits lack: a mean of 12
bytes is known to about a twelfth of a level.
"""

import pathlib

import numpy as np

from benchmarks import measuring

_SIDE = 4
_SUM = 12 * 255 + 1  # Of the sums, with the noise.


def to_twelve_bits(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns uint16 `[n, 16, 16, 1]` of uint8 `[n, 32, 32, 3]`."""
    sums = images.reshape(-1, 16, 2, 16, 2, 3).sum(axis=(2, 4, 5), dtype=float)
    levels = (sums + rng.random(sums.shape)) * (4096 / _SUM)
    return np.minimum(levels, 4095).astype(np.uint16)[..., np.newaxis]


def plant(
    images: np.ndarray, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns images with noise of a standard deviation on a square."""
    images = images.astype(float)
    for image in images:
        top, left = rng.integers(1, 16 - _SIDE, size=2)
        square = image[top : top + _SIDE, left : left + _SIDE]
        square += noise * rng.standard_normal(square.shape)
    return np.clip(images, 0, 4095).astype(np.uint16)


def main() -> None:
    """Writes the files."""
    flags = measuring.parse_flags(
        __doc__,
        "folder",
        data_dir="datasets",
        noise=800.0,  # Levels of 4,096.
        seed=0,
    )
    from tf_realnvp import data
    from tf_realnvp.data import image_files

    rng = np.random.default_rng(flags.seed)
    dataset = data.load("CIFAR10", flags.data_dir)
    train, test = (
        to_twelve_bits(measuring.take(dataset, split)[0], rng)
        for split in ("train", "test")
    )
    root = pathlib.Path(flags.folder)
    test, normal, unusual = np.split(test, [8000, 9000])
    sets = {"normal": normal, "unusual": plant(unusual, flags.noise, rng)}
    for name, suffix, shift, dtype in (
        ("twelve", "", 0, np.uint16),
        ("eight", "_8", 4, np.uint8),
    ):
        num_colors = 4096 >> shift
        for kind, images in sets.items():
            folder = root / f"{kind}{suffix}"
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate((images >> shift).astype(dtype)):
                path = folder / f"{number:04d}.png"
                image_files.write(path, image, num_colors)
        both = {"train": train, "test": test}
        levels = {k: (v >> shift).astype(dtype) for k, v in both.items()}
        path = root / f"{name}_bits.npz"
        np.savez(path, **levels, num_colors=num_colors)


if __name__ == "__main__":
    main()
