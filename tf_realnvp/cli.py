"""The training command: flags, messages and exit codes."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import sys
import time

from tf_realnvp import (
    arguments,
    files,
    runs,
    runtime,
    settings,
    signals,
    streams,
    workers,
)

# TensorFlow takes seconds to import: `experiment` does so, which is imported
# when it is clear that the command line makes sense.

# Flags that all versions have written for a run. For the others their defaults
# are what came before them.
_ALWAYS_STORED = (
    "dataset",
    "seed",
    "batch_size",
    "filters",
    "num_blocks",
    "precision",
)


@dataclasses.dataclass(frozen=True)
class _Defaults:
    """What a data set gets where the command line is silent."""

    epochs: int
    lr: float
    filters: int
    num_blocks: int


_DEFAULTS = {
    "CIFAR10": _Defaults(epochs=350, lr=3e-4, filters=128, num_blocks=8),
    "CelebA": _Defaults(epochs=50, lr=3e-4, filters=128, num_blocks=8),
    "digits": _Defaults(epochs=50, lr=1e-3, filters=32, num_blocks=2),
    "fashion_mnist": _Defaults(epochs=50, lr=3e-4, filters=128, num_blocks=8),
}
_OTHER_DEFAULTS = _Defaults(epochs=100, lr=3e-4, filters=128, num_blocks=8)

_DESCRIPTION = """\
Trains RealNVP, a normalizing flow, on images.

Results, in --output_dir:
  realnvp_DATASET/      the model, a SavedModel: tf.saved_model.load gives it
                        back with sample, log_prob, bits_per_dim, encode, decode
  samples_DATASET.png   36 samples
  loss_DATASET.png      training and test loss of every epoch
  metrics_DATASET.csv   the same as numbers
"""

_EPILOG = """\
examples:
  python run.py --dataset digits
  python run.py --dataset CIFAR10 --epochs 350 --lr 3e-4 --seed 0
  python run.py --dataset CelebA --epochs 50 --lr 3e-4 --seed 0

CIFAR10 and CelebA are downloaded into --data_dir by TensorFlow Datasets, or
read from a copy that it prepared there before, or built from archives in
--data_dir/manual. digits comes with scikit-learn and needs no network.
"""


def _dataset(text):
    if not text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a data set")
    names = {name.lower(): name for name in _DEFAULTS}
    return names.get(text.lower(), text)


def _make_parser(parser_class=arguments.Parser):
    parser = parser_class(
        prog="run.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    epochs = ", ".join(
        f"{d.epochs} for {name}" for name, d in _DEFAULTS.items()
    )
    parser.add_argument(
        "--dataset",
        type=_dataset,
        default="CIFAR10",
        metavar="NAME",
        help=f"{', '.join(_DEFAULTS)}, a folder of JPEG and PNG pictures, or "
        "an image data set of TensorFlow Datasets (default: CIFAR10)",
    )
    parser.add_argument(
        "--image_size",
        type=arguments.whole_number(2),
        metavar="N",
        help="crop images to their central square and resize that to N x N, an "
        "even number (default: as they are if all are alike and at most 64, "
        "else 32)",
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="mirror training images left to right at random",
    )
    parser.add_argument(
        "--num_validation",
        type=arguments.whole_number(1),
        metavar="N",
        help="keep N training images out, save the model of the epoch that was "
        "best on them, and evaluate only that on the test images (default: "
        "train on all, evaluate on the test images after every epoch)",
    )
    parser.add_argument(
        "--epochs",
        type=arguments.whole_number(1),
        metavar="N",
        help=f"passes over the training images (default: {epochs}, "
        f"{_OTHER_DEFAULTS.epochs} for others)",
    )
    parser.add_argument(
        "--lr",
        type=arguments.positive_number,
        metavar="RATE",
        help="learning rate of the Adam optimizer "
        "(default: 3e-4, for digits 1e-3)",
    )
    parser.add_argument(
        "--lr_schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="cosine lowers the learning rate to zero by the last step "
        "(default: constant)",
    )
    parser.add_argument(
        "--warmup_steps",
        type=arguments.whole_number(0),
        default=0,
        metavar="N",
        help="raise the learning rate over the first N steps (default: 0)",
    )
    parser.add_argument(
        "--ema",
        type=arguments.decay,
        metavar="DECAY",
        help="evaluate and save a moving average of the weights, which keeps "
        "this part of itself in each step, such as 0.999 (default: none)",
    )
    parser.add_argument(
        "--batch_size",
        type=arguments.whole_number(1),
        default=64,
        metavar="N",
        help="images in a training step, on all devices together (default: 64)",
    )
    parser.add_argument(
        "--clip_grad",
        type=arguments.positive_number,
        metavar="NORM",
        help="scale gradients down to this global norm (default: never)",
    )
    parser.add_argument(
        "--seed",
        type=arguments.whole_number(0, 2**32 - 1),
        metavar="N",
        help="seed of the weights, the order of the images and the noise; the "
        "same seed gives the same run (default: one is drawn and printed)",
    )
    parser.add_argument(
        "--max_steps",
        type=arguments.whole_number(1),
        metavar="N",
        help="stop after so many training steps, evaluate and save "
        "(default: train all epochs)",
    )
    parser.add_argument(
        "--filters",
        type=arguments.whole_number(2),
        metavar="N",
        help="channels inside the coupling networks, an even number "
        "(default: 128, for digits 32)",
    )
    parser.add_argument(
        "--num_blocks",
        type=arguments.whole_number(1),
        metavar="N",
        help="residual blocks of a coupling network (default: 8, for digits 2)",
    )
    parser.add_argument(
        "--num_scales",
        type=arguments.whole_number(2),
        default=2,
        metavar="N",
        help="resolutions that couplings work at, each half the one before "
        "(default: 2)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "tf32", "bfloat16"),
        default="auto",
        help="what the coupling networks compute in while training; tf32 is "
        "float32 that GPUs (NVIDIA's since Ampere) round to 10 bits; auto is "
        "bfloat16 where the hardware computes it natively, else float32; "
        "evaluation and the saved model are always float32 (default: auto)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="use only operations that give the same bits each time, on GPUs "
        "as well, where some are slower; CPUs give the same bits without",
    )
    parser.add_argument(
        "--accumulate",
        type=arguments.whole_number(1),
        default=1,
        metavar="N",
        help="compute the gradient in N parts of the batch, one after another, "
        "to train in less memory (default: 1)",
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="compute parts of the networks twice, to train in less memory",
    )
    parser.add_argument(
        "--jit",
        action="store_true",
        help="compile the gradient with XLA; for GPUs, slower on CPUs",
    )
    parser.add_argument(
        "--devices",
        type=arguments.whole_number(1),
        metavar="N",
        help="train on so many GPUs, or logical CPUs where there is no GPU "
        "(default: all GPUs, or one CPU)",
    )
    parser.add_argument(
        "--data_dir",
        default="datasets",
        metavar="DIR",
        help="folder of TensorFlow Datasets' copies (default: datasets)",
    )
    parser.add_argument(
        "--output_dir",
        default=".",
        metavar="DIR",
        help="folder for the results (default: the current one)",
    )
    parser.add_argument(
        "--run_dir",
        metavar="DIR",
        help="folder of the run's state: checkpoints, flags, metrics "
        "(default: runs/DATASET)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --run_dir, or start it if there is none",
    )
    parser.add_argument(
        "--checkpoint_minutes",
        type=arguments.positive_number,
        default=10.0,
        metavar="N",
        help="save a checkpoint so often, and after every epoch, but not "
        "twice in thirty seconds (default: 10)",
    )
    parser.add_argument(
        "--samples_every",
        type=arguments.whole_number(1),
        default=1,
        metavar="N",
        help="draw samples for TensorBoard after every N epochs (default: 1)",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print a line with the losses after every epoch",
    )
    return parser


def _parse(argv, parser=None):
    """Returns what a command line says, with all defaults in their place."""
    parser = parser or _make_parser()
    flags = parser.parse_args(argv)
    defaults = _DEFAULTS.get(flags.dataset, _OTHER_DEFAULTS)
    for name, value in dataclasses.asdict(defaults).items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    for name in ("filters", "image_size"):
        value = getattr(flags, name)
        if value is not None and value % 2:
            parser.error(f"argument --{name}: {value} is not an even number")
    if flags.accumulate > flags.batch_size:
        parser.error(
            f"argument --accumulate: a batch of {flags.batch_size} has no "
            f"{flags.accumulate} parts"
        )
    if flags.run_dir is None:
        name = flags.dataset
        if os.path.isdir(os.path.expanduser(name)):
            name = os.path.basename(os.path.abspath(name)) or "images"
        name = re.sub(r"[^\w.-]+", "_", name)
        flags.run_dir = str(pathlib.Path("runs") / name)
    return flags


def _check_folders(flags):
    """Checks names that only TensorFlow could not deal with, and too late."""
    for name in ("run_dir", "output_dir"):
        path = getattr(flags, name)
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise arguments.UsageError(
                f"argument --{name}: {path!a} is not UTF-8, which TensorFlow "
                "needs: give another folder"
            ) from error
        patterns = sorted(set(path) & set("*?[\\"))
        if patterns:
            raise arguments.UsageError(
                f"argument --{name}: TensorFlow takes {patterns[0]} in "
                f"{arguments.printable(path)} for a pattern: give another "
                "folder"
            )


def _check_workers(flags):
    """Checks what several workers cannot do as one process can."""
    if flags.seed is None:
        raise arguments.UsageError(
            "argument --seed: several workers need the same seed"
        )
    if flags.devices is not None:
        raise arguments.UsageError(
            "argument --devices: each of several workers trains on all GPUs "
            "that it sees (CUDA_VISIBLE_DEVICES), or on one CPU"
        )


class _StoredFlags(arguments.Parser):
    """Parses what a run has stored, which may be damaged."""

    def error(self, message):
        raise ValueError(message)


def _parse_stored(run):
    """Returns the flags of a run, with those that came after it.

    What a run stores is what some command line gives: it is parsed as one.

    Raises:
      UsageError: If no command line gives them.
    """
    words = [
        settings.spell(name, value, "=")
        for name, value in run.flags.items()
        if value is not None and value is not False
    ]
    try:
        unknown = run.flags.keys() - vars(_parse([])).keys()
        if unknown:
            raise ValueError(f"this version knows no --{min(unknown)}")
        for name in _ALWAYS_STORED:
            if run.flags.get(name) is None:
                raise ValueError(f"there is no --{name}")
        parsed = _parse(words, _make_parser(_StoredFlags))
        for name, value in run.flags.items():
            if getattr(parsed, name) != value:
                raise ValueError(f"argument --{name}: {value!r}")
    except ValueError as error:
        raise arguments.UsageError(
            arguments.printable(
                f"argument --run_dir: the flags in {run.file} make no sense "
                f"({error}): give another folder"
            )
        ) from error
    return parsed


def _settle(flags, run):
    """Decides what the command line leaves open.

    Args:
      flags: The flags of the command.
      run: The run that begins or is to be resumed.
    """
    if run.exists:
        before = _parse_stored(run)
        # What the command line leaves to chance or to the machine stays.
        if flags.seed is None:
            flags.seed = before.seed
        if flags.precision == "auto":
            flags.precision = before.precision
        differences = settings.differences_of_run(flags, before)
        if differences:
            raise arguments.UsageError(
                arguments.printable(
                    f"the run in {flags.run_dir} cannot be resumed with other "
                    f"flags: {', '.join(differences)}"
                )
            )
    if flags.seed is None:
        flags.seed = random.SystemRandom().randrange(2**32)
    runtime.configure(flags.devices or 1, flags.deterministic)
    if flags.precision == "auto":
        flags.precision = runtime.native_precision()
    if flags.precision == "tf32" and not runtime.has_tensor_float_32():
        raise arguments.UsageError(
            "argument --precision: TensorFlow finds no GPUs that all have "
            "tf32, as NVIDIA's do since Ampere: give float32 or bfloat16"
        )


@streams.unbreakable()
def main(argv: list[str] | None = None) -> int:
    """Runs the training command.

    Args:
      argv: The flags. Default: those of the process.

    Returns:
      The exit code: 0; 1 if the run failed; 2 if the user has to change
      something, which one line on standard error names; 129, 130 or 143 if the
      run was interrupted by SIGHUP, SIGINT or SIGTERM.
    """
    start = time.monotonic()
    flags = _parse(argv)
    try:
        with signals.raised():
            return arguments.exit_code("run.py", lambda: _run(flags, start))
    except signals.Interrupted as interrupted:
        print(f"\nrun.py: {interrupted}", file=sys.stderr)
        return interrupted.exit_code


def _run(flags, start):
    _check_folders(flags)
    if runtime.is_one_of_many():
        _check_workers(flags)
        is_chief = workers.is_chief()
        if is_chief:
            print("waiting for the other workers", flush=True)
        # First of all: so the others learn of it if this one ends.
        runtime.configure(deterministic=flags.deterministic)
        workers.connect()
        if not is_chief:
            # It computes as the chief does, and writes nothing.
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
            ):
                _train(flags, None, start)
            return
    output = pathlib.Path(flags.output_dir)
    with runs.open_run(pathlib.Path(flags.run_dir), flags.resume) as run:
        # Now, as it may lie in the folder of the run.
        made = files.missing(output)
        try:
            arguments.check_writable(output, "--output_dir")
            _settle(flags, run)
            _train(flags, run, start)
        finally:
            if not run.exists:
                files.remove_empty(made)


def _train(flags, run, start):
    from tf_realnvp import experiment

    experiment.train(flags, run, start)
