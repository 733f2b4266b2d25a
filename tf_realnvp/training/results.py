"""The results of a training: SavedModel, metrics and pictures."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tf_realnvp import data
from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import ImageDataset, image_folder
from tf_realnvp.images import plots
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import export
from tf_realnvp.training import metrics
from tf_realnvp.training.metrics import Metrics, bits_from_nats
from tf_realnvp.training.summaries import layout_of_samples
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files
from tf_realnvp.utils.errors import UsageError, reason
from tf_realnvp.utils.messages import printable


def check_folder(config: TrainingConfig) -> None:
    """Checks that the results do not come among the pictures to train on.

    Args:
      config: The settings of the training.

    Raises:
      UsageError: If the samples would be some of these pictures.
    """
    folder = pathlib.Path(data.source(config.dataset))
    if not folder.is_absolute() or not folder.is_dir():
        return
    output = pathlib.Path(os.path.realpath(config.output_dir))
    used = map(os.path.realpath, image_folder.folders_of(folder))
    if any(map(output.is_relative_to, used)):
        raise UsageError(
            f"argument `output_dir`: {printable(config.output_dir)} is among "
            "the pictures to train on, and the samples would be some of them: "
            "give another folder"
        )


def check_names(config: TrainingConfig, dataset_name: str) -> None:
    """Checks that the results can have their names, and says what they replace.

    Args:
      config: The settings of the training.
      dataset_name: Name of the data set.

    Raises:
      UsageError: If a file system has no names that are so long; if where the
        model is to be there is anything but a model, the one from which the
        training starts, or the folder of the run.
    """
    output_dir = config.output_dir
    saved = _path(output_dir, "realnvp", dataset_name, "")
    real = os.path.realpath(saved)
    if config.init_from is not None and (
        os.path.realpath(config.init_from) == real
    ):
        raise UsageError(
            f"argument `init_from`: the new model is to be written to "
            f"{printable(saved)}, in the place of this one: give another "
            "`output_dir`"
        )
    if pathlib.Path(os.path.realpath(config.run_dir)).is_relative_to(real):
        raise UsageError(
            f"argument `run_dir`: the model is to be written to "
            f"{printable(saved)}, in the place of all that is there: give "
            "another folder"
        )
    export.check_path(saved)
    if saved.exists():
        print(f"{printable(saved)} is there, and will be replaced in the end")


def write(
    config: TrainingConfig, dataset: ImageDataset, trainer: Trainer
) -> list[pathlib.Path]:
    """Writes all results.

    Args:
      config: The settings of the training.
      dataset: What it was trained on.
      trainer: The trainer, which is done.

    Returns:
      What was written. A picture that could not be drawn is named on standard
      error, and is no reason to lose the rest.

    Raises:
      OSError, tf.errors.OpError: If something cannot be written.
    """
    model, result = trainer.result_model(), trainer.result_metrics()

    def path(kind, suffix=""):
        return _path(config.output_dir, kind, dataset.name, suffix)

    files.make_directory(pathlib.Path(config.output_dir))
    saved, table = path("realnvp"), path("metrics", ".csv")
    # First what all the training was for.
    export.save(model, saved, _describe(config, dataset, result))
    metrics.write_csv(table, trainer.history)
    samples = _draw(_draw_samples, path("samples", ".png"), model, config.seed)
    curve = _draw(_draw_curve, path("loss", ".png"), dataset, trainer.history)
    return [saved, *samples, *curve, table]


def _path(output_dir, kind, dataset_name, suffix):
    # TensorFlow takes names in UTF-8 alone, and these characters for patterns.
    of = "".join(
        c if c.isprintable() and c not in "*?[\\" else "_" for c in dataset_name
    )
    return pathlib.Path(output_dir) / f"{kind}_{of}{suffix}"


def _describe(config, dataset, result):
    """Returns what the metadata of the SavedModel say of its training."""
    bits = result.bits_per_dim()
    return {
        **dataset.metadata,
        "config": dataclasses.asdict(config),
        "metrics": {
            "epochs": result.epoch,
            "steps": result.step,
            **{f"{split}_bits_per_dim": bits[split] for split in bits},
        },
    }


def _draw_samples(path: pathlib.Path, model: RealNVP, seed: int) -> None:
    count, labels, columns = layout_of_samples(model)
    images = model.sample(count, seed=seed, label=labels).numpy()
    plots.save_image_grid(path, images, model.num_colors, columns)


def _draw_curve(
    path: pathlib.Path, dataset: ImageDataset, history: Sequence[Metrics]
) -> None:
    plots.save_loss_curve(
        path,
        {
            "training (mean over the epoch)": [
                (m.epoch, m.bits_per_dim()["train"]) for m in history[1:]
            ],
            history[-1].held_out_split: [
                (m.epoch, bits_from_nats(m.held_out_loss)) for m in history
            ],
        },
        title=f"RealNVP on {dataset.name}, {dataset.num_colors} levels",
    )


def _draw(
    function: Callable[..., None], path: pathlib.Path, *arguments: Any
) -> list[pathlib.Path]:
    """Draws a picture, and tells on standard error if that fails.

    A full disk is another matter, and one to come back from later.

    Returns:
      The picture's path, if it was drawn.
    """
    try:
        function(path, *arguments)
    except OSError:
        raise
    except Exception as error:
        print(
            f"warning: cannot draw {printable(path)}: "
            f"{printable(reason(error))}",
            file=sys.stderr,
        )
        return []
    return [path]
