"""The training command."""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import os
import pathlib
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from tf_realnvp.cli import arguments, signals
from tf_realnvp.config import TrainingConfig
from tf_realnvp.errors import UsageError
from tf_realnvp.serving import metadata
from tf_realnvp.training import runs, workers
from tf_realnvp.utils import ranges, runtime
from tf_realnvp.utils.console import counted, say

_STARTED = time.monotonic()
# Time of the results, relative to that of the first steps. Both mostly trace.
_RESULTS_PER_TRACE = 0.3

# TensorFlow takes seconds to import. What imports it is imported only after the
# command line has been checked.


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the training command to a parser without flags."""
    parser.description = inspect.getdoc(_run)
    flags = {
        field.name: (field.metadata["allowed"], None, field.metadata["help"])
        for field in dataclasses.fields(TrainingConfig)
    }
    text = "resume the run in --run_dir, or start it if there is none"
    flags["resume"] = ranges.Switch(), None, text
    for name, rest in flags.items():
        flag, options = arguments.argument(f"--{name}", *rest)
        parser.add_argument(flag, **options)
    parser.set_defaults(run=_run, prog=parser.prog, dataset="CIFAR10")


def _run(flags):
    """Train RealNVP, a normalizing flow, on images.

    Results, in --output_dir:
      realnvp_DATASET/      the model, a SavedModel: tf.saved_model.load returns
                            an object with sample, log_prob, bits_per_dim,
                            encode and decode
      samples_DATASET.png   36 samples
      loss_DATASET.png      plot of the losses of every epoch
      metrics_DATASET.csv   the losses as numbers

    CIFAR10 and CelebA come from TensorFlow Datasets: from a prepared copy in
    --data_dir, from archives in --data_dir/manual, or downloaded into
    --data_dir. digits is part of scikit-learn and needs no network.

    examples:
      %(prog)s --dataset digits
      %(prog)s --dataset CIFAR10 --epochs 350 --lr 3e-4 --seed 0
      %(prog)s --dataset my_images --image_size 32 --filters 64 --num_blocks 2
    """
    workers.read_slurm_job()
    with contextlib.ExitStack() as stack:
        is_chief = not runtime.is_one_of_many() or _meet(flags)
        path = _run_dir(flags)
        if is_chief:
            run = stack.enter_context(runs.open_run(path, flags.resume))
        else:  # It writes nothing.
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            run = runs.Run(path)
        config = read_settings(flags, run)
        if is_chief:
            # After `open_run`, since it may lie in the folder of the run.
            arguments.check_output(
                config.output_dir, "--output_dir", as_folder=True
            )
        is_small = config.dataset == "digits"
        sizes = config.tiles or config.image_size or [8 if is_small else 32]
        size = max(sizes)
        num_parts, num_threads = runtime.fastest_cpus(size, config.filters)
        num_parts = config.devices or num_parts
        runtime.configure(
            num_parts, num_threads, config.deterministic, is_command=True
        )
        choose = None
        if config.minutes and run.config is None and flags.lr is None:
            choose = functools.partial(_choose, flags, run)
        train(config, run if is_chief else None, flags.resume, choose)


def _meet(flags):
    """Waits for the other workers; returns whether this one is the chief.

    This comes first, so that the other workers notice if this one fails.
    """
    if flags.seed is None or flags.devices is not None:
        raise UsageError(
            "several workers need the same `seed` and take no `devices`"
        )
    say("waiting for the other workers")
    runtime.configure(is_command=True)
    with arguments.naming("TF_CONFIG"):  # Its port may be in use.
        workers.connect()
    return workers.is_chief()


def _run_dir(flags):
    """Returns the folder of the run, by default named after the data set."""
    if flags.run_dir is not None:
        return pathlib.Path(flags.run_dir)
    name = flags.dataset
    if os.path.exists(os.path.expanduser(name)):
        name = os.path.basename(os.path.abspath(name)) or "images"
    return pathlib.Path("runs", re.sub(r"[^\w.-]+", "_", name))


def read_settings(
    flags: argparse.Namespace,
    run: runs.Run,
    chosen: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """Returns the settings of a command line.

    Args:
      flags: The parsed flags; without a `seed` they get one.
      run: The run. If it is resumed, it provides some defaults.
      chosen: What precedes other defaults, by name.

    Raises:
      UsageError: If there is no model to start from, whose architecture is the
        default.
    """
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    before = run.config if flags.resume else None
    if flags.seed is None and before is None:
        flags.seed = random.SystemRandom().randrange(2**32)
    given = {k: v for k, v in vars(flags).items() if v is not None}
    settings = {
        k: v for k, v in {**(chosen or {}), **given}.items() if k in names
    }
    settings["run_dir"] = str(run.path)
    other = None
    if flags.init_from is not None and before is None:
        with arguments.naming("--init_from"):
            other = metadata.read(flags.init_from)
    return TrainingConfig(before=before, other=other, **settings)


def _choose(flags, run, dataset, config):
    """Returns the settings that are best for `minutes`, and prints them."""
    from tf_realnvp.training import choice

    chosen = workers.of_chief(choice.choose(config, dataset))
    words = " ".join(
        f"--{name} {re.sub(r'[][() ]', '', str(value))}"
        for name, value in chosen.items()
        if getattr(flags, name) is None
    )
    say(f"chosen for {config.minutes:g} min: {words}")
    return read_settings(flags, run, chosen)


def train(
    config: TrainingConfig,
    run: runs.Run | None,
    resume: bool,
    choose: Callable[[Any, TrainingConfig], TrainingConfig] | None = None,
) -> None:
    """Trains, and writes the results.

    Args:
      config: The settings.
      run: The run to write to; `None` in a worker that writes nothing.
      resume: Whether to resume the run.
      choose: Makes the settings of the `ImageDataset` and `config`.

    Raises:
      UsageError: If the settings or inputs have to be changed.
      FailureError: If training fails.
      signals.Interrupted: If a signal was received; a checkpoint is saved.
    """
    from tf_realnvp import data
    from tf_realnvp.training import results
    from tf_realnvp.training.clock import Clock
    from tf_realnvp.training.training import Training

    dataset = data.load(
        config.dataset,
        config.data_dir,
        config.image_size,
        config.flip,
        config.num_bits,
        config.conditional,
        config.tiles,
    )
    if choose is not None:
        config = choose(dataset, config)
    if run is not None:
        results.check(config, dataset)
    clock = Clock(_STARTED, _RESULTS_PER_TRACE)
    training = Training(config, dataset, run, clock=clock)
    say_header(training)
    restored = training.open(resume)
    trainer = training.trainer
    if restored:
        say(f"going on from step {trainer.num_steps:,}")
    elif resume:
        say("there is no checkpoint yet: starting from the beginning")

    def after_epoch(metrics):
        if config.verbose or metrics.epoch == 0:
            say_metrics(training, metrics)

    def after_steps():
        # All workers stop after the same step, which the chief then saves.
        if workers.any_worker(bool(received)):
            raise signals.Interrupted(*received[:1] or [signal.SIGTERM])

    try:
        with signals.deferred() as received:
            training.fit(after_epoch, after_steps, say=say)
    except signals.Interrupted:
        say(
            f"\nsaved a checkpoint at step {trainer.num_steps:,}: the same "
            "command with --resume goes on from it"
        )
        raise
    if run is None:
        return
    say_summary(training)
    say("writing the results")
    try:
        results.write(trainer, training.dataset)
        training.recorder.after_results()
    except signals.Interrupted:
        say("they are not complete: the same command with --resume writes them")
        raise


def say_header(training):
    """Prints the data set, the model and the settings of a training."""
    config, dataset, model = training.config, training.dataset, training.model
    size = "x".join(map(str, dataset.image_shape))
    classes = validation = ""
    if dataset.class_names:
        classes = f", {counted(len(dataset.class_names), 'class')}"
    if dataset.num_validation:
        validation = f", {dataset.num_validation:,} validation"
    say(
        f"RealNVP on {dataset.name}: {dataset.num_train:,} training"
        f"{validation} and {dataset.num_test:,} test images of {size}, "
        f"{dataset.values}{classes}\n"
        f"{model.num_parameters:,} parameters ({config.filters} filters, "
        f"{counted(config.num_blocks, 'residual block')}, "
        f"{config.num_scales} scales, {len(model.couplings)} couplings), "
        f"{runtime.describe_devices(config.devices)}, {config.precision}, "
        f"seed {config.seed}"
    )


def say_summary(training):
    """Prints the results of a training."""
    result = training.trainer.result_metrics()
    if not training.config.verbose or result.validation_loss is not None:
        say_metrics(training, result)
    if skipped := training.trainer.num_skipped:
        say(
            f"{skipped:,} steps were skipped, since their loss or gradient "
            "was not finite"
        )


def say_metrics(training, metrics):
    """Prints the metrics of an epoch."""
    values = training.dataset.values
    per_dim = metrics.per_dim(values).items()
    losses = ", ".join(f"{split} {loss:.3f}" for split, loss in per_dim)
    say(
        f"epoch {metrics.epoch}/{training.config.epochs or '?'}, step "
        f"{metrics.step:,}: {losses} {values.unit}"
    )
