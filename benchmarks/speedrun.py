"""Measures what trainings reach in a given time, or in a number of steps.

`python -m benchmarks.speedrun` trains as `run.py` does, with each seed and each
set of `--options` of `run.py`, and prints the minutes that the command took and
the bits/dim of all test images. So `"--minutes 10" "--minutes 10 --filters 32"`
compares what `--minutes` chooses with another choice, which then belongs into
the table of `tf_realnvp/training/choice.py` if it is better.

A noisy machine does not decide: compare by `--max_steps`, the steps that
unchanged code takes in this time. Code or options whose step takes r times as
long, measured in turns, get them divided by r.
"""

import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import timeit

from benchmarks import measuring


def main() -> None:
    """Trains with each set of options, and prints a row of the table."""
    flags = measuring.parse_flags(
        __doc__,
        dataset="CIFAR10",
        data_dir="datasets",
        seeds=[0, 1, 2],
        options=["--minutes 10"],
    )
    titles = "options", "steps", "minutes", "test bits/dim", "of each seed"
    measuring.print_header(*titles)
    for options in flags.options:
        command = [
            *(sys.executable, "run.py", "--dataset", flags.dataset),
            *("--data_dir", flags.data_dir, *shlex.split(options)),
        ]
        runs = [train(command, seed) for seed in flags.seeds]
        steps, minutes, bits = zip(*runs, strict=True)
        measuring.print_row(
            f"`{options}`",
            f"{statistics.median(steps):,.0f}",
            f"{statistics.median(minutes):.1f}",
            f"{statistics.mean(bits):.3f}",
            " ".join(f"{value:.3f}" for value in bits),
        )


def train(command: list[str], seed: int) -> tuple[int, float, float]:
    """Returns the steps, the minutes and the test bits/dim of a training.

    Args:
      command: The command, without seed and folders.
      seed: The seed.
    """
    start = timeit.default_timer()
    with tempfile.TemporaryDirectory() as folder:
        folders = "--output_dir", folder, "--run_dir", f"{folder}/run"
        subprocess.run(
            [*command, "--seed", str(seed), *folders],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        minutes = (timeit.default_timer() - start) / 60.0
        (path,) = pathlib.Path(folder).glob("*/metadata.json")
        metrics = json.loads(path.read_text())["metrics"]
    return metrics["steps"], minutes, metrics["test_bits_per_dim"]


if __name__ == "__main__":
    main()
