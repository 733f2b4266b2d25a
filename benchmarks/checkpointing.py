"""Measures what checkpoints cost.

`python -m benchmarks.checkpointing` prints one table, for the default models of
CIFAR10 and of digits: the size of a checkpoint, the time to save one, and that
time as a share of the least time between two checkpoints: ten minutes of
training, or an epoch where that is shorter, but at least thirty seconds.
"""

import argparse
import functools
import pathlib
import tempfile

from benchmarks.measuring import timed, training_steps

# (data set, image shape, levels, filters, blocks, steps in an epoch).
_CASES = [
    ("CIFAR10", (32, 32, 3), 256, 128, 8, 781),
    ("digits", (8, 8, 1), 17, 32, 2, 22),
]
_BATCH_SIZE = 64
_MINUTES = 10


def main() -> None:
    """Measures both cases and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=9)
    flags = parser.parse_args()

    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import RealNVP
    from tf_realnvp.training.checkpoints import Checkpoints
    from tf_realnvp.training.trainer import Trainer

    print("| model of | checkpoint | s to save it | s between two | share |")
    print("| --- | --- | --- | --- | --- |")
    for name, shape, num_colors, filters, num_blocks, epoch in _CASES:
        model = RealNVP(shape, num_colors, filters, num_blocks)
        trainer = Trainer(model, precision=runtime.settle_precision("auto"))
        train = training_steps(trainer, _BATCH_SIZE)
        per_call = 1 if name == "CIFAR10" else epoch
        step = timed(functools.partial(train, per_call), 3) / per_call
        between = min(60.0 * _MINUTES, max(30.0, epoch * step))
        with tempfile.TemporaryDirectory() as folder:
            seconds = timed(Checkpoints(trainer, folder).save, flags.saves)
            (newest, *_) = pathlib.Path(folder).glob("ckpt-*.data*")
            size = newest.stat().st_size / 1e6
        print(
            f"| {name} | {size:.1f} MB | {seconds:.3f} | {between:.1f} "
            f"| {seconds / between:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
