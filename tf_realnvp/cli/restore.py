"""The command that restores images.

TensorFlow takes seconds to import, so the command imports it only after the
command line has been checked. `tf_realnvp` imports its modules at first use.
"""

import argparse
import collections
import contextlib
import pathlib

import numpy as np

import tf_realnvp
from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.cli.arguments import argument
from tf_realnvp.serving import saved_model
from tf_realnvp.utils import files
from tf_realnvp.utils.checks import Folder, RealNumber, WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import counted, say, warn

_MOST_R_HAT = 1.2  # As a ratio of variances, as TFP has it.
_NUM_SHOWN = 8  # Samples in the figure.


@arguments.command(
    "models/realnvp_fashion_mnist_classes torn.png --samples 8 --out grid.png",
    arguments.images(text="PNG, JPEG or TIFF files, or a folder of them"),
    argument(
        "--mask",
        "PNG file of the size of the images; what is white in it is missing "
        "in all of them",
        Folder(),
        metavar="PNG",
    ),
    argument(
        "--noise",
        "standard deviation of Gaussian noise on the images, in levels of 255 "
        "(default: none)",
        RealNumber(),
    ),
    argument(
        "--samples",
        "number of samples per image; each takes about as long as a "
        "restoration",
        WholeNumber(0, 1000),
        0,
    ),
    arguments.label("the likeliest class of each image"),
    arguments.seed("of the samples"),
    arguments.out(
        "PNG file for a figure of all images",
        "restored.png",
        "PNG files of the size of the images",
    ),
)
def restore(flags: argparse.Namespace) -> None:
    """Fill in what is missing in images, or remove noise.

    The transparent pixels of a PNG file are missing, and what --mask says. The
    known pixels stay as they are, except with --noise. The restoration is the
    image of the likeliest latents. --samples draws other answers from the
    posterior by Hamiltonian Monte Carlo; the spread is their standard
    deviation. R-hat tells whether the chains agree: above 1.2, how likely one
    answer is relative to another is not known.
    """
    names = (*flags.images, flags.mask)
    to_folder = arguments.is_folder(flags.out)
    arguments.check_output(
        flags.out, inputs=names, is_folder=to_folder, new="*_restored.png"
    )
    paths = _list_images(flags.images)
    # A few images are too little work to share.
    is_little = len(paths) * max(1, flags.samples) <= 8
    num_threads = 1 if is_little else None
    model = saved_model.SavedModel(flags.model, num_threads=num_threads)
    if model.values.are_real:
        raise UsageError("real numbers are restored in Python alone")
    label = arguments.find_label(flags.label, model.class_names)
    read = [_read(path, flags, model) for path in paths]
    images, is_missing = (np.stack(its) for its in zip(*read, strict=True))

    level = model.values.highest / 255.0
    found = tf_realnvp.restoration.restore(
        model.model,
        images,
        is_missing,
        flags.noise and level * flags.noise,
        label,
        flags.samples,
        flags.seed,
        shows_progress=True,
    )
    if found.label is not None and label is None:
        for path, its in zip(paths, found.label, strict=True):
            say(f"{path.name}: taken for {model.class_names[its]}")
    if found.samples is not None:
        _say_quality(found, len(paths))
    if to_folder:
        _write_each(flags.out, paths, found, model)
    else:
        _draw(flags.out, images, is_missing, found, model)
    say(flags.out)


def _list_images(names):
    """Returns the files that are named, or are in the folders named."""
    paths: list[pathlib.Path] = []
    with arguments.naming("IMAGE"):
        for path in map(pathlib.Path, names):
            is_folder = path.is_dir()
            paths += image_sets.list_files(path) if is_folder else [path]
        stems = collections.Counter(path.stem for path in paths)
        [(stem, number)] = stems.most_common(1)
        if number > 1:
            raise UsageError(f"{number} files have the name {stem}")
    return paths


def _read(path, flags, model):
    """Returns an image, and which of its pixels are missing, `[H, W, 1]`."""
    from tf_realnvp.images import files as image_files

    image = image_sets.read(path, model)
    with arguments.naming("--mask") if flags.mask else contextlib.nullcontext():
        is_missing = image_files.read_missing(
            path, model.image_shape, flags.mask
        )
    if flags.noise is None and not np.any(is_missing):
        raise UsageError(
            f"nothing is missing in {path}: give --mask or --noise, or make "
            "what is missing transparent"
        )
    if np.all(is_missing):
        raise UsageError(f"everything is missing in {path}")
    return image, is_missing


def _say_quality(found, num_images):
    """Prints how far the samples can be trusted."""
    say(
        f"R-hat {np.median(found.r_hat):.2f}, effective sample size "
        f"{np.median(found.ess):.0f}, acceptance {found.acceptance.mean():.2f}"
    )
    if number := np.sum(found.r_hat > _MOST_R_HAT):
        warn(
            f"the chains of {number} of {counted(num_images, 'image')} do not "
            f"agree (R-hat above {_MOST_R_HAT}): each sample is an answer, but "
            "how likely it is relative to the others is not known"
        )


def _write_each(folder, paths, found, model):
    """Writes the files of each image."""
    with files.replace_files(folder) as new:
        for index, path in enumerate(paths):
            its = {"restored": found.images[index]}
            if found.samples is not None:
                its["mean"] = np.rint(found.mean[index])
                its["spread"] = np.rint(found.std[index])
                for number, sample in enumerate(found.samples[index]):
                    its[f"sample_{number:04d}"] = sample
            for name, image in its.items():
                file = new / f"{path.stem}_{name}.png"
                file.write_bytes(image_sets.encode(image, model))


def _draw(path, images, is_missing, found, model):
    """Draws a row per image: given, restored, samples and their spread."""
    from tf_realnvp.images import plots

    shown, spread = {"restored": found.images}, None
    if found.samples is not None:
        samples = np.moveaxis(found.samples[:, :_NUM_SHOWN], 1, 0)
        shown |= {f"sample {k}": its for k, its in enumerate(samples, 1)}
        shown["mean"] = np.rint(found.mean)
        spread = found.std.mean(axis=-1) * (255.0 / model.values.highest)
    plots.save_restorations(
        path, images, is_missing, shown, spread, model.num_colors
    )


COMMANDS = (restore,)
