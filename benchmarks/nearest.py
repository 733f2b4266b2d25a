"""Shows samples of a model beside the nearest training images.

`python -m benchmarks.nearest realnvp_fashion_mnist --out nearest.png` draws
pairs of a sample and, to its right, the training image at the smallest
Euclidean distance. If the model copied training images, both would be the same.
It prints the distances of samples from their nearest training images, and for
comparison those of test images (benchmarks/results/nearest.md). With `--flip`,
for models that were trained with it, mirrored training images count, too.
"""

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min

from benchmarks import measuring


def main() -> None:
    """Draws the grid and prints the distances."""
    flags = measuring.parse_flags(
        __doc__,
        "model",
        **measuring.OF_IMAGES,
        temperature=1.0,
        seed=0,
        n=1000,
        shown=36,
        columns=6,
        flip=False,
        out="nearest.png",
    )

    model = measuring.load(flags.model)
    from tf_realnvp.analysis import batched, plots

    dataset = measuring.load_dataset(model, flags, labels=False)
    train, _ = measuring.take(dataset, "train")
    test, _ = measuring.take(dataset, "test", flags.n)
    if flags.flip:
        train = np.concatenate([train, train[:, :, ::-1]])
    samples = np.concatenate(
        list(batched.sample(model, flags.n, flags.temperature, flags.seed))
    )
    indices, distances = nearest(samples, train)
    pairs = np.stack([samples, train[indices]], axis=1)[: flags.shown]
    grid = pairs.reshape(-1, *samples.shape[1:])
    columns = 2 * flags.columns
    plots.save_image_grid(flags.out, grid, model.num_colors, columns)
    _, of_test = nearest(test, train)
    for name, values in (("samples", distances), ("test images", of_test)):
        print(
            f"{name}: {values.mean():.1f} levels a component from the nearest "
            f"of {len(train):,} training images, at least {values.min():.1f}"
        )
    print(flags.out)


def nearest(
    images: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest of other images.

    Args:
      images: uint8 `[n, H, W, C]`.
      others: uint8 `[m, H, W, C]`.

    Returns:
      For each image the index of the nearest other one, and the root of the
      mean squared difference from it.
    """
    points = images.reshape(len(images), -1).astype(np.float32)
    others = others.reshape(len(others), -1).astype(np.float32)
    indices, distances = pairwise_distances_argmin_min(points, others)
    return indices, distances / points.shape[1] ** 0.5


if __name__ == "__main__":
    main()
