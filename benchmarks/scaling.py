"""Measures the cost of training by batch size, image size and replicas.

`python -m benchmarks.scaling` prints one table for the default model. Replicas
are logical CPUs, which share the cores of the machine: they show what the
exchange of gradients costs, not what more hardware gains. Images are random.
"""

import argparse

from benchmarks.measuring import in_new_process, timed, training_steps

# (batch size, image size, number of replicas).
_CASES = [
    *[(batch_size, 32, 1) for batch_size in (1, 4, 16, 64, 256)],
    *[(16, image_size, 1) for image_size in (16, 32, 64)],
    *[(16, 32, num_replicas) for num_replicas in (1, 2)],
]


def main() -> None:
    """Measures each case in a process of its own, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    flags = parser.parse_args()
    print(
        "| batch | image | replicas | s/step | ms/image | µs/image and pixel "
        "|\n| --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    for case in _CASES:
        in_new_process(measure, case, flags.steps)


def measure(case: tuple[int, int, int], steps: int) -> None:
    """Prints a row of the table.

    Args:
      case: Batch size, image size and number of replicas.
      steps: Number of training steps, of which the median counts.
    """
    from tf_realnvp.utils import runtime

    batch_size, image_size, num_replicas = case
    runtime.configure(num_replicas)
    strategy = runtime.make_strategy(num_replicas)
    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    with strategy.scope():
        trainer = Trainer(
            RealNVP((image_size, image_size, 3)),
            precision=runtime.settle_precision("auto"),
        )
    train = training_steps(trainer, batch_size)
    seconds = timed(lambda: train(1), steps)
    each = seconds / batch_size
    print(
        f"| {batch_size} | {image_size}x{image_size} | {num_replicas} "
        f"| {seconds:.2f} | {1e3 * each:.0f} "
        f"| {1e6 * each / image_size**2:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
