"""Tests for bit_maps."""

import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import bit_maps


def expected_costs(model, points):
    """The costs in NumPy: those of every component, taken to its pixels."""
    parts = []
    reference.of_model(model, points, parts=parts)
    costs = np.zeros([len(points), model.num_scales, 2, *points.shape[1:3]])
    for scale, is_latent, values in parts:
        pixels = np.ones([2**scale, 2**scale]) / 4**scale
        costs[:, scale, int(is_latent)] -= np.kron(values.sum(axis=-1), pixels)
    return costs


class CostsTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(((4, 8, 3), 2), ((8, 4, 1), 3))
    def test_against_numpy(self, shape, num_scales):
        model = small_models.displaced(
            0.2, shape, 256, filters=2, num_scales=num_scales
        )
        points = small_models.points(3, model)
        costs = bit_maps.costs(model, points).numpy()
        self.assertEqual(costs.dtype, np.float32)
        self.assertAllClose(
            costs, expected_costs(model, points), rtol=1e-4, atol=1e-3
        )
        sums = costs.sum(axis=(1, 2, 3, 4))
        self.assertAllClose(sums, -model.log_density(points), rtol=1e-5)

    def test_classes_and_variational_dequantization(self):
        model = small_models.displaced(
            *(0.2, (4, 8, 3), 256),
            **{"filters": 2, "num_classes": 2, "dequantization": "variational"},
        )
        points, label = small_models.points(3, model), np.array([1, 0, 1])
        costs = bit_maps.costs(model, points, label=label).numpy()
        sums = costs.sum(axis=(1, 2, 3, 4))
        self.assertAllClose(sums, -model.log_density(points, label), rtol=1e-5)
        others = bit_maps.costs(model, points, label=1 - label).numpy()
        self.assertNotAllClose(sums, others.sum(axis=(1, 2, 3, 4)), rtol=1e-5)


class SmoothTest(tf.test.TestCase):
    def test_weights(self):
        """The weights of a pixel sum to one, even in a corner."""
        for row, column in ((2, 3), (0, 0), (0, 3), (4, 5)):
            maps = np.zeros([1, 5, 6], np.float32)
            maps[0, row, column] = 16.0
            smoothed = bit_maps.smooth(maps)
            self.assertAllClose(smoothed.sum(), 16.0)
            if (row, column) == (2, 3):
                self.assertAllClose(
                    smoothed[0, 1:4, 2:5], [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
                )


class StandardizeTest(tf.test.TestCase):
    def test_values(self):
        normal = np.random.default_rng(0).normal(3.0, 2.0, size=(500, 2, 2))
        normal[:, 0, 0] = 7.0  # No spread: it is not divided by zero.
        deviations = normal.std(axis=0)
        deviations[0, 0] = 0.01 * deviations.mean()
        maps = np.concatenate([normal[:20], np.full([1, 2, 2], 7.5)])
        self.assertAllClose(
            bit_maps.standardize(maps, normal),
            (maps - normal.mean(axis=0)) / deviations,
        )
