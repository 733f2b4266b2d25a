"""Kills a training at random times, resumes it, and compares the bits.

`python -m benchmarks.kills --kills 50 --seed 0` trains on digits twice: once
undisturbed, and once killed again and again, mostly by SIGKILL. It ends with 1
if the results differ, or nothing was killed (docs/training.md,
benchmarks/results/kills.md).
"""

import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import measuring

_RUN = str(pathlib.Path(__file__).parents[1] / "run.py")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WEIGHTS = (7, 1, 1, 1)
_STEPS_PER_KILL = 1000
_SECONDS = 1.5  # From the first checkpoint of a process to the latest kill.
_RESULTS = (
    "realnvp_digits/variables/variables.data-00000-of-00001",
    "metrics_digits.csv",
    "samples_digits.png",
)


def main() -> None:
    """Prints how many kills there were, and whether the results are equal."""
    flags = measuring.parse_flags(__doc__, kills=50, seed=0, devices=int)
    devices = [f"--devices={flags.devices}"] * (flags.devices is not None)
    killed, is_same = kill_and_compare(flags.kills, flags.seed, devices)
    print(f"{killed} kills; the same bits: {is_same}")
    sys.exit(not (killed and is_same))


def kill_and_compare(
    number: int, seed: int, settings: list[str]
) -> tuple[int, bool]:
    """Compares a training that is killed and resumed with one that is not.

    Args:
      number: Number of processes to kill.
      seed: Seed of the times and of the signals.
      settings: More flags of both trainings.

    Returns:
      How many processes were killed, rather than done before; and whether
      weights, metrics and samples are equal, bit for bit.

    Raises:
      RuntimeError: If a training fails.
    """
    rng = random.Random(seed)
    for signum in _SIGNALS[1:]:
        # Children inherit which signals are ignored, as in a background job.
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = (pathlib.Path(name, part) for part in ("a", "b"))

        def train(folder, signum=None):
            command = [sys.executable, _RUN, "--dataset=digits", "--seed=0"]
            command += ["--filters=4", "--num_blocks=1", "--resume"]
            command += ["--checkpoint_minutes=0.01", "--deterministic"]
            command += [f"--max_steps={_STEPS_PER_KILL * (number + 1)}"]
            command += [f"--run_dir={folder}/run", f"--output_dir={folder}/out"]
            return _run([*command, *settings], folder, signum, rng)

        train(whole)
        signals = (rng.choices(_SIGNALS, _WEIGHTS)[0] for _ in range(number))
        num_killed = sum(not train(killed, signum) for signum in signals)
        train(killed)
        is_same = all(
            (whole / "out" / path).read_bytes()
            == (killed / "out" / path).read_bytes()
            for path in _RESULTS
        )
        return num_killed, is_same


def _run(command, folder, signum, rng):
    """Runs a training; kills it after a checkpoint if there is a signal.

    Returns:
      Whether it came to its end.
    """
    checkpoint = folder / "run/checkpoints/checkpoint"

    def written():
        return checkpoint.exists() and checkpoint.stat().st_mtime_ns

    before = written()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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


if __name__ == "__main__":
    main()
