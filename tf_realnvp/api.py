"""The top-level functions `load` and `train`."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.analysis.importance import LogDensity
from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import ImageDataset, for_model
from tf_realnvp.errors import ModelError
from tf_realnvp.flow.architecture import ARCHITECTURE
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.serving import weights
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.objectives import Draws, ReverseKL
from tf_realnvp.training.runs import Run, open_run
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.training.training import Training
from tf_realnvp.utils.console import Progress, Silent, say


def load(path: str | os.PathLike, name: str = "real_nvp") -> RealNVP:
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
      name: Name of the model and of its distribution.

    Returns:
      The model. Its outputs equal those of the SavedModel up to rounding.

    Raises:
      ModelError: If there is no model at `path`, or it cannot be loaded.
      UsageError: If the state of the run is damaged.
    """
    path = pathlib.Path(path)
    if not (path / "run.json").exists():
        return weights.load_model(path, name)
    run = Run(path)
    assert run.config is not None and run.data is not None
    model = RealNVP(**run.config.architecture, **run.data.of_images, name=name)
    model.freeze(run.frozen or ())
    trainer = Trainer(model, run.config, run.data.num_train)
    if not Checkpoints(trainer, path / "checkpoints").restore():
        raise ModelError(f"there is no checkpoint yet in {path}")
    model = trainer.result_model()
    model.metadata = run.metadata
    return model


def train(
    model: RealNVP,
    data: "np.ndarray | tf.data.Dataset | ImageDataset | None" = None,
    *,
    log_density: LogDensity | None = None,
    labels: np.ndarray | None = None,
    context: Any = None,
    observe: Callable[[tf.Tensor, tf.Tensor], Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    lr_schedule: str | None = None,
    warmup_steps: int | None = None,
    clip_grad: float | None = None,
    ema: float | None = None,
    minutes: float | None = None,
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
    same names, with the same defaults, except for `seed`. `minutes` sets the
    length of the training alone. An `ImageDataset` may have a `flip` of its
    own.

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
      log_density: Instead of `data`, the logarithm of a density, up to a
        constant: a function of points, float32 `[n, H, W, C]`, in TensorFlow,
        to float32 `[n]` in nats; with a `context`, of points and their
        contexts. The model, of real numbers and without classes, is trained by
        the reverse Kullback-Leibler divergence
        (`training.objectives.ReverseKL`). An epoch is 100 steps. Without a
        context, metrics have the `effective_share` of 4,096 draws.
      labels: Class labels of an array of images, integers `[n]`, for a model
        with classes. A `tf.data.Dataset` of pairs and an `ImageDataset`
        (`data.load(name, labels=True)`) provide their own labels, which a model
        without classes ignores. The model keeps its `class_probs`.
      context: What the density of an array of images is conditioned on, for a
        model with `context_shape`: real numbers `[n, *context_shape]`, or these
        by name. With `log_density`, each draw has one of them at random.
      observe: Function that makes the context: of images `[m, H, W, C]` and a
        seed, integers `[2]`, in TensorFlow. A model that was created with
        `observe` needs neither.
      run_dir: Folder for checkpoints, metrics and TensorBoard logs. If it holds
        an earlier run with the same settings, training resumes from its last
        checkpoint, which replaces the weights of the model. With `progress`, a
        message says so. The command can resume a run of this function on an
        `ImageDataset` from `data.load`. This function can resume a run of the
        command, unless that used `--init_from` or `--deterministic`. If parts
        of the model are frozen, they must be when the run is resumed. Default:
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
        the length is given twice, if there are fewer training images than the
        settings require, or if `precision` is "tf32" and no GPU supports it.
      ValueError: If a setting is out of range; if the model does not fit
        `log_density`; if the model was created outside of the scope of the
        current strategy; or if the whole model is frozen (`trainable = False`).
    """
    arguments = dict(locals())
    if (data is None) == (log_density is None):
        raise ValueError("Either `data` or `log_density` must be given.")
    of_data = labels is not None or observe is not None or num_validation
    if log_density is not None and (of_data or flip):
        raise ValueError(
            "`labels`, `observe`, `num_validation` and `flip` are for `data`."
        )
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    settings = {k: v for k, v in arguments.items() if k in names}
    settings |= {name: getattr(model, name) for name in ARCHITECTURE}
    settings |= {
        "dataset": Draws.name,
        "conditional": model.num_classes is not None,
        "run_dir": run_dir and str(run_dir),
    }
    dataset: Any
    objective = None
    if log_density is None:
        dataset = for_model(model, data, labels, flip, context, observe)
        settings |= {"dataset": dataset.name, **dataset.load_settings}
        settings["flip"] = dataset.flip
    opened: Any = contextlib.nullcontext()
    if run_dir is not None:
        opened = open_run(pathlib.Path(run_dir), True)
    with opened as run:
        before = run.config if run else None
        config = TrainingConfig(before=before, **settings)
        if log_density is not None:
            objective = ReverseKL(log_density, model)
            dataset = Draws(model, config.batch_size, context)
        training = Training(config, dataset, run, model, objective)
        restored = training.open(resume=run is not None)
        trainer = training.trainer
        if restored and progress:
            say(f"going on from step {trainer.num_steps:,} of {run_dir}")
        try:
            training.fit(
                on_epoch or (lambda metrics: None),
                display=Progress if progress else Silent,
                say=say if progress else lambda text: None,
            )
            training.recorder.after_results()
        finally:
            model.assign(trainer.result_model())
    return trainer.history
