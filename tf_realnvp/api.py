"""`load` and `train`: what a program does with models as a whole."""

import contextlib
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_realnvp.config import ARCHITECTURE, TrainingConfig
from tf_realnvp.data import ImageDataset, arrays
from tf_realnvp.data.image_dataset import describe_skipped
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import weights
from tf_realnvp.serving.metadata import describe_images
from tf_realnvp.training import loop
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.progress import Progress, Silent
from tf_realnvp.training.runs import Run, open_run
from tf_realnvp.training.session import Session
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import DataError, Error, ModelError
from tf_realnvp.utils.messages import say


def load(path: str | os.PathLike) -> RealNVP:
    """Loads a model, to be used, trained, changed or saved again.

    #### Example

    ```python
    model = tf_realnvp.load("realnvp_digits")
    model.sample(4)
    ```

    Args:
      path: A SavedModel written by training or `RealNVP.save`; or the folder
        of a run, `runs/DATASET`, from which the model is loaded that the run
        would save now.

    Returns:
      The model. It computes what the SavedModel does, to rounding.

    Raises:
      ModelError: If there is no such model.
    """
    path = pathlib.Path(path)
    if not (path / "run.json").exists():
        return weights.load_model(path)
    try:
        run = Run(path)
        if run.config is None or run.data is None:
            raise ModelError("it does not tell what its images are")
        config = run.config
        model = RealNVP(**config.architecture, **run.data.of_images)
        trainer = Trainer.from_config(model, config, run.data.num_train)
        if not Checkpoints(trainer, path / "checkpoints").restore():
            raise ModelError("there is no checkpoint yet")
    except (Error, ValueError) as error:
        raise ModelError(f"cannot load the run in {path}: {error}") from error
    model = trainer.result_model()
    model.metadata = run.metadata
    return model


def train(
    model: RealNVP,
    data: "np.ndarray | tf.data.Dataset | ImageDataset",
    *,
    labels: np.ndarray | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    lr_schedule: str | None = None,
    warmup_steps: int | None = None,
    clip_grad: float | None = None,
    ema: float | None = None,
    max_steps: int | None = None,
    num_validation: int | None = None,
    flip: bool = False,
    seed: int = 0,
    precision: str = "auto",
    accumulate: int | None = None,
    recompute: bool = False,
    jit: bool = False,
    run_dir: str | os.PathLike | None = None,
    on_epoch: Callable[[Metrics], None] | None = None,
    progress: bool = True,
) -> list[Metrics]:
    """Trains a model, in place, as the command does.

    A new model gets data-dependent initialization
    (`initialization.initialize`); a loaded one is trained further. A model that
    was made in the scope of a `tf.distribute` strategy trains on all of its
    replicas. With the same seed,
    settings and images the weights are those of the command, bit for bit, if
    `keras.utils.set_random_seed(seed)` came before the model, and TensorFlow
    has as many devices and threads: see `runtime.fastest_cpus`.

    #### Example

    ```python
    model = tf_realnvp.RealNVP((28, 28, 1))
    history = tf_realnvp.train(model, images, epochs=5, lr=1e-3)
    plt.plot([metrics.bits_per_dim()["test"] for metrics in history])
    ```

    Args:
      model: The model.
      data: Images, uint8 `[n, H, W]` or `[n, H, W, C]`; or a `tf.data.Dataset`
        of them, or of pairs of images and labels, single or in batches, the
        same in each pass; or what `data.load` gives. Of the first two a tenth
        is for testing, always the same.
      labels: Integers `[n]`, the classes of images in an array, for a model
        that has classes. A `tf.data.Dataset` of pairs and an `ImageDataset`
        (`data.load(name, labels=True)`) have their own, which a model without
        classes leaves alone. The model keeps its `class_probs`.
      epochs: As the flag of the command; so are all others down to `jit`, and
        so are their defaults, but for the seed.
      batch_size: See `epochs`.
      lr: See `epochs`.
      lr_schedule: See `epochs`.
      warmup_steps: See `epochs`.
      clip_grad: See `epochs`.
      ema: See `epochs`.
      max_steps: See `epochs`.
      num_validation: See `epochs`.
      flip: See `epochs`; an `ImageDataset` has its own.
      seed: See `epochs`.
      precision: See `epochs`.
      accumulate: See `epochs`.
      recompute: See `epochs`.
      jit: See `epochs`.
      run_dir: Folder for checkpoints, metrics and TensorBoard. The same call
        goes on with what an earlier one has left there, in the place of the
        weights that the model has, and with `progress` says so; and so do the
        command, with what `data.load` gave, and this call with a run of the
        command, but not one with `--init_from` or `--deterministic`. Default:
        nothing is kept.
      on_epoch: Is called after every epoch, and once before the first, with
        what is known by then. Whatever it raises ends the training. With `ema`
        that is known of the average, which the model has in the end only.
      progress: Whether to show a progress bar, or lines where there is no
        terminal.

    Returns:
      The metrics of all epochs. The model has then the weights of the result:
      the average with `ema`, the best with `num_validation`. So it has if
      training ends early, by Ctrl-C or an exception, which goes on its way; the
      best may be what it was before the first epoch.

    Raises:
      DataError: If `data` are no images of the model, or `labels` not those of
        its classes.
      DivergedError: If too many steps in a row were not finite.
      FailureError: If something cannot be written to `run_dir`.
      UsageError: If `run_dir` is in use, or of another training, if there
        are fewer training images than the settings ask for, or if `precision`
        is "tf32" and there is no GPU that has it.
      ValueError: If a setting is out of its range, the model was made outside
        of the scope of the strategy that is in use, or parts of it are frozen
        (`trainable = False`) and there is a `run_dir`, or all of it is.
    """
    is_frozen = len(model.trainable_variables) < len(model.variables)
    if run_dir is not None and is_frozen:
        raise ValueError(
            "parts of the model are frozen, which a run cannot keep: leave out "
            "`run_dir`"
        )
    dataset = _dataset(data, labels, model, flip)
    if dataset.skipped:
        warnings.warn(describe_skipped(dataset.skipped), stacklevel=2)
    opened: contextlib.AbstractContextManager = contextlib.nullcontext()
    if run_dir is not None:
        opened = open_run(pathlib.Path(run_dir), resume=True)
    with opened as run:
        config = TrainingConfig.of_dataset(
            before=run.config if run else None,
            **{"dataset": dataset.name, **dataset.load_settings},
            **{name: getattr(model, name) for name in ARCHITECTURE},
            conditional=model.num_classes is not None,
            flip=dataset.flip,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            lr_schedule=lr_schedule,
            warmup_steps=warmup_steps,
            clip_grad=clip_grad,
            ema=ema,
            max_steps=max_steps,
            num_validation=num_validation,
            seed=seed,
            precision=precision,
            accumulate=accumulate,
            recompute=recompute,
            jit=jit,
            run_dir=run_dir and str(run_dir),
        )
        precision = runtime.settle_precision(config.precision)
        config = dataclasses.replace(config, precision=precision)
        if run is not None:
            run.check_same_settings(config)
        session = Session(config, model, dataset, run)
        if session.begin(resume=run is not None) and progress:
            say(
                f"going on from step {session.trainer.num_steps:,} of {run_dir}"
            )
        try:
            session.fit(_Observer(on_epoch, progress))
            session.finish(write_results=False)
        finally:
            model.assign(session.trainer.result_model())
            model.metadata = dataset.metadata
    return session.trainer.history


class _Observer(loop.Observer):
    """Shows progress, and calls back."""

    def __init__(self, on_epoch, shows_progress):
        self._on_epoch = on_epoch
        self._display = Progress if shows_progress else Silent

    def progress(self, title, num_steps):
        return self._display(title, num_steps)

    def after_epoch(self, metrics):
        if self._on_epoch is not None:
            self._on_epoch(metrics)


def _dataset(data, labels, model, flip):
    """Returns a data set of the model's images, and labels if it takes any."""
    num_classes = model.num_classes
    if isinstance(data, ImageDataset):
        if labels is not None or flip:
            raise DataError(
                "`labels` and `flip` are for arrays: `data.load` has both, too"
            )
        dataset = data
    elif isinstance(data, tf.data.Dataset):
        if labels is not None:
            raise DataError("give a `tf.data.Dataset` of images and labels")
        dataset = arrays.from_tf_data(data, model.num_colors, flip, num_classes)
    else:
        if labels is not None and num_classes is None:
            raise DataError("there are labels, and the model has no classes")
        dataset = arrays.from_images(
            data, model.num_colors, flip, labels, num_classes
        )
    own = describe_images(model.image_shape, model.num_colors)
    its = describe_images(dataset.image_shape, dataset.num_colors)
    if own != its:
        raise DataError(f"the images are {its}, those of the model {own}")
    if num_classes is None:
        return dataset.relabel(()) if dataset.class_names else dataset
    names = tuple(map(str, model.metadata.get("class_names", ())))
    if not isinstance(data, ImageDataset) and len(names) == num_classes:
        # Labels of arrays are numbers of the model's classes.
        dataset = dataclasses.replace(dataset, class_names=names)
    if both := set(dataset.class_names) & set(names):
        if len(both) < len(dataset.class_names):
            raise DataError(
                f"the images are of {', '.join(dataset.class_names)}, the "
                f"model of {', '.join(names)}: classes that both have need the "
                "same label"
            )
        dataset = dataset.relabel(names)
    if len(dataset.class_names) != num_classes:
        raise DataError(
            f"the images have {len(dataset.class_names) or 'no'} classes, the "
            f"model {num_classes}: give `labels` with an array, a "
            "`tf.data.Dataset` of pairs, or `data.load(name, labels=True)`"
        )
    return dataset
