"""Tests for training on several devices and in several processes."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import command_lines
import fast_command
import folders
import numpy as np
import pytest
import replicas
import tensorflow as tf

from tf_realnvp.utils import ranges

ROOT = command_lines.REPOSITORY
GONE = "run.py: error: a worker of the job has gone"


def worker_environments(num_workers):
    """Returns the variables that make processes the workers of a job."""
    ports = command_lines.free_ports(num_workers)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return [
        command_lines.tf_config(index, worker=addresses)
        for index in range(num_workers)
    ]


class SameTrainingTest(tf.test.TestCase):
    """The number of replicas or parts changes nothing but the rounding."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        processes = [fast_command.fork(replicas.alone, cls.folder)]
        for name, environment in zip(
            ("first", "second"), worker_environments(2), strict=True
        ):
            processes.append(
                fast_command.fork(
                    replicas.together, cls.folder, name, environment
                )
            )
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0, 0, 0]

    def assert_same_training(self, name, alone, num_replicas=2):
        result, alone = (
            np.load(self.folder / f"{name}.npz") for name in (name, alone)
        )
        self.assertEqual(alone["num_replicas"], 1)
        self.assertEqual(result["num_replicas"], num_replicas)
        self.assertEqual(result["num_gradients"], 0)  # TensorFlow keeps them.
        self.assertTrue(np.isfinite(alone["weights"]).all())
        self.assertAllClose(result["losses"], alone["losses"], rtol=1e-6)
        self.assertAllClose(
            result["weights"], alone["weights"], rtol=1e-4, atol=1e-5
        )
        return result["weights"]

    def test_two_parts_at_once(self):
        self.assert_same_training("parts", "one", num_replicas=1)

    def test_two_devices(self):
        self.assert_same_training("two", "one")

    def test_two_workers(self):
        first, second = (
            self.assert_same_training(name, "small")
            for name in ("first", "second")
        )
        self.assertAllEqual(first, second)

    def test_what_workers_agree_on(self):
        """Both workers report the same, and go on."""
        differs = "worker 1 differs from worker 0: `it` {} instead of {}; all "
        differs += "workers must train alike"
        expected = [
            "agreed on same",
            differs.format(*map(ranges.short, ("short", replicas.LONG))),
            "agreed on x",
        ]
        for name, lines in (("first", ["gone"]), ("second", [])):
            text = (self.folder / f"{name}.txt").read_text()
            self.assertEqual(text.splitlines(), expected + lines)
            # The first weights are those of the chief.
            self.assertAllEqual(np.load(self.folder / f"{name}.npy"), [3.0])


@pytest.mark.long
class WorkersTest(folders.FolderTestCase):
    """Runs the command as two workers."""

    def start_workers(self, epochs):
        """Starts two workers, and returns their processes."""
        command = [sys.executable, ROOT / "run.py", "--dataset=digits"]
        command += ["--filters=4", "--num_blocks=1", "--seed=0", "--resume"]
        command += ["--run_dir=run", "--output_dir=out"]
        command += ["--checkpoint_minutes=1e-3", f"--epochs={epochs}"]
        for environment in worker_environments(2):
            process = subprocess.Popen(
                [*command, "--batch_size=400"],  # Three steps an epoch.
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(process.kill)
            yield process

    def finish(self, process, code):
        """Returns the outputs of a process that exits with this code."""
        # A minute, on a machine that has nothing else to do.
        stdout, stderr = process.communicate(timeout=180)
        self.assertEqual(process.returncode, code, stderr)
        self.assertLen(stderr.splitlines(), code, stderr)
        return stdout, stderr

    def test_lost_worker(self):
        chief, other = self.start_workers(epochs=10_000)
        metrics = self.folder / "run" / "metrics.csv"
        deadline = time.monotonic() + 240.0
        while not metrics.exists() or len(rows(metrics)) < 4:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        other.send_signal(signal.SIGKILL)
        other.communicate()
        _, stderr = self.finish(chief, 1)
        self.assertIn(GONE, stderr)
        self.assertContainsSubset(["--resume"], stderr.split())

        reached = int(rows(metrics)[-1].split(",")[0])
        chief, other = self.start_workers(epochs=reached + 2)
        stdout, _ = self.finish(chief, 0)
        self.assertIn("going on from step", stdout)
        # Only the chief prints its progress.
        waiting = "waiting for the other workers\n"
        self.assertEqual(self.finish(other, 0), (waiting, ""))
        written = rows(self.folder / "out" / "metrics_digits.csv")
        self.assertLen(written, reached + 4)


def rows(path):
    return path.read_text().splitlines()
