"""The command that restores images."""

import argparse
from typing import Any

import numpy as np

from tf_realnvp.analysis import plots, restoration
from tf_realnvp.cli import arguments
from tf_realnvp.cli.image_sets import MIN_IMAGES, Loader
from tf_realnvp.data import image_files
from tf_realnvp.errors import UsageError
from tf_realnvp.flow import observations
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import files
from tf_realnvp.utils.console import say

_NUM_SHOWN = 8  # Samples in the figure.


def restore(flags: argparse.Namespace, model: RealNVP) -> None:
    """Restores images."""
    paths, values = flags.paths, model.values
    pairs = [_read(path, flags, model) for path in paths]
    images, is_missing = map(np.stack, zip(*pairs, strict=True))
    try:
        result = _restored(flags, model, images, is_missing)
    except ValueError as error:  # The model observes something else.
        raise UsageError(str(error)) from error
    if result.label is not None and flags.label is None:
        for path, number in zip(paths, result.label, strict=True):
            say(f"{path.name}: taken for {model.class_names[number]}")
    shown = {"restored": result.images}
    if flags.reference is not None:
        ends = _interval(flags, model, result, is_missing)
        shown |= dict(zip(("lower", "upper"), ends, strict=True))
    if arguments.is_folder(flags.out):
        _write_each(flags.out, paths, shown, result, values)
    else:
        _draw(flags.out, images, is_missing, shown, result, values)
    say(flags.out)


def _restored(flags, model, images, is_missing):
    settings = flags.label, flags.samples, flags.seed
    return restoration.restore(
        model, images, is_missing, *settings, shows_progress=True
    )


def _read(path, flags, model):
    """Returns an image, and which of its pixels are missing, `[H, W, 1]`."""
    is_of_masks = model.observe == "mask"
    shape = model.image_shape if is_of_masks else model.context_shape
    image = image_files.read(path, shape, model.values)
    with arguments.naming("--mask"):
        is_missing = image_files.read_missing(path, shape, flags.mask)
    if is_of_masks and not np.any(is_missing):
        raise UsageError(
            f"nothing is missing in {path}: make what is missing transparent, "
            "or white in --mask"
        )
    return image, is_missing


def _interval(flags, model, result, is_missing):
    """Returns the ends of intervals, by images of which all is known."""
    loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
    normal = loader.load("reference", flags.reference, "test", MIN_IMAGES)
    seen: Any = normal.images
    missing, of_images = None, None
    if model.observe == "mask":  # What is missing in the images, in turns.
        missing = is_missing[np.arange(len(seen)) % len(is_missing)]
        of_images = is_missing
    else:
        seen = observations.given(model, seen, None)
    others = _restored(flags, model, seen, missing)
    factor = restoration.interval_factor(
        model.values, others, normal.images, flags.interval, missing
    )
    say(
        f"intervals of {factor:.2f} times the spread: they hold "
        f"{flags.interval:.0%} of the missing values of {len(normal):,} "
        f"{normal.title}"
    )
    return restoration.interval(model.values, result, factor, of_images)


def _write_each(folder, paths, shown, result, values):
    """Writes the files of each image."""
    both = {"mean": np.rint(result.mean), "spread": np.rint(result.std)}
    images = shown | both
    for number, samples in enumerate(result.samples.swapaxes(0, 1)):
        images[f"sample_{number:04d}"] = samples
    with files.replace_files(folder) as new:
        for name, of_all in images.items():
            for path, image in zip(paths, of_all, strict=True):
                file = new / f"{path.stem}_{name}.png"
                image_files.write(file, image, values)


def _draw(path, images, is_missing, shown, result, values):
    """Draws a row per image: given, restored, samples and their spread."""
    few = result.samples[:, :_NUM_SHOWN].swapaxes(0, 1)
    shown |= {f"sample {k}": samples for k, samples in enumerate(few, 1)}
    shown["mean"] = np.rint(result.mean)
    spread = result.std.mean(axis=-1) * (255.0 / values.highest)
    plots.save_restorations(path, images, is_missing, shown, spread, values)
