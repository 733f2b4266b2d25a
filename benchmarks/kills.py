"""Kills a training at random instants, resumes it, and compares the bits.

`python -m benchmarks.kills --kills 50 --seed 0` trains on digits twice: once
undisturbed, and once killed again and again, mostly by SIGKILL. Other flags are
for both trainings, such as `--devices 2`.
"""

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

_RUN = str(pathlib.Path(__file__).parents[1] / "run.py")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WEIGHTS = (7, 1, 1, 1)
_STEPS_PER_KILL = 1000
_SECONDS = 1.5  # From the first checkpoint of a process to the latest kill.


def main() -> None:
    """Prints how many kills there were, and whether the results are the same.

    Raises:
      SystemExit: With 1, if they are not, or nothing was killed.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    flags, others = parser.parse_known_args()
    killed, is_same = kill_and_compare(flags.kills, flags.seed, others)
    print(f"{killed} kills; the same bits: {is_same}")
    sys.exit(not (killed and is_same))


def kill_and_compare(
    number: int, seed: int, others: list[str]
) -> tuple[int, bool]:
    """Compares a training that is killed and resumed with one that is not.

    Args:
      number: Number of processes to kill.
      seed: Seed of the instants and of the signals.
      others: Further flags of the trainings.

    Returns:
      How many were killed, rather than done before; and whether weights,
      metrics and samples are the same, bit for bit.

    Raises:
      RuntimeError: If a training fails.
    """
    rng, killed = random.Random(seed), 0
    for signum in _SIGNALS[1:]:
        # What is ignored here, as in a background job, would be there.
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
    with tempfile.TemporaryDirectory() as folder:

        def train(name, signum=None):
            """Trains, or goes on; returns whether it came to its end."""
            listed = pathlib.Path(folder, name, "run/checkpoints/checkpoint")

            def written():
                return listed.exists() and listed.stat().st_mtime_ns

            command = [sys.executable, _RUN, "--dataset=digits", "--seed=0"]
            command += ["--filters=4", "--num_blocks=1", "--resume"]
            command += ["--checkpoint_minutes=0.01", "--deterministic"]
            command += [f"--max_steps={_STEPS_PER_KILL * (number + 1)}"]
            command += [f"--run_dir={folder}/{name}/run"]
            command += [f"--output_dir={folder}/{name}/out", *others]
            before = written()
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                if signum:
                    while process.poll() is None and written() == before:
                        time.sleep(0.01)
                    try:
                        process.wait(rng.uniform(0.0, _SECONDS))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signum)
                output, _ = process.communicate()
            # Ended by itself, by the system, or by its own handler.
            codes = [0, *([-signum, 128 + signum] if signum else [])]
            if process.returncode not in codes:
                raise RuntimeError(output)
            return process.returncode == 0

        train("whole")
        for _ in range(number):
            killed += not train("killed", *rng.choices(_SIGNALS, _WEIGHTS))
        train("killed")

        def results(name):
            out = pathlib.Path(folder, name, "out")
            return [
                (out / path).read_bytes()
                for path in (
                    "realnvp_digits/variables/variables.data-00000-of-00001",
                    "metrics_digits.csv",
                    "samples_digits.png",
                )
            ]

        return killed, results("whole") == results("killed")


if __name__ == "__main__":
    main()
