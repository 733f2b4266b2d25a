"""Measures what a training of ten minutes of two cores reaches.

`python -m benchmarks.speedrun` trains with each seed as `run.py` does, and
prints the bits/dim of all test images. A noisy machine does not decide: ten
minutes are the `--steps` that unchanged code takes in them. Code or options
whose step takes r times as long, measured in turns, have `--steps` divided by
r. `--options "--ema 0.99"` adds options of `run.py`.
"""

import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

from benchmarks import measuring

_OPTIONS = (
    "--filters 64 --num_blocks 1 --num_scales 3 --num_couplings 6,6,8 "
    "--channel_masks mixed --dequantization variational --num_validation 1000 "
    "--precision bfloat16"
)


def main() -> None:
    """Trains with each seed, and prints a row of the table."""
    flags = measuring.parse_flags(
        __doc__,
        dataset="CIFAR10",
        data_dir="datasets",
        steps=2400,
        seeds=[0, 1, 2],
        options="",
    )
    command = [
        *(sys.executable, "run.py", "--dataset", flags.dataset),
        *("--data_dir", flags.data_dir, "--max_steps", str(flags.steps)),
        *shlex.split(f"{_OPTIONS} {flags.options}"),
    ]
    bits = [train(command, seed) for seed in flags.seeds]
    measuring.print_header("options", "steps", "test bits/dim", "of each seed")
    measuring.print_row(
        f"`{flags.options}`",
        f"{flags.steps:,}",
        f"{statistics.mean(bits):.3f}",
        " ".join(f"{value:.3f}" for value in bits),
    )


def train(command: list[str], seed: int) -> float:
    """Returns the test bits/dim of a training.

    Args:
      command: The command, without seed and folders.
      seed: The seed.
    """
    with tempfile.TemporaryDirectory() as folder:
        folders = "--output_dir", folder, "--run_dir", f"{folder}/run"
        subprocess.run(
            [*command, "--seed", str(seed), *folders],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (path,) = pathlib.Path(folder).glob("*/metadata.json")
        metrics = json.loads(path.read_text())["metrics"]
    return metrics["test_bits_per_dim"]


if __name__ == "__main__":
    main()
