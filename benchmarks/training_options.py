"""Measures what options of training gain at equal steps.

`python -m benchmarks.training_options` trains a small model of CIFAR10 with
each set of options and several seeds, and prints the bits/dim of the first test
images: mean and standard deviation over the seeds (docs/measurements.md).
"""

import contextlib
import dataclasses
import statistics
from unittest import mock

from benchmarks import measuring

_CLIPPED = {"lr": 1e-3, "warmup_steps": 20, "clip_grad": 1.0}
# Arguments of `tf_realnvp.train`.
_OPTIONS = [
    {"lr": 3e-4, "initialize": False},  # Not data-dependent.
    {"lr": 3e-4},
    {"lr": 1e-3},
    {"lr": 2e-3},
    {"lr": 1e-3, "warmup_steps": 20},
    {"lr": 1e-3, "clip_grad": 1.0},
    {"lr": 1e-3, "lr_schedule": "cosine"},
    {"lr": 1e-3, "ema": 0.98},
    _CLIPPED,
    _CLIPPED | {"lr_schedule": "cosine"},
    _CLIPPED | {"ema": 0.98},
]


def main() -> None:
    """Trains with each set of options, and prints the table."""
    flags = measuring.parse_flags(
        __doc__,
        dataset="CIFAR10",
        data_dir="datasets",
        seeds=3,
        steps=100,
        ways=list(range(len(_OPTIONS))),
        filters=64,
        num_blocks=2,
        precision="auto",
        test_images=1024,
    )
    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import data

    dataset = data.load(flags.dataset, flags.data_dir)
    test = dataset.splits["test"].select(slice(flags.test_images))
    splits = {**dataset.splits, "test": test}
    dataset = dataclasses.replace(dataset, splits=splits)
    print(f"after {flags.steps} steps\n")
    measuring.print_header("options", "test bits/dim", "sd", "of each seed")
    for options in (_OPTIONS[way] for way in flags.ways):
        bits = [
            train(flags, dataset, seed, options) for seed in range(flags.seeds)
        ]
        text = " ".join(f"--{name} {value}" for name, value in options.items())
        measuring.print_row(
            f"`{text}`",
            f"{statistics.mean(bits):.3f}",
            f"{statistics.stdev(bits):.3f}" if len(bits) > 1 else "",
            " ".join(f"{value:.3f}" for value in bits),
        )


def train(flags, dataset, seed: int, options: dict) -> float:
    """Returns the bits/dim of the test images after training.

    Args:
      flags: The flags of the program.
      dataset: The `ImageDataset`.
      seed: Seed of the training.
      options: One of `_OPTIONS`.
    """
    import keras

    import tf_realnvp

    keras.utils.set_random_seed(seed)
    model = tf_realnvp.RealNVP(
        dataset.image_shape,
        dataset.num_colors,
        filters=flags.filters,
        num_blocks=flags.num_blocks,
    )
    settings = dict(options)
    without = contextlib.nullcontext()
    if not settings.pop("initialize", True):
        without = mock.patch.object(tf_realnvp.initialization, "initialize")
    with without:
        history = tf_realnvp.train(
            model,
            dataset,
            max_steps=flags.steps,
            seed=seed,
            precision=flags.precision,
            progress=False,
            **settings,
        )
    return history[-1].bits_per_dim()["test"]


if __name__ == "__main__":
    main()
