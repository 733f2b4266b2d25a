"""Reads and writes the weights of the same model in PyTorch.

PyTorch is not required. The files are `.npz` archives with one array per tensor
of a PyTorch `state_dict`. In PyTorch, they are written and read by

```python
arrays = {k: v.cpu().numpy() for k, v in model.state_dict().items()}
np.savez("weights.npz", **arrays)

arrays = np.load("weights.npz")
model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
```

The PyTorch model is a list of steps from image to latents: `flow.flows.0` for
dequantization, then the logit, three couplings, the squeeze, three couplings,
the split and four couplings. A coupling such as `flow.flows.2` has, under its
name,

*   `rescale` and `reshift`, with one element each;
*   `mask`, boolean, broadcastable to `[C, H, W]`, true for components that are
    kept. It may be missing, as in `named_parameters()`;
*   for each convolution `weight_v`, `[out, in, height, width]`, `weight_g`,
    `[out, 1, 1, 1]`, and `bias`, `[out]`, as in `torch.nn.utils.weight_norm`,
    or their names in `torch.nn.utils.parametrizations.weight_norm`.

With `B` residual blocks, the convolutions are `net.net.0.conv`;
`net.net.K.block.0.conv`, `net.net.K.block.2.conv` and `net.net.K.block.4.conv`
of each block, for `K` from 2 to `B + 1`; and `net.net.{B + 3}.conv`, whose
first `C` output channels are the scale and the others the shift.

Channels are not permuted, since the squeeze of both models orders channels by
row of the block, column of the block and channel of the image: in PyTorch
`x.reshape(N, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4)`. A PyTorch
model that orders them by channel of the image first, like `pixel_unshuffle`, is
a different model, which keeps and factors out other channels. The file does not
show the order, so the caller has to check it.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import files

# Indices of the couplings in the list of steps.
_POSITIONS = (2, 3, 4, 6, 7, 8, 10, 11, 12, 13)
_MODEL = {
    "num_scales": 2,
    "num_couplings": (3, 3, 4),
    "dequantization": "uniform",
    "padding": "same",
    "channel_masks": "alternating",
    "num_classes": None,
    "context_shape": None,
}
_PARAMETRIZED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


def load_model(
    path: str | os.PathLike,
    image_shape: Sequence[int] | None = None,
    num_colors: int = 256,
    alpha: float = 0.1,
) -> RealNVP:
    """Creates a model with the weights in a file.

    The numbers of filters and residual blocks are inferred from the file.

    Args:
      path: An `.npz` file of a PyTorch `state_dict`.
      image_shape: `(H, W, C)` in pixels and channels. Default: inferred from
        the masks in the file.
      num_colors: Number of levels that the model was trained with. It is not
        stored in the file.
      alpha: Margin of the logit that the model was trained with. It is not
        stored in the file.

    Returns:
      The model, with the weights of the file.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If the file does not hold the weights of such a model; the
        message names an invalid array. Also if the file has no masks and
        `image_shape` is not given.
    """
    arrays = _read_arrays(path)
    first = f"flow.flows.{_POSITIONS[0]}"
    kernel, mask = f"{first}.net.net.0.conv.weight_v", f"{first}.mask"
    if kernel not in arrays:
        raise _error(path, f"`{kernel}` is missing")
    filters, channels, *_ = arrays[kernel].shape
    num_blocks = sum(
        name.startswith(first) and name.endswith("block.0.conv.weight_v")
        for name in arrays
    )
    if image_shape is None:
        if mask not in arrays:
            raise _error(path, f"`{mask}` is missing: give `image_shape`")
        image_shape = (*arrays[mask].shape[-2:], channels)
    model = RealNVP(image_shape, num_colors, filters, num_blocks, alpha)
    _assign(model, arrays, path)
    return model


def save_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Saves the weights of a model for PyTorch.

    Args:
      model: The model.
      path: The `.npz` file to write; an existing file is replaced.

    Raises:
      OSError: If the file cannot be written.
      ValueError: If the PyTorch model has no such architecture.
    """
    for name, expected in _MODEL.items():
        value = getattr(model, name)
        if value != expected:
            raise ValueError(
                f"The PyTorch model has a fixed structure: `model.{name}` must "
                f"be {expected}, got {value}."
            )
    # An open file, since `savez` appends `.npz` to paths without it.
    with files.replace_file(path) as new, new.open("wb") as file:
        np.savez(file, **_state_dict(model))


def _weights(model: RealNVP) -> Iterator[tuple[str, keras.Variable, Any]]:
    """Yields each weight's PyTorch name, its variable and the index in it.

    The variables of the residual blocks stack the weights of all blocks.
    """
    for position, network, coupling in zip(
        _POSITIONS, model.networks, model.couplings, strict=True
    ):
        prefix = f"flow.flows.{position}"
        yield f"{prefix}.rescale", coupling.rescale, ...
        yield f"{prefix}.reshift", coupling.reshift, ...
        for name, convolution, index in (
            ("0", network.first, ...),
            *(
                # The numbers between are those of ReLUs.
                (f"{2 + block}.block.{2 * i}", stack, block)
                for block in range(model.num_blocks)
                for i, stack in enumerate(network.blocks)
            ),
            (f"{3 + model.num_blocks}", network.last, ...),
        ):
            name = f"{prefix}.net.net.{name}.conv"
            yield f"{name}.bias", convolution.bias, index
            yield f"{name}.weight_g", convolution.gain, index
            yield f"{name}.weight_v", convolution.direction, index


def _state_dict(model: RealNVP) -> dict[str, Any]:
    """Returns the weights and masks of a model as a PyTorch `state_dict`."""
    arrays = {}
    for name, variable, index in _weights(model):
        array = variable.numpy()[index]
        if name.endswith("weight_v"):
            arrays[name] = array.transpose(3, 2, 0, 1)
        else:
            ones = (1, 1, 1) if name.endswith("weight_g") else ()
            arrays[name] = array.reshape(-1, *ones)
    for position, coupling in zip(_POSITIONS, model.couplings, strict=True):
        mask = np.moveaxis(coupling.mask, -1, 0)
        arrays[f"flow.flows.{position}.mask"] = _mask(mask)
    return arrays


def _mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask with size 1 along the axes where it is constant."""
    mask = np.array(mask, bool, ndmin=3)
    for axis in range(3):
        first = mask.take([0], axis)
        if (mask == first).all():
            mask = first
    return mask


def _read_arrays(path) -> dict[str, np.ndarray]:
    """Reads an `.npz` file of arrays, with the names of `weight_norm`."""
    with open(path, "rb") as file:
        try:
            arrays = dict(np.load(file, allow_pickle=False))
            if not all(isinstance(a, np.ndarray) for a in arrays.values()):
                raise ValueError("it holds files that are not arrays")
        except Exception as error:  # NumPy may raise anything.
            raise ValueError(
                f"{os.fspath(path)} is not an .npz file of arrays ({error}): "
                "write it with `np.savez`, not with `torch.save`."
            ) from error
    for old, new in _PARAMETRIZED.items():
        arrays = {name.replace(old, new): a for name, a in arrays.items()}
    return arrays


def _assign(model: RealNVP, arrays: dict[str, np.ndarray], path) -> None:
    """Checks that arrays fit a model, then assigns them to its weights."""
    expected = _state_dict(model)
    masks = {name for name in expected if name.endswith(".mask")}
    if missing := expected.keys() - masks - arrays.keys():
        raise _error(path, f"`{min(missing)}` is missing")
    if more := arrays.keys() - expected.keys():
        raise _error(path, f"`{min(more)}` is superfluous")
    for name, array in arrays.items():
        if name in masks:
            fits = np.array_equal(_mask(array), expected[name])
        else:
            fits = (array.shape or (1,)) == expected[name].shape
        if not fits:
            raise _error(path, f"`{name}` is not of this model")
    for name, variable, index in _weights(model):
        array, values = arrays[name], np.array(variable.numpy())
        if name.endswith("weight_v"):
            array = array.transpose(2, 3, 1, 0)
        values[index] = array.reshape(values[index].shape)
        variable.assign(values)


def _error(path, fault: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)} does not hold the weights of this model: {fault}."
    )
