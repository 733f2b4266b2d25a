"""Tests for runtime."""

import os
import sys
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.errors import UsageError
from tf_realnvp.utils import runtime


class ProcessorTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(runtime, "num_cores", lambda: 8))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop("TF_NUM_INTRAOP_THREADS", None)
        # TensorFlow is at work by now.
        self.set_parts, self.set_threads, self.set_determinism = (
            self.enterContext(mock.patch.object(module, name))
            for module, name in (
                (tf.config.threading, "set_inter_op_parallelism_threads"),
                (tf.config.threading, "set_intra_op_parallelism_threads"),
                (tf.config.experimental, "enable_op_determinism"),
            )
        )

        self.addCleanup(
            tf.config.optimizer.set_experimental_options, {"remapping": True}
        )

    def test_environment(self):
        """The user's number of threads is kept."""
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "8", "KERAS_BACKEND": "jax"}
        runtime.configure(2, 1)
        self.set_threads.assert_not_called()
        self.assertEqual(os.environ["KERAS_BACKEND"], "tensorflow")

    def test_what_keras_need_not_import(self):
        """It can be imported afterwards."""
        with mock.patch.dict(sys.modules):
            sys.modules.pop("sklearn", None)
            runtime.configure(is_command=True)
            self.assertNotIn("sklearn", sys.modules)

    @parameterized.parameters(
        (1, None, None), (1, 1, 1), (2, 1, 1), (3, None, 2)
    )
    def test_parts_share_the_cores(self, num_parts, threads, expected):
        is_deterministic = num_parts == 3
        runtime.configure(num_parts, threads, is_deterministic)
        for mocked, value in (
            (self.set_threads, expected),
            (self.set_parts, num_parts if num_parts > 1 else None),
        ):
            self.assertEqual(
                [call.args for call in mocked.call_args_list],
                [] if value is None else [(value,)],
            )
        self.assertEqual(self.set_determinism.called, is_deterministic)
        # Or gradients in several threads crash.
        options = tf.config.optimizer.get_experimental_options()
        self.assertEqual(options.get("remapping", True), num_parts == 1)


class HardwareTest(tf.test.TestCase, parameterized.TestCase):
    def set_gpus(self, capabilities):
        """Makes TensorFlow find GPUs of these compute capabilities."""

        def details(gpu):
            capability = capabilities[gpu]
            found = {"compute_capability": capability} if capability else {}
            return found | {"device_name": "H"}

        gpus = range(len(capabilities))
        for target, name, function in (
            (tf.config, "get_visible_devices", lambda kind: gpus),
            (tf.config.experimental, "get_device_details", details),
        ):
            self.enterContext(mock.patch.object(target, name, function))

    @parameterized.parameters(
        # GPUs, and what the processor has.
        ([(8, 0)], (), "bfloat16"),
        ([(7, 5)], ["avx512_bf16"], "float32"),
        ([(9, 0), (7, 5)], (), "float32"),  # All train, so all must have it.
        ([None], (), "float32"),  # Another maker's.
        ([], ["avx512f", "amx_bf16"], "bfloat16"),
        ([], ["avx512_bf16"], "bfloat16"),
        ([], ["avx512f"], "float32"),
    )
    def test_precision(self, capabilities, features, native):
        self.set_gpus(capabilities)
        self.enterContext(
            mock.patch.object(
                runtime, "processor_features", lambda: frozenset(features)
            )
        )
        settle = runtime.settle_precision
        self.assertEqual(settle("auto"), native)
        self.assertEqual(settle("float32"), "float32")
        if capabilities and native == "bfloat16":
            self.assertEqual(settle("tf32"), "tf32")
        else:
            with self.assertRaisesRegex(UsageError, "tf32"):
                settle("tf32")

    def test_devices(self):
        self.set_gpus([(9, 0), (9, 0)])
        self.assertEqual(runtime.describe_devices(), "2 GPUs H")
        self.assertEqual(runtime.describe_devices(1), "1 GPU H")
        with self.assertRaisesRegex(UsageError, "`devices`: 3 .*, 2$"):
            runtime.make_strategy(3)
