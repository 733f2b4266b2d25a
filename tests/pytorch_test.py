"""Tests for pytorch."""

import os
import pathlib
import zipfile

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import pytorch
from tf_realnvp.model import RealNVP

SHAPE = (4, 8, 1)
FILTERS, NUM_BLOCKS = 6, 2
FIRST = "flow.flows.2.net.net.0.conv"
COUPLINGS = (2, 3, 4, 6, 7, 8, 10, 11, 12, 13)


def torch_arrays(channels=1, height=4, width=8, seed=0):
    """A `state_dict` of random weights, with the names that PyTorch gives."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    arrays = {}

    def convolution(name, channels_in, channels_out, size):
        arrays[f"{name}.conv.bias"] = 0.1 * normal(channels_out)
        arrays[f"{name}.conv.weight_g"] = 0.5 + normal(channels_out, 1, 1, 1)
        arrays[f"{name}.conv.weight_v"] = 0.2 * normal(
            channels_out, channels_in, size, size
        )

    board = (np.arange(height)[:, np.newaxis] + np.arange(width)) % 2 == 1
    for index, mask in zip(
        COUPLINGS,
        [board[np.newaxis], ~board[np.newaxis], board[np.newaxis]]
        + [
            (np.arange(4 * channels) % 2 == parity).reshape(-1, 1, 1)
            for parity in (1, 0, 1)
        ]
        + [
            half[np.newaxis, : height // 2, : width // 2]
            for half in (board, ~board, board, ~board)
        ],
        strict=True,
    ):
        prefix = f"flow.flows.{index}"
        arrays[f"{prefix}.rescale"] = 0.3 * normal(1)
        arrays[f"{prefix}.reshift"] = 0.2 * normal(1)
        arrays[f"{prefix}.mask"] = mask
        inputs = channels * (1 if index < 6 else 4 if index < 10 else 2)
        net = f"{prefix}.net.net"
        convolution(f"{net}.0", inputs, FILTERS, 3)
        for block in range(NUM_BLOCKS):
            name = f"{net}.{block + 2}.block"
            convolution(f"{name}.0", FILTERS, FILTERS // 2, 1)
            convolution(f"{name}.2", FILTERS // 2, FILTERS // 2, 3)
            convolution(f"{name}.4", FILTERS // 2, FILTERS, 1)
        convolution(f"{net}.{NUM_BLOCKS + 3}", FILTERS, 2 * inputs, 3)
    return arrays


def torch_log_prob(arrays, points, num_colors, alpha):
    """The density that PyTorch computes, in NumPy and in float64.

    Args:
      arrays: The `state_dict`.
      points: Dequantized images `[n, C, H, W]`.
      num_colors: Number of levels.
      alpha: The margin of the logit.

    Returns:
      Log-density `[n]`.
    """

    def relu(x):
        return np.maximum(x, 0.0)

    def convolve(name, x):
        v = arrays[f"{name}.conv.weight_v"].astype(np.float64)
        norm = np.sqrt(np.sum(v * v, axis=(1, 2, 3), keepdims=True))
        kernel = arrays[f"{name}.conv.weight_g"] * v / norm
        border = v.shape[-1] // 2
        height, width = x.shape[2:]
        x = np.pad(x, [(0, 0), (0, 0), (border, border), (border, border)])
        y = arrays[f"{name}.conv.bias"].astype(np.float64)[:, None, None]
        for row in range(v.shape[2]):
            for column in range(v.shape[3]):
                moved = x[:, :, row : row + height, column : column + width]
                y = y + np.einsum(
                    "oi,nihw->nohw", kernel[:, :, row, column], moved
                )
        return y

    def network(name, x):
        x = relu(convolve(f"{name}.0", x))
        for block in range(2, 2 + NUM_BLOCKS):
            hidden = relu(convolve(f"{name}.{block}.block.0", x))
            hidden = relu(convolve(f"{name}.{block}.block.2", hidden))
            x = x + convolve(f"{name}.{block}.block.4", hidden)
        return convolve(f"{name}.{NUM_BLOCKS + 3}", relu(x))

    def normal(z):
        return (-0.5 * (z * z + np.log(2.0 * np.pi))).sum(axis=(1, 2, 3))

    p = alpha / 2 + (1 - alpha) * points / num_colors
    z = np.log(p) - np.log(1 - p)
    density = np.log((1 - alpha) / num_colors) - np.log(p) - np.log(1 - p)
    density = density.sum(axis=(1, 2, 3))
    for index in COUPLINGS:
        if index == 6:
            n, c, h, w = z.shape
            z = z.reshape(n, c, h // 2, 2, w // 2, 2)
            z = z.transpose(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
        if index == 10:
            z, latents = np.split(z, 2, axis=1)
            density += normal(latents)
        name = f"flow.flows.{index}"
        kept = arrays[f"{name}.mask"]
        scale, shift = np.split(network(f"{name}.net.net", z * kept), 2, axis=1)
        log_scale = ~kept * (
            arrays[f"{name}.rescale"] * np.tanh(scale)
            + arrays[f"{name}.reshift"]
        )
        z = z * np.exp(log_scale) + ~kept * shift
        density += log_scale.sum(axis=(1, 2, 3))
    return density + normal(z)


def renamed(arrays, rename):
    return {rename(name): array for name, array in arrays.items()}


def weights_of(model):
    return [np.array(weight) for weight in model.variables]


class PytorchTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.arrays = torch_arrays()
        cls.model = RealNVP(SHAPE, filters=FILTERS, num_blocks=NUM_BLOCKS)

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(self.create_tempdir(), "weights.npz")

    def create_tempdir(self):
        return self.get_temp_dir()

    def write(self, arrays):
        np.savez(self.path, **arrays)

    def load(self, arrays):
        self.write(arrays)
        pytorch.load_weights(self.model, self.path)

    def assert_loads(self, arrays):
        """Loads `arrays` and checks that the weights are those of the class."""
        rng = np.random.default_rng(5)
        for weight in self.model.variables:
            weight.assign(rng.normal(size=weight.shape))
        self.load(arrays)
        pytorch.save_weights(self.model, self.path)
        saved = np.load(self.path)
        self.assertCountEqual(saved.keys(), self.arrays)
        for name, array in self.arrays.items():
            np.testing.assert_array_equal(saved[name], array, err_msg=name)
            self.assertEqual(saved[name].dtype, array.dtype)

    def assert_refused(self, *faults, arrays=None, load=None):
        """Checks the message's lines and that no weight has changed."""
        if arrays is not None:
            self.write(arrays)
        before = weights_of(self.model)
        with self.assertRaises(ValueError) as context:
            pytorch.load_weights(self.model, self.path)
        message = str(context.exception)
        self.assertStartsWith(message, os.fspath(self.path))
        lines = [line.strip() for line in message.splitlines()[1:]]
        self.assertCountEqual(lines, faults)
        for old, new in zip(before, weights_of(self.model), strict=True):
            self.assertAllEqual(old, new)
        return message

    # The density.

    @parameterized.parameters(
        ((4, 8, 1), 256, 0.1), ((6, 4, 3), 256, 0.1), ((4, 4, 2), 8, 0.3)
    )
    def test_density_is_that_of_pytorch(self, shape, num_colors, alpha):
        height, width, channels = shape
        arrays = torch_arrays(channels, height, width, seed=1)
        self.write(arrays)
        model = pytorch.load_model(
            self.path, num_colors=num_colors, alpha=alpha
        )
        self.assertEqual(model.image_shape, shape)
        rng = np.random.default_rng(2)
        points = rng.uniform(0, num_colors, size=(3, channels, height, width))
        points = points.astype(np.float32)
        log_prob = model.distribution.log_prob(points.transpose(0, 2, 3, 1))
        expected = torch_log_prob(arrays, points, num_colors, alpha)
        self.assertAllClose(log_prob, expected, rtol=1e-5, atol=1e-3)
