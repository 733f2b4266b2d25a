"""Tests for config: settings that are checked, stored and compared."""

import dataclasses
import json
import math

import tensorflow as tf
from absl.testing import parameterized
from settings import GIVEN

from tf_realnvp import data
from tf_realnvp.config import (
    NAMED_DATASETS,
    DataDescription,
    TrainingConfig,
)

SETTINGS = TrainingConfig.of_dataset(
    "digits", lr=1e-3, seed=0, precision="float32"
)


class TrainingConfigTest(tf.test.TestCase, parameterized.TestCase):
    def test_defaults_of_data_sets(self):
        self.assertEqual(NAMED_DATASETS, data.DATASETS)
        for name, expected in (
            ("CIFAR10", (350, 128, 8)),
            ("CelebA", (50, 128, 8)),
            ("digits", (15, 32, 2)),
            ("fashion_mnist", (50, 128, 8)),
            ("my_pictures", (100, 128, 8)),
        ):
            config = TrainingConfig.of_dataset(name, epochs=None)
            self.assertEqual(
                (config.epochs, config.filters, config.num_blocks), expected
            )
        self.assertEqual(TrainingConfig.of_dataset("digits", lr=0.5).lr, 0.5)

    def test_defaults_without_a_rate(self):
        """Documented commands, which give one, are what they always were."""
        names = "lr", "lr_schedule", "warmup_steps", "clip_grad", "batch_size"

        def defaults(**settings):
            config = TrainingConfig.of_dataset("CelebA", **settings)
            return tuple(getattr(config, name) for name in names)

        self.assertEqual(defaults(lr=3e-4), (3e-4, "constant", 0, None, 64))
        self.assertEqual(defaults(), (3e-3, "cosine", 100, 1.0, 32))
        self.assertEqual(TrainingConfig.of_dataset("digits").lr, 1e-2)
        self.assertEqual(
            defaults(batch_size=8, warmup_steps=0),
            (3e-3, "cosine", 0, 1.0, 8),
        )

    def test_what_a_run_keeps(self):
        """How it began decides, where nothing is said when it goes on."""
        before = TrainingConfig.of_dataset(
            "digits",
            **{"epochs": 50, "lr": 0.5, "clip_grad": 2.0, "seed": 3},
            precision="bfloat16",
        )
        for settings, changes in (
            ({"precision": "auto"}, {}),
            ({"lr": 0.25}, {"lr": 0.25}),
            ({"clip_grad": 1.0, "seed": 4}, {"clip_grad": 1.0, "seed": 4}),
            # All else is said anew each time.
            ({"ema": 0.5}, {"ema": 0.5}),
        ):
            self.assertEqual(
                TrainingConfig.of_dataset("digits", before, **settings),
                dataclasses.replace(before, **changes),
            )
        # That the rate is the default one, and falls, is kept as well.
        before = TrainingConfig.of_dataset("digits", seed=3)
        self.assertEqual(TrainingConfig.of_dataset("digits", before), before)

    @parameterized.product(
        [
            {"name": name, "value": value}
            for name, values in {
                "dataset": ("", None, 1),
                "image_size": (0, 3, "8", True, math.nan, (4, 3), (4,)),
                "num_bits": (0, 9),
                "flip": (1, "yes", None),
                "num_validation": (0, -1),
                "epochs": (0, 1.5, None),
                "lr": (0, -1.0, math.inf, math.nan, 1e39, "0.1", True),
                "lr_schedule": ("linear", None, ["cosine"]),
                "warmup_steps": (-1,),
                "ema": (0.0, 1.0),
                "batch_size": (0,),
                "clip_grad": (0.0,),
                "seed": (-1, 2**32),
                "max_steps": (0,),
                "filters": (0, 3),
                "num_blocks": (0,),
                "alpha": (0.0, 1.0),
                "num_scales": (1,),
                "num_couplings": ((3, 3), (3, 0, 3), (1, 1.5, 2), 3, "333"),
                "dequantization": ("learned", None),
                "precision": ("float16",),
                "accumulate": (0, 65),  # Of a batch of 64.
                "devices": (0,),
                "run_dir": (None, 1),
                "checkpoint_minutes": (0.0,),
                "samples_every": (0,),
            }.items()
            for value in values
        ]
    )
    def test_out_of_range(self, name, value):
        with self.assertRaisesRegex(ValueError, f"`{name}` must be"):
            dataclasses.replace(SETTINGS, **{name: value})

    def test_stored_and_read_back(self):
        config = dataclasses.replace(
            SETTINGS, ema=0.9, flip=True, lr=0.1 + 0.2, num_couplings=[4, 5, 6]
        )
        stored = json.loads(json.dumps(dataclasses.asdict(config)))
        self.assertEqual(TrainingConfig.from_json(stored), config)
        # What an older version did not know was as the default is.
        config = dataclasses.replace(config, num_couplings=(3, 3, 4))
        for name in ("flip", "num_couplings", "deterministic", "epochs"):
            del stored[name]
        older = TrainingConfig.from_json(stored)
        self.assertEqual(older, dataclasses.replace(config, flip=False))

    @parameterized.parameters(
        ({"of_a_version_to_come": 1}, "of_a_version_to_come"),
        ({"seed": None}, "seed"),
        ({"filters": None}, "filters"),
        ({"lr": "fast"}, "lr"),
    )
    def test_damaged(self, changes, name):
        stored = dataclasses.asdict(SETTINGS) | changes
        with self.assertRaisesRegex(ValueError, name):
            TrainingConfig.from_json(stored)
        for other in (None, [], "x", 1):
            with self.assertRaises(ValueError):
                TrainingConfig.from_json(other)

    # Values other than those of `SETTINGS`.
    OTHERS = {name: value for name, (value, _) in GIVEN.items()}
    OTHERS["dataset"] = "CIFAR10"

    def names_that_differ(self, differences):
        """Returns the settings that are compared, each with its own words."""
        found = set()
        for name, value in self.OTHERS.items():
            other = dataclasses.replace(SETTINGS, **{name: value})
            words = differences(other)
            if words:
                self.assertLen(words, 1)
                self.assertContainsSubset(["instead", "of"], words[0].split())
                self.assertEqual(words[0].count(f"`{name}`"), 2)
                found.add(name)
        return found

    def test_what_a_run_must_keep(self):
        self.assertLen(self.OTHERS, len(dataclasses.fields(TrainingConfig)))
        found = self.names_that_differ(lambda c: c.differences(SETTINGS))
        self.assertEqual(
            found,
            {
                *("dataset", "image_size", "flip", "num_validation", "seed"),
                *("batch_size", "filters", "num_blocks", "num_scales"),
                *("num_couplings", "num_bits", "alpha"),
                "dequantization",
                *("init_from", "precision", "deterministic", "ema"),
                "conditional",
            },
        )
        other = dataclasses.replace(SETTINGS, flip=True, seed=3)
        self.assertEqual(
            other.differences(SETTINGS),
            ["`flip` instead of no `flip`", "`seed` 3 instead of `seed` 0"],
        )

    def test_pictures_that_are_elsewhere_now(self):
        """They are compared by themselves."""
        config = dataclasses.replace(SETTINGS, dataset="pictures")
        for moved in ("./pictures", "/data/pictures/", "../pictures"):
            other = dataclasses.replace(config, dataset=moved)
            self.assertEqual(other.differences(config), [])

    def test_what_workers_may_have_apart(self):
        found = self.names_that_differ(
            lambda c: c.differences_of_worker(SETTINGS)
        )
        self.assertEqual(
            self.OTHERS.keys() - found,
            {
                *("dataset", "data_dir", "output_dir", "run_dir"),
                *("checkpoint_minutes", "samples_every", "verbose"),
            },
        )
        follower = dataclasses.replace(SETTINGS, precision="auto")
        self.assertEmpty(follower.differences_of_worker(SETTINGS))


class DataDescriptionTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.digits = DataDescription.of(data.load("digits", ""))

    def test_digits(self):
        self.assertEqual(self.digits.image_shape, (8, 8, 1))
        self.assertEqual(self.digits.num_colors, 17)
        self.assertEqual(self.digits.num_train, 1437)
        self.assertEqual(self.digits.num_test, 360)

    def test_stored_and_read_back(self):
        stored = json.loads(json.dumps(dataclasses.asdict(self.digits)))
        self.assertEqual(DataDescription.from_json(stored), self.digits)
        self.assertIsNone(self.digits.of_images["num_classes"])
        # Once there was nothing of classes where there are none.
        del stored["class_names"], stored["class_probs"]
        self.assertEqual(DataDescription.from_json(stored), self.digits)
        for changes in (
            {"image_shape": [8, 8]},
            {"image_shape": "8x8"},
            {"num_train": True},
            {"num_test": "9"},
            {"fingerprint": None},
            {"more": 1},
        ):
            with self.assertRaises(ValueError):
                DataDescription.from_json(stored | changes)
        with self.assertRaises(ValueError):
            DataDescription.from_json(None)

    def test_classes(self):
        digits = DataDescription.of(data.load("digits", "", labels=True))
        self.assertEqual(digits.of_images["num_classes"], 10)
        self.assertAllClose(sum(digits.of_images["class_probs"]), 1.0)
        stored = json.loads(json.dumps(dataclasses.asdict(digits)))
        self.assertEqual(DataDescription.from_json(stored), digits)
        for changes in (
            {"class_names": ["a"]},
            {"class_names": list(range(10))},
            {"class_probs": ["1"] * 10},
            {"class_probs": None},
        ):
            with self.assertRaises(ValueError):
                DataDescription.from_json(stored | changes)
        self.assertEqual(
            [words.split()[:2] for words in digits.differences(self.digits)],
            [["10", "classes"], ["fingerprint", digits.fingerprint[:12]]],
        )

    def test_differences(self):
        other = dataclasses.replace(
            self.digits, image_shape=(32, 32, 3), num_train=50000
        )
        self.assertEqual(
            self.digits.differences(other),
            [
                "8x8x1 instead of 32x32x3",
                "1,437 training images instead of 50,000 training images",
            ],
        )
        self.assertEmpty(other.differences(other))
        # Its end tells versions of TFDS's data sets from each other.
        digits = dataclasses.replace(
            self.digits, class_names=("a", "b"), fingerprint="mnist/3.0.1 train"
        )
        for changes in (
            {"num_colors": 16},
            {"num_test": 1},
            {"fingerprint": "another"},
            {"fingerprint": "mnist/3.0.2 train"},
            {"class_names": ("b", "a")},
        ):
            other = dataclasses.replace(digits, **changes)
            self.assertLen(digits.differences(other), 1)


if __name__ == "__main__":
    tf.test.main()
