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
from absl.testing import parameterized

ROOT = command_lines.REPOSITORY


def start(command, cwd=None, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def worker_environments(num_workers):
    """What makes processes the workers of one job."""
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

    def read(self, name):
        """Returns what a process wrote."""
        return dict(np.load(self.folder / f"{name}.npz"))

    def assert_same_training(self, results, alone):
        self.assertEqual(alone["num_replicas"], 1)
        self.assertTrue(np.isfinite(alone["weights"]).all())
        for result in results:
            self.assertEqual(result["num_replicas"], 2)
            self.assertAllClose(result["losses"], alone["losses"], rtol=1e-6)
            self.assertAllClose(
                result["weights"], alone["weights"], rtol=1e-4, atol=1e-5
            )

    def test_two_devices(self):
        self.assert_same_training([self.read("two")], self.read("one"))

    def test_two_workers(self):
        first, second = self.read("first"), self.read("second")
        self.assert_same_training([first, second], self.read("small"))
        self.assertAllEqual(first["weights"], second["weights"])

    def test_first_weights_are_those_of_the_first(self):
        for name in ("first", "second"):
            value = np.load(self.folder / f"{name}.npy")
            self.assertAllEqual(value, [3.0])

    def test_what_workers_agree_on(self):
        """Whatever they have, both say the same, and both go on."""
        first, second = (
            (self.folder / f"{name}.txt").read_text()
            for name in ("first", "second")
        )
        differs = "worker 1 differs from worker 0: {}; all workers must train"
        expected = [
            "agreed on same",
            f"{differs.format('second')} alike",
            f"{differs.format('short')} alike",
            "agreed on x",
        ]
        self.assertEqual(first.splitlines(), [*expected, "gone"])
        self.assertEqual(second.splitlines(), expected)


@pytest.mark.long
class WorkersTest(folders.FolderTestCase, parameterized.TestCase):
    """The command, run as two workers."""

    def start_workers(self, *argvs):
        """Starts the command; returns the process of each worker."""
        command = [ROOT / "run.py", "--filters", 4, "--num_blocks", 1]
        processes = [
            start([*command, *argv], cwd=self.folder, **environment)
            for argv, environment in zip(
                argvs, worker_environments(len(argvs)), strict=True
            )
        ]
        for process in processes:
            self.addCleanup(process.kill)
        return processes

    def run_workers(self, *argvs):
        """Runs the command; returns exit code and outputs of each worker."""
        processes = self.start_workers(*argvs)
        # A minute, on a machine that has nothing else to do.
        outputs = [process.communicate(timeout=180) for process in processes]
        self.assertLen(processes, 2)
        return [
            (process.returncode, *output)
            for process, output in zip(processes, outputs, strict=True)
        ]

    @parameterized.parameters(
        (["--seed", 1, "--resume"], ["--seed", 1], "no --resume instead of"),
        (
            ["--seed", 1],
            ["--seed", 1, "--image_size", 4],
            "4x4x1 instead of 8x8x1",
        ),
    )
    def test_workers_that_differ(self, first, second, message):
        results = self.run_workers(
            ["--dataset", "digits", *first], ["--dataset", "digits", *second]
        )
        for code, _, stderr in results:
            self.assertEqual(code, 2, stderr)
            self.assertLen(stderr.splitlines(), 1)
            self.assertIn("worker 1 differs from worker 0: ", stderr)
            self.assertIn(message, stderr)

    @parameterized.parameters(0, 1)
    def test_worker_that_cannot_begin(self, index):
        """The other one learns of it."""
        argvs = [["--dataset", "digits", "--seed", 0]] * 2
        argvs[index] = ["--dataset", "./nowhere", "--seed", 0]
        results = self.run_workers(*argvs)
        code, _, stderr = results[index]
        self.assertEqual(code, 2, stderr)
        self.assertIn("there is no such folder", stderr)
        code, _, stderr = results[1 - index]
        self.assertEqual(code, 1, stderr)
        self.assertStartsWith(stderr, "run.py: error: a worker of the job has")
        self.assertLen(stderr.splitlines(), 1)

    def test_folder_that_one_does_not_see(self):
        """It does not find the checkpoint that the others go on from."""
        flags = ["--dataset", "digits", "--seed", 0, "--resume"]
        flags += ["--max_steps", 2, "--output_dir", "out"]
        chief = [*flags, "--run_dir", "run"]
        # The precision of the first one counts, for all and from then on.
        results = self.run_workers(
            [*chief, "--precision", "bfloat16"], [*flags, "--run_dir", "gone"]
        )
        for code, _, stderr in results:
            self.assertEqual((code, stderr), (0, ""))
        self.assertIn("bfloat16, seed 0", results[0][1])

        results = self.run_workers(chief, [*flags, "--run_dir", "gone"])
        for code, _, stderr in results:
            self.assertEqual(code, 2, stderr)
            self.assertLen(stderr.splitlines(), 1)
            self.assertIn("nothing in --run_dir instead of", stderr)
            self.assertIn("the checkpoint of step 2 (", stderr)
        self.assertIn("bfloat16, seed 0", results[0][1])

    def test_lost_worker(self):
        flags = ["--dataset", "digits", "--seed", 0, "--resume"]
        flags += ["--run_dir", "run", "--output_dir", "out"]
        flags += ["--checkpoint_minutes", 0.01, "--epochs"]
        chief, other = self.start_workers(*[[*flags, 10_000]] * 2)
        metrics = self.folder / "run" / "metrics.csv"
        wait_for(lambda: metrics.exists() and len(rows(metrics)) > 3)
        other.send_signal(signal.SIGKILL)
        other.communicate()
        _, stderr = chief.communicate(timeout=120)
        self.assertEqual(chief.returncode, 1)
        self.assertStartsWith(stderr, "run.py: error: a worker of the job has")
        self.assertLen(stderr.splitlines(), 1)
        self.assertContainsSubset(["--resume"], stderr.split())

        reached = int(rows(metrics)[-1].split(",")[0])
        chief, other = self.start_workers(*[[*flags, reached + 2]] * 2)
        stdout, stderr = chief.communicate(timeout=120)
        other_output, _ = other.communicate(timeout=120)
        self.assertEqual((chief.returncode, other.returncode), (0, 0), stderr)
        self.assertIn("going on from step", stdout)
        # Only the chief speaks, and writes.
        self.assertEmpty(other_output)
        written = rows(self.folder / "out" / "metrics_digits.csv")
        self.assertLen(written, reached + 4)


def rows(path):
    return path.read_text().splitlines()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.1)


if __name__ == "__main__":
    tf.test.main()
