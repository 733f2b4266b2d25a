"""Tests for settings: what is compared, and how differences are told."""

import argparse

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import data
from tf_realnvp.training import settings


class DataTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.record = settings.describe(data.load("digits", ""))

    def test_description(self):
        self.assertEqual(self.record["image_shape"], [8, 8, 1])
        self.assertEqual(self.record["num_colors"], 17)
        self.assertEqual(self.record["num_train"], 1437)
        self.assertEqual(self.record["num_test"], 360)
        self.assertTrue(settings.is_description(self.record))
        self.assertFalse(settings.is_description(None))

    def test_differences(self):
        other = self.record | {"image_shape": [32, 32, 3], "num_train": 50000}
        self.assertEqual(
            settings.differences_of_data(self.record, other),
            [
                "8x8x1 instead of 32x32x3",
                "1,437 training images instead of 50,000 training images",
            ],
        )
        self.assertEmpty(settings.differences_of_data(other, other))


class FlagsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("flip", True, "--flip"),
        ("flip", False, "no --flip"),
        ("ema", None, "no --ema"),
        ("seed", 0, "--seed 0"),
        ("lr", 1e-5, "--lr 1e-05"),
    )
    def test_spelling(self, name, value, expected):
        self.assertEqual(settings.spell(name, value), expected)

    def test_run(self):
        """What a run may change on its way is not compared."""
        before = argparse.Namespace(
            dataset="digits",
            image_size=None,
            flip=False,
            seed=0,
            batch_size=64,
            filters=32,
            num_blocks=2,
            num_scales=2,
            precision="float32",
            ema=None,
            lr=1e-3,
            epochs=3,
        )
        flags = argparse.Namespace(**vars(before))
        flags.lr, flags.epochs = 0.5, 10
        self.assertEmpty(settings.differences_of_run(flags, before))
        flags.flip, flags.seed = True, 1
        self.assertEqual(
            settings.differences_of_run(flags, before),
            ["--flip instead of no --flip", "--seed 1 instead of --seed 0"],
        )

    def test_worker(self):
        """Everything is compared but where things are."""
        chief = {"precision": "bfloat16", "lr": 0.5, "run_dir": "a"}
        for worker, expected in (
            (chief | {"run_dir": "b"}, []),
            (chief | {"precision": "auto"}, []),
            (
                chief | {"precision": "float32"},
                ["--precision float32 instead of --precision bfloat16"],
            ),
            (chief | {"lr": 0.25}, ["--lr 0.25 instead of --lr 0.5"]),
            # Of another version.
            ({"precision": "auto"}, ["no --lr instead of --lr 0.5"]),
        ):
            self.assertEqual(
                settings.differences_of_worker(worker, chief), expected
            )


if __name__ == "__main__":
    tf.test.main()
