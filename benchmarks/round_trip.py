"""Measures how exactly `decode(encode(images))` gives the images back.

`python -m benchmarks.round_trip MODEL ...` takes saved models and gives them
more levels: with the same weights, levels twice as fine are the same density on
a finer grid. The images are test images of the model's data set with random
lower bits. For each number of bits it prints the share of images and of values
that come back, and the largest error in levels.
"""

import argparse

import numpy as np

from benchmarks.measuring import test_images


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--n", type=int, default=500)
    flags = parser.parse_args()
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tf_realnvp
    from tf_realnvp.serving.saved_model import SavedModel

    for path in flags.models:
        saved = SavedModel(path)
        trained = saved.model
        images, label = test_images(saved, flags.data_dir, flags.n)
        print(
            f"{path}: {trained.num_parameters:,} parameters, "
            f"{len(trained.couplings)} couplings, {len(images)} images"
        )
        print("bits  images  values    largest error")
        for bits in range(8, 17):
            own_bits = int(np.log2(saved.num_colors))
            finer = 2 ** (bits - own_bits)
            rng = np.random.default_rng(bits)
            levels = finer * images.astype(np.int64)
            levels += rng.integers(finer, size=images.shape)
            config = trained.get_config() | {"num_colors": 2**bits}
            model = tf_realnvp.RealNVP(**config)
            model.assign(trained)
            errors = []
            for start in range(0, len(images), 100):
                part = slice(start, start + 100)
                its = None if label is None else label[part]
                back = model.decode(model.encode(levels[part], its), its)
                errors.append(np.abs(back.numpy() - levels[part]))
            wrong = np.concatenate(errors)
            exact = np.mean(np.all(wrong == 0, axis=(1, 2, 3)))
            print(
                f"{bits:4}  {exact:6.1%}  {np.mean(wrong == 0):7.3%}  "
                f"{wrong.max():4}"
            )


if __name__ == "__main__":
    main()
