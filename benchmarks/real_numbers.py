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
    held_out = dataset.take("test", range(1000))
    held_out = (held_out + rng.random(held_out.shape)).astype(np.float32)

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
        tf_realnvp.train(
            model,
            given,
            epochs=100,
            max_steps=flags.steps,
            seed=flags.seed,
            precision="float32",
            progress=False,
        )
        return time.perf_counter() - start

    def show(name, log_prob, seconds):
        bits = -np.mean(log_prob) / np.log(2.0) / images[0].size
        print(f"  {name}: {bits:.4f} ({seconds:.0f} s)")

    levels = new(256)
    seconds = train(levels, images)
    # From images to latents, these are the first two.
    logit = tfp.bijectors.Chain(steps_of(levels.bijector)[:2])
    logits = logit.inverse(points).numpy()
    log_det = logit.inverse_log_det_jacobian(held_out, event_ndims=3).numpy()
    its_logits = logit.inverse(held_out).numpy()
    same = new(None)
    for own, its in zip(same.variables, levels.variables, strict=False):
        own.assign(its)  # All but the standardization, which is the identity.
    expected = levels.log_density(held_out).numpy()
    found = same.log_prob(its_logits).numpy() + log_det
    worst = np.max(np.abs(found - expected) / np.abs(expected))
    print(f"density with the same weights: relative difference {worst:.1e}")

    print(f"bits/dim of test images after {flags.steps} steps:")
    show("levels", expected, seconds)
    model = new(None)
    seconds = train(model, points)
    show("real numbers", model.log_prob(held_out), seconds)
    model = new(None)
    seconds = train(model, logits)
    show("logits", model.log_prob(its_logits) + log_det, seconds)


if __name__ == "__main__":
    main()
