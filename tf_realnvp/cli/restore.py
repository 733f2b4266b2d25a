"""The command that restores images.

TensorFlow takes seconds to import, so the command imports it only after the
command line has been checked. `tf_realnvp` imports its modules at first use.
"""

import argparse
import pathlib

import numpy as np

import tf_realnvp
from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.cli.arguments import argument
from tf_realnvp.errors import UsageError
from tf_realnvp.serving import metadata
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.console import counted, say, warn
from tf_realnvp.utils.ranges import Folder, RealNumber, WholeNumber

_MOST_R_HAT = 1.2  # As a ratio of variances, as TFP has it.
_NUM_SHOWN = 8  # Samples in the figure.


@arguments.command(
    "models/realnvp_fashion_mnist torn.png --samples 8 --out grid.png",
    arguments.images(text="PNG, JPEG or TIFF files, or a folder of them"),
    argument(
        "--mask",
        "PNG file of the size of the images; what is above half of its "
        "highest value, such as white, is missing in all of them",
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
        "number of samples per image; without --observe, each takes about as "
        "long as a restoration",
        WholeNumber(0, 1000),
        0,
    ),
    arguments.label("the likeliest of each image; with --observe, drawn"),
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
    known pixels stay as they are, except with --noise. A model that was trained
    with --observe draws samples of what it does not see, 16 by default, and the
    restoration averages them with an estimate of their mean. With others, it is
    the image of the likeliest latents. --samples draws other answers from the
    posterior by Hamiltonian Monte Carlo; the spread is their standard
    deviation. R-hat tells whether the chains agree: above 1.2, how likely one
    answer is relative to another is not known.
    """
    to_folder = arguments.is_folder(flags.out)
    inputs = (*flags.images, flags.mask)
    arguments.check_output(
        flags.out, inputs=inputs, is_folder=to_folder, new="*_restored.png"
    )
    content = metadata.read(flags.model)
    names, values = metadata.class_names(content), metadata.values(content)
    if values.are_real:
        raise UsageError("real numbers are restored in Python alone")
    label = arguments.find_label(flags.label, names)
    paths = _list_images(flags.images)
    # A few images are too little work to share.
    is_little = len(paths) * max(1, flags.samples) <= 8
    runtime.configure(num_threads=1 if is_little else None)
    observe = content.get("observe") or "mask"
    shape = content["image_shape" if observe == "mask" else "context_shape"]
    needs_mask = observe == "mask" and flags.noise is None
    pairs = [_read(path, flags, shape, values, needs_mask) for path in paths]
    images, is_missing = map(np.stack, zip(*pairs, strict=True))
    model = tf_realnvp.load(flags.model)
    try:
        result = tf_realnvp.restoration.restore(
            model,
            images,
            is_missing,
            flags.noise and values.highest / 255.0 * flags.noise,
            label,
            flags.samples,
            flags.seed,
            shows_progress=True,
        )
    except ValueError as error:  # The model observes something else.
        raise UsageError(str(error)) from error
    if result.label is not None and label is None:
        for path, number in zip(paths, result.label, strict=True):
            say(f"{path.name}: taken for {names[number]}")
    if result.r_hat is not None:
        _say_quality(result)
    if to_folder:
        _write_each(flags.out, paths, result, values)
    else:
        _draw(flags.out, images, is_missing, result, values)
    say(flags.out)


def _list_images(names):
    """Returns the files that are named, or are in the folders named."""
    paths: list[pathlib.Path] = []
    with arguments.naming("IMAGE"):
        for path in map(pathlib.Path, names):
            is_folder = path.is_dir()
            paths += image_sets.list_files(path) if is_folder else [path]
        if len({path.stem for path in paths}) < len(paths):
            raise UsageError("two files have the same name")
    return paths


def _read(path, flags, image_shape, values, needs_mask):
    """Returns an image, and which of its pixels are missing, `[H, W, 1]`."""
    image_files = tf_realnvp.image_files
    image = image_files.read(path, image_shape, values)
    with arguments.naming("--mask"):
        is_missing = image_files.read_missing(path, image_shape, flags.mask)
    if needs_mask and not np.any(is_missing):
        raise UsageError(
            f"nothing is missing in {path}: make what is missing transparent, "
            "or white in --mask, or give --noise"
        )
    return image, is_missing


def _say_quality(result):
    """Prints how far the samples can be trusted."""
    say(
        f"R-hat {np.median(result.r_hat):.2f}, effective sample size "
        f"{np.median(result.ess):.0f}, acceptance "
        f"{result.acceptance.mean():.2f}"
    )
    if number := np.sum(result.r_hat > _MOST_R_HAT):
        warn(
            f"the chains of {number} of {counted(len(result.r_hat), 'image')} "
            f"do not agree (R-hat above {_MOST_R_HAT}): each sample is an "
            "answer, but how likely it is relative to the others is not known"
        )


def _write_each(folder, paths, result, values):
    """Writes the files of each image."""
    images = {"restored": result.images}
    if result.samples is not None:
        images["mean"] = np.rint(result.mean)
        images["spread"] = np.rint(result.std)
        for number, samples in enumerate(result.samples.swapaxes(0, 1)):
            images[f"sample_{number:04d}"] = samples
    with files.replace_files(folder) as new:
        for name, of_all in images.items():
            for path, image in zip(paths, of_all, strict=True):
                file = new / f"{path.stem}_{name}.png"
                tf_realnvp.image_files.write(file, image, values)


def _draw(path, images, is_missing, result, values):
    """Draws a row per image: given, restored, samples and their spread."""
    shown, spread = {"restored": result.images}, None
    if result.samples is not None:
        few = result.samples[:, :_NUM_SHOWN].swapaxes(0, 1)
        shown |= {f"sample {k}": samples for k, samples in enumerate(few, 1)}
        shown["mean"] = np.rint(result.mean)
        spread = result.std.mean(axis=-1) * (255.0 / values.highest)
    tf_realnvp.plots.save_restorations(
        path, images, is_missing, shown, spread, values
    )


COMMANDS = (restore,)
