"""Tests for runtime."""

import concurrent.futures
import os
import re
import subprocess
import time
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import runtime, system
from tf_realnvp.utils.errors import UsageError


def allowed():
    return tf.config.experimental.tensor_float_32_execution_enabled()


class TensorFloat32Test(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(
            tf.config.experimental.enable_tensor_float_32_execution, allowed()
        )

    def test_commands_do_without(self):
        tf.config.experimental.enable_tensor_float_32_execution(True)
        runtime.configure()
        self.assertFalse(allowed())

    @parameterized.product(before=[False, True], enabled=[False, True])
    def test_only_inside(self, before, enabled):
        """And so is the layout of graphs.

        Or cuDNN's plans of training would serve in evaluation.
        """
        tf.config.experimental.enable_tensor_float_32_execution(before)
        options = tf.config.optimizer.get_experimental_options
        layouts = ("layout_optimizer", "remapping")
        with self.assertRaises(KeyboardInterrupt):
            with runtime.tensor_float_32(enabled):
                self.assertEqual(allowed(), enabled)
                for name in layouts:
                    self.assertEqual(options().get(name, True), not enabled)
                raise KeyboardInterrupt
        self.assertEqual(allowed(), before)
        for name in layouts:
            self.assertTrue(options().get(name, True))


class SilenceTest(tf.test.TestCase):
    def test_several_threads(self):
        """Standard error is there again when all are done."""
        before = os.fstat(2)

        def keep_silent(number):
            with runtime.silent_stderr() as written:
                os.write(2, b"%d" % number)
                time.sleep(0.001)
                return written()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(keep_silent, range(40)))
        self.assertEqual(seen, [b"%d" % number for number in range(40)])
        self.assertTrue(os.path.samestat(os.fstat(2), before))

    def test_what_is_no_noise(self):
        with runtime.silent_stderr() as written:
            with runtime.silent_stderr(re.compile(b"JPEG")):
                os.write(2, b"of a JPEG\nof the program\nJPEG\n")
                self.assertEqual(written(), b"")
            self.assertEqual(written(), b"of the program\n")

    def test_process_that_is_started_meanwhile(self):
        """It may write for longer."""
        command = "read line; echo $line >&2"
        with runtime.silent_stderr():
            process = subprocess.Popen(
                ["sh", "-c", command], stdin=subprocess.PIPE
            )
        process.communicate(b"hello\n")
        self.assertEqual(process.returncode, 0)


class ProcessorTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(system, "num_cores", lambda: 8))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop("TF_NUM_INTRAOP_THREADS", None)
        # TensorFlow is at work by now.
        self.set_devices, self.set_threads = (
            self.enterContext(mock.patch.object(module, name))
            for module, name in (
                (tf.config, "set_logical_device_configuration"),
                (tf.config.threading, "set_intra_op_parallelism_threads"),
            )
        )

    def test_backend_of_keras(self):
        """No other will do, whatever a user has set for other programs."""
        with mock.patch.dict(os.environ, KERAS_BACKEND="jax"):
            runtime.configure()
            self.assertEqual(os.environ["KERAS_BACKEND"], "tensorflow")

    @parameterized.parameters(False, True)
    def test_deterministic(self, is_given):
        with mock.patch.object(
            tf.config.experimental, "enable_op_determinism"
        ) as enable:
            runtime.configure(deterministic=is_given)
        self.assertEqual(enable.called, is_given)

    @parameterized.parameters(
        (1, None, None),
        (1, 1, 1),
        (2, None, 4),
        (2, 1, 1),
        (3, None, 2),
        (8, None, 1),
    )
    def test_logical_cpus_share_the_cores(self, num_cpus, given, expected):
        runtime.configure(num_cpus, given)
        self.assertEqual(
            [call.args for call in self.set_threads.call_args_list],
            [] if expected is None else [(expected,)],
        )
        self.assertEqual(
            [len(call.args[1]) for call in self.set_devices.call_args_list],
            [num_cpus] if num_cpus > 1 else [],
        )

    def test_environment_stays(self):
        os.environ["TF_NUM_INTRAOP_THREADS"] = "8"
        runtime.configure(2, 1)
        self.set_threads.assert_not_called()

    def test_more_than_the_cores(self):
        with self.assertRaisesRegex(UsageError, "`devices`: 9 .* 8, .* no GPU"):
            runtime.configure(9)
        self.set_devices.assert_not_called()

    @parameterized.parameters(
        (8, 64, None, 1, 1, 1),
        (16, 64, None, 2, 2, None),
        (8, 66, None, 2, 1, None),
        (32, 64, 499, 2, 1, None),
        (32, 64, 500, 2, 2, None),
        (32, 64, None, 1, 1, None),
        (32, 64, None, 64, 2, None),
    )
    def test_fastest(self, size, filters, steps, cores, cpus, threads):
        with mock.patch.object(system, "num_cores", lambda: cores):
            self.assertEqual(
                runtime.fastest_cpus(size, filters, steps), (cpus, threads)
            )


class HardwareTest(tf.test.TestCase, parameterized.TestCase):
    def set_gpus(self, capabilities, **others):
        """Makes TensorFlow find GPUs of these compute capabilities."""

        def details(gpu):
            capability = capabilities[gpu]
            found = {"compute_capability": capability} if capability else {}
            return found | others

        for target, name, value in (
            (
                tf.config,
                "get_visible_devices",
                lambda kind: range(len(capabilities)),
            ),
            (tf.config.experimental, "get_device_details", details),
        ):
            self.enterContext(mock.patch.object(target, name, value))

    @parameterized.parameters(
        ([(8, 0)], True),
        ([(9, 0), (8, 6)], True),
        ([(7, 5)], False),
        ([(9, 0), (7, 5)], False),  # All train, so all must have it.
        ([None], False),  # Another maker's.
    )
    def test_gpus(self, capabilities, expected):
        self.set_gpus(capabilities)
        self.assertEqual(runtime.has_tensor_float_32(), expected)
        self.assertEqual(runtime.has_native_bfloat16(), expected)
        with self.assertRaisesRegex(UsageError, f"{len(capabilities)}$"):
            runtime.make_strategy(len(capabilities) + 1)

    @parameterized.parameters(
        (1, None, "GPU H"), (3, None, "3 GPUs H"), (3, 2, "2 GPUs H")
    )
    def test_description(self, number, num_devices, expected):
        self.set_gpus(number * [(9, 0)], device_name="H")
        self.assertEqual(runtime.describe_devices(num_devices), expected)

    @parameterized.parameters(
        ({"avx512f", "amx_bf16"}, "bfloat16"),
        ({"avx512_bf16"}, "bfloat16"),
        ({"avx512f"}, "float32"),
        ((), "float32"),  # Not on Linux.
    )
    def test_processor(self, features, expected):
        self.set_gpus([])
        self.enterContext(
            mock.patch.object(
                system, "processor_features", lambda: frozenset(features)
            )
        )
        self.assertFalse(runtime.has_tensor_float_32())
        self.assertEqual(runtime.settle_precision("auto"), expected)
        self.assertEqual(runtime.settle_precision("float32"), "float32")


if __name__ == "__main__":
    tf.test.main()
