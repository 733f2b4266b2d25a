"""The training command: its flags, and the order of what it does."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import random
import re

from tf_realnvp.cli import arguments, signals
from tf_realnvp.config import NAMED_DATASETS, TrainingConfig
from tf_realnvp.training import runs, workers
from tf_realnvp.utils import checks, files, runtime
from tf_realnvp.utils.errors import UsageError

# TensorFlow takes seconds to import: `session` does so, which is imported when
# it is clear that the command line makes sense.

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
  {command} --dataset digits
  {command} --dataset CIFAR10 --epochs 350 --lr 3e-4 --seed 0
  {command} --dataset CelebA --epochs 50 --lr 3e-4 --seed 0
  {command} --dataset my_pictures --image_size 32 --filters 64 --num_blocks 2

CIFAR10 and CelebA are downloaded into --data_dir by TensorFlow Datasets, or
read from a copy that it prepared there before, or built from archives in
--data_dir/manual. digits comes with scikit-learn and needs no network.
"""

# What the settings are for, in the order of `--help`.
_HELP = {
    "image_size": (
        "crop images to their central square and resize that to N x N, an even "
        "number; 32x48 is a height of 32 and a width of 48 (default: as they "
        "are if all are alike and at most 64, else 32)"
    ),
    "num_bits": (
        "keep the N highest bits of the eight of each component: bits/dim of "
        "fewer bits are not comparable with those of eight (default: all)"
    ),
    "flip": "mirror training images left to right at random",
    "num_validation": (
        "keep N training images out, save the model of the epoch that was best "
        "on them, and evaluate only that on the test images (default: train on "
        "all, evaluate on the test images after every epoch)"
    ),
    "epochs": "passes over the training images (default: {epochs})",
    "lr": (
        "learning rate of the Adam optimizer, the largest if it changes "
        "(default: 3e-3, for digits 1e-2, and with it a schedule, a warm-up, a "
        "batch and clipping that suit it)"
    ),
    "lr_schedule": (
        "cosine lowers the learning rate to zero by the last step (default: "
        "cosine, with --lr constant)"
    ),
    "warmup_steps": (
        "raise the learning rate over the first N steps (default: 100, with "
        "--lr 0)"
    ),
    "ema": (
        "evaluate and save a moving average of the weights, which keeps this "
        "part of itself in each step, such as 0.999 (default: none)"
    ),
    "batch_size": (
        "images in a training step, on all devices together (default: 32, "
        "with --lr 64)"
    ),
    "clip_grad": (
        "scale gradients down to this global norm (default: 1, with --lr never)"
    ),
    "seed": (
        "seed of the weights, the order of the images and the noise; the same "
        "seed gives the same run (default: one is drawn and printed)"
    ),
    "max_steps": (
        "stop after so many training steps, evaluate and save (default: train "
        "all epochs)"
    ),
    "filters": (
        "channels inside the coupling networks, an even number (default: 128, "
        "for digits 32)"
    ),
    "num_blocks": (
        "residual blocks of a coupling network (default: 8, for digits 2)"
    ),
    "alpha": (
        "margin that keeps the logit finite: levels become numbers from X/2 to "
        "1 - X/2 (default: 0.1)"
    ),
    "num_scales": (
        "resolutions that couplings work at, each half the one before "
        "(default: 2)"
    ),
    "num_couplings": (
        "numbers of couplings: with checkerboard masks and with channel masks "
        "at each scale but the last, and at the last scale (default: 3,3,4)"
    ),
    "conditional": (
        "model the images of each class, by the labels that the data set has: "
        "samples of one class, and a classifier (default: no classes)"
    ),
    "dequantization": (
        "noise that is added to the levels; variational is learned with the "
        "flow, and takes longer a step (default: uniform)"
    ),
    "init_from": (
        "start from the weights of this SavedModel, realnvp_DATASET, of the "
        "same filters, blocks, scales, alpha and channels; more couplings, "
        "classes and learned noise start as the identity (default: none, the "
        "weights are fitted to images)"
    ),
    "precision": (
        "what the coupling networks compute in while training; tf32 is float32 "
        "that GPUs (NVIDIA's since Ampere) round to 10 bits; auto is bfloat16 "
        "where the hardware computes it natively, else float32; evaluation and "
        "the saved model are always float32 (default: auto)"
    ),
    "deterministic": (
        "use only operations that give the same bits each time, on GPUs as "
        "well, where some are slower; CPUs give the same bits without"
    ),
    "accumulate": (
        "compute the gradient in N parts of the batch, one after another, to "
        "train in less memory (default: 1)"
    ),
    "recompute": "compute parts of the networks twice, to train in less memory",
    "jit": "compile the gradient with XLA; for GPUs, slower on CPUs",
    "devices": (
        "train on so many GPUs, or logical CPUs where there is no GPU "
        "(default: all GPUs; else two CPUs where they are faster than one: "
        "with at most 64 filters, unless --max_steps is below 500, but not for "
        "small models such as that of digits)"
    ),
    "data_dir": "folder of TensorFlow Datasets' copies (default: datasets)",
    "output_dir": "folder for the results (default: the current one)",
    "run_dir": (
        "folder of the run's state: checkpoints, flags, metrics (default: "
        "runs/DATASET)"
    ),
    "checkpoint_minutes": (
        "save a checkpoint so often, and after every epoch, but not twice in "
        "thirty seconds (default: 10)"
    ),
    "samples_every": (
        "draw samples for TensorBoard after every N epochs (default: 1)"
    ),
    "verbose": "print a line with the losses after every epoch",
}


def add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    """Makes a parser that of the training command.

    Args:
      parser: The parser, which has no flags yet.
      command: How one calls the command.
    """
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG.format(command=command)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    parser.set_defaults(run=_run, prog=parser.prog)
    fields = {field.name: field for field in dataclasses.fields(TrainingConfig)}
    epochs = ", ".join(
        f"{TrainingConfig.defaults_of_dataset(name)['epochs']} for {name}"
        for name in (*NAMED_DATASETS, "others")
    )
    parser.add_argument(
        "--dataset",
        type=_dataset,
        default="CIFAR10",
        metavar="NAME",
        help=f"{', '.join(NAMED_DATASETS)}, a folder of JPEG and PNG "
        "pictures, a NumPy file (.npy, .npz), or an image data set of "
        "TensorFlow Datasets (default: CIFAR10)",
    )
    for name, text in _HELP.items():
        text = text.format(epochs=epochs)
        arguments.add_setting(parser, fields[name], text)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --run_dir, or start it if there is none",
    )


def _dataset(text):
    if not text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a data set")
    names = {name.lower(): name for name in NAMED_DATASETS}
    return names.get(text.lower(), text)


def _run(flags, start):
    """Does what the command does: checks, trains, writes the results."""
    config = _config(flags)
    if runtime.is_one_of_many():
        _check_workers(flags)
        is_chief = workers.is_chief()
        if is_chief:
            print("waiting for the other workers", flush=True)
        # First of all: so the others learn of it if this one ends.
        runtime.configure(deterministic=config.deterministic)
        workers.connect()
        if not is_chief:
            # It computes as the chief does, and writes nothing.
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
            ):
                _train(config, None, flags.resume, start)
            return
    output = pathlib.Path(config.output_dir)
    with runs.open_run(pathlib.Path(config.run_dir), flags.resume) as run:
        # Now, as it may lie in the folder of the run.
        arguments.check_writable(output, "--output_dir")
        config = _settle(flags, config, run)
        _train(config, run, flags.resume, start)


def _config(flags, before=None):
    """Returns the settings of a command line, and of the run that goes on."""
    settings = {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(TrainingConfig)
    }
    if settings["run_dir"] is None:
        name = flags.dataset
        if os.path.exists(os.path.expanduser(name)):
            name = os.path.basename(os.path.abspath(name)) or "images"
        name = re.sub(r"[^\w.-]+", "_", name)
        settings["run_dir"] = str(pathlib.Path("runs") / name)
    if before is None and flags.resume and os.path.isdir(settings["run_dir"]):
        # What is wrong with it `open_run` says, when all workers are there.
        with contextlib.suppress(UsageError, OSError):
            before = runs.Run(pathlib.Path(settings["run_dir"])).config
    if settings["seed"] is None and before is None:
        settings["seed"] = random.SystemRandom().randrange(2**32)
    try:
        config = TrainingConfig.of_dataset(before=before, **settings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for name in ("run_dir", "output_dir"):
        if reason := files.why_tensorflow_cannot(getattr(config, name)):
            raise UsageError(
                f"argument --{name}: {reason}: give another folder"
            )
    return config


def _check_workers(flags):
    """Checks what several workers cannot do as one process can."""
    if flags.seed is None:
        raise UsageError("argument --seed: several workers need the same seed")
    if flags.devices is not None:
        raise UsageError(
            "argument --devices: each of several workers trains on all GPUs "
            "that it sees (CUDA_VISIBLE_DEVICES), or on one CPU"
        )


def _settle(flags, config, run):
    """Decides what the command line leaves open, and sets up TensorFlow."""
    if run.exists:
        config = _config(flags, run.config)
        run.check_same_settings(config)
    if not runtime.is_one_of_many():  # Else it was done before.
        default = 8 if config.dataset == "digits" else 32
        num_cpus, num_threads = runtime.fastest_cpus(
            max(checks.sides(config.image_size or default)),
            config.filters,
            config.max_steps,
        )
        if config.devices is not None:
            num_cpus = config.devices
        runtime.configure(num_cpus, num_threads, config.deterministic)
    precision = runtime.settle_precision(config.precision)
    return dataclasses.replace(config, precision=precision)


def _train(config, run, resume, start):
    from tf_realnvp.training.session import Session

    session = Session(config, run, resume)
    with signals.deferred() as request:
        session.fit(request.received, start)
    # If a signal came, that has raised by now.
    session.write_results()
