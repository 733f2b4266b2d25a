"""The settings of a training, and the description of its images.

`TrainingConfig` is the single definition of all settings. Its fields hold the
type, range, default and help text. The command's flags, `--help`, the
documentation and the comparison of runs are generated from them. A run stores
`TrainingConfig` and `DataDescription` in `run.json`, as `dataclasses.asdict`
returns them. This module does not import TensorFlow, which takes seconds.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from tf_realnvp.errors import UsageError
from tf_realnvp.flow.architecture import ARCHITECTURE, Architecture, setting
from tf_realnvp.utils import ranges
from tf_realnvp.utils.named import each
from tf_realnvp.utils.ranges import (
    Folder,
    ImageSize,
    Name,
    OneOf,
    RealNumber,
    Switch,
    WholeNumber,
)

# Defaults that depend on the data set.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CIFAR10": {"epochs": 350},
    "CelebA": {"epochs": 50},
    "digits": {
        **{"epochs": 9, "filters": 96, "num_blocks": 1},
        "channel_masks": "mixed",
    },
    "fashion_mnist": {"epochs": 50},
}
DATASETS = tuple(_DEFAULTS)
_ALIASES = {"celeb_a": "CelebA", "fashionmnist": "fashion_mnist"}  # Of TFDS.
_EPOCHS_OF_OTHERS = 100
# The default learning rate and what goes with it, the best at equal time
# (benchmarks/results/speedrun.md), and what goes with another rate.
WITH_DEFAULT_LR: dict[str, Any] = {
    "optimizer": "muon",
    "lr": 1e-2,
    "lr_schedule": "cosine",
    "warmup_steps": 100,
    "clip_grad": 1.0,
    "batch_size": 32,
}
_WITH_OTHER_LR: dict[str, Any] = {
    "optimizer": "adam",
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "batch_size": 64,
}
# Settings that a resumed run keeps unless they are given again.
_KEPT = ("epochs", "seed", "precision", *WITH_DEFAULT_LR)

_EPOCHS = ", ".join(
    f"{defaults['epochs']} for {name}" for name, defaults in _DEFAULTS.items()
)


def canonical(dataset: str) -> str:
    """Returns the name of a data set as spelled in `DATASETS`, or unchanged.

    Args:
      dataset: The name, in upper or lower case, optionally with a version, such
        as `fashion_mnist:3.0.1`, which is kept.
    """
    name, colon, version = dataset.partition(":")
    spellings = {name.lower(): name for name in DATASETS} | _ALIASES
    return spellings.get(name.lower(), name) + colon + version


class _DataSet(Name):
    """Names of data sets; those in `DATASETS` regardless of case."""

    convert = parse = staticmethod(canonical)  # type: ignore[assignment]


_of_run = functools.partial(setting, "run")
_of_job = functools.partial(setting, "job")
_of_process = functools.partial(setting, "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Course:
    """The settings of data and optimization, whose flags come first."""

    # A resumed run may name its data set differently: the images themselves
    # are compared.
    dataset: str = _of_process(
        _DataSet(),
        f"{', '.join(DATASETS)}, a folder of JPEG, PNG and TIFF images, a "
        "NumPy file (.npy, .npz), or an image data set of TensorFlow Datasets "
        "(default: CIFAR10)",
    )
    image_size: tuple[int, int] | None = _of_process(
        ImageSize(),
        "crop and resize images to N x N, N even, or to a height and a width, "
        "such as 32x48 (default: none if all images have the same even size of "
        "at most 64, else 32)",
    )
    tiles: tuple[int, int] | None = _of_process(
        ImageSize(),
        "train on tiles of N x N, or of a height and a width, at random places "
        "of the images of a folder, which keep their size (default: resize the "
        "images)",
    )
    num_bits: int | None = _of_process(
        WholeNumber(1, 16),
        "keep only the N highest bits of each component; bits/dim at different "
        "numbers of bits are not comparable (default: all)",
    )
    flip: bool = _of_run(
        Switch(), "mirror training images left to right at random", False
    )
    num_validation: int | None = _of_run(
        WholeNumber(1),
        "hold out N training images for validation, save the model of the best "
        "epoch on them, and test only that (default: train on all, test after "
        "every epoch)",
    )
    minutes: float | None = _of_job(
        RealNumber(),
        "train for as many steps as fit into X minutes, the whole command "
        "included, and choose the settings that are not given for this time "
        "(default: train all epochs)",
    )
    epochs: int | None = _of_job(
        WholeNumber(1),
        f"passes over the training images (default: {_EPOCHS}, "
        f"{_EPOCHS_OF_OTHERS} for others)",
        _EPOCHS_OF_OTHERS,
    )
    optimizer: str = _of_run(
        OneOf(("adam", "muon")),
        "optimizer (default: muon; adam if --lr is given)",
    )
    lr: float = _of_job(
        RealNumber(),
        "peak learning rate (default: 1e-2, with an optimizer, schedule, "
        "warm-up, batch size and clipping to match)",
    )
    lr_schedule: str = _of_job(
        OneOf(("constant", "cosine")),
        "schedule of the learning rate; cosine decays it to zero at the last "
        "step (default: cosine; constant if --lr is given)",
    )
    warmup_steps: int = _of_job(
        WholeNumber(0),
        "increase the learning rate linearly over the first N steps (default: "
        "100; 0 if --lr is given)",
    )
    ema: float | None = _of_run(
        RealNumber(below=1.0),
        "evaluate and save an exponential moving average of the weights with "
        "this decay (default: none)",
    )
    batch_size: int = _of_run(
        WholeNumber(1),
        "images per training step, over all devices (default: 32; 64 if --lr "
        "is given)",
    )
    clip_grad: float | None = _of_job(
        RealNumber(),
        "clip gradients to this global norm (default: 1; no clipping if --lr "
        "is given)",
    )
    seed: int = _of_run(
        WholeNumber(0, 2**32 - 1),
        "seed of the weights, the order of the images and the noise; the same "
        "seed gives the same run (default: drawn at random and printed)",
        0,
    )
    max_steps: int | None = _of_job(
        WholeNumber(1),
        "stop after N training steps, then evaluate and save (default: train "
        "all epochs)",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Architecture, _Course):
    """All settings of a training, named like the command's flags.

    `field.metadata["help"]` describes each setting, as `--help` shows it.
    `None` selects the default. `DATASETS` are matched regardless of case.

    Attributes:
      before: Settings of the run that is resumed, if any. Its epochs, seed,
        precision and optimizer settings become the defaults, and with
        `init_from` its architecture.
      other: Metadata of the model of `init_from`, whose architecture becomes
        the default.

    Raises:
      UsageError: If the length is given twice.
      ValueError: If a setting is out of range.
    """

    before: dataclasses.InitVar["TrainingConfig | None"] = None
    other: dataclasses.InitVar[Mapping[str, Any] | None] = None
    conditional: bool = _of_run(
        Switch(),
        "train a class-conditional model on the labels of the data set",
        False,
    )
    init_from: str | None = _of_run(
        Folder(),
        "warm start: take the weights of this SavedModel (realnvp_DATASET) and "
        "its architecture, to which couplings, classes, a context and "
        "variational dequantization may be added (default: data-dependent "
        "initialization)",
    )
    precision: str = _of_job(
        OneOf(("auto", "float32", "tf32", "bfloat16")),
        "precision of the coupling networks during training; tf32 is for "
        "NVIDIA GPUs since Ampere; auto is bfloat16 if the hardware supports "
        "it natively, else float32",
        "auto",
    )
    deterministic: bool = _of_run(
        Switch(),
        "use only deterministic operations on GPUs; on CPUs training always "
        "is deterministic",
        False,
    )
    accumulate: int = _of_job(
        WholeNumber(1),
        "accumulate the gradient over N parts of the batch, to save memory",
        1,
    )
    recompute: bool = _of_job(
        Switch(), "compute parts of the networks twice, to save memory", False
    )
    jit: bool = _of_job(
        Switch(),
        "compile the gradient with XLA; intended for GPUs, slower on CPUs",
        False,
    )
    devices: int | None = _of_job(
        WholeNumber(1),
        "train on N GPUs; without a GPU, compute N parts of a batch at once "
        "(default: all GPUs, or two parts where this is faster)",
    )
    data_dir: str = _of_process(
        Folder(), "folder or bucket of TensorFlow Datasets", "datasets"
    )
    output_dir: str = _of_process(
        Folder(), "folder for the results (default: the current folder)", "."
    )
    run_dir: str = _of_process(
        Folder(),
        "folder for checkpoints, settings and metrics (default: runs/DATASET)",
        "runs",
    )
    checkpoint_minutes: float = _of_process(
        RealNumber(),
        "save a checkpoint every X minutes, and after every epoch unless the "
        "last one is less than 30 seconds old",
        10.0,
    )
    samples_every: int = _of_process(
        WholeNumber(1), "draw samples for TensorBoard after every N epochs", 1
    )
    verbose: bool = _of_process(
        Switch(), "print the losses after every epoch", False
    )

    def __post_init__(self, before, other):
        if self.minutes and bool(self.epochs) != bool(self.max_steps):
            raise UsageError("`minutes` goes without `epochs` and `max_steps`.")
        self._settle(self._defaults(before, other or {}))

    def _defaults(self, before, other):
        """Returns the defaults that depend on other settings, by name.

        A resumed run precedes the model of a warm start, and that the data set.
        """
        name = ranges.check(self.dataset, "dataset", _DataSet())
        defaults = dict(_DEFAULTS.get(name.split(":")[0], {}))
        if self.minutes:
            defaults["epochs"] = None
        if before is None:
            defaults |= _WITH_OTHER_LR if self.lr else WITH_DEFAULT_LR
            return defaults | {
                name: other[name] for name in ARCHITECTURE if name in other
            }
        if self.precision == "auto":
            vars(self)["precision"] = None
        names = {*_KEPT, *(ARCHITECTURE if self.init_from else ())}
        if before.minutes:
            names = {*before.shared}
            asked = self.minutes or before.minutes
            if self.epochs or self.max_steps or asked != before.minutes:
                names -= {"minutes", "epochs", "max_steps"}
        return defaults | {name: getattr(before, name) for name in names}

    def same_in(self, *scopes: str) -> dict[str, Any]:
        """Returns the settings that must not change in some scopes, by name.

        Args:
          *scopes: Some of "model", "run" and "job".
        """
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["same"] in scopes
        }

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that all workers of a job share, by name."""
        return self.same_in("model", "run", "job")

    def differences(self, other: "TrainingConfig") -> list[str]:
        """Describes the settings that differ but must not.

        Args:
          other: The settings to compare with. A run that was started with them
            can be resumed with these if there are no differences.
        """
        scopes = ("model", "run")
        return ranges.differences(self.same_in(*scopes), other.same_in(*scopes))


@dataclasses.dataclass(frozen=True)
class DataDescription:
    """Description that identifies the images of a training.

    Attributes:
      image_shape: `(H, W, C)`.
      num_colors: Number of levels per component; `None` for real numbers.
      num_train: Number of training images, validation images included.
      num_test: Number of test images.
      fingerprint: `fingerprint` of the `ImageDataset`.
      class_names: Names of the classes, if there are labels.
      class_probs: Probability of each class; by default its frequency in the
        training images.
      context_shape: `context_shape` of the `ImageDataset`.
    """

    image_shape: tuple[int, int, int]
    num_colors: int | None
    num_train: int
    num_test: int
    fingerprint: str
    class_names: tuple[str, ...] = ()
    class_probs: tuple[float, ...] = ()
    context_shape: Any = None

    def __post_init__(self):
        # As `run.json` has lists.
        for name in ("image_shape", "class_names", "class_probs"):
            vars(self)[name] = tuple(getattr(self, name))
        vars(self)["context_shape"] = each(tuple, self.context_shape)

    @property
    def of_images(self) -> dict[str, Any]:
        """The arguments of `RealNVP` that describe its images and classes."""
        return {
            "image_shape": self.image_shape,
            "num_colors": self.num_colors,
            "num_classes": len(self.class_names) or None,
            "class_probs": self.class_probs or None,
            "context_shape": self.context_shape,
        }

    def differences(self, other: "DataDescription") -> list[str]:
        """Describes each property in which two data sets differ."""
        same_probs = {"class_probs": other.class_probs}
        return ranges.differences(vars(self) | same_probs, vars(other))
