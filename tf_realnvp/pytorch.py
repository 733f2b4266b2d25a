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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from tf_realnvp.model import RealNVP
from tf_realnvp.utils import files

# Where the couplings are among the steps.
_POSITIONS = (2, 3, 4, 6, 7, 8, 10, 11, 12, 13)

# How names of arrays end: those of a coupling and those of a convolution, with
# what the array is.
_COUPLING_PARTS = {"rescale": "rescale", "reshift": "reshift", "mask": "mask"}
_CONVOLUTION_PARTS = {
    "weight_v": "weight_v",
    "weight_g": "weight_g",
    "bias": "bias",
    "parametrizations.weight.original1": "weight_v",
    "parametrizations.weight.original0": "weight_g",
}

_NO_SIZES = (
    "its first coupling must have three convolutions for each residual block "
    "and two more, the first of which has a `weight_v` of shape (filters, "
    "channels, 3, 3) with an even number of filters"
)


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
        message names each array that is at fault. If the file has no masks and
        `image_shape` is not given.
    """
    couplings, superfluous = _read(path)
    sizes = _sizes(couplings)
    if sizes is None:
        raise _error(path, [_NO_SIZES, *superfluous])
    if image_shape is None:
        mask = couplings[0].arrays.get("mask")
        if mask is None or mask.ndim != 3:
            raise ValueError(
                f"{os.fspath(path)} has no mask that tells the size of images: "
                "give `image_shape`."
            )
        image_shape = (*mask.shape[1:], sizes.channels)
    model = RealNVP(
        image_shape, num_colors, sizes.filters, sizes.num_blocks, alpha
    )
    _assign(model, couplings, superfluous, path)
    return model


def load_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Gives a model the weights that a file holds.

    Args:
      model: The model. If the file does not fit, it stays as it is.
      path: An `.npz` file of a PyTorch `state_dict`.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If the file does not hold the weights of such a model; the
        message names each array that is at fault. If the model has more than
        two scales.
    """
    _check_architecture(model)
    _assign(model, *_read(path), path)


def save_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Writes the weights of a model for PyTorch.

    Args:
      model: The model.
      path: The `.npz` file to write or to replace.

    Raises:
      OSError: If the file cannot be written.
      ValueError: If the model has more than two scales.
    """
    _check_architecture(model)
    arrays = {}
    for position, network, coupling in zip(
        _POSITIONS, model.networks, model.couplings, strict=True
    ):
        prefix = f"flow.flows.{position}"
        arrays[f"{prefix}.rescale"] = coupling.rescale.numpy().reshape(1)
        arrays[f"{prefix}.reshift"] = coupling.reshift.numpy().reshape(1)
        arrays[f"{prefix}.mask"] = _to_torch_mask(coupling.mask)
        for name, parts in zip(
            _convolution_names(model.num_blocks),
            _to_torch(network),
            strict=True,
        ):
            for part, array in parts.items():
                arrays[f"{prefix}.net.net.{name}.conv.{part}"] = array
    # An open file, since `savez` changes a path that does not end in `.npz`.
    with files.replace_file(path) as new, new.open("wb") as file:
        np.savez(file, **arrays)


def _check_architecture(model: RealNVP) -> None:
    for name, expected in (
        ("num_scales", 2),
        ("num_couplings", (3, 3, 4)),
        ("dequantization", "uniform"),
        ("num_classes", None),
    ):
        value = getattr(model, name)
        if value != expected:
            raise ValueError(
                f"The PyTorch model is of one kind: `model.{name}` must be "
                f"{expected}, got {value}."
            )


class _Module(NamedTuple):
    """What a file has of a coupling or of a convolution.

    Attributes:
      name: What the names of its arrays begin with.
      arrays: Its arrays, by what they are.
      convolutions: The convolutions of a coupling, in their order.
    """

    name: str
    arrays: dict[str, np.ndarray]
    convolutions: list["_Module"]


class _Sizes(NamedTuple):
    """What the shapes of the weights depend on."""

    filters: int
    num_blocks: int
    channels: int


def _read(path) -> tuple[list[_Module], list[str]]:
    """Reads a file and tells by its name what each array is.

    Returns:
      The couplings, in their order, and a line about each array that belongs to
      none of them.
    """
    couplings: dict[str, _Module] = {}
    convolutions: dict[str, _Module] = {}
    superfluous = []
    for key, array in _read_arrays(path).items():
        for parts, modules in (
            (_COUPLING_PARTS, couplings),
            (_CONVOLUTION_PARTS, convolutions),
        ):
            ends = "|".join(map(re.escape, parts))
            if match := re.fullmatch(rf"(.+)\.({ends})", key):
                name, part = match[1], parts[match[2]]
                module = modules.setdefault(name, _Module(name, {}, []))
                if part not in module.arrays:
                    module.arrays[part] = array
                    break
        else:
            superfluous.append(f"`{key}` is superfluous")
    for name in sorted(convolutions, key=_natural):
        for coupling in couplings.values():
            if name.startswith(f"{coupling.name}."):
                coupling.convolutions.append(convolutions[name])
                break
        else:
            superfluous += [
                f"`{name}.{part}` is superfluous"
                for part in convolutions[name].arrays
            ]
    ordered = sorted(couplings.values(), key=lambda c: _natural(c.name))
    return ordered, superfluous


def _read_arrays(path) -> dict[str, np.ndarray]:
    """Reads an `.npz` file, of arrays alone."""
    with open(path, "rb") as file:
        try:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no zip archive")
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
            if not all(isinstance(a, np.ndarray) for a in arrays.values()):
                raise ValueError("it holds files that are no arrays")
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{os.fspath(path)} is no .npz file of arrays ({error}): write "
                "it with `np.savez`, not with `torch.save`."
            ) from error
    return arrays


def _natural(name: str) -> str:
    """A key that sorts names by the numbers in them, 2 before 10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(9), name)


def _sizes(couplings: list[_Module]) -> _Sizes | None:
    """The sizes that the first coupling tells, `None` if it cannot."""
    convolutions = couplings[0].convolutions if couplings else []
    num_blocks, rest = divmod(len(convolutions) - 2, 3)
    if rest or num_blocks < 1:
        return None
    shape = np.shape(convolutions[0].arrays.get("weight_v", ()))
    if len(shape) != 4 or shape[2:] != (3, 3) or shape[0] % 2:
        return None
    return _Sizes(shape[0], num_blocks, shape[1])


def _problems(couplings: list[_Module], model: RealNVP) -> list[str]:
    """A line about each array that is missing or not as a model needs it."""
    if len(couplings) != len(_POSITIONS):
        return [
            f"it has {len(couplings)} couplings (names before `.rescale` and "
            f"`.reshift`), not {len(_POSITIONS)}"
        ]
    problems = []
    for module, network, coupling in zip(
        couplings, model.networks, model.couplings, strict=True
    ):
        problems += _array_problems(module, "rescale", None)
        problems += _array_problems(module, "reshift", None)
        problems += _mask_problems(module, coupling.mask)
        own = list(_to_torch(network))
        if len(module.convolutions) != len(own):
            problems.append(
                f"`{module.name}` has {len(module.convolutions)} "
                f"convolutions, not {len(own)}"
            )
            continue
        for convolution, arrays in zip(module.convolutions, own, strict=True):
            for part, array in arrays.items():
                problems += _array_problems(convolution, part, array.shape)
    return problems


def _array_problems(module: _Module, part, shape) -> list[str]:
    """What is wrong with one array. No shape means one element."""
    name, array = f"`{module.name}.{part}`", module.arrays.get(part)
    if array is None:
        return [f"{name} is missing"]
    if shape is None and array.size != 1:
        return [f"{name} must have one element, got shape {array.shape}"]
    if shape is not None and array.shape != shape:
        return [f"{name} must have shape {shape}, got {array.shape}"]
    if not np.issubdtype(array.dtype, np.floating):
        return [f"{name} must hold floats, got {array.dtype}"]
    if not np.isfinite(array).all():
        return [f"{name} must be finite"]
    return []


def _mask_problems(module: _Module, mask: np.ndarray) -> list[str]:
    """What is wrong with the mask of a coupling, if the file has one."""
    expected = np.moveaxis(mask, -1, 0)
    given = module.arrays.get("mask", expected)
    try:
        if np.array_equal(np.broadcast_to(given, expected.shape), expected):
            return []
    except ValueError:
        pass  # It does not broadcast.
    return [f"`{module.name}.mask` is not the mask of the model"]


def _assign(model: RealNVP, couplings, superfluous, path) -> None:
    """Checks that a file fits a model, then assigns all weights."""
    sizes = _Sizes(model.filters, model.num_blocks, model.image_shape[-1])
    other = _sizes(couplings)
    if other is not None and other != sizes:
        raise ValueError(
            f"{os.fspath(path)} holds a model of other sizes: {other.filters} "
            f"filters, {other.num_blocks} residual blocks and {other.channels} "
            f"channels, not {sizes.filters}, {sizes.num_blocks} and "
            f"{sizes.channels}."
        )
    if problems := _problems(couplings, model) + superfluous:
        raise _error(path, problems)
    for module, network, coupling in zip(
        couplings, model.networks, model.couplings, strict=True
    ):
        coupling.rescale.assign(module.arrays["rescale"].reshape([]))
        coupling.reshift.assign(module.arrays["reshift"].reshape([]))
        first, *blocks, last = (
            _from_torch(convolution.arrays)
            for convolution in module.convolutions
        )
        stacks = [
            [np.stack(weights) for weights in zip(*blocks[i::3], strict=True)]
            for i in range(3)
        ]
        for variables, values in zip(
            _variables(network), [first, *stacks, last], strict=True
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def _error(path, problems: Sequence[str]) -> ValueError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ValueError(
        f"{os.fspath(path)} does not hold the weights of this model:{lines}"
    )


def _variables(network: keras.Model) -> list[tuple[keras.Variable, ...]]:
    """Direction, gain and bias of the convolutions, the blocks' stacked."""
    return [network.first, *network.blocks, network.last]


def _to_torch(network: keras.Model) -> Iterator[dict[str, np.ndarray]]:
    """PyTorch's arrays of the convolutions of a network, in their order."""
    first, *stacks, last = (
        [variable.numpy() for variable in variables]
        for variables in _variables(network)
    )
    blocks = zip(*(zip(*stack, strict=True) for stack in stacks), strict=True)
    for direction, gain, bias in (first, *itertools.chain(*blocks), last):
        yield {
            "bias": bias,
            "weight_g": gain.reshape(-1, 1, 1, 1),
            "weight_v": direction.transpose(3, 2, 0, 1),
        }


def _from_torch(arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction, gain and bias of one convolution."""
    direction = arrays["weight_v"].transpose(2, 3, 1, 0)
    return direction, arrays["weight_g"].reshape(-1), arrays["bias"]


def _convolution_names(num_blocks: int) -> Iterator[str]:
    """PyTorch's names of the convolutions of a network, in their order."""
    # What is left out is ReLUs.
    yield "0"
    for block in range(num_blocks):
        yield from (f"{2 + block}.block.{i}" for i in (0, 2, 4))
    yield f"{3 + num_blocks}"


def _to_torch_mask(mask: np.ndarray) -> np.ndarray:
    """PyTorch's mask, of one element along the axes where it does not vary."""
    mask = np.moveaxis(mask, -1, 0)
    for axis in range(3):
        first = mask.take([0], axis)
        if (mask == first).all():
            mask = first
    return mask
