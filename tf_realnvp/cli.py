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

from tf_realnvp import arguments, files, runs, runtime, signals, streams

# TensorFlow takes seconds to import: `experiment` does so, which is imported
# when it is clear that the command line makes sense.

# What a run that is resumed must have in common with its start. The others may
# change: they are about where and how long, or how Adam goes on.
_FIXED_FLAGS = (
    "dataset",
    "image_size",
    "flip",
    "seed",
    "batch_size",
    "filters",
    "num_blocks",
    "num_scales",
    "precision",
    "deterministic",  # What is recorded is to hold of the whole run.
    "ema",
)

_NUM_SCALES = 2  # Also of runs that were started before there was a choice.


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


def _make_parser():
    parser = arguments.Parser(
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
        default=_NUM_SCALES,
        metavar="N",
        help="resolutions that couplings work at, each half the one before "
        f"(default: {_NUM_SCALES})",
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


def _parse(argv):
    parser = _make_parser()
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
            name = os.path.basename(os.path.abspath(name))
        name = re.sub(r"[^\w.-]+", "_", name)
        flags.run_dir = str(pathlib.Path("runs") / name)
    if "TF_CONFIG" in os.environ and flags.seed is None:
        parser.error("argument --seed: several workers need the same seed")
    return flags


def _settle(flags, before):
    """Decides what the command line leaves open.

    Args:
      flags: The flags of the command.
      before: Those that the run to be resumed was started with, if any.
    """
    if before:
        # As it was before there was a choice.
        earlier = {"num_scales": _NUM_SCALES, "deterministic": False}
        before = earlier | before
    # What the command line leaves to chance or to the machine stays.
    if flags.seed is None:
        drawn = random.SystemRandom().randrange(2**32)
        flags.seed = before.get("seed", drawn)
    if flags.precision == "auto":
        flags.precision = before.get("precision", "auto")
    differences = [
        f"{_spelled(name, getattr(flags, name))} instead of "
        f"{_spelled(name, before[name])}"
        for name in _FIXED_FLAGS
        if name in before and getattr(flags, name) != before[name]
    ]
    if differences:
        raise arguments.UsageError(
            f"the run in {flags.run_dir} cannot be resumed with other flags: "
            + ", ".join(differences)
        )
    runtime.configure(flags.devices or 1, flags.deterministic)
    if flags.precision == "auto":
        flags.precision = runtime.native_precision()
    if flags.precision == "tf32" and not runtime.has_tensor_float_32():
        raise arguments.UsageError(
            "argument --precision: TensorFlow finds no GPUs that all have "
            "tf32, as NVIDIA's do since Ampere: give float32 or bfloat16"
        )


def _spelled(name, value):
    """Returns a flag as one would type it."""
    if value is None or value is False:
        return f"no --{name}"
    return f"--{name}" if value is True else f"--{name} {value}"


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
    if not runtime.is_chief():
        # It computes as the chief does, and writes nothing.
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            _settle(flags, {})
            _train(flags, None, start)
        return
    output = pathlib.Path(flags.output_dir)
    with runs.open_run(pathlib.Path(flags.run_dir), flags.resume) as run:
        # Now, as it may lie in the folder of the run.
        made = files.missing(output)
        try:
            arguments.check_writable(output, "--output_dir")
            _settle(flags, run.flags)
            _train(flags, run, start)
        finally:
            if not run.exists:
                files.remove_empty(made)


def _train(flags, run, start):
    from tf_realnvp import experiment

    experiment.train(flags, run, start)
