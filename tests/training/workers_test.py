"""Tests for workers: how they meet; `distribution_test` has real ones."""

import contextlib
import os
import signal
import threading
import time
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import signals
from tf_realnvp.training import workers
from tf_realnvp.utils.errors import FailureError, UsageError


def config(*arguments, **cluster):
    variables = command_lines.tf_config(*arguments, **cluster)
    return mock.patch.dict(os.environ, variables)


class JobTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (0, "worker", {"worker": ["a:1", "b:1"]}, True),
        (1, "worker", {"worker": ["a:1", "b:1"]}, False),
        (0, "chief", {"worker": ["a:1"], "chief": ["b:1"]}, True),
        (0, "worker", {"worker": ["a:1"], "chief": ["b:1"]}, False),
        (0, "worker", {"worker": ["a:1"], "evaluator": ["b:1"]}, True),
        (0, "worker", {"worker": ["[::1]:1"]}, True),
    )
    def test_chief(self, index, kind, cluster, is_chief):
        with config(index, kind, **cluster):
            self.assertEqual(workers.is_chief(), is_chief)

    @parameterized.parameters("a..b:1", f"{'a' * 64}:1", "a", "a:0", "a:b")
    def test_addresses_that_are_none(self, address):
        with config(0, worker=[address]):
            with self.assertRaisesRegex(UsageError, "TF_CONFIG is .*such as"):
                workers._job()

    def test_order_is_that_of_tensorflow(self):
        with config(1, worker=["a:1", "[::1]:2"], chief=["b:3"]):
            job = workers._job()
            names, addresses, index = job.names, job.addresses, job.index
        self.assertEqual(names, ["chief 0", "worker 0", "worker 1"])
        self.assertEqual(addresses, [("b", 3), ("a", 1), ("::1", 2)])
        self.assertEqual(index, 2)


class MeetTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.ports = command_lines.free_ports(3)
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.jobs = []
        for index in range(3):
            with config(index, worker=self.addresses):
                self.jobs.append(workers._job())

    def test_all_meet(self):
        """In any order; who has seen all goes on, and listens otherwise."""
        met = []

        def come(index):
            workers._wait_for_all(self.jobs[index])
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

    def test_one_does_not_come(self):
        with (
            workers._listening(self.ports[0]),
            mock.patch.object(workers, "_MAX_MINUTES", 0.01),
            self.assertRaisesRegex(
                FailureError, f"^worker 2 of .*{self.addresses[2]}, did not "
            ),
        ):
            workers._wait_for_all(self.jobs[1])
        # It does not go on listening.
        with workers._listening(self.ports[1]):
            pass

    def test_port_is_in_use(self):
        with (
            workers._listening(self.ports[1]),
            self.assertRaisesRegex(UsageError, f"{self.ports[1]} .*in use"),
        ):
            workers._wait_for_all(self.jobs[1])

    def test_signal_while_it_waits(self):
        self.assert_interruptible(lambda: workers._wait_for_all(self.jobs[0]))

    def test_signal_while_tensorflow_waits(self):
        self.assert_interruptible(
            lambda: workers._interruptible(lambda: time.sleep(600.0))
        )

    def assert_interruptible(self, function):
        timer = threading.Timer(
            0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)
        )
        with self.assertRaises(signals.Interrupted), signals.raised():
            timer.start()
            function()
        timer.join()


class InterruptibleTest(tf.test.TestCase):
    def test_result_and_error(self):
        self.assertEqual(workers._interruptible(lambda: 3), 3)
        self.assertIsNone(workers._interruptible(lambda: None))
        with self.assertRaises(ZeroDivisionError):
            workers._interruptible(lambda: 1 // 0)


if __name__ == "__main__":
    tf.test.main()
