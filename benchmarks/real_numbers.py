"""Compares a model of 8-bit images with one of the same images as real numbers.

`python -m benchmarks.real_numbers` takes Fashion-MNIST and measures
(docs/scientific_data.py)

1.  the density: with the same weights, a model of real numbers gives logits of
    dequantized images the density that a model of levels gives the images, up
    to the log-det of the logit. The largest relative difference is printed.
2.  training: the same number of steps, from the same seeds, on the levels; on
    the levels plus noise as real numbers; and on their logits as real numbers.
    All losses are in bits/dim of the dequantized images.
"""

import functools

import numpy as np

from benchmarks import measuring


def main() -> None:
    """Prints the comparison."""
    flags = measuring.parse_flags(
        __doc__,
        data_dir="datasets",
        images=10_000,
        steps=600,
        filters=32,
        num_blocks=1,
        seed=0,
    )
    from tf_realnvp.utils import runtime

    runtime.configure()
    import keras
    import tensorflow_probability as tfp

    import tf_realnvp
    from tf_realnvp import data
    from tf_realnvp.bijectors import steps_of

    dataset = data.load("fashion_mnist", flags.data_dir)
    images, _ = measuring.take(dataset, "train", flags.images)
    test, _ = measuring.take(dataset, "test", 1000)
    rng = np.random.default_rng(flags.seed)
    points = (images + rng.random(images.shape)).astype(np.float32)
    test_points = (test + rng.random(test.shape)).astype(np.float32)

    def new(num_colors):
        keras.utils.set_random_seed(flags.seed)
        return tf_realnvp.RealNVP(
            images.shape[1:],
            num_colors,
            filters=flags.filters,
            num_blocks=flags.num_blocks,
        )

    def train(model, given):
        return measuring.once(
            functools.partial(
                tf_realnvp.train,
                model,
                given,
                epochs=100,
                max_steps=flags.steps,
                seed=flags.seed,
                precision="float32",
                progress=False,
            )
        )

    def show(name, log_prob, seconds):
        bits = -np.mean(log_prob) / np.log(2.0) / images[0].size
        print(f"  {name}: {bits:.4f} ({seconds:.0f} s)")

    levels = new(256)
    seconds = train(levels, images)
    # From images to latents, these are the first two.
    logit = tfp.bijectors.Chain(steps_of(levels.bijector)[:2])
    logits, test_logits = (
        logit.inverse(points).numpy(),
        logit.inverse(test_points),
    )
    log_det = logit.inverse_log_det_jacobian(test_points, event_ndims=3)
    same = new(None)
    for variable, value in zip(same.variables, levels.variables, strict=False):
        variable.assign(value)  # All but the standardization, an identity.
    expected = levels.log_density(test_points).numpy()
    found = same.log_prob(test_logits) + log_det
    worst = np.max(np.abs((found - expected) / expected))
    print(f"density with the same weights: relative difference {worst:.1e}")

    print(f"bits/dim of test images after {flags.steps} steps:")
    show("levels", expected, seconds)
    model = new(None)
    seconds = train(model, points)
    show("real numbers", model.log_prob(test_points), seconds)
    model = new(None)
    seconds = train(model, logits)
    show("logits", model.log_prob(test_logits) + log_det, seconds)


if __name__ == "__main__":
    main()
