"""Tests for workers: how they meet; `distribution_test` has real ones."""

import contextlib
import json
import os
import signal
import threading
import time
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import signals
from tf_realnvp.errors import FailureError, UsageError
from tf_realnvp.training import workers


def job(*arguments, **cluster):
    """Returns what a worker reads from its `TF_CONFIG`."""
    variables = command_lines.tf_config(*arguments, **cluster)
    with mock.patch.dict(os.environ, variables):
        return workers._job()


class JobTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        cluster=(
            *(3, {"worker": ["a"]}, {"worker": ["a:b"]}, {"worker": [1]}),
            *({"chief": []}, {"chief": ["a:1"]}),  # It is not among them.
        )
    )
    def test_damaged(self, cluster):
        task = {"type": "worker", "index": 0}
        text = json.dumps({"cluster": cluster, "task": task})
        for damaged in (text, text[:-1]):
            self.enterContext(mock.patch.dict(os.environ, TF_CONFIG=damaged))
            with self.assertRaisesRegex(
                UsageError, "TF_CONFIG is .*all workers"
            ):
                workers.is_chief()

    @parameterized.parameters((0, "chief", 0), (0, "worker", 1))
    def test_order_is_that_of_tensorflow(self, index, kind, place):
        cluster = {
            "worker": ["a:1"],
            "chief": ["[::1]:3"],
            "evaluator": ["b:1"],
        }
        addresses, found = job(index, kind, **cluster)
        expected = [("chief 0", ("::1", 3)), ("worker 0", ("a", 1))]
        self.assertEqual(list(addresses.items()), expected)
        self.assertEqual(found, place)
        variables = command_lines.tf_config(index, kind, **cluster)
        with mock.patch.dict(os.environ, variables):
            self.assertEqual(workers.is_chief(), place == 0)


class SlurmTest(tf.test.TestCase, parameterized.TestCase):
    VARIABLES = {
        "SLURM_JOB_ID": "123456",
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "gpu[09-10]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
    }

    @parameterized.parameters((0, True), (2, False))
    def test_job(self, rank, is_chief):
        variables = self.VARIABLES | {"SLURM_PROCID": str(rank)}
        with mock.patch.dict(os.environ, variables):
            workers.read_slurm_job()
            addresses, index = workers._job()
            self.assertEqual(workers.is_chief(), is_chief)
        self.assertEqual(index, rank)
        hosts = ("gpu09", 23456), ("gpu09", 23457), ("gpu10", 23456)
        self.assertEqual(tuple(addresses.values()), hosts)

    @parameterized.parameters(
        {"TF_CONFIG": "{}"}, {"SLURM_STEP_NUM_TASKS": "1"}
    )
    def test_no_job(self, **others):
        with mock.patch.dict(os.environ, self.VARIABLES | others):
            workers.read_slurm_job()
            self.assertEqual(
                os.environ.get("TF_CONFIG"), others.get("TF_CONFIG")
            )


class MeetTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.ports = command_lines.free_ports(3)
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.jobs = [job(index, worker=addresses) for index in range(3)]

    def test_all_meet(self):
        """The order in which they start does not matter."""
        met = []

        def come(index):
            workers._wait_for_all(*self.jobs[index])
            met.append(index)
            # As TensorFlow does.
            servers.enter_context(workers._listening(self.ports[index]))

        threads = [
            threading.Thread(target=come, args=[index], daemon=True)
            for index in (2, 0, 1)
        ]
        with contextlib.ExitStack() as servers:
            for thread in threads[:2]:
                thread.start()
            time.sleep(1.0)
            self.assertEmpty(met)
            threads[2].start()
            for thread in threads:
                thread.join(60.0)
            self.assertCountEqual(met, [0, 1, 2])

    @parameterized.parameters("127.0.0.1:{}", "a..b:{}", "a:99999")
    def test_one_does_not_come(self, address):
        first = f"127.0.0.1:{self.ports[1]}"
        address = address.format(self.ports[2])
        with (
            mock.patch.object(workers, "MAX_MINUTES", 0.01),
            self.assertRaisesRegex(
                FailureError, f"^worker 1 of .*{address}, did not "
            ),
        ):
            workers._wait_for_all(*job(0, worker=[first, address]))
        # It does not go on listening.
        with workers._listening(self.ports[1]):
            pass

    def test_port_is_in_use(self):
        with (
            workers._listening(self.ports[1]),
            self.assertRaisesRegex(OSError, f"in use.*{self.ports[1]}"),
        ):
            workers._wait_for_all(*self.jobs[1])

    def test_signal(self):
        timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM])
        with self.assertRaises(signals.Interrupted), signals.raised():
            timer.start()
            try:
                workers._wait_for_all(*self.jobs[0])
            finally:
                timer.join()
