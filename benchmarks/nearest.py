"""Shows samples of a model beside the training images that are nearest to them.

`python -m benchmarks.nearest realnvp_fashion_mnist --out nearest.png` draws a
grid of pairs: a sample, and to its right the training image at the smallest
Euclidean distance. If the model copied training images, both would be the same.
It prints how far samples are from their nearest training images, and for
comparison how far test images are. `--flip` is for models trained with it: it
includes the mirrored training images.
"""

import argparse

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min


def main() -> None:
    """Draws the grid and prints the distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--shown", type=int, default=36)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--out", default="nearest.png")
    flags = parser.parse_args()

    from tf_realnvp.serving.saved_model import SavedModel

    model = SavedModel(flags.model)
    from tf_realnvp.cli import image_sets
    from tf_realnvp.images import plots

    # With the size and the levels of the model's images.
    dataset = image_sets.Loader(model, flags.data_dir).load_dataset(None)
    train = dataset.take("train", range(dataset.num_train))
    if flags.flip:
        train = np.concatenate([train, train[:, :, ::-1]])
    test = dataset.take("test", range(min(flags.n, dataset.num_test)))
    samples = np.concatenate(
        list(model.sample(flags.n, flags.temperature, flags.seed))
    )
    indices, distances = nearest(samples, train)
    pairs = np.stack([samples, train[indices]], axis=1)[: flags.shown]
    plots.save_image_grid(
        flags.out,
        pairs.reshape(-1, *samples.shape[1:]),
        model.num_colors,
        2 * flags.columns,
    )
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
