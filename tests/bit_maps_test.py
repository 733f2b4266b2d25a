"""Tests for bit_maps."""

import numpy as np
import reference
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp import bit_maps


def make_model(shape, num_scales, **options):
    """A model off its initial weights."""
    return small_models.displaced(
        0.2, shape, 256, filters=2, num_scales=num_scales, **options
    )


def make_points(model, n=3):
    rng = np.random.default_rng(1)
    points = rng.uniform(0.0, model.num_colors, size=(n, *model.image_shape))
    return points.astype(np.float32)


def expected_costs(model, points):
    """The costs in NumPy: those of every component, taken to its pixels."""
    alpha, levels = model.alpha, model.num_colors
    height = points.shape[1]
    x = points.astype(np.float64)
    p = alpha / 2 + (1 - alpha) * x / levels
    logit = np.log(levels / (1 - alpha)) + np.log(p) + np.log(1 - p)
    z = np.log(p) - np.log(1 - p)
    couplings = iter(zip(model.networks, model.couplings, strict=True))
    n, last = len(points), model.num_scales - 1
    costs = np.zeros([n, model.num_scales, 2, *points.shape[1:3]])
    costs[:, 0, 0] = logit.sum(axis=-1)

    def add(scale, kind, values, squeezed):
        """Adds a cost of components."""
        if squeezed:
            values = reference.unsqueeze(values)
        block = 2**scale
        for row in range(height):
            for column in range(points.shape[2]):
                costs[:, scale, kind, row, column] += (
                    values[:, row // block, column // block].sum(axis=-1)
                    / block**2
                )

    def couple(scale, z, squeezed):
        network, coupling = next(couplings)
        weights = network.get_weights()
        z, log_scale = reference.coupling_inverse(
            z,
            coupling.mask,
            lambda kept: reference.coupling_network(kept, weights),
            coupling.rescale.numpy(),
            coupling.reshift.numpy(),
        )
        add(scale, 0, -log_scale, squeezed)
        return z

    def normal(z):
        return 0.5 * (z**2 + np.log(2 * np.pi))

    checkerboards, channels, of_last = model.num_couplings
    for scale in range(model.num_scales):
        for _ in range(of_last if scale == last else checkerboards):
            z = couple(scale, z, False)
        if scale == last:
            add(scale, 1, normal(z), False)
        else:
            z = reference.squeeze(z)
            for _ in range(channels):
                z = couple(scale, z, True)
            kept, out = np.split(z, 2, axis=-1)
            out = np.concatenate([0 * kept, normal(out)], axis=-1)
            add(scale, 1, out, True)
            z = kept
    return costs


class CostsTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(((4, 8, 3), 2), ((8, 4, 1), 3))
    def test_against_numpy(self, shape, num_scales):
        model = make_model(shape, num_scales)
        points = make_points(model)
        costs = bit_maps.costs(model, points).numpy()
        self.assertEqual(costs.dtype, np.float32)
        self.assertAllClose(
            costs, expected_costs(model, points), rtol=1e-4, atol=1e-3
        )
        sums = costs.sum(axis=(1, 2, 3, 4))
        self.assertAllClose(sums, -model.log_density(points), rtol=1e-5)

    def test_classes_and_variational_dequantization(self):
        model = make_model(
            (4, 8, 3), 2, num_classes=2, dequantization="variational"
        )
        points, label = make_points(model), np.array([1, 0, 1])
        costs = bit_maps.costs(model, points, label).numpy()
        sums = costs.sum(axis=(1, 2, 3, 4))
        self.assertAllClose(sums, -model.log_density(points, label), rtol=1e-5)
        others = bit_maps.costs(model, points, 1 - label).numpy()
        self.assertNotAllClose(sums, others.sum(axis=(1, 2, 3, 4)), rtol=1e-5)


class SmoothTest(tf.test.TestCase):
    def test_takes_away_checkerboards(self):
        rows, columns = np.indices([6, 8])
        board = np.where((rows + columns) % 2, 1.0, -1.0)
        smoothed = bit_maps.smooth(5.0 + np.stack([board, -2.0 * board]))
        self.assertAllClose(smoothed[:, 1:-1, 1:-1], np.full([2, 4, 6], 5.0))

    def test_weights(self):
        """Those of a pixel sum to one, at a corner too."""
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


if __name__ == "__main__":
    tf.test.main()
