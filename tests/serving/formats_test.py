"""Tests for formats."""

import functools
import json
import math
from unittest import mock

import folders
import numpy as np
import pytest
import small_models
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import random_images

import tf_realnvp
from tf_realnvp import bijectors, bit_maps, detection
from tf_realnvp.serving import formats
from tf_realnvp.utils import named, tiling

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
    "contexts": functools.cache(
        lambda: small_models.displaced(
            0.2, filters=2, context_shape={"mass": (2,), "low": (2, 2, 1)}
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
    inputs |= named.by_name(inputs.pop("context", None))
    return dict(zip(names, opened.run(None, inputs), strict=True))


def condition_of(model, n):
    """Returns what a model is conditioned on, as an argument."""
    rng = np.random.default_rng(1)
    if model.context_shape:

        def values(shape):
            return rng.normal(size=(n, *shape)).astype(np.float32)

        return {"context": named.each(values, model.context_shape)}
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


class SaveTest(folders.FolderTestCase, parameterized.TestCase):
    @parameterized.parameters("deep", "tiles")
    def test_reference(self, kind):
        """Scores and p-values of new images are those of Python."""
        model, tile = small_models.deep(), None
        if kind == "tiles":
            model = small_models.shared().clone()
            model.metadata, tile = {"tiles": True}, model.image_shape[:2]
        shape = (5, 7, 1) if tile else model.image_shape
        images = random_images(64, *shape, num_colors=model.num_colors)
        images[60:, :4, :4] = 0
        measure = detection.Measurer(model, batch_size=12)
        reference = detection.Reference(measure(images[:50], 3))
        measured, maps = measure(images[50:], 3), measure.maps(images[50:], 3)
        convert = formats.to_onnx

        def only_detect(model, function):
            is_partial = isinstance(function, functools.partial)
            return convert(model, function) if is_partial else b""

        with mock.patch.object(formats, "to_onnx", only_detect):
            names = formats.save(model, self.folder, "onnx", reference, seed=3)
        self.assertEqual(names, ["decode.onnx", "score.onnx", "detect.onnx"])
        path = self.folder / "detect.onnx"
        opened = onnxruntime.InferenceSession(path)
        outputs = [output.name for output in opened.get_outputs()]
        batch = images[50:]
        if tile:
            batch = np.concatenate([tiling.cut(image, tile) for image in batch])
        inputs = {"images": batch, "coded_bits": detection.coded_bits(batch)}
        found = dict(zip(outputs, opened.run(None, inputs), strict=True))
        expected = reference(measured)
        score = measured.of_images(found["score"])
        self.assertAllClose(score, expected["combined"], rtol=1e-4, atol=1e-4)
        p_value = measured.of_images(found["p_value"], np.min)
        self.assertAllClose(p_value, expected["p_value"])
        self.assertGreater(len({*p_value.tolist()}), 3)
        self.assertEqual(found["map"].dtype, np.float32)
        if not tile:
            self.assertAllClose(found["map"], maps, rtol=1e-4, atol=1e-4)

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
