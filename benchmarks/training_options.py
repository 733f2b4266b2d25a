"""Measures what the options of training bring, at equal steps.

`python -m benchmarks.training_options` trains a small model on real images with
each set of options and with several seeds (by `benchmarks.learning`), and
prints the resulting bits/dim of test images: mean and standard deviation over
the seeds.
"""

import argparse
import statistics
import subprocess
import sys

_WAYS = [
    "--identity --lr 3e-4",
    "--lr 3e-4",
    "--lr 1e-3",
    "--lr 2e-3",
    "--lr 1e-3 --warmup_steps 20",
    "--lr 1e-3 --clip_grad 1",
    "--lr 1e-3 --lr_schedule cosine",
    "--lr 1e-3 --ema 0.98",
    "--lr 1e-3 --warmup_steps 20 --clip_grad 1",
    "--lr 1e-3 --warmup_steps 20 --clip_grad 1 --lr_schedule cosine",
    "--lr 1e-3 --warmup_steps 20 --clip_grad 1 --ema 0.98",
]


def main() -> None:
    """Trains with each set of options, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="other flags go to benchmarks.learning"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ways", type=int, nargs="*", help="rows, from 0")
    flags, others = parser.parse_known_args()
    print(
        f"after {flags.steps} steps\n\n"
        "| options | test bits/dim | sd | of each seed |\n"
        "| --- | --- | --- | --- |",
        flush=True,
    )
    ways = range(len(_WAYS)) if flags.ways is None else flags.ways
    for options in (_WAYS[way] for way in ways):
        bits = []
        for seed in range(flags.seeds):
            command = [sys.executable, "-m", "benchmarks.learning"]
            command += ["--filters=64", "--num_blocks=2", "--test_images=1024"]
            command += [f"--steps={flags.steps}", f"--every={flags.steps}"]
            command += [f"--seed={seed}", *options.split(), *others]
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            *_, result, _ = output.splitlines()[-1].split("|")
            bits.append(float(result))
        spread = statistics.stdev(bits) if len(bits) > 1 else 0.0
        print(
            f"| `{options}` | {statistics.mean(bits):.3f} | {spread:.3f} "
            f"| {' '.join(f'{b:.3f}' for b in bits)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
