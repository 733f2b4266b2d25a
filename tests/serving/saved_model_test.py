"""Tests for saved_model, and for the metadata that it reads."""

import json
import math

import folders
import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.errors import ModelError
from tf_realnvp.serving import metadata, saved_model

PLAIN, CLASSES = small_models.model, small_models.conditional


class SavedModelTest(tf.test.TestCase, parameterized.TestCase):
    """It gives the same results as the model."""

    @parameterized.parameters(
        *((PLAIN, n, None) for n in (1, 64, 70)),
        *((CLASSES, 70, label) for label in (1, None, np.arange(70) % 3)),
    )
    def test_sample(self, make, n, label):
        seed = 2**32 - 1
        loaded = small_models.opened(make)
        first, *rest = loaded.sample(n, 0.5, seed, label)
        head, others = label, label
        if np.ndim(label):
            head, others = label[:64], label[64:]
        self.assertAllEqual(first, make().sample(min(n, 64), 0.5, seed, head))
        for images in rest:
            stream = saved_model.stream(seed, 1)
            self.assertAllEqual(images, make().sample(6, 0.5, stream, others))
        # No image repeats another, nor one of the next seed.
        again = loaded.sample(n, 0.5, 0, label)
        images = np.concatenate([first, *rest, *again])
        self.assertLen(np.unique(images, axis=0), 2 * n)

    @parameterized.parameters(PLAIN, CLASSES)
    def test_density(self, make):
        model, loaded = make(), small_models.opened(make)
        images = small_models.images(5)
        for seed in (5, 5 + (7 << 32)):
            by_class = loaded.log_prob_of_classes(images, seed)
            self.assertEqual(by_class.dtype, np.float64)
            log_prob = loaded.mixture(by_class)
            expected = model.log_prob(images, seed)
            self.assertAllClose(log_prob, expected, rtol=1e-5)
        labels = range(3) if make is CLASSES else [None]
        by_class = [model.log_prob(images, 3, label) for label in labels]
        results = loaded.log_prob_of_classes(images, 3)
        self.assertAllClose(results, np.transpose(by_class), rtol=1e-5)
        each = [model.log_prob_each(images, [3] * 5, label) for label in labels]
        joint = np.stack(each, axis=1) + loaded.log_prior
        scores = loaded.score_each(images, 3)
        self.assertAllClose(
            scores.log_prob, np.logaddexp.reduce(joint, axis=1), rtol=1e-5
        )
        self.assertAllEqual(scores.label, joint.argmax(axis=1))

    @parameterized.parameters(PLAIN, CLASSES)
    def test_latents(self, make):
        """Batches do not change the results."""
        loaded, images = small_models.opened(make), small_models.images(70)
        latents, labels = loaded.encode_likeliest(images)
        self.assertAllEqual(labels, loaded.score_each(images, 0).label)
        self.assertAllClose(latents, loaded.encode(images, labels))
        self.assertAllEqual(loaded.decode(latents, labels), images)
        condition = [labels] if make is CLASSES else []
        expected = make().encode(images, *condition)
        self.assertAllClose(latents, expected, rtol=1e-4, atol=1e-4)

    def test_likeliest_together(self):
        loaded, images = small_models.opened(CLASSES), small_models.images(9)
        self.assertGreater(len(set(loaded.score_each(images, 0).label)), 1)
        _, labels = loaded.encode_likeliest(images, together=True)
        by_class = loaded.log_prob_of_classes(images, 0, each=True)
        joint = by_class.sum(axis=0) + loaded.log_prior
        self.assertAllEqual(labels, np.full(9, joint.argmax()))


class DamagedTest(folders.FolderTestCase, parameterized.TestCase):
    """A damaged model is reported in one line."""

    def copy(self, **changes):
        """Returns a copy of a model, with other metadata."""
        path = small_models.saved(CLASSES)
        return small_models.copied(path, self.folder, **changes)

    def assert_error(self, path, *messages):
        with self.assertRaises(ModelError) as context:
            saved_model.SavedModel(path)
        message = str(context.exception)
        self.assertNotIn("\n", message)
        for part in (str(path), *messages):
            self.assertIn(part, message)

    def test_no_model(self):
        self.assert_error(self.folder, "realnvp_DATASET")
        self.assert_error(self.folder / "missing", "realnvp_DATASET")
        path = self.copy()
        (path / metadata.FILE).unlink()
        self.assert_error(path, "there is no model in", metadata.FILE)
        for content in (b"", b'{"image_shape": [4, 4', b"\xff", b"3", b'"a"'):
            (path / metadata.FILE).write_bytes(content)
            self.assert_error(path, "there is no model in")
        for content in ("[]", "{}", '{"num_colors": 17}'):
            (path / metadata.FILE).write_text(content)
            self.assert_error(path, "another program")

    @parameterized.parameters(
        *({"class_names": names} for names in ("ab", "aba")),
        *({"format": value} for value in (1, 2, "two\nlines", None)),
    )
    def test_damaged_metadata(self, **changes):
        is_version = "format" in changes
        message = "another version" if is_version else "damaged: 3 classes"
        self.assert_error(self.copy(**changes), message)

    def test_optional_metadata(self):
        path = self.copy(source="/caf\udce9")
        content = json.loads((path / metadata.FILE).read_text())
        del content["class_names"]
        (path / metadata.FILE).write_text(json.dumps(content))
        read = saved_model.SavedModel(path)
        self.assertEqual(read.source, "/caf\udce9")
        self.assertEqual(read.class_names, ("0", "1", "2"))

    @parameterized.parameters(False, True)
    def test_damaged(self, is_foreign):
        path = self.copy()
        if is_foreign:
            tf.saved_model.save(tf.Module(), str(path))
        else:
            (weights,) = path.glob("variables/variables.data-*")
            weights.write_bytes(weights.read_bytes()[:500])
        self.assert_error(path, "cannot be loaded")


class ImportanceBoundTest(tf.test.TestCase):
    def test_densities_that_floats_do_not_hold(self):
        self.assertAllClose(
            saved_model.importance_bound(np.array([[-8000.0], [-8001.0]])),
            [-8000.0 + math.log((1.0 + math.exp(-1.0)) / 2.0)],
            rtol=1e-12,
        )
