"""Tests of data sets whose images have contexts."""

import folders
import numpy as np
import small_models
from absl.testing import parameterized

from tf_realnvp import data
from tf_realnvp.errors import DataError


class DataTest(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.images = small_models.images(40)
        # Tells which image it belongs to.
        self.means = self.images.mean(axis=(1, 2), dtype=np.float32)
        self.grids = np.float32(self.images) / 2.0

    def assert_together(self, images, context):
        means = np.mean(images, axis=(1, 2), dtype=np.float32)
        self.assertAllClose(context, means)

    def test_single(self):
        np.savez(
            self.folder / "a.npz",
            images=self.images,
            num_colors=17,
            context=self.means,
            labels=np.arange(40) % 2,
        )
        dataset = data.load(self.folder / "a.npz", labels=True)
        self.assertEqual(dataset.context_shape, (1,))
        dataset = dataset.hold_out(5, seed=0)
        for split in dataset.splits:
            for batch in dataset.batches(split, 7):
                self.assert_together(batch[0], batch[1]["context"])
                self.assertIn("label", batch[1])
        for batch in dataset.train_batches(4, seed=1, epoch=2):
            self.assert_together(batch[0], batch[1]["context"])
        plain = data.load(self.folder / "a.npz")
        other = data.arrays.from_images(self.images, 17, context=-self.means)
        same = data.arrays.from_images(self.images, 17, context=self.means)
        self.assertEqual(plain.fingerprint, same.fingerprint)
        self.assertNotEqual(plain.fingerprint, other.fingerprint)

    def test_several(self):
        parts = {"train": slice(30), "test": slice(30, 40)}
        entries = {"num_colors": 17}
        for name, part in parts.items():
            entries[name] = self.images[part]
            entries[f"{name}_context_mean"] = self.means[part]
            entries[f"{name}_context_grid"] = self.grids[part]
        np.savez(self.folder / "a.npz", **entries)
        dataset = data.load(self.folder / "a.npz")
        self.assertEqual(
            dataset.context_shape, {"mean": (1,), "grid": (4, 4, 1)}
        )
        images, condition = next(iter(dataset.batches("test", 3)))
        self.assert_together(images, condition["context"]["mean"])
        context = dataset.context("test", [4, 2])
        self.assertAllEqual(context["grid"], self.grids[[34, 32]])
        with self.assertRaisesRegex(DataError, "flip"):
            data.load(self.folder / "a.npz", flip=True)
        del entries["test_context_mean"]
        np.savez(self.folder / "b.npz", **entries)
        with self.assertRaisesRegex(DataError, "test_context_mean"):
            data.load(self.folder / "b.npz")

    @parameterized.parameters(
        (np.zeros([39, 1]),),
        (np.zeros([40]),),
        (np.full([40, 2], np.inf),),
        (np.full([40, 1], "a"),),
        # Which float32 cannot hold, or tell apart.
        (np.full([40, 1], 1e300),),
        (np.linspace(0.0, 1e-40, 40)[:, np.newaxis],),
        (1.7e9 + 0.3 * np.arange(40)[:, np.newaxis],),
    )
    def test_invalid(self, context):
        with self.assertRaisesRegex(DataError, "context"):
            data.arrays.from_images(self.images, 17, context=context)

    @parameterized.parameters(
        ("train test context", "context"),
        ("train test test_context", "test_context"),
        ("train test train_context", "test_context"),
        ("images train_context", "train_context"),
        ("images context context_context", "context_context"),
        ("images contexts", "contexts"),
        (
            "train test train_context_a test_context_a test_context_b",
            "test_context_b",
        ),
    )
    def test_entries_that_are_not_used(self, names, wrong):
        entries = {
            name: self.means if "context" in name else self.images
            for name in names.split()
        }
        np.savez(self.folder / "a.npz", num_colors=17, **entries)
        with self.assertRaisesRegex(DataError, f"a.npz: `{wrong}` is "):
            data.load(self.folder / "a.npz")

    def test_constant(self):
        """It is no mistake, as of a single value of a parameter."""
        context = np.full([40, 2], [1.7e9, 0.1])
        dataset = data.arrays.from_images(self.images, 17, context=context)
        self.assertEqual(dataset.context_shape, (2,))
