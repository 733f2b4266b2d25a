"""Measures how a CPU trains fastest (benchmarks/results/devices.md).

`python -m benchmarks.devices` prints the milliseconds of a training step with
all cores as threads of each operation, with one thread for each (independent
operations still run at once), and with two parts of a batch at once, on half of
the cores each. Each way has a process of its own; they take turns, as the speed
of the machine drifts. Images are random. The package takes its defaults from
this table (`runtime.fastest_cpus`).
"""

import contextlib
import statistics

from benchmarks import measuring
from benchmarks.measuring import once

# Image shape, filters, residual blocks, couplings, scales, batch size.
_MODELS = [
    ((8, 8, 1), 32, 2, (3, 3, 4), 2, 32),
    ((16, 16, 3), 64, 2, (3, 3, 4), 2, 32),
    ((28, 28, 1), 32, 1, (6, 6, 8), 3, 32),
    ((28, 28, 1), 64, 2, (3, 3, 4), 3, 32),
    ((32, 32, 3), 64, 2, (3, 3, 4), 3, 16),
    ((64, 64, 3), 64, 2, (3, 3, 4), 4, 16),
    ((32, 32, 3), 128, 8, (3, 3, 4), 2, 32),
]
# Parts at once, and threads of each operation.
_WAYS = [(1, None), (1, 1), (2, None)]
_trainings = {}  # In each process.


def main() -> None:
    """Measures each way in a process of its own, and prints the table."""
    flags = measuring.parse_flags(
        __doc__, rounds=4, seconds=3.0, models=list(range(len(_MODELS)))
    )
    print(
        f"ms a step, medians of {flags.rounds} bursts of {flags.seconds} s; "
        "in brackets the seconds of the first step, which is traced\n"
    )
    measuring.print_header(
        *("images", "filters", "blocks", "couplings", "batch"),
        *("all cores an operation", "one thread", "two parts"),
    )
    for index in flags.models:
        shape, filters, blocks, couplings, _, batch_size = _MODELS[index]
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(measuring.new_process()) for _ in _WAYS
            ]

            def ask(function, *arguments, processes=processes):
                return [
                    process.submit(function, *arguments).result()
                    for process in processes
                ]

            for process, way in zip(processes, _WAYS, strict=True):
                process.submit(prepare, _MODELS[index], way).result()
            firsts = ask(step)
            bursts = [ask(burst, flags.seconds) for _ in range(flags.rounds)]
        medians = map(statistics.median, zip(*bursts, strict=True))
        measuring.print_row(
            "x".join(map(str, shape)),
            *(filters, blocks, ",".join(map(str, couplings)), batch_size),
            *(
                f"{1e3 * median:.0f} ({first:.0f})"
                for median, first in zip(medians, firsts, strict=True)
            ),
        )


def prepare(settings, way: tuple[int, int | None]) -> None:
    """Creates a model and its trainer in this process.

    Args:
      settings: One of `_MODELS`.
      way: One of `_WAYS`.
    """
    from tf_realnvp.utils import runtime

    runtime.configure(*way)
    from tf_realnvp import RealNVP

    shape, filters, blocks, couplings, scales, batch_size = settings
    with runtime.make_strategy().scope():
        model = RealNVP(
            shape,
            filters=filters,
            num_blocks=blocks,
            num_couplings=couplings,
            num_scales=scales,
        )
        precision = runtime.settle_precision("auto")
        trainer = measuring.make_trainer(
            model, precision=precision, clip_grad=1.0
        )
    _trainings["train"] = measuring.training_steps(trainer, batch_size)


def step() -> float:
    """Returns the seconds of a step."""
    return once(lambda: _trainings["train"](1))


def burst(seconds: float) -> float:
    """Returns the mean seconds of the steps in a time."""
    number = max(1, round(seconds / step()))
    return once(lambda: _trainings["train"](number)) / number


if __name__ == "__main__":
    main()
