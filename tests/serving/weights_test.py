"""Tests for weights and metadata: models that are damaged."""

import json

import folders
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.errors import ModelError
from tf_realnvp.serving import metadata, weights


class DamagedTest(folders.FolderTestCase, parameterized.TestCase):
    """A damaged model is reported in one line."""

    def copy(self, **changes):
        """Returns a copy of a model, with other metadata."""
        path = small_models.saved(small_models.conditional)
        return small_models.copied(path, self.folder, **changes)

    def assert_error(self, path, *messages):
        with self.assertRaises(ModelError) as context:
            weights.load_model(path)
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
        {"format": 3, "observe": "mask"},
    )
    def test_damaged_metadata(self, **changes):
        is_version = "format" in changes
        message = "another version" if is_version else "damaged: 3 classes"
        self.assert_error(self.copy(**changes), message)

    def test_optional_metadata(self):
        path = self.copy(source="/caf\udce9", format=3)
        content = json.loads((path / metadata.FILE).read_text())
        del content["class_names"]
        (path / metadata.FILE).write_text(json.dumps(content))
        read = weights.load_model(path)
        self.assertEqual(read.metadata["source"], "/caf\udce9")
        self.assertEqual(read.class_names, ("0", "1", "2"))

    @parameterized.parameters(False, True)
    def test_damaged(self, is_foreign):
        path = self.copy()
        if is_foreign:
            tf.saved_model.save(tf.Module(), str(path))
        else:
            (weights,) = path.glob("variables/variables.data-*")
            weights.write_bytes(weights.read_bytes()[:500])
        self.assert_error(path, "cannot be read")
