"""Tests for pytorch."""

import re
import zipfile
from unittest import mock

import folders
import numpy as np
import reference
import small_models
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import pytorch
from tf_realnvp.model import RealNVP

SHAPE = (4, 8, 1)
FILTERS, NUM_BLOCKS = 6, 2
FIRST = "flow.flows.2.net.net.0.conv"
COUPLINGS = (2, 3, 4, 6, 7, 8, 10, 11, 12, 13)


def torch_arrays(
    channels=1,
    height=4,
    width=8,
    seed=0,
    filters=FILTERS,
    num_blocks=NUM_BLOCKS,
):
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

    board = reference.checkerboard_mask((height, width), 1)[np.newaxis]
    half = board[:, : height // 2, : width // 2]
    odd = (np.arange(4 * channels) % 2 == 1).reshape(-1, 1, 1)
    masks = [board, ~board, board, odd, ~odd, odd, half, ~half, half, ~half]
    for index, mask in zip(COUPLINGS, masks, strict=True):
        prefix = f"flow.flows.{index}"
        arrays[f"{prefix}.rescale"] = 0.3 * normal(1)
        arrays[f"{prefix}.reshift"] = 0.2 * normal(1)
        arrays[f"{prefix}.mask"] = mask
        inputs = channels * (1 if index < 6 else 4 if index < 10 else 2)
        net = f"{prefix}.net.net"
        convolution(f"{net}.0", inputs, filters, 3)
        for block in range(num_blocks):
            name = f"{net}.{block + 2}.block"
            convolution(f"{name}.0", filters, filters // 2, 1)
            convolution(f"{name}.2", filters // 2, filters // 2, 3)
            convolution(f"{name}.4", filters // 2, filters, 1)
        convolution(f"{net}.{num_blocks + 3}", filters, 2 * inputs, 3)
    return arrays


class PytorchTest(folders.FolderTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.arrays = torch_arrays()
        cls.model = RealNVP(SHAPE, filters=FILTERS, num_blocks=NUM_BLOCKS)
        cls.initial = small_models.values(cls.model.variables)

    def setUp(self):
        super().setUp()
        for weight, value in zip(
            self.model.variables, self.initial, strict=True
        ):
            weight.assign(value)
        self.path = self.folder / "weights.npz"

    def write(self, changes):
        """Writes a sound file with changes, where `None` leaves one out."""
        arrays = self.arrays | changes
        arrays = {k: v for k, v in arrays.items() if v is not None}
        np.savez(self.path, **arrays)

    def assert_loads(self, arrays):
        """Checks that the weights of a file become those of the class."""
        np.savez(self.path, **arrays)
        pytorch.load_weights(self.model, self.path)
        self.assert_saves(self.model)

    def assert_saves(self, model):
        """Checks that the weights of a model are those of the class."""
        path = self.path.with_name("saved.npz")
        pytorch.save_weights(model, path)
        saved = dict(np.load(path))
        self.assertCountEqual(saved.keys(), self.arrays)
        for name, array in self.arrays.items():
            np.testing.assert_array_equal(saved[name], array, err_msg=name)
            self.assertEqual(saved[name].dtype, array.dtype, msg=name)

    def assert_refused(self, *faults):
        """Checks the lines of the message, and that no weight has changed."""
        message = self.failure(
            lambda: pytorch.load_weights(self.model, self.path)
        )
        self.assertStartsWith(message, f"{self.path} does not hold the weights")
        lines = [line.strip() for line in message.splitlines()[1:]]
        self.assertLen(lines, len(faults))
        for line, fault in zip(lines, faults, strict=True):
            self.assertStartsWith(line, fault)

    def failure(self, function):
        """What the `ValueError` of a function says; no weight has changed."""
        with self.assertRaises(ValueError) as context:
            function()
        now = small_models.values(self.model.variables)
        self.assertTrue(all(small_models.same(now, self.initial)))
        return str(context.exception)

    # The density.

    def test_density_is_that_of_pytorch(self):
        shape, num_colors, alpha = (4, 6, 2), 8, 0.3
        height, width, channels = shape
        arrays = torch_arrays(channels, height, width, seed=1)
        np.savez(self.path, **arrays)
        model = pytorch.load_model(
            self.path, num_colors=num_colors, alpha=alpha
        )
        self.assertEqual(model.image_shape, shape)
        self.assertEqual(model.filters, FILTERS)
        self.assertEqual(model.num_blocks, NUM_BLOCKS)
        rng = np.random.default_rng(2)
        points = rng.uniform(0, num_colors, size=(2, *shape))
        points = points.astype(np.float32)
        log_prob = model.distribution.log_prob(points)
        # Kernels with the axes of TensorFlow, in the order of the names.
        couplings = []
        for index in COUPLINGS:
            prefix = f"flow.flows.{index}"
            blocks = [
                f"{block + 2}.block.{part}"
                for block in range(NUM_BLOCKS)
                for part in (0, 2, 4)
            ]
            first, *inner, last = (
                [
                    arrays[f"{prefix}.net.net.{name}.conv.weight_v"].transpose(
                        2, 3, 1, 0
                    ),
                    arrays[f"{prefix}.net.net.{name}.conv.weight_g"].ravel(),
                    arrays[f"{prefix}.net.net.{name}.conv.bias"],
                ]
                for name in ("0", *blocks, f"{NUM_BLOCKS + 3}")
            )
            stacked = [
                np.stack(weights)
                for part in range(3)
                for weights in zip(*inner[part::3], strict=True)
            ]
            scalars = arrays[f"{prefix}.rescale"], arrays[f"{prefix}.reshift"]
            couplings.append(([*first, *stacked, *last], *scalars))
        _, expected = reference.real_nvp(points, couplings, num_colors, alpha)
        self.assertAllClose(log_prob, expected, rtol=1e-5, atol=1e-3)

    # There and back.

    def test_save_then_load_gives_the_same_model(self):
        # Of eight blocks the last name ends in 11, by its letters before 2.
        model = RealNVP((2, 2, 1), filters=2, num_blocks=8)
        rng = np.random.default_rng(4)
        for weight in model.variables:
            weight.assign(rng.normal(size=weight.shape))
        pytorch.save_weights(model, self.path)
        loaded = pytorch.load_model(self.path)
        for weight, other in zip(
            model.variables, loaded.variables, strict=True
        ):
            self.assertAllEqual(weight, other)

    # Other ways to write the same.

    @parameterized.named_parameters(
        ("as_we_write_them", r"^", ""),
        ("prefix", r"^", "module."),
        ("no_prefix", r"^flow\.flows\.", "steps."),
        (
            "other_indices",
            r"flows\.(\d+)",
            lambda match: f"flows.{3 * int(match[1]) + 4}",
        ),
        (
            "other_network",
            r"net\.net\.(\d+)",
            lambda match: f"net.layers.{int(match[1]) + 5}",
        ),
        ("parametrized_g", r"weight_g$", "parametrizations.weight.original0"),
        ("parametrized_v", r"weight_v$", "parametrizations.weight.original1"),
    )
    def test_names(self, pattern, replacement):
        renamed = {
            re.sub(pattern, replacement, name): array
            for name, array in self.arrays.items()
        }
        self.assert_loads(dict(sorted(renamed.items(), reverse=True)))

    @parameterized.named_parameters(
        # Of which arrays, and what becomes of each.
        ("scalars_without_axes", r"scale|shift", lambda a: a.reshape([])),
        ("float64", r"scale|shift|bias|weight", np.float64),
        (
            "full_masks",
            r"mask",
            lambda a: a * np.ones([1 if len(a) == 1 else 4, 1, 1]),
        ),
    )
    def test_arrays(self, pattern, change):
        self.assert_loads(
            {
                name: change(array) if re.search(pattern, name) else array
                for name, array in self.arrays.items()
            }
        )

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

    # What does not fit.

    @parameterized.parameters(
        ("num_scales", 3), ("num_classes", 3), ("dequantization", "variational")
    )
    def test_another_architecture(self, name, value):
        self.enterContext(mock.patch.object(self.model, name, value))
        for function in (pytorch.save_weights, pytorch.load_weights):
            with self.assertRaisesRegex(ValueError, f"{name}.*, got {value}"):
                function(self.model, self.path)
        self.assertFalse(self.path.exists())

    @parameterized.parameters(
        ("4.rescale", np.ones(2, np.float32), "must be finite floats of shape"),
        ("6.reshift", None, "is missing"),
        (
            "7.reshift",
            np.array([np.nan]),
            "must be finite floats of shape (1,)",
        ),
        ("8.mask", np.ones([4, 1, 1], bool), "is not the mask"),
        ("13.mask", np.ones([1, 3, 5], bool), "is not the mask"),
        ("2.net.net.0.conv.bias", None, "is missing"),
        ("13.net.net.3.block.2.conv.weight_g", np.ones(3), "must be finite fl"),
        (
            "13.net.net.3.block.2.conv.bias",
            np.ones(3, int),
            "must be finite fl",
        ),
        ("5.bias", np.ones(3), "is superfluous"),
        ("2.net.net.0.conv.weight", np.ones([6, 1, 3, 3]), "is superfluous"),
        ("1.alpha", np.ones([]), "is superfluous"),
    )
    def test_one_wrong_array(self, name, array, fault):
        name = f"flow.flows.{name}"
        self.write({name: array})
        self.assert_refused(f"`{name}` {fault}")
        # The same in making a model of it.
        with self.assertRaisesRegex(ValueError, re.escape(f"`{name}` {fault}")):
            pytorch.load_model(self.path)

    def test_names_the_first_of_many_faults(self):
        self.write({f"more_{i}": np.ones(1) for i in range(9)})
        faults = [f"`more_{i}` is superfluous" for i in range(5)]
        self.assert_refused(*faults, "and 4 more")

    @parameterized.parameters(
        ("flow.flows.12.net.net.3.block.0.", "`flow.flows.12` has 7 convo"),
        ("flow.flows.13.", "it has 9 couplings, not 10"),
        ("", "it has 0 couplings"),
    )
    def test_missing_part(self, prefix, fault):
        missing = [name for name in self.arrays if name.startswith(prefix)]
        self.write(dict.fromkeys(missing))
        self.assert_refused(fault)
        with self.assertRaisesRegex(ValueError, fault):
            pytorch.load_model(self.path)

    @parameterized.parameters(
        {"filters": 8}, {"num_blocks": 1}, {"channels": 3}, {"height": 8}
    )
    def test_other_sizes(self, **sizes):
        np.savez(self.path, **torch_arrays(**sizes))
        message = self.failure(
            lambda: pytorch.load_weights(self.model, self.path)
        )
        self.assertIn("more", message.splitlines()[-1])

    # Files that are none.

    @parameterized.parameters("empty", "text", "npy", "cut", "pickle", "torch")
    def test_no_npz(self, fault):
        if fault in ("empty", "text"):
            self.path.write_text("" if fault == "empty" else "text")
        elif fault == "npy":
            with self.path.open("wb") as file:
                np.save(file, np.ones(3))
        elif fault == "cut":
            self.write({})
            self.path.write_bytes(self.path.read_bytes()[:-100])
        elif fault == "pickle":
            objects = np.array([{"a": 1}], dtype=object)
            self.write({"flow.flows.2.rescale": objects})
        else:
            # As `torch.save` writes it: a zip archive, of a pickle.
            with zipfile.ZipFile(self.path, "w") as archive:
                archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
                archive.writestr("archive/version", b"3")
        message = self.failure(lambda: pytorch.load_model(self.path))
        self.assertStartsWith(message, f"{self.path} is no .npz file of ")
        self.assertIn("write it with `np.savez`", message)


if __name__ == "__main__":
    tf.test.main()
