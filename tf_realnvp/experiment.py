"""A training run, from the data set to the results."""

import contextlib
import csv
import hashlib
import itertools
import os
import pathlib
import sys
import time

import keras
import tensorflow as tf

from tf_realnvp import (
    RealNVP,
    data,
    export,
    files,
    initialization,
    plots,
    runtime,
    settings,
    signals,
    workers,
)
from tf_realnvp.arguments import FailureError, UsageError, printable
from tf_realnvp.checkpoints import CheckpointError, Checkpoints
from tf_realnvp.image_dataset import (
    DamagedImageError,
    describe_skipped,
    reason,
)
from tf_realnvp.model import max_num_scales
from tf_realnvp.progress import Progress
from tf_realnvp.runs import Run
from tf_realnvp.summaries import Summaries
from tf_realnvp.training import (
    DivergedError,
    Trainer,
    bits_from_nats,
    learning_rate,
)

# A checkpoint after each of many short epochs would cost more than a hundredth
# of the time.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


def train(flags, run: Run | None, start: float) -> None:
    """Trains a model and writes the results.

    Args:
      flags: The flags of the command.
      run: The folder of the run; `None` for a worker that writes nothing.
      start: `time.monotonic()` when the command was started.

    Raises:
      UsageError: If the user has to change something.
      FailureError: If something went wrong that the user should know of.
      OSError: If something cannot be written.
      signals.Interrupted: If a signal came. If training had begun, a checkpoint
        was saved.
    """
    if runtime.is_one_of_many():
        strategy = workers.connect()
    else:
        strategy = runtime.make_strategy(flags.devices)
    dataset = _load(flags)
    data_record = settings.describe(dataset)
    if run is not None:
        _check_same_data(run, dataset, data_record)
    if runtime.is_one_of_many():
        with _explaining(dataset):
            _agree(flags, data_record, strategy)
    if flags.num_validation:
        dataset = _hold_out(flags, dataset)
    _check_sizes(flags, dataset)
    if run is not None:
        _check_names(flags, dataset)
    with _explaining(dataset), strategy.scope():
        keras.utils.set_random_seed(flags.seed)
        model = RealNVP(
            dataset.image_shape,
            dataset.num_colors,
            filters=flags.filters,
            num_blocks=flags.num_blocks,
            num_scales=flags.num_scales,
        )
        trainer = Trainer(
            model,
            _learning_rate(flags, dataset),
            flags.clip_grad,
            flags.seed,
            flags.precision,
            flags.recompute,
            flags.jit,
            flags.accumulate,
            flags.ema,
            keep_best=bool(flags.num_validation),
        )
    checkpoints = Checkpoints(
        trainer, pathlib.Path(flags.run_dir) / "checkpoints"
    )
    _print_header(flags, dataset, model)
    restored = flags.resume and _restore(checkpoints, trainer)
    if runtime.is_one_of_many():
        with _explaining(dataset):
            _agree_on_checkpoint(trainer, restored, strategy)
    if not restored:
        with _explaining(dataset), strategy.scope():
            initialization.initialize(model, dataset, flags.seed)
    if run is not None:
        with _writing("the run's state", run.path):
            run.begin(vars(flags), data_record)
            # The process may have died between checkpoint and metrics.
            _write_metrics(run.path / "metrics.csv", trainer.history)
    _fit(flags, run, dataset, trainer, checkpoints, start)
    if run is not None:
        try:
            with _writing("the results", flags.output_dir):
                _write_results(flags, dataset, trainer)
        except signals.Interrupted:
            print(
                "the results are not complete: the same command with --resume "
                "writes them",
                flush=True,
            )
            raise
        with _writing("the run's state", run.path):
            run.finish()


def _load(flags):
    try:
        dataset = data.load(
            flags.dataset, flags.data_dir, flags.image_size, flags.flip
        )
    except data.DataError as error:
        raise UsageError(error) from error
    if dataset.skipped:
        print(f"warning: {describe_skipped(dataset.skipped)}", file=sys.stderr)
    return dataset


def _check_same_data(run, dataset, record):
    """Makes sure that a run goes on with the images that it began with."""
    if not run.exists:
        return
    if run.data is None:
        print(
            f"{printable(run.file)} is of an older version and does not say "
            "what images the run was started with: they cannot be compared"
        )
        return
    differences = settings.differences_of_data(record, run.data)
    if differences:
        raise UsageError(
            printable(
                f"the images of {dataset.name} have changed since the run in "
                f"{run.path} was started: {', '.join(differences)}. Put them "
                "back, or start anew with another --run_dir"
            )
        )


def _agree(flags, data_record, strategy):
    """Makes sure that all workers train alike, in the chief's precision."""

    def differences(worker, chief):
        return [
            *settings.differences_of_worker(worker["flags"], chief["flags"]),
            *settings.differences_of_data(worker["data"], chief["data"]),
        ]

    record = {"flags": vars(flags), "data": data_record}
    chief = workers.agree(strategy, record, differences)
    flags.precision = chief["flags"]["precision"]


def _agree_on_checkpoint(trainer, restored, strategy):
    """Makes sure that all workers go on from the same checkpoint."""

    mine = "no checkpoint"
    if restored:
        digest = hashlib.sha256()
        for variable in itertools.chain(*trainer.state.values()):
            digest.update(variable.numpy().tobytes())
        mine = f"the checkpoint of step {trainer.num_steps:,}"
        mine = f"{mine} ({digest.hexdigest()[:8]})"

    def differences(worker, chief):
        if worker == chief:
            return []
        return [f"{worker} in --run_dir instead of {chief}, which all must see"]

    workers.agree(strategy, mine, differences)


def _hold_out(flags, dataset):
    if flags.num_validation >= dataset.num_train:
        raise UsageError(
            f"argument --num_validation: {flags.num_validation} leaves none of "
            f"the {dataset.num_train} training images of "
            f"{printable(dataset.name)}"
        )
    return dataset.hold_out(flags.num_validation, flags.seed)


def _check_sizes(flags, dataset):
    """Checks what flags ask of the images."""
    if flags.batch_size > dataset.num_train:
        raise UsageError(
            f"argument --batch_size: {flags.batch_size} is more than the "
            f"{dataset.num_train} training images of {printable(dataset.name)}"
        )
    largest = max_num_scales(dataset.image_shape)
    if flags.num_scales > largest:
        size = "x".join(map(str, dataset.image_shape[:2]))
        raise UsageError(
            f"argument --num_scales: images of {size} have at most {largest} "
            f"scales, got {flags.num_scales}"
        )


def _check_names(flags, dataset):
    """Checks that the results can have their names."""
    name = os.fsencode(_result(flags, dataset, "samples", ".png").name)
    maximum = os.pathconf(flags.output_dir, "PC_NAME_MAX")
    if len(name) > maximum:
        raise UsageError(
            f"the name of the data set is too long for those of the results: "
            f"{len(name):,} bytes, where {maximum} are possible. Give it a "
            "shorter one"
        )


def _learning_rate(flags, dataset):
    num_steps = flags.epochs * (dataset.num_train // flags.batch_size)
    num_steps = min(num_steps, flags.max_steps or num_steps)
    return learning_rate(
        flags.lr, num_steps, flags.warmup_steps, flags.lr_schedule
    )


def _restore(checkpoints, trainer):
    try:
        found = checkpoints.restore()
    except CheckpointError as error:
        raise UsageError(error) from error
    if found:
        print(f"going on from step {trainer.num_steps:,}", flush=True)
    else:
        print("there is no checkpoint yet: starting from the beginning")
    return found


def _fit(flags, run, dataset, trainer, checkpoints, start):
    """Trains, with a checkpoint now and then, after epochs and at the end."""
    last_save, saved = time.monotonic(), trainer.history[-1:]
    summaries = None
    if run is not None:
        summaries = Summaries(
            trainer, run.path / "logs", flags.batch_size, flags.seed
        )

    def save():
        nonlocal last_save, saved
        if run is not None:
            with _writing("a checkpoint", run.path):
                checkpoints.save()
            last_save, saved = time.monotonic(), trainer.history[-1:]

    def after_call():
        request.check()
        if summaries is not None:
            with _writing("the summaries", run.path):
                summaries.write_progress()
        minutes = (time.monotonic() - last_save) / 60.0
        if minutes >= flags.checkpoint_minutes:
            save()

    with signals.deferred() as request, _explaining(dataset):
        try:
            fit_start = time.monotonic()
            evaluation_seconds = 0.0
            for metrics in trainer.fit(
                dataset,
                flags.epochs,
                flags.batch_size,
                flags.max_steps,
                Progress,
                after_call,
            ):
                if metrics.epoch == 0:
                    evaluation_seconds = time.monotonic() - fit_start
                # Before the checkpoint: what a kill leaves out is done again.
                if run is not None:
                    _write_epoch(flags, run, metrics, trainer, summaries)
                seconds = time.monotonic() - last_save
                if seconds >= _SECONDS_BETWEEN_CHECKPOINTS:
                    save()
                if flags.verbose or metrics.epoch == 0:
                    _print_metrics(metrics, flags.epochs)
            if summaries is not None:
                # Of the last epoch, whatever its number, and of whichever
                # process trained it.
                with _writing("the summaries", run.path):
                    summaries.write_samples(trainer.history[-1].step)
                # The result may have been evaluated on the test images.
                with _writing("the metrics", run.path):
                    _write_metrics(run.path / "metrics.csv", trainer.history)
            if trainer.history[-1:] != saved:
                save()
            request.check()
        except signals.Interrupted:
            save()
            print(
                f"\nsaved a checkpoint at step {trainer.num_steps:,}: the same "
                "command with --resume goes on from it",
                flush=True,
            )
            raise
    result = trainer.result_metrics()
    if not flags.verbose or result.validation_loss is not None:
        _print_metrics(result, flags.epochs)
    if trainer.num_skipped:
        print(
            f"{trainer.num_skipped:,} steps were skipped, since their loss or "
            "gradient was not finite"
        )
    if trainer.first_step_done is not None:
        startup = trainer.first_step_done - start - evaluation_seconds
        print(
            f"the first training step was done {startup:.1f} s after the "
            f"start, not counting {evaluation_seconds:.1f} s of evaluation "
            "before it"
        )


def _write_epoch(flags, run, metrics, trainer, summaries):
    """Writes what is known after an epoch into the folder of the run."""
    with _writing("the metrics", run.path):
        _write_metrics(run.path / "metrics.csv", trainer.history)
        summaries.write_epoch(metrics)
        if metrics.epoch % flags.samples_every == 0:
            summaries.write_samples(metrics.step)


@contextlib.contextmanager
def _explaining(dataset):
    """Tells users what the errors of training mean."""
    try:
        with dataset.naming_damage():
            yield
    except DivergedError as error:
        raise FailureError(
            f"training diverged: {error}. Try --clip_grad 1 or a smaller "
            "--lr, with --resume from the last checkpoint or in another "
            "--run_dir"
        ) from error
    except DamagedImageError as error:
        raise UsageError(error) from error
    except tf.errors.ResourceExhaustedError as error:
        raise FailureError(
            f"out of memory: {_reason(error)}. Try --accumulate 4, or "
            "--recompute as well"
        ) from error
    except tf.errors.OpError as error:
        if not runtime.is_one_of_many():
            raise
        raise FailureError(
            f"a worker of the job has gone ({_reason(error)}): start all of "
            "them again, with --resume"
        ) from error


@contextlib.contextmanager
def _writing(what, where):
    """Explains what was being written when that fails."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise FailureError(
            f"cannot write {what} to {printable(where)}: {_reason(error)}. "
            "What was there before still is: make room, then go on with "
            "--resume"
        ) from error


def _reason(error):
    """Returns an error in one line."""
    if isinstance(error, tf.errors.OpError):
        return reason(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _print_header(flags, dataset, model):
    size = "x".join(map(str, dataset.image_shape))
    print(
        f"RealNVP on {printable(dataset.name)}: {dataset.num_train:,} training"
        + (
            f", {dataset.num_validation:,} validation"
            if dataset.num_validation
            else ""
        )
        + f" and {dataset.num_test:,} test images of {size}, "
        f"{dataset.num_colors} levels\n"
        f"{model.num_parameters:,} parameters ({flags.filters} filters, "
        f"{flags.num_blocks} residual blocks, {flags.num_scales} scales), "
        f"{runtime.describe_devices()}, {flags.precision}, "
        f"seed {flags.seed}",
        flush=True,
    )


def _print_metrics(metrics, epochs):
    train = "before training"
    if metrics.train_loss is not None:
        train = f"train {bits_from_nats(metrics.train_loss):.3f}"
    held_out = ", ".join(
        f"{split} {bits_from_nats(loss):.3f}"
        for split, loss in (
            ("validation", metrics.validation_loss),
            ("test", metrics.test_loss),
        )
        if loss is not None
    )
    print(
        f"epoch {metrics.epoch}/{epochs}, step {metrics.step:,}: {train}, "
        f"{held_out} bits/dim",
        flush=True,
    )


def _write_metrics(path, history):
    """Writes all losses, in nats per dimension and in bits/dim."""
    splits = ["train", "test"]
    if any(m.validation_loss is not None for m in history):
        splits.insert(1, "validation")

    def columns(loss):
        return ["", ""] if loss is None else [loss, bits_from_nats(loss)]

    with (
        files.replace_file(path) as new,
        new.open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(
            [
                "epoch",
                "step",
                *(
                    f"{split}_{unit}"
                    for split in splits
                    for unit in ("loss_nats_per_dim", "bits_per_dim")
                ),
            ]
        )
        for m in history:
            losses = [columns(getattr(m, f"{split}_loss")) for split in splits]
            writer.writerow([m.epoch, m.step, *itertools.chain(*losses)])


def _write_results(flags, dataset, trainer):
    """Writes the SavedModel, the metrics and the pictures."""
    model, history = trainer.result_model(), trainer.history
    print("writing the results", flush=True)
    saved = _result(flags, dataset, "realnvp")
    metrics = _result(flags, dataset, "metrics", ".csv")
    result = trainer.result_metrics()
    # First what all the training was for.
    export.save(
        model,
        saved,
        {
            "dataset": dataset.name,
            "source": data.source(flags.dataset),
            "flags": vars(flags),
            "metrics": {
                "epochs": result.epoch,
                "steps": result.step,
                **{
                    f"{split}_bits_per_dim": bits_from_nats(loss)
                    for split in ("train", "validation", "test")
                    if (loss := getattr(result, f"{split}_loss")) is not None
                },
            },
        },
    )
    _write_metrics(metrics, history)
    samples = _result(flags, dataset, "samples", ".png")
    curve = _result(flags, dataset, "loss", ".png")
    drawn = []
    if _is_drawn(_draw_samples, samples, model, flags.seed):
        drawn.append(samples)
    if _is_drawn(_draw_losses, curve, dataset, history):
        drawn.append(curve)
    for path in (saved, *drawn, metrics):
        print(f"  {printable(path)}")


def _draw_samples(path, model, seed):
    images = model.sample(36, seed=seed).numpy()
    plots.save_image_grid(path, images, model.num_colors)


def _draw_losses(path, dataset, history):
    held_out = "test" if history[-1].validation_loss is None else "validation"
    plots.save_loss_curve(
        path,
        {
            "training (mean over the epoch)": [
                (m.epoch, bits_from_nats(m.train_loss)) for m in history[1:]
            ],
            held_out: [
                (m.epoch, bits_from_nats(m.held_out_loss)) for m in history
            ],
        },
        title=f"RealNVP on {dataset.name}",
    )


def _is_drawn(draw, path, *what):
    """Draws a picture, and tells if that fails; returns whether it did not.

    It is no reason to lose the rest. A full disk is one to come back later.
    """
    try:
        draw(path, *what)
    except OSError:
        raise
    except Exception as error:
        print(
            f"warning: cannot draw {printable(path)}: "
            f"{printable(_reason(error))}",
            file=sys.stderr,
        )
        return False
    return True


def _result(flags, dataset, name, suffix=""):
    # TensorFlow takes names in UTF-8 alone, and these characters for patterns.
    of = "".join(
        c if c.isprintable() and c not in "*?[\\" else "_" for c in dataset.name
    )
    return pathlib.Path(flags.output_dir) / f"{name}_{of}{suffix}"
