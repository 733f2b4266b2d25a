"""Tests for pytorch."""

import re
import zipfile

import folders
import numpy as np
import reference
import small_models
from absl.testing import parameterized

from tf_realnvp import pytorch
from tf_realnvp.flow.real_nvp import RealNVP

SHAPE = (4, 8, 1)
FILTERS, NUM_BLOCKS = 6, 2
COUPLINGS = (2, 3, 4, 6, 7, 8, 10, 11, 12, 13)


def torch_model(shape=SHAPE):
    """Random weights: a `state_dict` of PyTorch, and what `reference` takes."""
    rng = np.random.default_rng(0)
    height, width, channels = shape

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    arrays = {}

    def convolution(name, channels_in, channels_out, size):
        kernel = 0.2 * normal(channels_out, channels_in, size, size)
        gain, bias = 0.5 + normal(channels_out), 0.1 * normal(channels_out)
        arrays[f"{name}.conv.bias"] = bias
        arrays[f"{name}.conv.weight_g"] = gain.reshape(-1, 1, 1, 1)
        arrays[f"{name}.conv.weight_v"] = kernel
        return [kernel.transpose(2, 3, 1, 0), gain, bias]

    board = reference.checkerboard_mask((height, width), 1)[np.newaxis]
    half = board[:, : height // 2, : width // 2]
    odd = (np.arange(4 * channels) % 2 == 1).reshape(-1, 1, 1)
    masks = [board, ~board, board, odd, ~odd, odd, half, ~half, half, ~half]
    couplings = []
    for index, mask in zip(COUPLINGS, masks, strict=True):
        prefix = f"flow.flows.{index}"
        scalars = 0.3 * normal(1), 0.2 * normal(1)
        arrays[f"{prefix}.rescale"], arrays[f"{prefix}.reshift"] = scalars
        arrays[f"{prefix}.mask"] = mask
        inputs = channels * (1 if index < 6 else 4 if index < 10 else 2)
        net = f"{prefix}.net.net"
        first = convolution(f"{net}.0", inputs, FILTERS, 3)
        blocks = [
            [
                *convolution(f"{net}.{i}.block.0", FILTERS, FILTERS // 2, 1),
                *convolution(
                    f"{net}.{i}.block.2", FILTERS // 2, FILTERS // 2, 3
                ),
                *convolution(f"{net}.{i}.block.4", FILTERS // 2, FILTERS, 1),
            ]
            for i in range(2, NUM_BLOCKS + 2)
        ]
        last = convolution(f"{net}.{NUM_BLOCKS + 3}", FILTERS, 2 * inputs, 3)
        stacked = [np.stack(weights) for weights in zip(*blocks, strict=True)]
        couplings.append(([*first, *stacked, *last], *scalars))
    return arrays, couplings


class PytorchTest(folders.FolderTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.arrays, _ = torch_model()

    def setUp(self):
        super().setUp()
        self.path = self.folder / "weights.npz"

    def assert_loads(self, arrays):
        """Checks that the weights of a file become those of the class."""
        np.savez(self.path, **arrays)
        self.assert_saves(pytorch.load_model(self.path, SHAPE))

    def assert_saves(self, model):
        """Checks that the weights of a model are those of the class."""
        path = self.path.with_name("saved.npz")
        pytorch.save_weights(model, path)
        saved = dict(np.load(path))
        self.assertCountEqual(saved.keys(), self.arrays)
        for name, array in self.arrays.items():
            np.testing.assert_array_equal(saved[name], array, err_msg=name)
            self.assertEqual(saved[name].dtype, array.dtype, msg=name)

    def assert_refused(self, message):
        """Checks that a file is no model's."""
        with self.assertRaisesRegex(ValueError, message) as context:
            pytorch.load_model(self.path, SHAPE)
        self.assertStartsWith(str(context.exception), f"{self.path} ")

    def test_density_is_that_of_pytorch(self):
        shape, num_colors, alpha = (4, 6, 2), 8, 0.3
        arrays, couplings = torch_model(shape)
        np.savez(self.path, **arrays)
        model = pytorch.load_model(
            self.path, num_colors=num_colors, alpha=alpha
        )
        self.assertEqual(model.image_shape, shape)
        self.assertEqual(
            (model.filters, model.num_blocks), (FILTERS, NUM_BLOCKS)
        )
        rng = np.random.default_rng(2)
        points = rng.uniform(0, num_colors, size=(2, *shape))
        points = points.astype(np.float32)
        _, expected = reference.real_nvp(points, couplings, num_colors, alpha)
        log_prob = model.distribution.log_prob(points)
        self.assertAllClose(log_prob, expected, rtol=1e-5, atol=1e-3)

    def test_save_then_load_gives_the_same_model(self):
        # Of eight blocks the last name ends in 11, by its letters before 2.
        model = small_models.displaced(
            1.0, (2, 2, 1), filters=2, num_blocks=8, num_couplings=(3, 3, 4)
        )
        pytorch.save_weights(model, self.path)
        loaded = pytorch.load_model(self.path)
        self.assertTrue(small_models.same_weights(model, loaded))

    @parameterized.named_parameters(
        # Of which names, by what it is replaced, and what becomes of the array.
        ("parametrized_g", r"weight_g$", "parametrizations.weight.original0"),
        ("parametrized_v", r"weight_v$", "parametrizations.weight.original1"),
        ("scalars_without_axes", r"scale|shift", r"\g<0>", np.squeeze),
        ("float64", r"scale|shift|bias|weight", r"\g<0>", np.float64),
        (
            "full_masks",
            r"mask",
            r"\g<0>",
            lambda a: a * np.ones([1, 2, 4] if len(a) == 4 else [1, 1, 1]),
        ),
    )
    def test_others_that_are_the_same(
        self, pattern, replacement, change=np.asarray
    ):
        others = {
            re.sub(pattern, replacement, name): change(array)
            if re.search(pattern, name)
            else array
            for name, array in self.arrays.items()
        }
        self.assert_loads(dict(sorted(others.items(), reverse=True)))

    def test_without_masks(self):
        arrays = {
            name: array
            for name, array in self.arrays.items()
            if not name.endswith("mask")
        }
        self.assert_loads(arrays)
        with self.assertRaisesRegex(ValueError, "give `image_shape`"):
            pytorch.load_model(self.path)
        self.assert_saves(pytorch.load_model(self.path, SHAPE))

    @parameterized.parameters(
        *(("num_scales", 3), ("num_classes", 3), ("context_shape", (7,))),
        *(("dequantization", "variational"), ("padding", "periodic")),
        ("channel_masks", "mixed"),
    )
    def test_another_architecture(self, name, value):
        model = RealNVP(SHAPE, filters=2, num_blocks=1, **{name: value})
        message = f"{name}.*, got {re.escape(str(value))}"
        with self.assertRaisesRegex(ValueError, message):
            pytorch.save_weights(model, self.path)
        self.assertFalse(self.path.exists())

    @parameterized.parameters(
        # Names that begin so, what becomes of their arrays, and the fault.
        ("4.rescale", np.ones(2), "`{}` is not of this model"),
        ("6.reshift", None, "`{}` is missing"),
        ("8.mask", np.array([[[True]], [[False]]] * 2), "`{}` is not of this"),
        ("2.net.net.0.conv.bias", None, "`{}` is missing"),
        ("13.net.net.3.block.2.conv.weight_g", np.ones(3), "`{}` is not of"),
        ("1.alpha", np.ones([]), "`{}` is superfluous"),
        ("2.net", None, "is missing"),
    )
    def test_wrong_arrays(self, prefix, array, fault):
        prefix = f"flow.flows.{prefix}"
        changes = {
            name: array for name in self.arrays if name.startswith(prefix)
        }
        arrays = self.arrays | (changes or {prefix: array})
        np.savez(
            self.path, **{k: v for k, v in arrays.items() if v is not None}
        )
        self.assert_refused(fault.format(prefix))

    def test_no_npz(self):
        message = "is not an .npz file of .*write it with `np.savez`"
        for content in (b"text", b"PK\3\4"):
            self.path.write_bytes(content)
            self.assert_refused(message)
        # As `torch.save` writes it: a zip archive, of a pickle.
        with zipfile.ZipFile(self.path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        self.assert_refused(message)
