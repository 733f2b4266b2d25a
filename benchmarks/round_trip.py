"""Measures how exactly `decode(encode(images))` recovers images.

`python -m benchmarks.round_trip MODEL...` takes saved models and gives them
more levels: with the same weights, levels twice as fine are the same density on
a finer grid. The images are test images of the model's data set with random
lower bits. For each number of bits it prints the share of images and of values
that are recovered, and the largest error in levels
(benchmarks/results/round_trip.md).
"""

import numpy as np

from benchmarks import measuring


def main() -> None:
    """Prints a table for each model."""
    flags = measuring.parse_flags(
        __doc__, "models...", **measuring.OF_IMAGES, n=500
    )
    import tf_realnvp

    for path in flags.models:
        saved = measuring.load(path)
        dataset = measuring.load_dataset(saved, flags)
        images, label = measuring.take(dataset, "test", flags.n)
        print(
            f"{path}: {saved.num_parameters:,} parameters, "
            f"{len(saved.couplings)} couplings, {len(images)} images"
        )
        measuring.print_header("bits", "images", "values", "largest error")
        for bits in range(8, 17):
            finer = 2**bits // saved.num_colors
            rng = np.random.default_rng(bits)
            levels = finer * images.astype(np.int64)
            levels += rng.integers(finer, size=images.shape)
            config = saved.get_config() | {"num_colors": 2**bits}
            model = tf_realnvp.RealNVP(**config)
            model.assign(saved)
            errors = []
            for start in range(0, len(images), 100):
                part = slice(start, start + 100)
                of_part = None if label is None else label[part]
                latents = model.encode(levels[part], of_part)
                decoded = model.decode(latents, of_part).numpy()
                errors.append(np.abs(decoded - levels[part]))
            errors = np.concatenate(errors)
            exact = np.mean(np.all(errors == 0, axis=(1, 2, 3)))
            measuring.print_row(
                bits,
                f"{exact:.1%}",
                f"{np.mean(errors == 0):.3%}",
                errors.max(),
            )


if __name__ == "__main__":
    main()
