"""What two trainings must have in common, and in words how they differ."""

import argparse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_realnvp.image_dataset import ImageDataset

# What a run that is resumed must have in common with its start. The others may
# change: they are about where and how long, or how Adam goes on.
_OF_A_RUN = (
    "dataset",
    "image_size",
    "flip",
    "num_validation",
    "seed",
    "batch_size",
    "filters",
    "num_blocks",
    "num_scales",
    "precision",
    "deterministic",  # What is recorded is to hold of the whole run.
    "ema",
)

# What the workers of a job need not have in common: where things are, and what
# only the chief does. Of the data set not the name counts, but the images.
_OF_A_WORKER = (
    "dataset",
    "data_dir",
    "output_dir",
    "run_dir",
    "checkpoint_minutes",
    "samples_every",
    "verbose",
)

# What there is to say of a data set, as one would say it.
_DATA = {
    "image_shape": lambda shape: "x".join(map(str, shape)),
    "num_colors": "{:,} levels".format,
    "num_train": "{:,} training images".format,
    "num_test": "{:,} test images".format,
    "fingerprint": "fingerprint {:.12}".format,
}


def describe(dataset: "ImageDataset") -> dict[str, Any]:
    """Returns what a data set is, as values that JSON knows.

    Args:
      dataset: The data set.
    """
    return {
        "image_shape": list(dataset.image_shape),
        "num_colors": dataset.num_colors,
        "num_train": dataset.num_train,
        "num_test": dataset.num_test,
        "fingerprint": dataset.fingerprint,
    }


def is_description(value: Any) -> bool:
    """Returns whether a value can come from `describe`."""
    if not isinstance(value, dict) or value.keys() != _DATA.keys():
        return False
    shape = value["image_shape"]
    numbers = [value[name] for name in ("num_colors", "num_train", "num_test")]
    return (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(number) is int for number in shape + numbers)
        and isinstance(value["fingerprint"], str)
    )


def differences_of_data(
    data: Mapping[str, Any], other: Mapping[str, Any]
) -> list[str]:
    """Returns in what a data set differs from another one.

    Args:
      data: As `describe` returns it.
      other: Likewise.
    """
    return [
        f"{say(data[name])} instead of {say(other[name])}"
        for name, say in _DATA.items()
        if data[name] != other[name]
    ]


def differences_of_run(
    flags: argparse.Namespace, before: argparse.Namespace
) -> list[str]:
    """Returns in what a run cannot go on as it was started.

    Args:
      flags: The flags with which it is to go on.
      before: Those that it was started with.
    """
    return _differences(vars(flags), vars(before), _OF_A_RUN)


def differences_of_worker(
    flags: Mapping[str, Any], chief: Mapping[str, Any]
) -> list[str]:
    """Returns in what a worker would not compute as the chief does.

    Args:
      flags: The flags of the worker. With the precision `"auto"` it follows the
        chief.
      chief: Those of the chief.
    """
    names = [name for name in chief if name not in _OF_A_WORKER]
    if flags.get("precision") == "auto":
        names.remove("precision")
    return _differences(flags, chief, names)


def _differences(
    flags: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]
) -> list[str]:
    return [
        f"{spell(name, flags.get(name))} instead of "
        f"{spell(name, other.get(name))}"
        for name in names
        if flags.get(name) != other.get(name)
    ]


def spell(name: str, value: Any, between: str = " ") -> str:
    """Returns a flag as one would type it.

    Args:
      name: Its name.
      value: Its value; `True` and `False` for a switch.
      between: What stands between name and value.
    """
    if value is None or value is False:
        return f"no --{name}"
    return f"--{name}" if value is True else f"--{name}{between}{value}"
