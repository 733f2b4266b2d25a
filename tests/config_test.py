"""Tests for config: settings that are checked, stored and compared."""

import dataclasses

import tensorflow as tf
from absl.testing import parameterized
from settings import GIVEN

from tf_realnvp.config import DataDescription, TrainingConfig

SETTINGS = TrainingConfig(
    dataset="fashion_mnist", lr=1e-3, seed=0, precision="float32", max_steps=5
)
DATA = DataDescription((8, 8, 1), 17, 1437, 360, "digits", ("a", "b"), (0.5,))
# What only the first or another worker may have, and what may change.
OF_EACH_WORKER = {
    *("dataset", "image_size", "tiles", "num_bits", "data_dir", "output_dir"),
    *("run_dir", "checkpoint_minutes", "samples_every", "verbose"),
}
MAY_CHANGE = OF_EACH_WORKER | {
    *("epochs", "lr", "lr_schedule", "warmup_steps", "clip_grad", "max_steps"),
    *("precision", "accumulate", "recompute", "jit", "devices", "minutes"),
}
# Values that settings do not take; `checks_test` has more of each range.
OUT_OF_RANGE = (
    (0, "flip num_validation epochs lr lr_schedule ema batch_size clip_grad"),
    (0, "image_size num_bits max_steps filters num_blocks alpha num_scales"),
    (0, "tiles"),
    (0, "num_couplings dequantization conditional precision deterministic"),
    (0, "accumulate recompute jit devices checkpoint_minutes samples_every"),
    (0, "verbose dataset init_from data_dir output_dir run_dir padding"),
    (0, "channel_masks minutes"),
    (-1, "warmup_steps seed"),
    (None, "dataset"),
    (1.0, "ema alpha num_scales"),
    (17, "num_bits"),
    (2**32, "seed num_scales"),
    (3, "filters image_size"),
    ((4, 3), "image_size num_couplings"),
    ("float16", "precision"),
    ("sgd", "optimizer"),
    (float("nan"), "minutes"),
)


class TrainingConfigTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("CIFAR10", {}, (350, "muon", 1e-2, "cosine", 100, 1.0, 32, 128, 8)),
        (
            "FashionMNIST:3.0.1",
            {"optimizer": "adam"},
            (50, "adam", 1e-2, "cosine", 100, 1.0, 32, 128, 8),
        ),
        # Documented commands give a rate.
        (
            "CelebA",
            {"lr": 3e-4},
            (50, "adam", 3e-4, "constant", 0, None, 64, 128, 8),
        ),
        (
            "digits",
            {"warmup_steps": 0},
            (9, "muon", 1e-2, "cosine", 0, 1.0, 32, 96, 1),
        ),
    )
    def test_defaults(self, dataset, settings, expected):
        config = TrainingConfig(dataset=dataset, epochs=None, **settings)
        names = "epochs optimizer lr lr_schedule warmup_steps clip_grad"
        names += " batch_size filters num_blocks"
        found = tuple(getattr(config, name) for name in names.split())
        self.assertEqual(found, expected)

    @parameterized.parameters(
        ({"precision": "auto"}, {}),
        ({"lr": 0.25}, {"lr": 0.25}),
        ({"clip_grad": 1.0, "seed": 4}, {"clip_grad": 1.0, "seed": 4}),
        ({"ema": 0.5}, {"ema": 0.5}),
    )
    def test_what_a_run_keeps(self, settings, changes):
        before = TrainingConfig(
            dataset="digits",
            **{"epochs": 50, "lr": 0.5, "clip_grad": 2.0, "seed": 3},
            **{"precision": "bfloat16", "optimizer": "muon"},
        )
        config = TrainingConfig(dataset="digits", before=before, **settings)
        self.assertEqual(config, dataclasses.replace(before, **changes))

    def test_out_of_range(self):
        for value, names in OUT_OF_RANGE:
            for name in names.split():
                with self.assertRaisesRegex(ValueError, f"`{name}` must be"):
                    dataclasses.replace(SETTINGS, **{name: value})

    def test_what_must_be_the_same(self):
        fields = dataclasses.fields(TrainingConfig)
        differing = [f.name for f in fields if not f.metadata["same"]]
        self.assertCountEqual(differing, OF_EACH_WORKER)
        others = {name: value for name, (value, _) in GIVEN.items()}
        others["dataset"] = "CIFAR10"
        self.assertLen(others, len(fields))
        for name, value in others.items():
            other = dataclasses.replace(SETTINGS, **{name: value})
            words = other.differences(SETTINGS)
            self.assertLen(words, name not in MAY_CHANGE, name)
            for phrase in words:
                self.assertIn(" instead of ", phrase)
                self.assertStartsWith(phrase, f"`{name}` ")


class DataDescriptionTest(tf.test.TestCase):
    def test_differences(self):
        """Class frequencies do not count, as they follow from the labels."""
        other = DataDescription((4, 6, 3), 16, 2000, 1, "b", ("b",), (0.3,))
        found = DATA.differences(other)
        self.assertLen(found, 6)
        self.assertEqual(found[2], "`num_train` 1437 instead of 2000")
        self.assertEmpty(DATA.differences(DATA))
