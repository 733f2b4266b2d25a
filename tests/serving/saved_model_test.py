"""Tests for saved_model."""

import json
import math
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.serving import saved_model
from tf_realnvp.utils.errors import ModelError

METADATA = {"image_shape": [4, 4, 1], "num_colors": 17}
# Values that no model has, of any that JSON knows.
NEVER = (
    *(True, -1, 0, 1e9, 10**4000, math.nan, -math.inf),
    *("", [], [[4, 4, 1]], {}, {"4": 4}),
)
DAMAGED = {
    "image_shape": (
        *(None, 4, "4x4", "441", ["4", "4", "1"], [4, 4], [4, 4, 1, 1]),
        *([4.0, 4, 1], [[4], [4], [1]], {"H": 4, "W": 4, "C": 1}),
        [2**11, 2**11, 2**9],
        *([value, 4, 1] for value in NEVER),
        *([4, 4, value] for value in NEVER),
    ),
    "num_colors": (None, 1, 257, 10**9, 256.0, "256", [256]),
    "source": (3, ["digits"], "di\0gits", "di\ud800gits"),
    "dataset": (3,),
}


class ConditionalTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved_conditional()
        cls.model = small_models.conditional()
        cls.loaded = small_models.opened_conditional()
        cls.content = json.loads((cls.path / "metadata.json").read_text())
        cls.images = small_models.images(70)
        cls.labels = np.arange(70) % 3

    def test_attributes(self):
        self.assertEqual(self.loaded.class_names, small_models.CLASS_NAMES)
        self.assertAllClose(np.exp(self.loaded.log_prior), [0.5, 0.2, 0.3])
        self.assertEqual(small_models.opened().class_names, ())

    def test_older_model(self):
        """It has no function with a seed for each image."""
        images = self.images[:3]
        each = self.loaded.score_each(images, 5)
        with mock.patch.object(
            self.loaded, "_log_prob_each", self.loaded._one_by_one
        ):
            for ours, expected in zip(
                self.loaded.score_each(images, 5), each, strict=True
            ):
                self.assertAllClose(ours, expected, rtol=1e-5)

    def test_sample(self):
        for label in (1, None, self.labels):
            first, rest = self.loaded.sample(70, 0.5, 3, label)
            own = self.labels[:64] if np.ndim(label) else label
            self.assertAllEqual(first, self.model.sample(64, 0.5, 3, own))
            own = self.labels[64:] if np.ndim(label) else label
            seed = saved_model.stream(3, 1)
            self.assertAllEqual(rest, self.model.sample(6, 0.5, seed, own))

    def test_density(self):
        images = self.images[:5]
        joint = self.model.log_joint(self.model.dequantize(images, 3)).numpy()
        self.assertAllClose(
            self.loaded.log_prob(images, 3),
            np.logaddexp.reduce(joint, axis=1),
            rtol=1e-5,
        )
        given = self.loaded.log_prob_of_classes(images, 3)
        self.assertEqual((given.dtype, given.shape), (np.float64, (5, 3)))
        self.assertAllClose(given + self.loaded.log_prior, joint, rtol=1e-5)
        given = [
            self.model.log_prob_each(images, [3] * 5, label)
            for label in range(3)
        ]
        joint = np.stack(given, axis=1) + self.loaded.log_prior
        scores = self.loaded.score_each(images, 3)
        self.assertAllClose(
            scores.log_prob, np.logaddexp.reduce(joint, axis=1), rtol=1e-5
        )
        self.assertAllClose(
            scores.bits_per_dim, -scores.log_prob / (16 * np.log(2.0))
        )
        self.assertAllEqual(scores.label, joint.argmax(axis=1))

    def test_latents(self):
        latents = self.loaded.encode(self.images, self.labels)
        self.assertAllClose(
            latents, self.model.encode(self.images, self.labels), rtol=1e-4
        )
        self.assertAllEqual(
            self.loaded.decode(latents, self.labels), self.images
        )

    def test_likeliest(self):
        """As where it is scored, whatever images are beside it."""
        latents, labels = self.loaded.encode_likeliest(self.images)
        self.assertAllEqual(
            labels, self.loaded.score_each(self.images, 0).label
        )
        self.assertGreater(len(set(labels)), 1)
        self.assertAllClose(
            latents, self.model.encode(self.images, labels), rtol=1e-4
        )
        _, together = self.loaded.encode_likeliest(
            self.images[:9], together=True
        )
        given = self.loaded.log_prob_of_classes(self.images[:9], 0, each=True)
        joint = given.sum(axis=0) + self.loaded.log_prior
        self.assertAllEqual(together, np.full(9, joint.argmax()))

    @parameterized.parameters(
        ({"class_names": ["a", "b"]}, "damaged: class_names is"),
        ({"class_names": ["a", "b", "a"]}, "damaged: class_names is"),
        ({"class_names": "abc"}, "damaged: class_names is"),
        ({"num_classes": "3"}, "damaged: num_classes is '3'"),
        ({"num_classes": None}, "there are 0 classes, by its SavedModel 3"),
        ({"class_probs": [1.0]}, "damaged: class_probs is"),
        ({"class_probs": None}, "damaged: class_probs is"),
    )
    def test_damaged(self, changes, message):
        with self.assertRaisesRegex(ModelError, message):
            self.open_with(self.content | changes)

    def test_names_that_are_not_told(self):
        content = dict(self.content)
        del content["class_names"]
        names = self.open_with(content).class_names
        self.assertEqual(names, ("0", "1", "2"))

    def open_with(self, content):
        """Opens the model with other metadata."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "saved_model.pb").touch()
        (folder / "metadata.json").write_text(json.dumps(content))
        raw = small_models.loaded_conditional()
        with mock.patch.object(tf.saved_model, "load", return_value=raw):
            return saved_model.SavedModel(folder)


class SavedModelTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved()
        cls.model = small_models.model()
        cls.loaded = small_models.opened()
        cls.images = small_models.images(130)

    def test_attributes(self):
        self.assertEqual(self.loaded.image_shape, (4, 4, 1))
        self.assertEqual(self.loaded.num_colors, 17)
        self.assertEqual(self.loaded.num_dims, 16)
        self.assertEqual(self.loaded.source, "digits")

    @parameterized.parameters(1, 64, 130)
    def test_sample(self, n):
        last = 2**32 - 1
        batches = list(self.loaded.sample(n, 0.5, seed=last))
        self.assertLessEqual(max(map(len, batches)), saved_model.BATCH_SIZE)
        images = np.concatenate(batches)
        self.assertEqual(images.dtype, np.uint8)
        self.assertEqual(images.shape, (n, 4, 4, 1))
        first = min(n, saved_model.BATCH_SIZE)
        self.assertAllEqual(
            images[:first], self.model.sample(first, 0.5, seed=last)
        )
        # No batch repeats another, nor one of the next seed.
        others = np.concatenate(list(self.loaded.sample(n, 0.5, seed=0)))
        both = np.concatenate([images, others])
        self.assertLen(np.unique(both, axis=0), 2 * n)

    def test_log_prob(self):
        for n, seed in ((3, 5), (1, 5), (3, 5 + (7 << 32))):
            images = self.images[:n]
            log_prob = self.loaded.log_prob(images, seed)
            self.assertEqual(log_prob.dtype, np.float64)
            self.assertAllClose(
                log_prob, self.model.log_prob(images, seed), rtol=1e-5
            )

    def test_score_each(self):
        for seed in (5, 5 + (7 << 32)):
            log_prob = self.loaded.score_each(self.images[:3], seed).log_prob
            self.assertEqual(log_prob.dtype, np.float64)
            alone = [
                self.model.log_prob(self.images[i : i + 1], seed)[0]
                for i in range(3)
            ]
            self.assertAllClose(log_prob, alone, rtol=1e-5)

    def test_latents(self):
        latents = self.loaded.encode(self.images)
        self.assertAllClose(
            latents, self.model.encode(self.images), rtol=1e-4, atol=1e-4
        )
        self.assertAllEqual(self.loaded.decode(latents), self.images)

    def test_older_model(self):
        """It had no format, and its SavedModel no number of levels."""
        path = self.copy(METADATA | {"flags": {"filters": 2}})
        raw = small_models.loaded()
        older = mock.Mock(spec=["log_prob", "signatures"])
        older.log_prob, older.signatures = raw.log_prob, raw.signatures
        with mock.patch.object(tf.saved_model, "load", return_value=older):
            loaded = saved_model.SavedModel(path)
        self.assertEqual(loaded.num_colors, 17)
        self.assertIsNone(loaded.source)
        images = self.images[:3]
        self.assertAllEqual(loaded.encode(images), self.loaded.encode(images))
        # Nor a function with a seed for each image.
        self.assertAllClose(
            loaded.score_each(images, 5).log_prob,
            self.loaded.score_each(images, 5).log_prob,
            rtol=1e-5,
        )
        self.assertEqual(loaded.score_each(images[:0], 5).log_prob.shape, (0,))

    @parameterized.parameters("/my/pebbles", "/caf\udce9")
    def test_trained_on_a_folder(self, folder):
        path = self.copy(METADATA | {"dataset": "pebbles", "source": folder})
        raw = small_models.loaded()
        with mock.patch.object(tf.saved_model, "load", return_value=raw):
            self.assertEqual(saved_model.SavedModel(path).source, folder)

    def copy(self, metadata=None):
        """A copy of the model, to break."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(shutil.copytree(self.path, f"{folder}/copy"))
        if metadata is not None:
            (path / "metadata.json").write_text(json.dumps(metadata))
        return path

    def assert_error(self, path, *messages):
        with self.assertRaises(ModelError) as context:
            saved_model.SavedModel(path)
        message = str(context.exception)
        self.assertNotIn("\n", message)
        for part in (str(path), *messages):
            self.assertIn(part, message)

    def test_no_model(self):
        self.assert_error(self.path / "missing", "realnvp_DATASET")
        self.assert_error(self.path / "saved_model.pb", "realnvp_DATASET")
        path = self.copy()
        (path / "metadata.json").unlink()
        self.assert_error(path, "no metadata.json")
        # Nobody writes into it: reading would wait for ever.
        os.mkfifo(path / "metadata.json")
        self.assert_error(path, "no metadata.json")

    @parameterized.parameters(
        b"",
        b'{"image_shape": [4, 4',
        b"\xff",
        b"[" * 100_000,
        b'{"num_colors": 1' + 5000 * b"0" + b"}",
    )
    def test_unreadable_metadata(self, content):
        path = self.copy()
        (path / "metadata.json").write_bytes(content)
        self.assert_error(path, "cannot read", "metadata.json")

    def test_folder_that_tensorflow_takes_for_a_pattern(self):
        path = self.copy().rename(self.path.with_name("a[b]"))
        self.addCleanup(shutil.rmtree, path)
        self.assert_error(path, "[", "pattern")

    def test_other_metadata(self):
        for metadata in (
            *(3, "text", [[]], [["image_shape", "num_colors"]], {}),
            {"image_shape": [4, 4, 1]},
            {"num_colors": 17},
        ):
            self.assert_error(self.copy(metadata), "another program")

    def test_version_to_come(self):
        """Whatever else it says."""
        for version in (4, 0, "two\nlines", [2], None, 10**400):
            metadata = METADATA | {"format": version, "num_colors": "any"}
            self.assert_error(self.copy(metadata), "another version", "format")

    def test_damaged_metadata(self):
        path = self.copy()
        for key, values in DAMAGED.items():
            for value in (*values, *NEVER):
                with self.subTest(key, value=str(value)[:20]):
                    metadata = METADATA | {key: value}
                    (path / "metadata.json").write_text(json.dumps(metadata))
                    self.assert_error(
                        path, f"metadata.json is damaged: {key} is "
                    )

    def test_another_model(self):
        for values, message in (
            ({"image_shape": [4, 8, 1]}, "4x8x1 with 17 levels"),
            ({"image_shape": [2**30, 1, 1]}, "1073741824x1x1"),
            ({"num_colors": 2}, "4x4x1 with 2 levels"),
        ):
            path = self.copy(METADATA | values)
            raw = small_models.loaded()
            with mock.patch.object(tf.saved_model, "load", return_value=raw):
                self.assert_error(path, message, "4x4x1 with 17 levels")

    def test_another_program(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        tf.saved_model.save(tf.Module(), str(folder))
        self.assert_error(folder, "no metadata.json")
        (folder / "metadata.json").write_text(json.dumps(METADATA))
        self.assert_error(folder, "another program")

    @parameterized.parameters("graph", "some_weights", "variables")
    def test_damaged(self, what):
        path = self.copy()
        (weights,) = path.glob("variables/variables.data-*")
        if what == "graph":
            (path / "saved_model.pb").write_bytes(b"half of it")
        elif what == "variables":
            shutil.rmtree(path / "variables")
        else:
            weights.write_bytes(weights.read_bytes()[:500])
        self.assert_error(path, "cannot be loaded")


class StreamTest(tf.test.TestCase):
    def test_all_are_different(self):
        last_seed, last_index = 2**32 - 1, 2**31 - 1
        streams = {
            saved_model.stream(seed, index)
            for seed in (0, 1, last_seed - 1, last_seed)
            for index in (0, 1, last_index - 1, last_index)
        }
        self.assertLen(streams, 16)
        self.assertBetween(max(streams), 0, 2**63 - 1)
        self.assertEqual(saved_model.stream(7, 0), 7)


class ImportanceBoundTest(tf.test.TestCase):
    def test_values(self):
        densities = np.array([[0.5, 0.25], [0.25, 0.25], [0.125, 0.25]])
        self.assertAllClose(
            saved_model.importance_bound(np.log(densities)),
            [math.log(0.875 / 3), math.log(0.25)],
        )

    def test_small_densities(self):
        """Densities that floats don't hold."""
        log_probs = np.array([[-8000.0], [-8001.0]])
        expected = -8000.0 + math.log((1.0 + math.exp(-1.0)) / 2.0)
        self.assertAllClose(
            saved_model.importance_bound(log_probs), [expected], rtol=1e-12
        )


if __name__ == "__main__":
    tf.test.main()
