"""Kills a training run again and again, and compares what it ends with.

`python tests/kills.py --kills 100 --seed 0` trains on digits twice with the
same command: once in peace, and once killed at random instants and started
again each time. The instants lie in the part of a process's life in which it
trains, evaluates, saves checkpoints and writes the results. Some wait for the
next checkpoint to be half written, and the last ones for the results. Most
kills are by SIGKILL, some by SIGTERM, SIGINT and SIGHUP. The line at the end
counts the bits in which weights, metrics and samples differ.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import matplotlib.image
import numpy as np

# Most kills are by the first.
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WEIGHTS = (7, 1, 1, 1)
_TRAINING_SECONDS = 1.5  # From a sign of progress to the latest kill.
_SHARE_OF_EXPORT = 0.25  # Of the kills, those that wait for the export.
_CHECKPOINT_EVERY = 3  # Of the other kills, that wait for a checkpoint.
_EXPORT = "writing the results"
_RUN = pathlib.Path(__file__).resolve().parents[1] / "run.py"


class Folder:
    """The folder in which one run is started, over and over if need be.

    Attributes:
      path: The folder.
      flags: Those of the command.
    """

    def __init__(self, path: pathlib.Path, epochs: int, devices: int = 1):
        """Makes the folder.

        Args:
          path: Where.
          epochs: Number of epochs of the run.
          devices: Number of devices to train on.
        """
        self.path = path
        self.flags = [
            *("--dataset", "digits", "--filters", "4", "--num_blocks", "1"),
            *("--seed", "0", "--epochs", str(epochs), "--resume"),
            *("--devices", str(devices)),
            # After every call of the training steps.
            *("--checkpoint_minutes", "1e-9"),
        ]
        self._checkpoints = path / "runs" / "digits" / "checkpoints"
        self._num_processes = 0
        path.mkdir()

    @property
    def model(self) -> pathlib.Path:
        """The folder of the model that is a result."""
        return self.path / "realnvp_digits"

    @contextlib.contextmanager
    def process(self):
        """Starts the command; gives the process and its file of output."""
        self._num_processes += 1
        log = self.path / f"log-{self._num_processes}.txt"
        log.touch()
        process = self.start(log)
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()

    def start(self, log: pathlib.Path):
        """Starts the command, whose output goes to a file."""
        with log.open("w") as file:
            return subprocess.Popen(
                [sys.executable, str(_RUN), *self.flags],
                cwd=self.path,
                env=os.environ | {"PYTHONPATH": str(_RUN.parent)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def progress(self):
        """Changes whenever a checkpoint is complete."""
        with contextlib.suppress(FileNotFoundError):
            return (self._checkpoints / "checkpoint").stat().st_mtime_ns

    def has_unfinished_checkpoint(self):
        """Returns whether there are files newer than the last checkpoint."""
        listed, numbers = 0, [0]
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._checkpoints):
                numbers += map(int, re.findall(r"^ckpt-(\d+)", name))
            text = (self._checkpoints / "checkpoint").read_text()
            listed = int(re.match(r'model_\w+: "ckpt-(\d+)"', text)[1])
        return max(numbers) > listed

    def unfinished_results(self):
        """Returns the names of what is written beside the results."""
        return {name for name in os.listdir(self.path) if ".new-" in name}


def _wait_for(process, condition, seconds=0.002):
    """Waits until something is so, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(seconds)


def _check_exit(process, log, *codes):
    if process.returncode not in codes:
        raise RuntimeError(
            f"exit code {process.returncode} in place of {codes}:\n"
            f"{log.read_text()}"
        )


def run_in_peace(folder: Folder) -> float:
    """Runs the command to its end.

    Args:
      folder: Where.

    Returns:
      For how many seconds it wrote the results.

    Raises:
      RuntimeError: If it fails.
    """
    with folder.process() as (process, log):
        _wait_for(process, lambda: _EXPORT in log.read_text())
        start = time.monotonic()
        process.wait()
        _check_exit(process, log, 0)
    return time.monotonic() - start


def kill(
    folder: Folder,
    signum: signal.Signals,
    aim: str,
    seconds: float = 0.0,
    export_seconds: float = 0.0,
) -> tuple[bool, bool]:
    """Starts the command, and kills it.

    Args:
      folder: Where.
      signum: The signal.
      aim: "export" to wait until the results are written, "results" to wait
        after the delay until one of them is half written, "checkpoint" to wait
        for one that is half written after the delay, or "training".
      seconds: From a sign of progress to the kill.
      export_seconds: From the start of the export to the kill.

    Returns:
      Whether it was killed, not ended by itself before; and whether it was
      writing the results.

    Raises:
      RuntimeError: If it fails.
    """
    before = folder.progress()
    results_before = folder.unfinished_results()
    waits_for_export = aim in ("export", "results")
    with folder.process() as (process, log):

        def exports():
            return _EXPORT in log.read_text()

        _wait_for(
            process,
            lambda: (
                exports()
                or (not waits_for_export and folder.progress() != before)
            ),
        )
        end = time.monotonic() + (export_seconds if exports() else seconds)
        _wait_for(process, lambda: time.monotonic() >= end)
        if aim == "results":
            _wait_for(
                process, lambda: folder.unfinished_results() - results_before
            )
        if aim == "checkpoint":
            _wait_for(
                process,
                lambda: folder.has_unfinished_checkpoint() or exports(),
                seconds=0.0,  # It does not take long.
            )
        if process.poll() is not None:
            _check_exit(process, log, 0)
            return False, False
        process.send_signal(signum)
        process.wait(timeout=60)
        # When all is done, Python itself handles the signals.
        codes = {0, -signum}
        if signum != signal.SIGKILL:
            codes.add(128 + signum)
        _check_exit(process, log, *codes)
        return process.returncode != 0, exports()


def kill_and_compare(
    kills: int, seed: int, epochs: int, devices: int
) -> tuple[collections.Counter, dict[str, tuple[int, int]]]:
    """Runs the command in peace and killed, and compares the results.

    Args:
      kills: Number of kills.
      seed: Seed of the instants and of the signals.
      epochs: Number of epochs of the run.
      devices: Number of devices to train on.

    Returns:
      The number of kills by what they were and left, and what `compare` does.

    Raises:
      RuntimeError: If the command fails, or an exported model that was there
        before a kill cannot be loaded after it.
    """
    rng = random.Random(seed)
    counts: collections.Counter = collections.Counter()
    kills_in_export = max(1, round(_SHARE_OF_EXPORT * kills))
    with tempfile.TemporaryDirectory() as name:
        whole, killed = (
            Folder(pathlib.Path(name, folder), epochs, devices=devices)
            for folder in ("whole", "killed")
        )
        export_seconds = run_in_peace(whole)
        # A model of before, which has to stay until there is another.
        shutil.copytree(whole.model, killed.model)
        old = killed.model / "variables" / "old"
        old.touch()
        while counts["all"] < kills:
            (signum,) = rng.choices(_SIGNALS, _WEIGHTS)
            instant = rng.random()
            results_before = killed.unfinished_results()
            if counts["all"] >= kills - kills_in_export:
                aim = "export"
            elif counts["all"] % _CHECKPOINT_EVERY == 0:
                aim = "checkpoint"
            else:
                aim = "training"

            died, exported = kill(
                killed,
                signum,
                aim,
                instant * _TRAINING_SECONDS,
                instant * export_seconds,
            )
            if not died:
                continue
            what = {
                "all": True,
                signum.name: True,
                "unfinished checkpoint": killed.has_unfinished_checkpoint(),
                "in the export": exported,
                "unfinished results": bool(
                    killed.unfinished_results() - results_before
                ),
            }
            names = [name for name, is_so in what.items() if is_so]
            counts.update(names)
            print(*names, sep=", ", flush=True)
            if exported:
                _load(killed.model)
        run_in_peace(killed)
        if old.exists():
            raise RuntimeError("the model was not replaced")
        _load(killed.model)
        return counts, compare(whole, killed)


def compare(first: Folder, second: Folder) -> dict[str, tuple[int, int]]:
    """Returns the numbers of bits that differ and of all bits.

    Args:
      first: Where a run has come to its end.
      second: Where another has.

    Returns:
      The numbers for weights, metrics and samples.
    """
    mine, its = _results(first), _results(second)
    return {what: _count_bits(mine[what], its[what]) for what in mine}


def _load(model):
    """Loads a SavedModel, which raises if it is not complete."""
    import tensorflow as tf

    tf.saved_model.load(str(model))


def _results(folder):
    """Returns the bytes of what a run has come to."""
    import tensorflow as tf

    variables = folder.model / "variables" / "variables"
    reader = tf.train.load_checkpoint(str(variables))
    # The graph of the objects is no variable.
    names = [n for n in reader.get_variable_to_shape_map() if "VALUE" in n]
    samples = matplotlib.image.imread(folder.path / "samples_digits.png")
    return {
        "weights": b"".join(
            reader.get_tensor(name).tobytes() for name in sorted(names)
        ),
        "metrics": (folder.path / "metrics_digits.csv").read_bytes(),
        "samples": samples.tobytes(),
    }


def _count_bits(first, second):
    """Returns the numbers of bits that differ and of all bits."""
    size = max(len(first), len(second))
    if len(first) != len(second):
        return 8 * size, 8 * size
    first, second = (np.frombuffer(b, np.uint8) for b in (first, second))
    return int(np.bitwise_count(first ^ second).sum()), 8 * size


def main() -> int:
    """Returns 0 if no bit differs, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    # Default: 0.6 for every kill, at least 2.
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--devices", type=int, default=1)
    flags = parser.parse_args()
    # What is ignored here would be in the runs.
    for signum in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
    sys.path.append(str(_RUN.parent))
    from tf_realnvp.utils import runtime

    runtime.configure()
    epochs = flags.epochs or max(2, round(0.6 * flags.kills))
    counts, bits = kill_and_compare(
        flags.kills, flags.seed, epochs, flags.devices
    )
    print(f"{epochs} epochs, kills: {dict(counts)}")
    for what, (differing, total) in bits.items():
        print(f"{differing} of {total:,} bits differ in the {what}")
    return int(any(differing for differing, _ in bits.values()))


if __name__ == "__main__":
    sys.exit(main())
