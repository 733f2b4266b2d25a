"""Tests for runtime."""

from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import runtime


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
        tf.config.experimental.enable_tensor_float_32_execution(before)
        with runtime.tensor_float_32(enabled):
            self.assertEqual(allowed(), enabled)
        self.assertEqual(allowed(), before)
        with self.assertRaises(KeyboardInterrupt):
            with runtime.tensor_float_32(enabled):
                raise KeyboardInterrupt
        self.assertEqual(allowed(), before)

    def test_graphs_keep_their_layout_inside(self):
        """Or cuDNN's plans of training would serve in evaluation."""
        options = tf.config.optimizer.get_experimental_options
        for enabled in (False, True):
            with runtime.tensor_float_32(enabled):
                for name in ("layout_optimizer", "remapping"):
                    self.assertEqual(options().get(name, True), not enabled)
            for name in ("layout_optimizer", "remapping"):
                self.assertTrue(options().get(name, True))


class HardwareTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ([(8, 0)], True),
        ([(9, 0), (8, 6)], True),
        ([(7, 5)], False),
        ([(9, 0), (7, 5)], False),  # All train, so all must have it.
        ([None], False),  # Another maker's.
        ([], False),
    )
    def test_tensor_float_32(self, capabilities, expected):
        def details(gpu):
            capability = capabilities[gpu]
            return {"compute_capability": capability} if capability else {}

        with (
            mock.patch.object(
                tf.config,
                "list_physical_devices",
                return_value=range(len(capabilities)),
            ),
            mock.patch.object(
                tf.config.experimental, "get_device_details", details
            ),
        ):
            self.assertEqual(runtime.has_tensor_float_32(), expected)
            if capabilities:
                self.assertEqual(runtime.has_native_bfloat16(), expected)


if __name__ == "__main__":
    tf.test.main()
