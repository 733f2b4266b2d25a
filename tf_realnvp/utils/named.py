"""What belongs to a context: to the only one, or to each of several by name."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tf_realnvp.errors import DataError, reason


def by_name(context: Any) -> dict[str, Any]:
    """Returns what belongs to contexts (values, shapes) in a flat dictionary.

    Args:
      context: `None`; or what belongs to the only one, which is then called
        "context"; or to several by name, which are called "context_NAME".
    """
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        return {"context": context}
    return {f"context_{name}": value for name, value in context.items()}


def unnamed(values: Mapping[str, Any]) -> Any:
    """Returns the argument of which `by_name` returns `values`."""
    if values.keys() <= {"context"}:
        return values.get("context")
    return {k.removeprefix("context_"): v for k, v in values.items()}


def of_file(path: str | os.PathLike, name: str) -> dict[str, np.ndarray]:
    """Returns the entries of an `.npz` file, or the array of an `.npy` file.

    Args:
      path: The file; `~` is expanded.
      name: What an array without a name is called.

    Raises:
      DataError: If it cannot be read.
    """
    try:
        file = os.path.expanduser(path)
        content = np.load(file, mmap_mode="r", allow_pickle=False)
        is_array = isinstance(content, np.ndarray)
        return {name: content} if is_array else dict(content)
    except Exception as error:  # NumPy may raise anything.
        raise DataError(
            f"{path}: it cannot be read as a NumPy file: {reason(error)}"
        ) from error


def of_entries(entries: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns the context among the entries of an `.npz` file.

    Args:
      entries: The entries.
      prefix: What the names of the entries begin with, before "context".
    """
    if (single := f"{prefix}context") in entries:
        return entries[single]
    names = [name for name in entries if name.startswith(f"{single}_")]
    return unnamed({name.removeprefix(prefix): entries[name] for name in names})


def as_float32(values: Any, n: int) -> np.ndarray:
    """Returns a context of `n` images as float32 `[n, K]` or `[n, h, w, K]`.

    Raises:
      DataError: If it is none, or if float32 cannot tell its values apart, as
        of times in seconds.
    """
    values, axes = np.asarray(values), (0, 1, 2)[: np.ndim(values) - 1]
    if values.dtype.kind in "iufb" and values.ndim in (2, 4) and values.size:
        with np.errstate(over="ignore"):
            result = values.astype(np.float32)
        if len(values) == n and np.isfinite(result).all():
            rounding = np.abs(np.float64(values) - result).max(axes)
            spread = np.ptp(np.float64(values), axes)
            is_distinct = (rounding < 1e-3 * spread) & (spread > 1e-30)
            if np.all(is_distinct | (spread == 0.0)):
                return result
    raise DataError(
        "`context` must be finite numbers [n, K] or [n, h, w, K], one for each "
        f"of {n:,} images, that float32 can tell apart (subtract their mean or "
        f"scale them), got {values.dtype} {list(values.shape)}"
    )


def digest(context: Any) -> str:
    """Returns a hash of arrays of a context and their names."""
    result = hashlib.sha256()
    for name, values in sorted(by_name(context).items()):
        result.update(f"{name}{np.shape(values)}".encode())
        result.update(np.asarray(values).tobytes())
    return result.hexdigest()


def each(function: Callable, *contexts: Any) -> Any:
    """Applies a function to what belongs to each context.

    Args:
      function: Of as many arguments as there are `contexts`.
      *contexts: As for `by_name`, with the same names.
    """
    first, *others = map(by_name, contexts)
    return unnamed(
        {k: function(v, *(o[k] for o in others)) for k, v in first.items()}
    )
