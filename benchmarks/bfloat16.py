"""Measures what a model loses when its networks compute in bfloat16.

`python -m benchmarks.bfloat16 realnvp_fashion_mnist` prints the bits/dim of
test images, of the same noise, when the networks compute in float32, as in a
saved model, and in bfloat16, as in training (benchmarks/results/bfloat16.md).
"""

import numpy as np

from benchmarks import measuring


def main() -> None:
    """Prints the bits/dim of each dtype, and the difference."""
    flags = measuring.parse_flags(
        __doc__, "model", **measuring.OF_IMAGES, n=400, batch_size=50
    )
    import tensorflow as tf

    model = measuring.load(flags.model)
    dataset = measuring.load_dataset(model, flags)
    images, labels = measuring.take(dataset, "test", flags.n)
    bits = {}
    for dtype in ("float32", "bfloat16"):
        function = tf.function(model.for_training(dtype).bits_per_dim)
        batches = []
        for start in range(0, flags.n, flags.batch_size):
            batch = slice(start, start + flags.batch_size)
            label = None if labels is None else labels[batch]
            batches.append(function(images[batch], seed=0, label=label))
        bits[dtype] = np.concatenate(batches)
        print(f"{dtype}: {bits[dtype].mean():.4f} bits/dim")
    lost = bits["bfloat16"] - bits["float32"]
    error = lost.std() / len(lost) ** 0.5
    print(f"lost: {lost.mean():.4f} bits/dim, standard error {error:.4f}")


if __name__ == "__main__":
    main()
