"""Weights of the same model in PyTorch, read and written without PyTorch.

The files are `.npz` archives of a PyTorch `state_dict`, one array for each of
its tensors. PyTorch writes one, and reads one back, with

```python
arrays = {k: v.cpu().numpy() for k, v in model.state_dict().items()}
np.savez("weights.npz", **arrays)

arrays = np.load("weights.npz")
model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
```

The PyTorch model is a list of steps from image to latents, `flow.flows.0` for
dequantization, then the logit, three couplings, the squeeze, three couplings,
the split, four couplings. A coupling such as `flow.flows.2` has

*   `rescale` and `reshift`, of one element each;
*   `mask`, boolean, of a shape that broadcasts to `[C, H, W]`, true where a
    component is kept. It may be missing, as it is from `named_parameters()`;
*   for each convolution `weight_v`, `[out, in, height, width]`, `weight_g`,
    `[out, 1, 1, 1]`, and `bias`, `[out]`, as `torch.nn.utils.weight_norm` names
    them. Those of `torch.nn.utils.parametrizations.weight_norm` do as well.

In the order of their names the convolutions are the first, three for each
residual block, and the last, whose first `C` channels are the scale and whose
others are the shift. Only this order counts: indices may differ from the above
and names may have a prefix.

No channel is permuted, since the squeeze of both models orders channels by row
of the block, column of the block and channel of the image: in PyTorch
`x.reshape(N, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4)`. A PyTorch
model that puts the image's channel first, as `pixel_unshuffle` does, is another
model, in which other channels are kept and factored out; the file does not
tell, so it is for the user to know.
"""

import itertools
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tf_realnvp.model import RealNVP
from tf_realnvp.utils import files

# Where the couplings are among the steps.
_POSITIONS = (2, 3, 4, 6, 7, 8, 10, 11, 12, 13)
_FIRST = "flow.flows.2"
_MODEL = {
    "num_scales": 2,
    "num_couplings": (3, 3, 4),
    "dequantization": "uniform",
    "num_classes": None,
}
_PARAMETRIZED = {
    "parametrizations.weight.original1": "weight_v",
    "parametrizations.weight.original0": "weight_g",
}
_NO_ARCHIVE = EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error
_MOST_PROBLEMS = 5  # In one message.


def load_model(
    path: str | os.PathLike,
    image_shape: Sequence[int] | None = None,
    num_colors: int = 256,
    alpha: float = 0.1,
) -> RealNVP:
    """Makes the model whose weights a file holds.

    The numbers of filters and of residual blocks are those of the file.

    Args:
      path: An `.npz` file of a PyTorch `state_dict`.
      image_shape: `(H, W, C)` in pixels and channels. Default: that of the
        masks in the file.
      num_colors: Number of levels that the model was trained with, which the
        file does not tell.
      alpha: Margin of the logit that the model was trained with, which the
        file does not tell.

    Returns:
      Model with the weights of the file.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If the file does not hold the weights of such a model; the
        message names the first arrays that are at fault, as `save_weights`
        would. If the file has no masks and `image_shape` is not given.
    """
    arrays = _read(path)
    filters, channels, *_ = arrays[f"{_FIRST}.net.net.0.conv.weight_v"].shape
    num_blocks = sum(
        name.startswith(_FIRST) and name.endswith(".block.0.conv.weight_v")
        for name in arrays
    )
    if image_shape is None:
        if f"{_FIRST}.mask" not in arrays:
            raise ValueError(
                f"{os.fspath(path)} has no mask that tells the size of images: "
                "give `image_shape`."
            )
        image_shape = (*arrays[f"{_FIRST}.mask"].shape[-2:], channels)
    model = RealNVP(image_shape, num_colors, filters, num_blocks, alpha)
    _assign(model, arrays, path)
    return model


def load_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Gives a model the weights that a file holds.

    Args:
      model: The model. If the file does not fit, it stays as it is.
      path: An `.npz` file of a PyTorch `state_dict`.

    Raises:
      OSError: If the file cannot be read.
      ValueError: As `load_model`, or if PyTorch has no such model.
    """
    _check_architecture(model)
    _assign(model, _read(path), path)


def save_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Writes the weights of a model for PyTorch.

    Args:
      model: The model.
      path: The `.npz` file to write or to replace.

    Raises:
      OSError: If the file cannot be written.
      ValueError: If PyTorch has no such model.
    """
    _check_architecture(model)
    # An open file, since `savez` changes a path that does not end in `.npz`.
    with files.replace_file(path) as new, new.open("wb") as file:
        np.savez(file, **_state_dict(model))


def _check_architecture(model):
    for name, expected in _MODEL.items():
        value = getattr(model, name)
        if value != expected:
            raise ValueError(
                f"The PyTorch model is of one kind: `model.{name}` must be "
                f"{expected}, got {value}."
            )


def _weights(model: RealNVP) -> Iterator[tuple[str, keras.Variable, Any]]:
    """Yields PyTorch's name of each weight, the variable and the index in it.

    The variables of residual blocks hold the weights of all of them.
    """
    for position, network, coupling in zip(
        _POSITIONS, model.networks, model.couplings, strict=True
    ):
        prefix = f"flow.flows.{position}"
        yield f"{prefix}.rescale", coupling.rescale, ...
        yield f"{prefix}.reshift", coupling.reshift, ...
        blocks = itertools.product(range(model.num_blocks), network.blocks)
        for name, convolution, index in zip(
            _convolution_names(model.num_blocks),
            [network.first, *(stack for _, stack in blocks), network.last],
            [..., *np.repeat(range(model.num_blocks), 3), ...],
            strict=True,
        ):
            name = f"{prefix}.net.net.{name}.conv"
            yield f"{name}.bias", convolution.bias, index
            yield f"{name}.weight_g", convolution.gain, index
            yield f"{name}.weight_v", convolution.direction, index


def _state_dict(model: RealNVP) -> dict[str, Any]:
    """Returns the weights and masks of a model, as PyTorch has them."""
    arrays = {}
    for name, variable, index in _weights(model):
        array = variable.numpy()[index]
        if name.endswith("weight_v"):
            arrays[name] = array.transpose(3, 2, 0, 1)
        elif name.endswith("bias"):
            arrays[name] = array
        else:
            ones = (1, 1, 1) if name.endswith("weight_g") else ()
            arrays[name] = array.reshape(-1, *ones)
    for position, coupling in zip(_POSITIONS, model.couplings, strict=True):
        mask = np.moveaxis(coupling.mask, -1, 0)
        arrays[f"flow.flows.{position}.mask"] = _mask(mask)
    return arrays


def _convolution_names(num_blocks: int) -> Iterator[str]:
    """Yields PyTorch's names of the convolutions of a network, in order."""
    # What is left out is ReLUs.
    yield "0"
    for block in range(num_blocks):
        yield from (f"{2 + block}.block.{i}" for i in (0, 2, 4))
    yield f"{3 + num_blocks}"


def _mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of one element along the axes where it does not vary."""
    mask = np.array(mask, bool, ndmin=3)
    for axis in range(3):
        first = mask.take([0], axis)
        if (mask == first).all():
            mask = first
    return mask


def _read(path) -> dict[str, Any]:
    """Reads a file; names are those of `_state_dict`, by their order."""
    arrays = {}
    for name, array in _read_arrays(path).items():
        for long, short in _PARAMETRIZED.items():
            name = name.replace(long, short)
        arrays[name] = array
    couplings = _modules(arrays, ".rescale")
    if len(couplings) != len(_POSITIONS):
        fault = f"it has {len(couplings)} couplings, not {len(_POSITIONS)}"
        raise _error(path, [fault])
    renamed = {}
    for position, coupling in zip(_POSITIONS, couplings, strict=True):
        prefix = f"flow.flows.{position}"
        renamed[coupling] = prefix
        inside = [name for name in arrays if name.startswith(f"{coupling}.")]
        convolutions = _modules(inside, ".weight_v")
        num_blocks, rest = divmod(len(convolutions) - 2, 3)
        if rest:
            fault = f"`{coupling}` has {len(convolutions)} convolutions"
            raise _error(path, [fault])
        for module, name in zip(
            convolutions, _convolution_names(num_blocks), strict=True
        ):
            renamed[module] = f"{prefix}.net.net.{name}.conv"
    result = {}
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        result[f"{renamed.get(module, module)}.{part}".strip(".")] = array
    return result


def _modules(names: Iterable[str], part: str) -> list[str]:
    """Returns what has a part of some name, 2 before 10."""
    modules = {n.removesuffix(part) for n in names if n.endswith(part)}
    return sorted(
        modules,
        key=lambda name: re.sub(r"\d+", lambda n: n[0].zfill(9), name),
    )


def _read_arrays(path) -> dict[str, Any]:
    """Reads an `.npz` file, of arrays alone."""
    with open(path, "rb") as file:
        try:
            arrays = dict(np.load(file, allow_pickle=False))
            if not all(isinstance(a, np.ndarray) for a in arrays.values()):
                raise ValueError("it holds files that are no arrays")
        except _NO_ARCHIVE as error:
            raise ValueError(
                f"{os.fspath(path)} is no .npz file of arrays ({error}): write "
                "it with `np.savez`, not with `torch.save`."
            ) from error
    return arrays


def _assign(model: RealNVP, arrays: dict[str, Any], path) -> None:
    """Checks that the arrays of a file fit a model, then assigns them."""
    if problems := list(_problems(_state_dict(model), arrays)):
        raise _error(path, problems)
    for name, variable, index in _weights(model):
        array, values = arrays[name], np.array(variable.numpy())
        if name.endswith("weight_v"):
            array = array.transpose(2, 3, 1, 0)
        values[index] = array.reshape(values[index].shape)
        variable.assign(values)


def _problems(expected, arrays) -> Iterator[str]:
    """Yields a line about each array that is not as a model needs it."""
    for name, own in expected.items():
        array = arrays.get(name)
        if name.endswith(".mask"):
            if array is not None and not np.array_equal(_mask(array), own):
                yield f"`{name}` is not the mask of the model"
        elif array is None:
            yield f"`{name}` is missing"
        elif (
            (array.shape or (1,)) != own.shape
            or not np.issubdtype(array.dtype, np.floating)
            or not np.isfinite(array).all()
        ):
            yield (
                f"`{name}` must be finite floats of shape {own.shape}, got "
                f"{array.dtype} of shape {array.shape}"
            )
    yield from (f"`{n}` is superfluous" for n in arrays if n not in expected)


def _error(path, problems: Sequence[str]) -> ValueError:
    lines = [f"\n  {problem}" for problem in problems[:_MOST_PROBLEMS]]
    if more := len(problems) - len(lines):
        lines.append(f"\n  and {more} more")
    return ValueError(
        f"{os.fspath(path)} does not hold the weights of this model:"
        f"{''.join(lines)}"
    )
