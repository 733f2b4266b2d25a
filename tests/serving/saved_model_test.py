"""Tests for saved_model."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import command_lines
import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import RealNVP
from tf_realnvp.cli import commands
from tf_realnvp.errors import ModelError
from tf_realnvp.serving import export, saved_model

METADATA = {"image_shape": [4, 4, 3], "num_colors": 256}
# Values that no model has, of any that JSON knows.
NEVER = (
    True,
    -1,
    0,
    1e9,
    10**4000,
    math.nan,
    -math.inf,
    "",
    [],
    [[4, 4, 3]],
    {},
    {"4": 4},
)
DAMAGED = (
    *(("image_shape", value) for value in NEVER),
    *(("num_colors", value) for value in NEVER),
    *(("source", value) for value in NEVER),
    *(("dataset", value) for value in NEVER),
    *(("image_shape", [value, 4, 3]) for value in NEVER),
    *(("image_shape", [4, 4, value]) for value in NEVER),
    ("image_shape", None),
    ("image_shape", 4),
    ("image_shape", "4x4"),
    ("image_shape", "443"),
    ("image_shape", ["4", "4", "3"]),
    ("image_shape", [4, 4]),
    ("image_shape", [4, 4, 3, 1]),
    ("image_shape", [4.0, 4, 3]),
    ("image_shape", [[4], [4], [3]]),
    ("image_shape", [[4, 4, 3]] * 3),
    ("image_shape", {"H": 4, "W": 4, "C": 3}),
    ("image_shape", [2**11, 2**11, 2**9]),
    ("num_colors", None),
    ("num_colors", 1),
    ("num_colors", 257),
    ("num_colors", 10**9),
    ("num_colors", 256.0),
    ("num_colors", "many"),
    ("num_colors", "256"),
    ("num_colors", [256]),
    ("source", 3),
    ("source", ["digits"]),
    ("source", "di\0gits"),
    ("source", "di\ud800gits"),
)


def make_model():
    """A small model, its weights moved off their initial values."""
    keras.utils.set_random_seed(0)
    model = RealNVP((4, 4, 3), filters=4, num_blocks=1)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign_add(rng.normal(scale=0.3, size=variable.shape))
    return model


class SavedModelTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.path = pathlib.Path(folder) / "model"
        cls.model = make_model()
        export.save(cls.model, cls.path, {"dataset": "pebbles"})
        cls.loaded = saved_model.SavedModel(cls.path)
        rng = np.random.default_rng(1)
        cls.images = rng.integers(256, size=(130, 4, 4, 3)).astype(np.uint8)

    def test_attributes(self):
        self.assertEqual(self.loaded.image_shape, (4, 4, 3))
        self.assertEqual(self.loaded.num_colors, 256)
        self.assertEqual(self.loaded.num_dims, 48)
        self.assertEqual(self.loaded.dataset, "pebbles")

    def test_metadata_file_is_that_of_export(self):
        self.assertEqual(saved_model.METADATA_FILE, export.METADATA_FILE)

    @parameterized.parameters(1, 64, 65, 130)
    def test_sample(self, n):
        batches = list(self.loaded.sample(n, 0.5, seed=2**32 - 1))
        self.assertLessEqual(max(map(len, batches)), saved_model.BATCH_SIZE)
        images = np.concatenate(batches)
        self.assertEqual(images.dtype, np.uint8)
        self.assertEqual(images.shape, (n, 4, 4, 3))
        first = min(n, saved_model.BATCH_SIZE)
        self.assertAllEqual(
            images[:first], self.model.sample(first, 0.5, seed=2**32 - 1)
        )
        # No batch repeats another.
        self.assertLen(np.unique(images, axis=0), n)

    def test_neighbouring_seeds_share_no_samples(self):
        images = np.concatenate(
            [b for seed in (0, 1) for b in self.loaded.sample(130, 1.0, seed)]
        )
        self.assertLen(np.unique(images, axis=0), 260)

    def test_log_prob(self):
        for n, seed in ((3, 5), (1, 5), (3, 5 + (7 << 32))):
            images = self.images[:n]
            log_prob = self.loaded.log_prob(images, seed)
            self.assertEqual(log_prob.dtype, np.float64)
            self.assertAllClose(
                log_prob, self.model.log_prob(images, seed), rtol=1e-5
            )

    def test_latents(self):
        latents = self.loaded.encode(self.images)
        self.assertEqual(latents.shape, (130, 2, 2, 12))
        self.assertAllClose(
            latents, self.model.encode(self.images), rtol=1e-4, atol=1e-4
        )
        self.assertAllEqual(self.loaded.decode(latents), self.images)

    def copy(self):
        """A copy of the model, to break."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        return pathlib.Path(shutil.copytree(self.path, f"{folder}/copy"))

    def assert_error(self, path, *messages):
        with self.assertRaises(ModelError) as context:
            saved_model.SavedModel(path)
        message = str(context.exception)
        self.assertNotIn("\n", message)
        for part in (str(path), *messages):
            self.assertIn(part, message)

    def test_no_model(self):
        self.assert_error(self.path.parent, "realnvp_DATASET")
        self.assert_error(self.path / "missing", "realnvp_DATASET")
        self.assert_error(self.path / "saved_model.pb", "realnvp_DATASET")

    def test_no_metadata(self):
        path = self.copy()
        (path / "metadata.json").unlink()
        self.assert_error(path, "no metadata.json")

    @parameterized.parameters(
        "",
        "{",
        '{"image_shape": [4, 4',
        b"\xff",
        "[" * 100_000,
        '{"num_colors": 1' + 5000 * "0" + "}",
    )
    def test_unreadable_metadata(self, content):
        path = self.copy()
        if isinstance(content, str):
            content = content.encode()
        (path / "metadata.json").write_bytes(content)
        self.assert_error(path, "cannot read", "metadata.json")

    def test_metadata_that_is_no_file(self):
        path = self.copy()
        (path / "metadata.json").unlink()
        # Nobody writes into it: reading would wait for ever.
        os.mkfifo(path / "metadata.json")
        self.assert_error(path, "no metadata.json")

    @parameterized.parameters(
        3, "text", None, [[]], [["image_shape", "num_colors"]], ({},)
    )
    def test_other_metadata(self, metadata):
        path = self.copy()
        for content in (
            metadata,
            {"image_shape": [4, 4, 3], "more": metadata},
            {"num_colors": 256, "more": metadata},
        ):
            (path / "metadata.json").write_text(json.dumps(content))
            self.assert_error(path, "another program")

    @parameterized.parameters(*DAMAGED)
    def test_damaged_metadata(self, key, value):
        path = self.copy()
        metadata = METADATA | {key: value}
        (path / "metadata.json").write_text(json.dumps(metadata))
        self.assert_error(path, f"metadata.json is damaged: {key} is ")

    @parameterized.parameters(
        {"image_shape": [4, 8, 3]},
        {"image_shape": [2**30, 1, 1]},
        {"num_colors": 2},
    )
    def test_metadata_of_another_model(self, **values):
        path = self.copy()
        metadata = METADATA | values
        (path / "metadata.json").write_text(json.dumps(metadata))
        size = "x".join(map(str, metadata["image_shape"]))
        self.assert_error(
            path,
            f"{size} with {metadata['num_colors']} levels",
            "4x4x3 with 256 levels",
        )

    @parameterized.parameters(
        ("sample", "MODEL"),
        ("evaluate", "MODEL"),
        ("interpolate", "MODEL", "a.png", "b.png"),
        ("manifold", "MODEL", "a.png", "b.png", "c.png", "d.png"),
        ("reconstruct", "MODEL", "a.png"),
        ("score", "MODEL", "pictures"),
    )
    def test_damaged_metadata_in_a_command(self, command, *arguments):
        path = self.copy()
        self.enterContext(contextlib.chdir(path.parent))
        path.rename("MODEL")
        for content in (
            "[" * 100_000,
            "[1, 2]",
            json.dumps(METADATA | {"image_shape": [0, 4, 1]}),
            json.dumps(METADATA | {"num_colors": 10**9}),
            json.dumps(METADATA | {"source": 3}),
        ):
            pathlib.Path("MODEL/metadata.json").write_text(content)
            code, stdout, stderr = command_lines.call(
                commands.main, command, *arguments
            )
            self.assertEqual((code, stdout), (2, ""), stderr)
            self.assertRegex(stderr, rf"^.* {command}: error: .*MODEL.*\n$")

    def test_metadata_without_data_set(self):
        path = self.copy()
        (path / "metadata.json").write_text(json.dumps(METADATA))
        self.assertIsNone(saved_model.SavedModel(path).dataset)

    @parameterized.parameters("/my/pebbles", "/caf\udce9")
    def test_metadata_with_a_folder(self, folder):
        path = self.copy()
        metadata = METADATA | {"dataset": "pebbles", "source": folder}
        (path / "metadata.json").write_text(json.dumps(metadata))
        self.assertEqual(saved_model.SavedModel(path).dataset, folder)

    def test_older_model(self):
        """Models written before did not tell their number of levels."""
        load = tf.saved_model.load

        def load_older(path):
            model = load(path)
            del model._num_colors
            return model

        with mock.patch.object(tf.saved_model, "load", load_older):
            loaded = saved_model.SavedModel(self.path)
        self.assertEqual(loaded.num_colors, 256)
        self.assertAllEqual(
            loaded.encode(self.images), self.loaded.encode(self.images)
        )

    def test_other_model(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        tf.saved_model.save(tf.Module(), str(folder))
        self.assert_error(folder, "no metadata.json")
        (folder / "metadata.json").write_text(json.dumps(METADATA))
        self.assert_error(folder, "another program")

    def test_damaged_graph(self):
        path = self.copy()
        (path / "saved_model.pb").write_bytes(b"half of it")
        self.assert_error(path, "cannot be loaded")

    @parameterized.parameters(0, 5000)
    def test_damaged_weights(self, size):
        path = self.copy()
        (weights,) = path.glob("variables/variables.data-*")
        weights.write_bytes(weights.read_bytes()[:size])
        self.assert_error(path, "cannot be loaded")

    def test_missing_weights(self):
        path = self.copy()
        shutil.rmtree(path / "variables")
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

    def test_one_draw(self):
        log_probs = np.random.default_rng(0).normal(size=[1, 5])
        self.assertAllEqual(
            saved_model.importance_bound(log_probs), log_probs[0]
        )

    def test_small_densities(self):
        """Densities that floats don't hold."""
        log_probs = np.array([[-8000.0], [-8001.0]])
        expected = -8000.0 + math.log((1.0 + math.exp(-1.0)) / 2.0)
        self.assertAllClose(
            saved_model.importance_bound(log_probs), [expected], rtol=1e-12
        )

    def test_rises_with_the_number_of_draws(self):
        log_probs = np.random.default_rng(0).normal(size=[16, 4000])
        bounds = [
            saved_model.importance_bound(log_probs[:k]).mean()
            for k in (1, 2, 4, 8, 16)
        ]
        self.assertAllGreater(np.diff(bounds), 0.0)
        # The mean density is that of which the logarithm is the limit.
        self.assertAllLess(bounds, 0.5)


if __name__ == "__main__":
    tf.test.main()
