"""Tests for exports."""

import importlib.util
from unittest import mock

import pytest
import tensorflow as tf
from model_commands import ModelTestCase, call


class ExportTest(ModelTestCase):
    def test_onnx(self):
        pytest.importorskip("tf2onnx")
        out = self.folder / "new"
        result = call("export", self.path, "--out", out)
        names = [f"{out}/decode.onnx\n", f"{out}/score.onnx\n"]
        self.assertEqual(result, (0, "".join(names), ""))
        self.assertCountEqual((f"{p}\n" for p in out.iterdir()), names)

    def test_tflite(self):
        self.use_model("classes")
        result = call("export", self.path, "--format", "tflite", "--out", "new")
        self.assertEqual(result[:2], (0, "new/decode.tflite\n"))
        self.assertTrue((self.folder / "new" / "decode.tflite").is_file())

    def test_without_packages(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            result = call("export", self.path)
        self.assert_usage_error(result, "pip install 'tf_realnvp[onnx]'")
        self.assertEmpty([*self.folder.iterdir()])

    def test_bad_command_lines(self):
        result = call("export", self.path, "--format", "pdf")
        self.assert_usage_error(result, "--format: invalid choice: 'pdf'")
        result = call("export", self.path, "--out", self.path / "new")
        self.assert_usage_error(result, "--out", "is a model")


if __name__ == "__main__":
    tf.test.main()
