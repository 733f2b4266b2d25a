"""Makes images of 12 bits, and some with a planted anomaly.

`python -m benchmarks.twelve_bits FOLDER` takes CIFAR10 of `--data_dir`, whose
images are lossless, and writes to the folder

*   `twelve_bits.npz`: training and test images, 16x16, grey, of 4,096 levels;
*   `normal` and `unusual`: PNG files of 16 bits of other test images, without
    and with a square of 4x4 pixels under noise;
*   `eight_bits.npz`, `normal_8`, `unusual_8`: the same with 8 bits.

A pixel is the sum of 12 bytes, those of 2x2 pixels of three channels, plus
uniform noise, so that the lowest bits are noise as those of a sensor are. These
are no images of a 12-bit sensor, but they have what 8 bits lack: a mean of 12
bytes is known to about a twelfth of a level.
"""

import argparse
import pathlib

import numpy as np

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
    """Returns images with noise on a square."""
    images = images.astype(float)
    for image in images:
        top, left = rng.integers(1, 16 - _SIDE, size=2)
        square = image[top : top + _SIDE, left : left + _SIDE]
        square += noise * rng.standard_normal(square.shape)
    return np.clip(images, 0, 4095).astype(np.uint16)


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument(
        "--noise",
        type=float,
        default=800.0,
        help="standard deviation in the square, in levels of 4,096",
    )
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    from tf_realnvp import data
    from tf_realnvp.images import files

    rng = np.random.default_rng(flags.seed)
    dataset = data.load("CIFAR10", flags.data_dir)
    train, test = (
        to_twelve_bits(dataset.take(split, range(size)), rng)
        for split, size in (("train", 50_000), ("test", 10_000))
    )
    flags.folder.mkdir(parents=True, exist_ok=True)
    test, normal, unusual = np.split(test, [8000, 9000])
    sets = {"normal": normal, "unusual": plant(unusual, flags.noise, rng)}
    for name, shift, num_colors in (("twelve", 0, 4096), ("eight", 4, 256)):
        dtype = np.uint16 if shift == 0 else np.uint8
        np.savez(
            flags.folder / f"{name}_bits.npz",
            train=(train >> shift).astype(dtype),
            test=(test >> shift).astype(dtype),
            num_colors=num_colors,
        )
        for kind, images in sets.items():
            folder = flags.folder / (kind if shift == 0 else f"{kind}_8")
            folder.mkdir(exist_ok=True)
            for number, image in enumerate(images >> shift):
                path = folder / f"{number:04d}.png"
                files.write(path, image.astype(dtype), num_colors)


if __name__ == "__main__":
    main()
