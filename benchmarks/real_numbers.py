"""Compares a model of 8-bit images with one of the same images as real numbers.

`python -m benchmarks.real_numbers` takes Fashion-MNIST of `--data_dir` and
measures

1.  the density: with the same weights, a model of real numbers gives logits of
    dequantized images the density that a model of levels gives the images, up
    to the log-det of the logit. The largest relative difference is printed.
2.  training: the same number of steps, from the same seeds, on the levels; on
    the levels plus noise as real numbers; and on their logits as real numbers.
    All losses are in bits/dim of the dequantized images.
"""

import argparse
import time

import numpy as np


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--num_blocks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    from tf_realnvp.utils import runtime

    runtime.configure()
    import keras
    import tensorflow_probability as tfp

    import tf_realnvp
    from tf_realnvp import data
    from tf_realnvp.bijectors import steps_of

    dataset = data.load("fashion_mnist", flags.data_dir)
    images = dataset.take("train", range(flags.images))
    rng = np.random.default_rng(flags.seed)
    points = (images + rng.random(images.shape)).astype(np.float32)

    def new(num_colors):
        keras.utils.set_random_seed(flags.seed)
        return tf_realnvp.RealNVP(
            images.shape[1:],
            num_colors,
            filters=flags.filters,
            num_blocks=flags.num_blocks,
        )

    def train(model, given):
        start = time.perf_counter()
        history = tf_realnvp.train(
            model,
            given,
            epochs=100,
            max_steps=flags.steps,
            seed=flags.seed,
            precision="float32",
            progress=False,
        )
        seconds = time.perf_counter() - start
        return history[-1].test_loss, seconds

    levels = new(256)
    loss, seconds = train(levels, images)
    # From images to latents, these are the first two.
    logit = tfp.bijectors.Chain(steps_of(levels.bijector)[:2])
    logits = logit.inverse(points).numpy()
    log_det = logit.inverse_log_det_jacobian(points, event_ndims=3).numpy()
    same = new(None)
    for own, its in zip(same.variables, levels.variables, strict=False):
        own.assign(its)  # All but the standardization, which is the identity.
    some = slice(1000)
    expected = levels.log_density(points[some]).numpy()
    found = same.log_prob(logits[some]).numpy() + log_det[some]
    worst = np.max(np.abs(found - expected) / np.abs(expected))
    print(f"density with the same weights: relative difference {worst:.1e}")

    bits = np.log(2.0)
    print(f"{flags.steps} steps of training, test bits/dim of the levels:")
    print(f"  levels: {loss / bits:.4f} ({seconds:.0f} s)")
    loss, seconds = train(new(None), points)
    print(f"  real numbers: {loss / bits:.4f} ({seconds:.0f} s)")
    loss, seconds = train(new(None), logits)
    shift = log_det.mean() / images[0].size
    print(
        f"  logits as real numbers: {(loss - shift) / bits:.4f} "
        f"({seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
