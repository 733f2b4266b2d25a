"""Names of contexts, which a model may have one of, or several by name."""

from collections.abc import Mapping
from typing import Any


def by_name(context: Any) -> dict[str, Any]:
    """Returns what belongs to contexts (values, shapes) in a dictionary.

    The names begin with "context", since TFP takes some other names of keyword
    arguments for its own.

    Args:
      context: `None`; or what belongs to the only one, which is then called
        "context"; or to several by name, which are called "context_NAME".
    """
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        return {"context": context}
    return {f"context_{name}": value for name, value in context.items()}


def tuples(shapes: Any) -> Any:
    """Returns `context_shape`, as JSON has it, with tuples.

    Args:
      shapes: `None`, a sequence of sizes, or several by name.
    """
    named = by_name(shapes).items()
    return unnamed({name: tuple(map(int, shape)) for name, shape in named})


def unnamed(values: Mapping[str, Any]) -> Any:
    """Returns the argument of which `by_name` returns `values`."""
    if values.keys() <= {"context"}:
        return values.get("context")
    return {k.removeprefix("context_"): v for k, v in values.items()}
