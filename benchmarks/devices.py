"""Measures how a processor trains fastest: threads, or logical CPUs.

`python -m benchmarks.devices` prints the milliseconds of a training step with
all cores as threads of each operation, with one thread for each (independent
operations still run at once), and with two logical CPUs that have half of the
cores each. Each way has its own process; they take turns, so that all are
affected alike if the speed of the machine drifts. Images are random, and there
must be no GPU.
"""

import argparse
import statistics
import subprocess
import sys
import time

from benchmarks.measuring import once, training_steps

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
# Logical CPUs, threads of each.
_WAYS = [(1, None), (1, 1), (2, None)]


def main() -> None:
    """Measures each way in a process of its own, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3, help="of a burst")
    parser.add_argument("--models", type=int, nargs="*", help="rows, from 0")
    parser.add_argument("--model", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--way", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way is not None:
        measure(flags)
        return
    print(
        f"ms a step, medians of {flags.rounds} bursts of {flags.seconds} s; "
        "in brackets the seconds of the first call, which traces it\n\n"
        "| images | filters | blocks | couplings | batch | all cores an "
        "operation | one thread | two CPUs |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    models = range(len(_MODELS)) if flags.models is None else flags.models
    for index in models:
        compare(flags, index)


def compare(flags: argparse.Namespace, index: int) -> None:
    """Prints a row of the table.

    Args:
      flags: The command's flags.
      index: Number of the model.
    """
    command = [sys.executable, "-m", "benchmarks.devices", *sys.argv[1:]]
    processes = [
        subprocess.Popen(
            [*command, f"--model={index}", f"--way={way}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in range(len(_WAYS))
    ]

    def ask(process):
        print(file=process.stdin, flush=True)
        return float(process.stdout.readline())

    for process in processes:
        process.stdout.readline()
    firsts = [ask(process) for process in processes]
    bursts = [list(map(ask, processes)) for _ in range(flags.rounds)]
    for process in processes:
        process.communicate()
    (height, width, channels), filters, blocks, couplings, _, batch = _MODELS[
        index
    ]
    medians = map(statistics.median, zip(*bursts, strict=True))
    cells = [
        f"{1e3 * median:.0f} ({first:.0f})"
        for median, first in zip(medians, firsts, strict=True)
    ]
    print(
        f"| {height}x{width}x{channels} | {filters} | {blocks} "
        f"| {','.join(map(str, couplings))} | {batch} | {' | '.join(cells)} |",
        flush=True,
    )


def measure(flags: argparse.Namespace) -> None:
    """Prints the seconds of a step whenever it is asked by a line.

    Args:
      flags: The command's flags.
    """
    from tf_realnvp.utils import runtime

    num_cpus, num_threads = _WAYS[flags.way]
    runtime.configure(num_cpus, num_threads)
    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    shape, filters, blocks, couplings, scales, batch = _MODELS[flags.model]
    with runtime.make_strategy().scope():
        model = RealNVP(
            shape,
            filters=filters,
            num_blocks=blocks,
            num_couplings=couplings,
            num_scales=scales,
        )
        trainer = Trainer(
            model, precision=runtime.settle_precision("auto"), clip_grad=1.0
        )
    train = training_steps(trainer, batch)
    steps = 0
    print(flush=True)  # All are ready before any takes its first step.
    for _ in sys.stdin:
        if not steps:
            first = once(lambda: train(1))
            steps = max(1, round(flags.seconds / once(lambda: train(1))))
            print(first, flush=True)
            continue
        start = time.perf_counter()
        train(steps)
        print((time.perf_counter() - start) / steps, flush=True)


if __name__ == "__main__":
    main()
