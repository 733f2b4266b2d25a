"""What a training is: its settings, and a description of its images.

`TrainingConfig` says each setting once. Its fields hold the type, the range,
the default and the help; the flags of the command, `--help`, the documentation
and the comparisons of `run.json` are made from them. Both classes are stored
with a run. This module does without TensorFlow, which takes seconds to import.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from tf_realnvp.utils import checks
from tf_realnvp.utils.checks import (
    Folder,
    ImageSize,
    Name,
    OneOf,
    RealNumber,
    Switch,
    WholeNumber,
    WholeNumbers,
)

if TYPE_CHECKING:
    from tf_realnvp.data.image_dataset import ImageDataset

# Defaults that depend on the data set.
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
# Defaults that suit the default learning rate, the best at equal time
# (docs/measurements.md). With another rate those of the fields hold.
_WITH_DEFAULT_LR: dict[str, Any] = {
    "lr_schedule": "cosine",
    "warmup_steps": 100,
    "clip_grad": 1.0,
    "batch_size": 32,
}
# What a run that is resumed keeps where nothing else is given.
_KEPT = ("epochs", "seed", "precision", "lr", *_WITH_DEFAULT_LR)

_EPOCHS = ", ".join(
    f"{defaults['epochs']} for {name}"
    for name, defaults in (_DEFAULTS | {"others": _DEFAULTS_OF_OTHERS}).items()
)


def _setting(same, allowed, help, default=dataclasses.MISSING):
    """Returns a field of `TrainingConfig`.

    Args:
      same: Where it must be the same: in the "model", which makes it an
        argument of `RealNVP`, and so in the whole run; in the "run", whenever
        it is resumed; or in all workers of a "job"; "" if it may differ.
      allowed: Its range. `None` is allowed, too, if it is the default.
      help: What it is for. The default is added, if it does not say it.
      default: Its default. By default it depends on the data set.
    """
    if type(default) in (int, float, str, tuple) and "(default:" not in help:
        help = f"{help} (default: {allowed.format(default)})"
    metadata = {"allowed": allowed, "help": help, "same": same}
    return dataclasses.field(default=default, metadata=metadata)


_of_model = functools.partial(_setting, "model")
_of_run = functools.partial(_setting, "run")
_of_job = functools.partial(_setting, "job")
_of_process = functools.partial(_setting, "")


class _Record:
    """A dataclass that JSON stores as `dataclasses.asdict` gives it."""

    @classmethod
    def from_json(cls, stored: Any) -> Self:
        """Returns a record that was stored.

        What an older version did not have gets its default.

        Args:
          stored: What JSON gives back.

        Raises:
          ValueError: If it is damaged, or of a version to come.
        """
        try:
            return cls(**stored)
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(_Record):
    """All settings of a training, as the flags of the command name them.

    `--help` tells what each is for; so does `field.metadata["help"]`.
    """

    # Not the name, the size and the levels have to be the same in a run, but
    # the images, which are compared by themselves.
    dataset: str = _of_process(
        Name(),
        f"{', '.join(NAMED_DATASETS)}, a folder of JPEG and PNG images, a "
        "NumPy file (.npy, .npz), or an image data set of TensorFlow Datasets "
        "(default: CIFAR10)",
    )
    image_size: int | tuple[int, int] | None = _of_process(
        ImageSize(2, 4096),
        "crop images to their central square and resize that to N x N, an even "
        "number; 32x48 is a height of 32 and a width of 48 (default: as they "
        "are if all are alike and at most 64, else 32)",
        None,
    )
    num_bits: int | None = _of_process(
        WholeNumber(1, 8),
        "keep the N highest bits of the eight of each component: bits/dim of "
        "fewer bits are not comparable with those of eight (default: all)",
        None,
    )
    flip: bool = _of_run(
        Switch(), "mirror training images left to right at random", False
    )
    num_validation: int | None = _of_run(
        WholeNumber(1),
        "keep N training images out, save the model of the epoch that was best "
        "on them, and evaluate only that on the test images (default: train on "
        "all, evaluate on the test images after every epoch)",
        None,
    )
    epochs: int = _of_job(
        WholeNumber(1), f"passes over the training images (default: {_EPOCHS})"
    )
    lr: float = _of_job(
        RealNumber(),
        "learning rate of the Adam optimizer, the largest if it changes "
        "(default: 3e-3, for digits 1e-2, and with it a schedule, a warm-up, a "
        "batch and clipping that suit it)",
    )
    lr_schedule: str = _of_job(
        OneOf(("constant", "cosine")),
        "cosine lowers the learning rate to zero by the last step (default: "
        "cosine, with --lr constant)",
        "constant",
    )
    warmup_steps: int = _of_job(
        WholeNumber(0),
        "raise the learning rate over the first N steps (default: 100, with "
        "--lr 0)",
        0,
    )
    ema: float | None = _of_run(
        RealNumber(below=1.0),
        "evaluate and save a moving average of the weights, which keeps this "
        "part of itself in each step, such as 0.999 (default: none)",
        None,
    )
    batch_size: int = _of_run(
        WholeNumber(1),
        "images in a training step, on all devices together (default: 32, "
        "with --lr 64)",
        64,
    )
    clip_grad: float | None = _of_job(
        RealNumber(),
        "scale gradients down to this global norm (default: 1, with --lr "
        "never)",
        None,
    )
    seed: int = _of_run(
        WholeNumber(0, 2**32 - 1),
        "seed of the weights, the order of the images and the noise; the same "
        "seed gives the same run (default: one is drawn and printed)",
        0,
    )
    max_steps: int | None = _of_job(
        WholeNumber(1),
        "stop after so many training steps, evaluate and save (default: train "
        "all epochs)",
        None,
    )
    filters: int = _of_model(
        WholeNumber(2, even=True),
        "channels inside the coupling networks, an even number (default: 128, "
        "for digits 32)",
    )
    num_blocks: int = _of_model(
        WholeNumber(1, 1000),
        "residual blocks of a coupling network (default: 8, for digits 2)",
    )
    alpha: float = _of_model(
        # Beyond, float32 takes the highest levels for 1, or for each other.
        RealNumber(1e-6, includes_low=True, below=0.999),
        "margin that keeps the logit finite: levels become numbers from X/2 to "
        "1 - X/2",
        0.1,
    )
    num_scales: int = _of_model(
        WholeNumber(2),
        "resolutions that couplings work at, each half the one before",
        2,
    )
    num_couplings: tuple[int, ...] = _of_model(
        WholeNumbers(3, 1, 1000),
        "numbers of couplings: with checkerboard masks and with channel masks "
        "at each scale but the last, and at the last scale",
        (3, 3, 4),
    )
    dequantization: str = _of_model(
        OneOf(("uniform", "variational")),
        "noise that is added to the levels; variational is learned with the "
        "flow, and takes longer a step",
        "uniform",
    )
    conditional: bool = _of_run(
        Switch(),
        "model the images of each class, by the labels that the data set has: "
        "samples of one class, and a classifier (default: no classes)",
        False,
    )
    init_from: str | None = _of_run(
        Folder(),
        "start from the weights of this SavedModel, realnvp_DATASET, of the "
        "same filters, blocks, scales, alpha and channels; more couplings, "
        "classes and variational dequantization start as the identity "
        "(default: none, the weights are fitted to images)",
        None,
    )
    precision: str = _of_run(
        OneOf(("auto", "float32", "tf32", "bfloat16")),
        "what the coupling networks compute in while training; tf32 is float32 "
        "that GPUs (NVIDIA's since Ampere) round to 10 bits; auto is bfloat16 "
        "where the hardware computes it natively, else float32; evaluation and "
        "the saved model are always float32",
        "auto",
    )
    deterministic: bool = _of_run(
        Switch(),
        "use only operations that give the same bits each time, on GPUs as "
        "well, where some are slower; CPUs give the same bits without",
        False,
    )
    accumulate: int = _of_job(
        WholeNumber(1),
        "compute the gradient in N parts of the batch, one after another, to "
        "train in less memory",
        1,
    )
    recompute: bool = _of_job(
        Switch(),
        "compute parts of the networks twice, to train in less memory",
        False,
    )
    jit: bool = _of_job(
        Switch(),
        "compile the gradient with XLA; for GPUs, slower on CPUs",
        False,
    )
    devices: int | None = _of_job(
        WholeNumber(1),
        "train on so many GPUs, or logical CPUs where there is no GPU "
        "(default: all GPUs; else two CPUs where they are faster than one: "
        "with at most 64 filters, unless --max_steps is below 500, but not for "
        "small models such as that of digits)",
        None,
    )
    data_dir: str = _of_process(
        Folder(), "folder of TensorFlow Datasets' copies", "datasets"
    )
    output_dir: str = _of_process(
        Folder(), "folder for the results (default: the current one)", "."
    )
    run_dir: str = _of_process(
        Folder(),
        "folder of the run's state: checkpoints, flags, metrics (default: "
        "runs/DATASET)",
        "runs",
    )
    checkpoint_minutes: float = _of_process(
        RealNumber(),
        "save a checkpoint so often, and after every epoch, but not twice in "
        "thirty seconds",
        10.0,
    )
    samples_every: int = _of_process(
        WholeNumber(1), "draw samples for TensorBoard after every N epochs", 1
    )
    verbose: bool = _of_process(
        Switch(), "print a line with the losses after every epoch", False
    )

    def __post_init__(self):
        """Checks all settings.

        Raises:
          ValueError: If one of them is out of its range.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                allowed = field.metadata["allowed"]
                value = checks.check(value, field.name, allowed)
                object.__setattr__(self, field.name, value)
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
          dataset: The data set. Named ones are found in upper and lower case.
          before: Those of the run that is resumed, if one is. It keeps its
            epochs, its seed, its precision, and how Adam goes on.
          **settings: The other settings; those that are `None` get the default.

        Raises:
          ValueError: If one of them is out of its range.
        """
        named = {name.lower(): name for name in NAMED_DATASETS}
        dataset = named.get(dataset.lower(), dataset)
        given = {k: v for k, v in settings.items() if v is not None}
        defaults = _DEFAULTS_OF_OTHERS | _DEFAULTS.get(dataset, {})
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

    def differences(self, before: "TrainingConfig") -> list[str]:
        """Returns the settings with which a run cannot be resumed, in words.

        Args:
          before: The settings that it was started with.
        """
        return self._differences(before, ("model", "run"))

    def differences_of_worker(self, chief: "TrainingConfig") -> list[str]:
        """Returns the settings by which a worker would not train as the chief.

        Args:
          chief: The chief's settings. A worker whose precision is "auto"
            follows it.
        """
        if self.precision == "auto":
            chief = dataclasses.replace(chief, precision="auto")
        return self._differences(chief, ("model", "run", "job"))

    def _differences(self, other, same: Sequence[str]) -> list[str]:
        return [
            f"{_spell(field, mine)} instead of {_spell(field, its)}"
            for field in dataclasses.fields(self)
            if field.metadata["same"] in same
            and (mine := getattr(self, field.name))
            != (its := getattr(other, field.name))
        ]


# The arguments of `RealNVP`, beside those that tell of its images.
ARCHITECTURE: dict[str, Any] = {
    field.name: field.metadata["allowed"]
    for field in dataclasses.fields(TrainingConfig)
    if field.metadata["same"] == "model"
}


def _spell(field, value):
    """Returns a setting and its name as an argument."""
    if value is None or value is False:
        return f"no `{field.name}`"
    if value is True:
        return f"`{field.name}`"
    return f"`{field.name}` {field.metadata['allowed'].format(value)}"


@dataclasses.dataclass(frozen=True)
class DataDescription(_Record):
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

    def __post_init__(self):
        for name in ("image_shape", "class_names", "class_probs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

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

    def differences(self, other: "DataDescription") -> list[str]:
        """Returns in what these images differ from others, in words."""
        mine, its = self._words(), other._words()
        return [
            f"{mine[name]} instead of {its[name]}"
            for name in mine
            if getattr(self, name) != getattr(other, name)
        ]

    def _words(self):
        classes = ", ".join(self.class_names)
        return {
            "image_shape": "x".join(map(str, self.image_shape)),
            "num_colors": f"{self.num_colors:,} levels",
            "num_train": f"{self.num_train:,} training images",
            "num_test": f"{self.num_test:,} test images",
            "class_names": f"classes {checks.short(classes)}",
            "fingerprint": f"fingerprint {checks.short(self.fingerprint)}",
        }
