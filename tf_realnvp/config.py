"""What a training is: its settings, and a description of its images.

Both are stored with a run, and two of them can be compared in words. This
module does without TensorFlow, which takes seconds to import.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tf_realnvp.utils import checks
from tf_realnvp.utils.checks import (
    ARCHITECTURE,
    ImageSize,
    OneOf,
    RealNumber,
    WholeNumber,
)
from tf_realnvp.utils.messages import counted

if TYPE_CHECKING:
    from tf_realnvp.data.image_dataset import ImageDataset

PRECISIONS = ("float32", "tf32", "bfloat16")
SCHEDULES = ("constant", "cosine")

# What depends on the data set where nothing is said.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CIFAR10": {"epochs": 350},
    "CelebA": {"epochs": 50},
    "digits": {"epochs": 15, "lr": 1e-2, "filters": 32, "num_blocks": 2},
    "fashion_mnist": {"epochs": 50},
}
NAMED_DATASETS = tuple(_DEFAULTS)
_DEFAULTS_OF_OTHERS: dict[str, Any] = {
    "epochs": 100,
    "lr": 3e-3,
    "filters": 128,
    "num_blocks": 8,
}
# Where no rate is given the others are chosen with it, as what was best at
# equal time: docs/measurements.md. With a rate they are as they always were.
_WITH_DEFAULT_LR: dict[str, Any] = {
    "lr_schedule": "cosine",
    "warmup_steps": 100,
    "clip_grad": 1.0,
    "batch_size": 32,
}
# What a run that goes on keeps where nothing else is said.
_KEPT = ("epochs", "seed", "precision", "lr", *_WITH_DEFAULT_LR)

# What a run that is resumed must have in common with its start. The others may
# change: they are about where and how long, or how Adam goes on.
_OF_A_RUN = (
    "dataset",
    "image_size",
    "num_bits",
    "flip",
    "num_validation",
    "seed",
    "batch_size",
    *ARCHITECTURE,
    "conditional",
    "init_from",
    "precision",
    "deterministic",  # What is recorded is to hold of the whole run.
    "ema",
)

# What the workers of a job need not have in common: where things are, and what
# only the chief does. Of the data set not the name counts, but the images.
_OF_EACH_WORKER = (
    "dataset",
    "data_dir",
    "output_dir",
    "run_dir",
    "checkpoint_minutes",
    "samples_every",
    "verbose",
)

# Without these no run was ever stored. For the others their defaults are what
# came before them.
_ALWAYS_STORED = (
    "dataset",
    "seed",
    "batch_size",
    "filters",
    "num_blocks",
    "precision",
)


def _setting(allowed, default=dataclasses.MISSING):
    """Returns a field that takes `allowed`, and `None` if it is the default."""
    return dataclasses.field(default=default, metadata={"allowed": allowed})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All settings of a training, as the flags of the command name them.

    Attributes:
      dataset: The data set, as `data.load` finds it.
      image_size: As for `data.load`.
      num_bits: As for `data.load`.
      flip: As for `data.load`.
      num_validation: Number of training images that are kept out.
      epochs: Number of passes over the training images.
      lr: Adam's learning rate, the largest if it changes.
      lr_schedule: As for `optimizers.learning_rate`.
      warmup_steps: As for `optimizers.learning_rate`.
      ema: As for `Trainer`.
      batch_size: Images in a step, on all devices together.
      clip_grad: As for `Trainer`.
      seed: Of the weights, the order of the images and the noise.
      max_steps: Number of steps after which training stops, if not before.
      filters: As for `RealNVP`.
      num_blocks: As for `RealNVP`.
      alpha: As for `RealNVP`.
      num_scales: As for `RealNVP`.
      num_couplings: As for `RealNVP`.
      dequantization: As for `RealNVP`.
      conditional: Whether the model is to have the classes of the images.
      init_from: Folder of a SavedModel whose weights training starts from, in
        place of those that are fitted to images.
      precision: As for `Trainer`; "auto" if the hardware is still to decide.
      deterministic: Whether to use only operations that give the same bits each
        time.
      accumulate: As for `Trainer`.
      recompute: As for `Trainer`.
      jit: As for `Trainer`.
      devices: As for `runtime.make_strategy`.
      data_dir: As for `data.load`.
      output_dir: Folder of the results.
      run_dir: Folder of the run's state.
      checkpoint_minutes: Time between checkpoints.
      samples_every: Number of epochs between samples for TensorBoard.
      verbose: Whether to print the losses after every epoch.
    """

    dataset: str
    image_size: int | tuple[int, int] | None = _setting(
        ImageSize(2, 4096), None
    )
    num_bits: int | None = _setting(WholeNumber(1, 8), None)
    flip: bool = False
    num_validation: int | None = _setting(WholeNumber(1), None)
    epochs: int = _setting(WholeNumber(1))
    lr: float = _setting(RealNumber())
    lr_schedule: str = _setting(OneOf(SCHEDULES), "constant")
    warmup_steps: int = _setting(WholeNumber(0), 0)
    ema: float | None = _setting(RealNumber(below=1.0), None)
    batch_size: int = _setting(WholeNumber(1), 64)
    clip_grad: float | None = _setting(RealNumber(), None)
    seed: int = _setting(WholeNumber(0, 2**32 - 1), 0)
    max_steps: int | None = _setting(WholeNumber(1), None)
    filters: int = _setting(ARCHITECTURE["filters"])
    num_blocks: int = _setting(ARCHITECTURE["num_blocks"])
    alpha: float = _setting(ARCHITECTURE["alpha"], 0.1)
    num_scales: int = _setting(ARCHITECTURE["num_scales"], 2)
    num_couplings: tuple[int, ...] = _setting(
        ARCHITECTURE["num_couplings"], (3, 3, 4)
    )
    dequantization: str = _setting(ARCHITECTURE["dequantization"], "uniform")
    conditional: bool = False
    init_from: str | None = None
    precision: str = _setting(OneOf(("auto", *PRECISIONS)), "auto")
    deterministic: bool = False
    accumulate: int = _setting(WholeNumber(1), 1)
    recompute: bool = False
    jit: bool = False
    devices: int | None = _setting(WholeNumber(1), None)
    data_dir: str = "datasets"
    output_dir: str = "."
    run_dir: str = "runs"
    checkpoint_minutes: float = _setting(RealNumber(), 10.0)
    samples_every: int = _setting(WholeNumber(1), 1)
    verbose: bool = False

    def __post_init__(self):
        """Checks all settings.

        Raises:
          ValueError: If one of them is out of its range.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            allowed = field.metadata.get("allowed")
            if allowed is not None:
                value = checks.check(value, field.name, allowed)
                object.__setattr__(self, field.name, value)
            elif type(value) is not (bool if field.type is bool else str):
                kind = "`True` or `False`" if field.type is bool else "a string"
                raise ValueError(
                    f"`{field.name}` must be {kind}, got {checks.short(value)}."
                )
        if not self.dataset:
            raise ValueError("`dataset` must be a name, got an empty one.")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"`accumulate` must be at most the batch size, "
                f"{self.batch_size}, got {self.accumulate}."
            )

    @classmethod
    def of_dataset(
        cls,
        dataset: str,
        before: "TrainingConfig | None" = None,
        **settings: Any,
    ) -> "TrainingConfig":
        """Returns settings with the defaults that suit a data set.

        Args:
          dataset: The data set.
          before: Those of the run that is to go on, if one is. It keeps its
            epochs, its seed, its precision, and how Adam goes on.
          **settings: The other settings; those that are `None` get the default.

        Raises:
          ValueError: If one of them is out of its range.
        """
        given = {k: v for k, v in settings.items() if v is not None}
        defaults = cls.defaults_of_dataset(dataset)
        if before is not None:
            defaults |= {name: getattr(before, name) for name in _KEPT}
            if given.get("precision") == "auto":
                del given["precision"]
        elif "lr" not in given:
            defaults |= _WITH_DEFAULT_LR
        return cls(dataset=dataset, **defaults | given)

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of `RealNVP`, beside those that tell of its images."""
        return {name: getattr(self, name) for name in ARCHITECTURE}

    @staticmethod
    def defaults_of_dataset(dataset: str) -> dict[str, Any]:
        """Returns the defaults that depend on the data set.

        Args:
          dataset: Its name, as `data.DATASETS` has it.
        """
        return _DEFAULTS_OF_OTHERS | _DEFAULTS.get(dataset, {})

    @classmethod
    def from_json(cls, stored: Any) -> "TrainingConfig":
        """Returns settings that were stored as `dataclasses.asdict` gives them.

        What an older version did not store gets its default.

        Args:
          stored: What JSON gives back.

        Raises:
          ValueError: If they are damaged, or of a version to come.
        """
        if not isinstance(stored, dict):
            raise ValueError(f"there are none, but {checks.short(stored)}")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := stored.keys() - names:
            raise ValueError(f"this version knows no `{min(unknown)}`")
        for name in _ALWAYS_STORED:
            if stored.get(name) is None:
                raise ValueError(f"there is no `{name}`")
        if not isinstance(stored["dataset"], str):
            raise ValueError(f"`dataset` is {checks.short(stored['dataset'])}")
        return cls.of_dataset(**stored)

    def differences(self, before: "TrainingConfig") -> list[str]:
        """Returns in what a run cannot go on with these settings.

        Args:
          before: The settings that it was started with.
        """
        return self._differences(before, _OF_A_RUN)

    def differences_of_worker(self, chief: "TrainingConfig") -> list[str]:
        """Returns in what a worker would not compute as the chief does.

        Args:
          chief: The chief's settings. A worker whose precision is "auto"
            follows it.
        """
        names = [field.name for field in dataclasses.fields(self)]
        apart = {*_OF_EACH_WORKER}
        if self.precision == "auto":
            apart.add("precision")
        return self._differences(chief, [n for n in names if n not in apart])

    def _differences(self, other, names: Iterable[str]) -> list[str]:
        return [
            f"{_spell(name, getattr(self, name))} instead of "
            f"{_spell(name, getattr(other, name))}"
            for name in names
            if _comparable(self, name) != _comparable(other, name)
        ]


def _comparable(config, name):
    """Returns a setting; of a path what stays when all moves elsewhere."""
    value = getattr(config, name)
    if name == "dataset":  # Its images are compared by themselves.
        return os.path.basename(os.path.abspath(os.path.expanduser(value)))
    if name == "init_from" and value is not None:
        return value.rstrip(os.sep)  # Shells add some.
    return value


def _spell(name, value):
    """Returns a setting and its name as an argument."""
    if value is None or value is False:
        return f"no `{name}`"
    if isinstance(value, tuple):
        value = ("x" if name == "image_size" else ",").join(map(str, value))
    return f"`{name}`" if value is True else f"`{name}` {value}"


@dataclasses.dataclass(frozen=True)
class DataDescription:
    """What tells the images of a training from others.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels.
      num_train: Number of training images, those for validation included.
      num_test: Number of test images.
      fingerprint: As that of `ImageDataset`.
      class_names: Names of the classes, if there are labels.
      class_probs: Their probabilities: the frequencies in training images.
    """

    image_shape: tuple[int, int, int]
    num_colors: int
    num_train: int
    num_test: int
    fingerprint: str
    class_names: tuple[str, ...] = ()
    class_probs: tuple[float, ...] = ()

    @classmethod
    def of(cls, dataset: "ImageDataset") -> "DataDescription":
        """Returns the description of a data set."""
        return cls(
            *(getattr(dataset, field.name) for field in dataclasses.fields(cls))
        )

    @property
    def of_images(self) -> dict[str, Any]:
        """The arguments of `RealNVP` that tell of its images and classes."""
        return {
            "image_shape": self.image_shape,
            "num_colors": self.num_colors,
            "num_classes": len(self.class_names) or None,
            "class_probs": self.class_probs or None,
        }

    @classmethod
    def from_json(cls, stored: Any) -> "DataDescription":
        """Returns a description that was stored as `dataclasses.asdict` has it.

        Args:
          stored: What JSON gives back.

        Raises:
          ValueError: If it is damaged.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        classes: dict[str, Any] = {"class_names": [], "class_probs": []}
        if not isinstance(stored, dict) or (classes | stored).keys() != fields:
            raise ValueError(f"no description: {checks.short(stored)}")
        stored = classes | stored
        shape = stored["image_shape"]
        numbers = [stored[n] for n in ("num_colors", "num_train", "num_test")]
        names, probs = stored["class_names"], stored["class_probs"]
        if not (
            isinstance(shape, list)
            and len(shape) == 3
            and all(type(number) is int for number in shape + numbers)
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and isinstance(probs, list)
            and all(type(prob) is float for prob in probs)
            and len(names) == len(probs)
            and isinstance(stored["fingerprint"], str)
        ):
            raise ValueError(f"no description: {checks.short(stored)}")
        tuples = ("image_shape", "class_names", "class_probs")
        return cls(**stored | {name: tuple(stored[name]) for name in tuples})

    def differences(self, other: "DataDescription") -> list[str]:
        """Returns in what these images differ from others, in words."""
        found = [
            f"{mine} instead of {theirs}"
            for mine, theirs in zip(self._words(), other._words(), strict=True)
            if mine != theirs
        ]
        # Of as many classes, in another order or by other names.
        classes = zip(self.class_names, other.class_names, strict=False)
        others = [
            f"class {mine!r} instead of {theirs!r}"
            for mine, theirs in classes
            if mine != theirs
        ]
        return found or others[:1]

    def _words(self):
        return (
            "x".join(map(str, self.image_shape)),
            f"{self.num_colors:,} levels",
            f"{self.num_train:,} training images",
            f"{self.num_test:,} test images",
            counted(len(self.class_names), "class"),
            f"fingerprint {_short(self.fingerprint)}",
        )


def _short(fingerprint):
    """Shortens what is a hash, and not what names a version in words."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]{52}$", r"\1", fingerprint)
