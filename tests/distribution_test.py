"""Tests for training on several devices and in several processes."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]

# Trains a little, on a last batch that replicas cannot share evenly, and writes
# the weights and losses that this process has in the end.
SCRIPT = """
import sys
from tf_realnvp import runtime
paths = sys.argv[1:]  # For one device, for two, ...
runtime.configure(len(paths))
import keras, numpy as np, tensorflow as tf
from tf_realnvp import RealNVP, initialization
from tf_realnvp.data import ImageDataset
from tf_realnvp.progress import Progress
from tf_realnvp.training import Trainer
for num_devices, path in enumerate(paths, start=1):
    # First of all: workers connect before anything is computed.
    strategy = runtime.make_strategy(num_devices)
    images = np.random.default_rng(0).integers(0, 17, [20, 4, 4, 1], np.uint8)
    images = tf.data.Dataset.from_tensor_slices(images)
    dataset = ImageDataset("random", (4, 4, 1), 17, images, images, 20, 20)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = RealNVP((4, 4, 1), 17, filters=4, num_blocks=1)
        trainer = Trainer(
            model, 1e-2, 1.0, seed=3, recompute=True, ema=0.9
        )
        initialization.initialize(model, dataset, seed=0)
    metrics = list(trainer.fit(dataset, 2, 7, None, Progress))
    losses = [m.test_loss for m in metrics]
    losses += [m.train_loss for m in metrics[1:]]
    np.savez(
        path,
        num_replicas=strategy.num_replicas_in_sync,
        losses=losses,
        weights=np.concatenate(
            [
                v.numpy().ravel()
                for m in (model, trainer.evaluated_model())
                for v in m.variables
            ]
        ),
    )
"""


def start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def worker_environments(num_workers):
    """What makes processes the workers of one job."""
    sockets = [socket.socket() for _ in range(num_workers)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    return [
        {
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            )
        }
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
        # One process for both: most of its time is start-up.
        cls.alone, cls.two_devices = cls.train((["one.npz", "two.npz"], {}))

    @classmethod
    def train(cls, *jobs):
        """Trains in processes side by side.

        Args:
          *jobs: For each process the names of its files, the first for one
            device, the second for two, and what is in its environment.

        Returns:
          What is in the files.
        """
        processes = [
            start(
                ["-c", SCRIPT, *(cls.folder / name for name in names)],
                **environment,
            )
            for names, environment in jobs
        ]
        for process in processes:
            _, stderr = process.communicate(timeout=240)
            assert process.returncode == 0, stderr
        return [
            dict(np.load(cls.folder / name))
            for names, _ in jobs
            for name in names
        ]

    def assert_same_training(self, results):
        self.assertEqual(self.alone["num_replicas"], 1)
        self.assertTrue(np.isfinite(self.alone["weights"]).all())
        for result in results:
            self.assertEqual(result["num_replicas"], 2)
            self.assertAllClose(
                result["losses"], self.alone["losses"], rtol=1e-6
            )
            self.assertAllClose(
                result["weights"], self.alone["weights"], rtol=1e-4, atol=1e-5
            )

    def test_two_devices(self):
        self.assert_same_training([self.two_devices])

    def test_two_workers(self):
        first, second = self.train(
            *(
                ([f"worker_{index}.npz"], environment)
                for index, environment in enumerate(worker_environments(2))
            )
        )
        self.assert_same_training([first, second])
        self.assertAllEqual(first["weights"], second["weights"])


@pytest.mark.long
class WorkersTest(tf.test.TestCase):
    """The command, run as two workers."""

    def test_lost_worker(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        command = [ROOT / "run.py", "--dataset", "digits", "--seed", 0]
        command += ["--filters", 4, "--num_blocks", 1, "--resume"]
        command += ["--run_dir", folder / "run", "--output_dir", folder / "out"]
        command += ["--checkpoint_minutes", 0.01]

        def start_workers(epochs):
            workers = [
                start([*command, "--epochs", epochs], **environment)
                for environment in worker_environments(2)
            ]
            for worker in workers:
                self.addCleanup(worker.kill)
            return workers

        chief, other = start_workers(10_000)
        metrics = folder / "run" / "metrics.csv"
        wait_for(lambda: metrics.exists() and len(rows(metrics)) > 3)
        other.send_signal(signal.SIGKILL)
        other.communicate()
        _, stderr = chief.communicate(timeout=120)
        self.assertEqual(chief.returncode, 1)
        self.assertStartsWith(stderr, "run.py: error: a worker of the job has")
        self.assertLen(stderr.splitlines(), 1)
        self.assertContainsSubset(["--resume"], stderr.split())

        reached = int(rows(metrics)[-1].split(",")[0])
        chief, other = start_workers(reached + 2)
        stdout, stderr = chief.communicate(timeout=120)
        other_output, _ = other.communicate(timeout=120)
        self.assertEqual((chief.returncode, other.returncode), (0, 0), stderr)
        self.assertIn("going on from step", stdout)
        # Only the chief speaks, and writes.
        self.assertEmpty(other_output)
        self.assertLen(rows(folder / "out" / "metrics_digits.csv"), reached + 4)


def rows(path):
    return path.read_text().splitlines()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.1)


if __name__ == "__main__":
    tf.test.main()
