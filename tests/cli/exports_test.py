"""Tests for exports."""

import functools
import http.server
import importlib.util
import json
import os
import threading
import urllib.request
import webbrowser
from unittest import mock

import pytest
import small_models
from absl.testing import parameterized
from model_commands import ModelTestCase, call

from tf_realnvp import batched, detection
from tf_realnvp.cli import usage
from tf_realnvp.serving import formats


class ConversionTestCase(ModelTestCase):
    """Skips the conversion, which `formats_test` tests."""

    def setUp(self):
        super().setUp()
        for name in ("to_onnx", "to_tflite"):
            self.enterContext(
                mock.patch.object(formats, name, return_value=b"")
            )


class ExportTest(ConversionTestCase):
    @parameterized.parameters(
        ("plain", (), "decode.onnx", "score.onnx"),
        ("classes", ("--format", "tflite"), "decode.tflite"),
    )
    def test_formats(self, kind, flags, *names):
        pytest.importorskip("tf2onnx")
        self.use_model(kind)
        result = call("export", self.path, *flags, "--out", "new")
        said = "".join(f"new/{name}\n" for name in names)
        self.assertEqual(result, (0, said, ""))
        self.assertCountEqual(os.listdir("new"), names)

    def test_reference(self):
        """A third file; `detect.onnx` itself is tested with the formats."""
        pytest.importorskip("tf2onnx")
        images = small_models.images(24)
        self.write("good", images)
        flags = "--reference", "good", "--out", "new"
        _, out, _ = call("export", self.path, *flags)
        self.assertEndsWith(out, "new/detect.onnx\n")
        with mock.patch.object(formats, "save") as save:
            call("export", self.path, *flags, "--seed", 5)
        *_, reference, seed = save.call_args.args
        self.assertEqual(seed, 5)
        measured = small_models.measurer(small_models.model)(images, 5)
        expected = detection.Reference(measured, 5)(measured)["p_value"]
        self.assertAllEqual(reference(measured)["p_value"], expected)
        result = call("export", self.path, *flags, "--format", "tflite")
        self.assert_usage_error(result, "--format onnx")


class ExploreTest(ConversionTestCase):
    def setUp(self):
        super().setUp()
        self.npm = self.folder / "package"  # npm need not be here.
        self.enterContext(mock.patch.object(usage, "NPM", self.npm))

    def test_page(self):
        pytest.importorskip("tf2onnx")
        from tf_realnvp.serving import explorer

        dist = self.npm / "node_modules" / "onnxruntime-web" / "dist"
        dist.mkdir(parents=True)
        for name in explorer._RUNTIME:
            (dist / name).write_text(name)
        images = small_models.images(5)
        self.write("pictures", images)
        self.use_model("classes")
        fetched = []

        def visit(address):
            def fetch():
                with urllib.request.urlopen(f"{address}model.json") as file:
                    fetched.append(json.load(file))

            self.visitor = threading.Thread(target=fetch)
            self.visitor.start()

        server = http.server.ThreadingHTTPServer
        with (
            mock.patch.object(webbrowser, "open", visit),
            mock.patch.object(server, "serve_forever", server.handle_request),
        ):
            code, stdout, _ = call(
                *("explore", self.path, "--dataset", "pictures"),
                *("--out", "page", "--seed", 3, "--open"),
            )
            self.visitor.join()
        self.assertEqual(code, 0)
        self.assertIn("\npage/index.html\nhttp://127.0.0.1:", stdout)
        (content,) = fetched
        self.assertEqual(content["title"], self.path.name)
        self.assertEqual(content["class_names"], [*small_models.CLASS_NAMES])
        log_prob = batched.score_each(self.model, images, 3).log_prob
        expected = sorted(self.model.values.per_dim(log_prob, 16))
        self.assertAllClose(content["bits_per_dim"], expected, atol=1e-3)
        for name in ("index.html", "explorer.js", *explorer._RUNTIME):
            self.assertTrue((self.folder / "page" / name).is_file())

    def test_what_the_page_lacks(self):
        pytest.importorskip("tf2onnx")
        (self.npm / "node_modules" / "onnxruntime-web").mkdir(parents=True)
        with mock.patch.object(self.model.condition, "context_shape", (2,)):
            result = call("explore", self.path)
        self.assert_usage_error(result, "a context that the page lacks")
        metadata = {"dropped_bits": 8}
        with mock.patch.object(self.model, "metadata", metadata):
            result = call("explore", self.path)
        self.assert_usage_error(result, "models of files of 8 bits")

    def test_missing_packages(self):
        found = functools.partial(mock.patch.object, importlib.util)
        for command in ("export", "explore"):
            with found("find_spec", return_value=None):
                result = call(command, self.path)
            self.assert_usage_error(result, "pip install '.[onnx]'")
        with found("find_spec"):
            result = call("explore", self.path)
        self.assert_usage_error(result, f"npm ci --prefix {self.npm}")
        self.assertEmpty([*self.folder.iterdir()])
