"""The training command: flags, messages and exit codes."""

import argparse
import csv
import dataclasses
import os
import pathlib
import random
import sys
import time

# TensorFlow takes seconds to import: this module does so in `_train` only, when
# it is clear that the command line makes sense.

_EXIT_FAILURE = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130


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
}

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


class _Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line."""

    def error(self, message):
        self.exit(_EXIT_USAGE, f"{self.prog}: error: {message}\n")


class _UsageError(Exception):
    """Something the user has to change; the message is meant for them."""


def _whole_number(minimum, maximum=None):
    """Returns a parser of whole numbers for `argparse`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if (
            value is None
            or value < minimum
            or (maximum is not None and value > maximum)
        ):
            limits = f"of at least {minimum}"
            if maximum is not None:
                limits = f"from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number {limits}"
            )
        return value

    return parse


def _positive_number(text):
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _dataset(text):
    names = {name.lower(): name for name in _DEFAULTS}
    if text.lower() not in names:
        raise argparse.ArgumentTypeError(
            f"no data set is called {text!r}; there are {', '.join(_DEFAULTS)}"
        )
    return names[text.lower()]


def _make_parser():
    parser = _Parser(
        prog="run.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = ", ".join(
        f"{d.epochs} for {name}" for name, d in _DEFAULTS.items()
    )
    parser.add_argument(
        "--dataset",
        type=_dataset,
        default="CIFAR10",
        metavar="{" + ",".join(_DEFAULTS) + "}",
        help="data set to train on (default: CIFAR10)",
    )
    parser.add_argument(
        "--epochs",
        type=_whole_number(1),
        metavar="N",
        help=f"passes over the training images (default: {defaults})",
    )
    parser.add_argument(
        "--lr",
        type=_positive_number,
        metavar="RATE",
        help="learning rate of the Adam optimizer "
        "(default: 3e-4, for digits 1e-3)",
    )
    parser.add_argument(
        "--batch_size",
        type=_whole_number(1),
        default=64,
        metavar="N",
        help="images in a training step, on all devices together (default: 64)",
    )
    parser.add_argument(
        "--clip_grad",
        type=_positive_number,
        metavar="NORM",
        help="scale gradients down to this global norm (default: never)",
    )
    parser.add_argument(
        "--seed",
        type=_whole_number(0, 2**32 - 1),
        metavar="N",
        help="seed of the weights, the order of the images and the noise; the "
        "same seed gives the same run (default: one is drawn and printed)",
    )
    parser.add_argument(
        "--max_steps",
        type=_whole_number(1),
        metavar="N",
        help="stop after so many training steps, evaluate and save "
        "(default: train all epochs)",
    )
    parser.add_argument(
        "--filters",
        type=_whole_number(2),
        metavar="N",
        help="channels inside the coupling networks, an even number "
        "(default: 128, for digits 32)",
    )
    parser.add_argument(
        "--num_blocks",
        type=_whole_number(1),
        metavar="N",
        help="residual blocks of a coupling network (default: 8, for digits 2)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what the coupling networks compute in while training; auto is "
        "bfloat16 where the hardware computes it natively, else float32; "
        "evaluation and the saved model are always float32 (default: auto)",
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
        type=_whole_number(1),
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
        "--verbose",
        action="store_true",
        help="print a line with the losses after every epoch",
    )
    return parser


def _parse(argv):
    parser = _make_parser()
    flags = parser.parse_args(argv)
    for name, value in dataclasses.asdict(_DEFAULTS[flags.dataset]).items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    if flags.filters % 2:
        parser.error(
            f"argument --filters: {flags.filters} is not an even number"
        )
    if flags.seed is None:
        flags.seed = random.SystemRandom().randrange(2**32)
    return flags


def _check_output_dir(path):
    """Makes the folder, and finds out now whether it can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _UsageError(
            f"argument --output_dir: cannot write to {path}: {error.strerror}"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Runs the training command.

    Args:
      argv: The flags. Default: those of the process.

    Returns:
      The exit code: 0; 1 if the run failed; 2 if the user has to change
      something, which one line on standard error names; 130 if the run was
      interrupted.
    """
    start = time.monotonic()
    flags = _parse(argv)
    try:
        _check_output_dir(pathlib.Path(flags.output_dir))
        _train(flags, start)
    except _UsageError as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except OSError as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return _EXIT_FAILURE
    except KeyboardInterrupt:
        print("\nrun.py: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return 0


def _train(flags, start):
    """Trains a model and writes the results."""
    from tf_realnvp import runtime

    runtime.configure(flags.devices or 1)
    import keras
    import tensorflow as tf

    from tf_realnvp import RealNVP, data
    from tf_realnvp.progress import Progress
    from tf_realnvp.training import Trainer

    try:
        dataset = data.load(flags.dataset, flags.data_dir)
    except data.DataError as error:
        raise _UsageError(error) from error
    if flags.batch_size > dataset.num_train:
        raise _UsageError(
            f"argument --batch_size: {flags.batch_size} is more than the "
            f"{dataset.num_train} training images of {dataset.name}"
        )
    if flags.precision == "auto":
        native = runtime.has_native_bfloat16()
        flags.precision = "bfloat16" if native else "float32"
    with runtime.make_strategy(flags.devices).scope():
        keras.utils.set_random_seed(flags.seed)
        model = RealNVP(
            dataset.image_shape,
            dataset.num_colors,
            filters=flags.filters,
            num_blocks=flags.num_blocks,
        )
        trainer = Trainer(
            model,
            flags.lr,
            flags.clip_grad,
            flags.seed,
            flags.precision,
            flags.recompute,
            flags.jit,
        )
    _print_header(flags, dataset, model, runtime.describe_devices())

    history = []
    evaluation_start = time.monotonic()
    try:
        for metrics in trainer.fit(
            dataset, flags.epochs, flags.batch_size, flags.max_steps, Progress
        ):
            history.append(metrics)
            _write_metrics(flags, history)
            if metrics.epoch == 0:
                evaluation_seconds = time.monotonic() - evaluation_start
            if flags.verbose or metrics.epoch == 0:
                _print_metrics(metrics, flags.epochs)
    except tf.errors.DataLossError as error:
        raise _UsageError(
            f"the copy of {dataset.name} in {flags.data_dir} is damaged: "
            f"{error.message.splitlines()[0]}"
        ) from error
    if not flags.verbose:
        _print_metrics(history[-1], flags.epochs)
    startup = trainer.first_step_done - start - evaluation_seconds
    print(
        f"the first training step was done {startup:.1f} s after the start, "
        f"not counting {evaluation_seconds:.1f} s of evaluation before it"
    )
    _write_results(flags, model, history)


def _print_header(flags, dataset, model, devices):
    size = "x".join(map(str, dataset.image_shape))
    print(
        f"RealNVP on {dataset.name}: {dataset.num_train:,} training and "
        f"{dataset.num_test:,} test images of {size}, "
        f"{dataset.num_colors} levels\n"
        f"{model.num_parameters:,} parameters ({flags.filters} filters, "
        f"{flags.num_blocks} residual blocks), {devices}, {flags.precision}, "
        f"seed {flags.seed}",
        flush=True,
    )


def _print_metrics(metrics, epochs):
    from tf_realnvp.training import bits_from_nats

    train = "before training"
    if metrics.train_loss is not None:
        train = f"train {bits_from_nats(metrics.train_loss):.3f}"
    print(
        f"epoch {metrics.epoch}/{epochs}, step {metrics.step:,}: {train}, "
        f"test {bits_from_nats(metrics.test_loss):.3f} bits/dim",
        flush=True,
    )


def _write_metrics(flags, history):
    """Writes all losses, in nats per dimension and in bits/dim."""
    from tf_realnvp import files
    from tf_realnvp.training import bits_from_nats

    def columns(loss):
        return ["", ""] if loss is None else [loss, bits_from_nats(loss)]

    with (
        files.replace_file(_result(flags, "metrics", ".csv")) as new,
        new.open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(
            [
                "epoch",
                "step",
                "train_loss_nats_per_dim",
                "train_bits_per_dim",
                "test_loss_nats_per_dim",
                "test_bits_per_dim",
            ]
        )
        for m in history:
            losses = columns(m.train_loss) + columns(m.test_loss)
            writer.writerow([m.epoch, m.step, *losses])


def _write_results(flags, model, history):
    """Writes the pictures and the SavedModel."""
    from tf_realnvp import export, plots
    from tf_realnvp.training import bits_from_nats

    print("writing the results", flush=True)
    plots.save_loss_curve(
        _result(flags, "loss", ".png"),
        {
            "training (mean over the epoch)": [
                (m.epoch, bits_from_nats(m.train_loss)) for m in history[1:]
            ],
            "test": [(m.epoch, bits_from_nats(m.test_loss)) for m in history],
        },
        title=f"RealNVP on {flags.dataset}",
    )
    plots.save_image_grid(
        _result(flags, "samples", ".png"),
        model.sample(36, seed=flags.seed).numpy(),
        model.num_colors,
    )
    last = history[-1]
    export.save(
        model,
        _result(flags, "realnvp"),
        {
            "dataset": flags.dataset,
            "flags": vars(flags),
            "metrics": {
                "epochs": last.epoch,
                "steps": last.step,
                "train_bits_per_dim": bits_from_nats(last.train_loss),
                "test_bits_per_dim": bits_from_nats(last.test_loss),
            },
        },
    )
    for name, suffix in (
        ("realnvp", ""),
        ("samples", ".png"),
        ("loss", ".png"),
        ("metrics", ".csv"),
    ):
        print(f"  {_result(flags, name, suffix)}")


def _result(flags, name, suffix=""):
    return pathlib.Path(flags.output_dir) / f"{name}_{flags.dataset}{suffix}"
