"""The results of a training: SavedModel, metrics and figures."""

import math
import pathlib

from tf_realnvp.analysis import plots
from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import ImageDataset, image_folder
from tf_realnvp.errors import UsageError, reason
from tf_realnvp.serving import export
from tf_realnvp.training import metrics
from tf_realnvp.training.recorder import naming_write_errors
from tf_realnvp.training.summaries import layout_of_samples
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files
from tf_realnvp.utils.console import say, warn


def check(config: TrainingConfig, dataset: ImageDataset) -> None:
    """Checks the output paths.

    Args:
      config: The settings of the training.
      dataset: The data set.

    Raises:
      UsageError: If the samples would be some of the images to train on; or if
        there is anything but a model in the place of the model.
    """
    folder = pathlib.Path(dataset.source or "")
    is_folder = folder.is_absolute() and folder.is_dir()
    output_dir = pathlib.Path(config.output_dir).resolve()
    for images in image_folder.folders_of(folder) if is_folder else ():
        if output_dir.is_relative_to(images.resolve()):
            raise UsageError(
                f"argument `output_dir`: {config.output_dir} is among the "
                "images to train on: give another folder"
            )
    export.check_path(_path(config.output_dir, "realnvp", dataset.name))


def write(trainer: Trainer, dataset: ImageDataset) -> None:
    """Writes all results, and prints their paths.

    If a figure cannot be drawn, a warning is printed, and all other results are
    written.

    Args:
      trainer: The trainer, after the training.
      dataset: The data set.

    Raises:
      FailureError: If something cannot be written.
    """
    config, model = trainer.config, trainer.result_model()
    result = trainer.result_metrics()
    losses = {
        f"{split}_{model.values.measure}": loss
        for split, loss in result.per_dim(model.values).items()
        if math.isfinite(loss)  # JSON has no other numbers.
    }
    content = {
        **model.metadata,
        "config": {"dataset": config.dataset, **config.shared},
        "metrics": {"epochs": result.epoch, "steps": result.step, **losses},
    }

    def path(kind, suffix=""):
        return _path(config.output_dir, kind, dataset.name, suffix)

    with naming_write_errors(config.output_dir):
        files.make_directory(pathlib.Path(config.output_dir))
        # The most important result first.
        export.save(model, path("realnvp"), content)
        table = path("metrics", ".csv")
        metrics.write_csv(table, trainer.history, model.values)
        say(f"  {path('realnvp')}\n  {table}")
        for kind, draw in (("samples", _draw_samples), ("loss", _draw_losses)):
            figure = path(kind, ".png")
            try:
                draw(figure, trainer, dataset)
                say(f"  {figure}")
            except OSError:
                raise  # A full disk is one to come back from.
            except Exception as error:
                warn(f"cannot draw {figure}: {reason(error)}")


def _path(output_dir, kind, dataset_name, suffix=""):
    # TensorFlow takes names in UTF-8 alone, and these characters for patterns.
    name = "".join(
        c if c.isprintable() and c not in "*?[\\" else "_" for c in dataset_name
    )
    return pathlib.Path(output_dir) / f"{kind}_{name}{suffix}"


def _draw_samples(path, trainer, dataset):
    model = trainer.result_model()
    count, condition, columns = layout_of_samples(model, dataset)
    seed = trainer.config.seed
    images = model.sample(count, seed=seed, **condition).numpy()
    plots.save_image_grid(path, images, model.values, columns)


def _draw_losses(path, trainer, dataset):
    history, values = trainer.history, dataset.values
    curves = {
        "training (mean over the epoch)": [
            (m.epoch, m.per_dim(values)["train"]) for m in history[1:]
        ],
        history[-1].held_out_split: [
            (m.epoch, values.from_nats(m.held_out_loss)) for m in history
        ],
    }
    title = f"RealNVP on {dataset.name}, {values}"
    plots.save_loss_curve(path, curves, title, values.unit)
