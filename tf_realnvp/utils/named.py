"""What belongs to a context: to the only one, or to each of several by name."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tf_realnvp.utils.errors import DataError, reason


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
    names = [name for name in entries if name.startswith(f"{prefix}context")]
    return unnamed({name.removeprefix(prefix): entries[name] for name in names})


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
