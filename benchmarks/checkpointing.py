"""Measures what checkpoints cost (docs/measurements.md, "Checkpoints").

`python -m benchmarks.checkpointing` prints the size of a checkpoint of the
default models of CIFAR10 and of digits, the time to save one, and that time as
a share of the time between two: ten minutes, or an epoch where that is shorter,
but at least thirty seconds.
"""

import pathlib
import tempfile

from benchmarks import measuring
from benchmarks.measuring import timed

# (data set, image shape, levels, filters, blocks, steps per epoch).
_CASES = [
    ("CIFAR10", (32, 32, 3), 256, 128, 8, 781),
    ("digits", (8, 8, 1), 17, 32, 2, 22),
]


def main() -> None:
    """Measures both cases and prints the table."""
    flags = measuring.parse_flags(__doc__, batch_size=64, saves=9)
    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import RealNVP
    from tf_realnvp.training.checkpoints import Checkpoints
    from tf_realnvp.training.trainer import Trainer

    measuring.print_header(
        *("model of", "checkpoint", "s to save it", "s between two", "share")
    )
    for name, shape, num_colors, filters, num_blocks, epoch in _CASES:
        model = RealNVP(shape, num_colors, filters, num_blocks)
        trainer = Trainer(model, precision=runtime.settle_precision("auto"))
        train = measuring.training_steps(trainer, flags.batch_size)
        step = timed(lambda train=train: train(1), 3)
        between = min(600.0, max(30.0, epoch * step))
        with tempfile.TemporaryDirectory() as folder:
            seconds = timed(Checkpoints(trainer, folder).save, flags.saves)
            newest = next(pathlib.Path(folder).glob("ckpt-*.data*"))
            size = f"{newest.stat().st_size / 1e6:.1f} MB"
        share = f"{seconds / between:.2%}"
        measuring.print_row(
            name, size, f"{seconds:.3f}", f"{between:.1f}", share
        )


if __name__ == "__main__":
    main()
