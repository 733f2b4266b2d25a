"""The top-level functions `load` and `train`."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_realnvp.config import ARCHITECTURE, TrainingConfig
from tf_realnvp.data import ImageDataset, arrays
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import weights
from tf_realnvp.serving.metadata import check_images
from tf_realnvp.training import session
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.runs import Run, open_run
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import runtime
from tf_realnvp.utils.errors import DataError, ModelError
from tf_realnvp.utils.messages import say
from tf_realnvp.utils.progress import Progress, Silent


def load(path: str | os.PathLike) -> RealNVP:
    """Loads a model, to use, train, change or save it.

    #### Example

    ```python
    model = tf_realnvp.load("realnvp_digits")
    model.sample(4)
    ```

    Args:
      path: A SavedModel written by training or `RealNVP.save`; or the folder
        of a run, `runs/DATASET`. From a run, the model is loaded that the run
        would save at its last checkpoint.

    Returns:
      The model. Its outputs equal those of the SavedModel up to rounding.

    Raises:
      ModelError: If there is no model at `path`, or it cannot be loaded.
      UsageError: If the state of the run is damaged.
    """
    path = pathlib.Path(path)
    if not (path / "run.json").exists():
        return weights.load_model(path)
    run = Run(path)
    assert run.config is not None and run.data is not None
    model = RealNVP(**run.config.architecture, **run.data.of_images)
    trainer = Trainer.from_config(model, run.config, run.data.num_train)
    if not Checkpoints(trainer, path / "checkpoints").restore():
        raise ModelError(f"there is no checkpoint yet in {path}")
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
    optimizer: str | None = None,
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
    """Trains a model in place, like the command `tf_realnvp train`.

    A new model gets data-dependent initialization
    (`initialization.initialize`). A model that has been trained before
    continues from its weights. A model created in the scope of a
    `tf.distribute` strategy is trained on all of its replicas.

    With the same seed, settings and images, the weights equal those of the
    command bit for bit, provided that `keras.utils.set_random_seed(seed)` was
    called before the model was created and that TensorFlow has the same numbers
    of devices and threads (see `runtime.fastest_cpus`).

    The arguments from `epochs` to `jit` are like the command's flags of the
    same names, with the same defaults, except for `seed`. An `ImageDataset` has
    a `flip` of its own.

    #### Example

    ```python
    model = tf_realnvp.RealNVP((28, 28, 1))
    history = tf_realnvp.train(model, images, epochs=5, lr=1e-3)
    plt.plot([metrics.bits_per_dim()["test"] for metrics in history])
    ```

    Args:
      model: The model.
      data: Images as an array `[n, H, W]` or `[n, H, W, C]` of integers
        (floating-point for real numbers); a `tf.data.Dataset` of images or of
        pairs of images and labels, batched or not, with the same elements in
        each pass; or an `ImageDataset`, from `data.load`. From an array or a
        `tf.data.Dataset`, a fixed tenth of the images is held out for testing.
      labels: Class labels of an array of images, integers `[n]`, for a model
        with classes. A `tf.data.Dataset` of pairs and an `ImageDataset`
        (`data.load(name, labels=True)`) provide their own labels, which a model
        without classes ignores. The model keeps its `class_probs`.
      run_dir: Folder for checkpoints, metrics and TensorBoard logs. If it holds
        an earlier run with the same settings, training resumes from its last
        checkpoint, which replaces the weights of the model. With `progress`, a
        message says so. The command can resume a run of this function on an
        `ImageDataset` from `data.load`. This function can resume a run of the
        command, unless that used `--init_from` or `--deterministic`. Default:
        nothing is written.
      on_epoch: Called with the `Metrics` after every epoch, and once before the
        first. An exception that it raises ends the training. With `ema`, the
        metrics are those of the averaged weights, which the model itself gets
        at the end of the training.
      progress: Whether to show progress: a bar on a terminal, otherwise lines.

    Returns:
      The metrics of all epochs. The model then has the resulting weights: the
      moving average with `ema`, the best epoch's with `num_validation`. This
      also holds if Ctrl-C or another exception, which is propagated, ends the
      training early. The best weights may be those before the first epoch.

    Raises:
      DataError: If `data` does not match the image shape and levels of the
        model, or `labels` do not match its classes.
      DivergedError: If too many consecutive steps were not finite.
      FailureError: If `run_dir` cannot be written to.
      UsageError: If `run_dir` is in use or belongs to another training, if
        there are fewer training images than the settings require, or if
        `precision` is "tf32" and no GPU supports it.
      ValueError: If a setting is out of range; if the model was created outside
        of the scope of the current strategy; if the whole model is frozen
        (`trainable = False`); or if part of it is frozen and a `run_dir` is
        given.
    """
    given = dict(locals())  # Settings are passed on by name.
    # The moments of real numbers are never trained.
    of_training = [v for v in model.variables if v.name != "moments"]
    is_frozen = len(model.trainable_variables) < len(of_training)
    if run_dir is not None and is_frozen:
        raise ValueError(
            "parts of the model are frozen, which a run cannot keep: leave out "
            "`run_dir`"
        )
    dataset = _dataset(data, labels, model, flip)
    opened: contextlib.AbstractContextManager = contextlib.nullcontext()
    if run_dir is not None:
        opened = open_run(pathlib.Path(run_dir), resume=True)
    with opened as run:
        names = {field.name for field in dataclasses.fields(TrainingConfig)}
        settings = {name: given[name] for name in names & given.keys()}
        settings |= {"dataset": dataset.name, **dataset.load_settings}
        settings |= {name: getattr(model, name) for name in ARCHITECTURE}
        settings |= {
            "conditional": model.num_classes is not None,
            "flip": dataset.flip,
            "run_dir": run_dir and str(run_dir),
        }
        config = TrainingConfig.of_dataset(
            before=run.config if run else None, **settings
        )
        precision = runtime.settle_precision(config.precision)
        config = dataclasses.replace(config, precision=precision)
        if run is not None:
            run.check_same_settings(config)
            run.check_same_images(dataset.description, dataset.name)
        dataset = session.hold_out(config, dataset)
        trainer, checkpoints, restored = session.start(
            config, model, dataset, run, resume=run is not None
        )
        if restored and progress:
            say(f"going on from step {trainer.num_steps:,} of {run_dir}")
        metadata = dataset.metadata  # It reads images, which may go away.
        try:
            session.fit(
                config,
                trainer,
                dataset,
                checkpoints,
                run,
                on_epoch or (lambda metrics: None),
                display=Progress if progress else Silent,
            )
            if run is not None:
                session.finish(run)
        finally:
            model.assign(trainer.result_model())
            model.metadata = metadata
    return trainer.history


def _dataset(data, labels, model, flip):
    """Returns `data` as an `ImageDataset` with labels as `model` needs them."""
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
    check_images(dataset, model)
    if num_classes is None:
        return dataset.relabel(()) if dataset.class_names else dataset
    names = tuple(map(str, model.metadata.get("class_names", ())))
    if not isinstance(data, ImageDataset) and len(names) == num_classes:
        # Labels of arrays are indices into the model's classes.
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
