"""Tests for choice: the settings that `minutes` chooses."""

from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import arrays
from tf_realnvp.flow.architecture import ARCHITECTURE
from tf_realnvp.training import choice
from tf_realnvp.utils import runtime


def choose(shape, num_images=40, speed=1.0, **settings):
    images = np.zeros([num_images, *shape], np.uint8)
    dataset = arrays.make("random", [images, images[:2]], 32)
    config = TrainingConfig(dataset="random", **settings)
    with mock.patch.object(choice, "_measure_speed", lambda _: speed):
        return choice.choose(config, dataset)


class ChoiceTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        shape=((4, 4, 1), (8, 8, 1), (28, 28, 1), (30, 90, 3), (64, 48, 3)),
        minutes=(0.1, 10.0, 1e4),
    )
    def test_any_image(self, shape, minutes):
        chosen = choose(shape, minutes=minutes)
        config = TrainingConfig(dataset="random", minutes=minutes, **chosen)
        self.assertContainsSubset(chosen.items(), vars(config).items())
        # Processors are set up before images are seen, for larger models.
        num_parts, _ = runtime.fastest_cpus(max(shape[:2]), config.filters)
        self.assertEqual(num_parts, min(2, runtime.num_cores()))
        if minutes < 1.0:
            tf_realnvp.RealNVP(shape, 32, **config.architecture)

    def test_larger_models_for_more_time(self):
        for name, changes in {
            "filters": {"minutes": 10.0},
            "ema": {"minutes": 100.0},
            "dequantization": {"minutes": 1.0, "speed": 10.0},
            "num_validation": {"num_images": 300},
            "num_scales": {"shape": (64, 64, 3)},
        }.items():
            default = {"shape": (32, 32, 3), "minutes": 1.0}
            self.assertNotEqual(
                choose(**default).get(name), choose(**default | changes)[name]
            )

    def test_what_is_given(self):
        chosen = choose((8, 8, 1), minutes=5.0, init_from="model")
        self.assertEqual((chosen["lr"], chosen["optimizer"]), (3e-3, "muon"))
        self.assertNoCommonElements(chosen, ARCHITECTURE)

    def test_speed(self):
        self.assertGreater(choice._measure_speed("float32"), 0.0)
