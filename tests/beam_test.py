"""Tests for pipelines of Apache Beam."""

import io
import os
import pathlib
import pickle
from unittest import mock

import numpy as np
import pytest
import small_models
import tensorflow as tf
from command_lines import CommandTestCase
from image_arrays import images_of_digits as digits
from image_arrays import write_images
from model_commands import call

beam = pytest.importorskip("apache_beam")

from apache_beam.ml.inference import base  # noqa: E402

from tf_realnvp import api, batched, significance  # noqa: E402
from tf_realnvp.beam import PValues, ReadImages, SavedModelHandler  # noqa: E402
from tf_realnvp.utils import files  # noqa: E402


class BeamTest(CommandTestCase):
    name = "tf-realnvp score"

    def run_pipeline(self, transform):
        """Runs a pipeline; returns what comes out, by name, and metrics."""
        pipeline = beam.Pipeline(runner="FnApiRunner")
        pipeline | transform | beam.Map(write, "found")
        result = pipeline.run()
        result.wait_until_finish()
        content, found = pathlib.Path("found").read_bytes(), []
        pathlib.Path("found").unlink()
        with io.BytesIO(content) as file:
            while file.tell() < len(content):
                found.append(pickle.load(file))
        self.assertLen(dict(found), len(found))
        counters = result.metrics().query()["counters"]
        return dict(found), {c.key.metric.name: c.committed for c in counters}

    def apply(self, inputs, **options):
        """Returns the results of a handler for inputs without keys."""
        model = small_models.opened(small_models.conditional)
        with mock.patch.object(api, "load", return_value=model):
            path = small_models.saved(small_models.conditional)
            handler = SavedModelHandler(path, **options)
            return [*handler.run_inference(inputs, handler.load_model())]

    def test_score(self):
        path = small_models.saved(small_models.conditional)
        levels = small_models.NUM_COLORS
        paths = write_images("in", digits("test")[:70], levels)
        write_images("normal", digits("train")[:41], levels)
        paths[5].write_bytes(b"\x89PNG\r\n\x1a\n")
        with tf.io.TFRecordWriter("images.tfrecord") as writer:
            for file in paths:
                content = file.name.encode(), file.read_bytes()
                writer.write(example(*content).SerializeToString())
        flags = ("--reference", "normal", "--seed", 3)
        code, _, stderr = call("score", path, "in", *flags)
        self.assertEqual(code, 0, stderr)
        header, *rows = files.read_csv("scores.csv")
        handler = SavedModelHandler(path, seed=3, reference="normal")
        infer = base.RunInference(base.KeyedModelHandler(handler))
        for pattern, keys in {
            "in/*.png": None,
            f"{self.folder}/*.tfrecord": ("image/filename", "image/encoded"),
        }.items():
            read = ReadImages(path, pattern, keys)
            found, counters = self.run_pipeline(Chain(read, infer))
            self.assertLen(found, 69)
            self.assertEqual(counters["unreadable"], 1)
            scores = {os.path.basename(k): v for k, v in found.items()}
            for name, *values in rows:
                self.assertEqual([*scores[name]], header[1:])
                self.assertEqual([*map(str, scores[name].values())], values)

    def test_tiles(self):
        saved = small_models.saved(small_models.model)
        path = small_models.copied(saved, self.folder, tiles=True)
        rng = np.random.default_rng(0)
        images = [
            rng.integers(17, size=(4 + size, 7, 1), dtype=np.uint8)
            for size in range(5)
        ]
        write_images("in", images, small_models.NUM_COLORS)
        code, _, stderr = call("score", path, "in")
        self.assertEqual(code, 0, stderr)
        header, *rows = files.read_csv("scores.csv")
        infer = base.RunInference(
            base.KeyedModelHandler(SavedModelHandler(path))
        )
        found, _ = self.run_pipeline(Chain(ReadImages(path, "in/*"), infer))
        self.assertLen(found, 5)
        for name, *values in rows:
            scores = found[f"in/{name}"]
            self.assertEqual([*scores], header[1:])
            self.assertEqual([*map(str, scores.values())], values)

    def test_methods(self):
        model = small_models.opened(small_models.conditional)
        images = digits("test")[:5]
        found = self.apply(images, method="classify", seed=3)
        joint = batched.log_prob_of_classes(model, images, 3, True)
        joint += batched.log_prior(model)
        joint -= np.logaddexp.reduce(joint, axis=1, keepdims=True)
        self.assertAllClose(found, joint)
        latents, _ = batched.encode_likeliest(model, images)
        self.assertAllClose(self.apply(images, method="encode"), latents)
        found = self.apply([0, 1], method="sample", seed=3, temperature=0.5)
        self.assertAllEqual(found, [*batched.sample(model, 128, 0.5, 3)])
        self.assertLen(self.apply(images), 5)

    def test_p_values(self):
        rng = np.random.default_rng(0)
        scores, reference = rng.normal(size=300), rng.normal(size=100)
        scores[:3] = reference[:3]

        @beam.ptransform_fn
        def p_values(pipeline):
            normal = pipeline | "normal" >> beam.Create(reference)
            named = pipeline | "scores" >> beam.Create([*enumerate(scores)])
            return named | PValues(normal)

        found, _ = self.run_pipeline(p_values())
        expected = significance.p_values(scores, reference)
        self.assertEqual(found, dict(enumerate(expected)))


def write(result, path):
    with open(path, "ab") as file:
        pickle.dump(result, file)


@beam.ptransform_fn
def Chain(pipeline, first, second):
    return pipeline | first | second


def example(name, content):
    """Returns an image file as the object detection API stores it."""
    features = {"image/filename": name, "image/encoded": content}
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                key: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[value])
                )
                for key, value in features.items()
            }
        )
    )
