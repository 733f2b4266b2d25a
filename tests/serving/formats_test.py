"""Tests for formats."""

import functools
import json
import math

import folders
import numpy as np
import pytest
import small_models
import tensorflow as tf
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp import bijectors, bit_maps
from tf_realnvp.serving import formats

pytest.importorskip("tf2onnx")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


MODELS = {
    "deep": small_models.deep,
    "context": functools.cache(
        lambda: small_models.displaced(
            0.2, filters=2, context_shape=(3,), padding="periodic"
        )
    ),
}
KINDS = tuple(MODELS)
FUNCTIONS = (formats.decode, formats.score)


@functools.cache
def session(kind, function):
    """Returns a function as ONNX Runtime loads it."""
    content = formats.to_onnx(MODELS[kind](), function)
    return onnxruntime.InferenceSession(content)


def run(kind, function, **inputs):
    """Returns the outputs of an exported function by their names."""
    opened = session(kind, function)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(None, inputs), strict=True))


def condition_of(model, n):
    """Returns what a model is conditioned on, as an argument."""
    rng = np.random.default_rng(1)
    if model.context_shape:
        shape = n, *model.context_shape
        return {"context": rng.normal(size=shape).astype(np.float32)}
    labels = rng.integers(model.num_classes or 1, size=n).astype(np.int32)
    return {"label": labels} if model.num_classes else {}


class OnnxTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(kind=KINDS, n=(1, 7))
    def test_decode(self, kind, n):
        model = MODELS[kind]()
        latents = np.random.default_rng(0).normal(size=(n, *model.latent_shape))
        latents = latents.astype(np.float32)
        outputs = run(
            kind, formats.decode, latents=latents, **condition_of(model, n)
        )
        expected = model.decode(latents, **condition_of(model, n)).numpy()
        self.assertEqual(outputs["images"].dtype, np.uint8)
        self.assertEqual(outputs["images"].shape, expected.shape)
        # A value between two levels may be rounded to either.
        differences = np.abs(outputs["images"].astype(int) - expected)
        self.assertLessEqual(np.max(differences), 1)
        self.assertLess(np.mean(differences), 0.01)

    @parameterized.product(kind=KINDS, n=(1, 7))
    def test_score(self, kind, n):
        model = MODELS[kind]()
        rng = np.random.default_rng(0)
        shape = (n, *model.image_shape)
        images = rng.integers(model.num_colors, size=shape).astype(np.uint8)
        images[0, 0, :2, 0] = 0, model.num_colors - 1
        noise = rng.integers(2**23, size=shape).astype(np.float32) / 2**23
        noise[0, :2] = 0.0
        given = condition_of(model, n)
        outputs = run(kind, formats.score, images=images, noise=noise, **given)
        points = tf.constant(images + noise)
        condition = model.condition(points, **given)
        log_prob = model.log_density(points, **condition)
        condition = bijectors.condition_kwargs(
            model.bijector, **model.condition.encode(condition)
        )
        costs = bit_maps.costs(model, points, **given)
        for name, expected in {
            "log_prob": log_prob,
            "bits_per_dim": -log_prob / (model.num_dims * math.log(2.0)),
            "latents": model.bijector.inverse(points, **condition),
            "map": tf.reduce_sum(costs, axis=[1, 2]) / math.log(2.0),
        }.items():
            self.assertEqual(outputs[name].dtype, np.float32)
            self.assertAllClose(outputs[name], expected, rtol=2e-5, atol=2e-5)
        self.assertLen(outputs, 4)
        decoded = model.decode(outputs["latents"], **given).numpy()
        # Near the ends it may round to another level.
        inside = np.abs(noise - 0.5) < 0.49
        self.assertAllEqual(decoded[inside], images[inside])

    @parameterized.product(kind=KINDS, function=FUNCTIONS)
    def test_file(self, kind, function):
        model, opened = MODELS[kind](), session(kind, function)
        values = (*opened.get_inputs(), *opened.get_outputs())
        self.assertEqual({value.shape[0] for value in values}, {"n"})
        entries = opened.get_modelmeta().custom_metadata_map
        entries = {name: json.loads(text) for name, text in entries.items()}
        self.assertEqual(entries["version"], tf_realnvp.__version__)
        self.assertEqual(entries["image_shape"], [*model.image_shape])
        self.assertEqual(entries["latent_shape"], [*model.latent_shape])
        self.assertEqual(entries["num_colors"], model.num_colors)
        # They tell of files that only the machine of the training has.
        self.assertNoCommonElements(entries, ("source", "training_hashes"))
        names = model.metadata.get("class_names")
        self.assertEqual(entries.get("class_names"), names)


class SaveTest(folders.FolderTestCase):
    def test_tflite(self):
        model = small_models.conditional()
        self.assertEqual(
            formats.save(model, self.folder, "tflite"), ["decode.tflite"]
        )
        content = (self.folder / "decode.tflite").read_bytes()
        interpreter = tf.lite.Interpreter(model_content=content)
        interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        latents = rng.normal(size=(1, *model.latent_shape)).astype(np.float32)
        inputs = {"latents": latents, "label": np.int32([2])}
        for value in interpreter.get_input_details():
            interpreter.set_tensor(value["index"], inputs[value["name"]])
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        self.assertAllEqual(
            interpreter.get_tensor(output["index"]), model.decode(**inputs)
        )
