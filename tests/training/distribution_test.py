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

from tf_realnvp.utils import checks

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
    """The number of replicas changes nothing but the rounding."""

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

    def assert_same_training(self, name, alone):
        result, alone = (
            np.load(self.folder / f"{name}.npz") for name in (name, alone)
        )
        self.assertEqual(alone["num_replicas"], 1)
        self.assertEqual(result["num_replicas"], 2)
        self.assertEqual(result["num_gradients"], 0)  # TensorFlow keeps them.
        self.assertTrue(np.isfinite(alone["weights"]).all())
        self.assertAllClose(result["losses"], alone["losses"], rtol=1e-6)
        self.assertAllClose(
            result["weights"], alone["weights"], rtol=1e-4, atol=1e-5
        )
        return result["weights"]

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
            differs.format(*map(checks.short, ("short", replicas.LONG))),
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

    def start_workers(self, *argvs):
        """Starts the command; returns the process of each worker."""
        command = [sys.executable, ROOT / "run.py", "--dataset=digits"]
        command += ["--filters=4", "--num_blocks=1"]
        processes = []
        for argv, environment in zip(
            argvs, worker_environments(len(argvs)), strict=True
        ):
            process = subprocess.Popen(
                [*command, *map(str, argv)],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(process.kill)
            processes.append(process)
        return processes

    def finish(self, processes, *codes):
        """Returns the outputs of processes, which end with these codes."""
        # A minute, on a machine that has nothing else to do.
        outputs = [process.communicate(timeout=180) for process in processes]
        ended_with = [process.returncode for process in processes]
        self.assertEqual(ended_with, list(codes), outputs)
        for code, (_, stderr) in zip(codes, outputs, strict=True):
            self.assertLen(stderr.splitlines(), bool(code), stderr)
        return outputs

    def test_lost_worker(self):
        flags = ["--seed", 0, "--resume"]
        flags += ["--run_dir", "run", "--output_dir", "out"]
        flags += ["--checkpoint_minutes", 1e-3]
        flags += ["--batch_size", 400, "--epochs"]  # Of three steps each.
        chief, other = self.start_workers(*[[*flags, 10_000]] * 2)
        metrics = self.folder / "run" / "metrics.csv"
        wait_for(lambda: metrics.exists() and len(rows(metrics)) > 3)
        other.send_signal(signal.SIGKILL)
        other.communicate()
        [(_, stderr)] = self.finish([chief], 1)
        self.assertIn(GONE, stderr)
        self.assertContainsSubset(["--resume"], stderr.split())

        reached = int(rows(metrics)[-1].split(",")[0])
        processes = self.start_workers(*[[*flags, reached + 2]] * 2)
        (stdout, _), (other_stdout, _) = self.finish(processes, 0, 0)
        self.assertIn("going on from step", stdout)
        # Only the chief speaks, and writes.
        self.assertEmpty(other_stdout)
        written = rows(self.folder / "out" / "metrics_digits.csv")
        self.assertLen(written, reached + 4)


def rows(path):
    return path.read_text().splitlines()


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.1)
