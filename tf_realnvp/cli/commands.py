"""The commands on a saved model: flags, messages and exit codes."""

import argparse
import csv
import itertools
import math
import pathlib
import random
import sys

from tf_realnvp import checks
from tf_realnvp.checks import FLOAT32_MAX, RealNumber, WholeNumber
from tf_realnvp.cli import arguments
from tf_realnvp.errors import (
    PictureError,
    UsageError,
    printable,
)

# TensorFlow takes seconds to import: this module leaves it to the commands,
# when it is clear that the command line makes sense.


_png = arguments.file(".png")


def add_commands(subparsers: "argparse._SubParsersAction") -> None:
    """Adds the commands on a saved model to those of a program.

    Args:
      subparsers: The program's.
    """

    def add(run, name, example, title, details=""):
        """Adds a command, with what they all have in common."""
        command = subparsers.add_parser(
            name,
            help=title,
            description=f"{title[0].upper()}{title[1:]}.\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.epilog = f"example:\n  {command.prog} {example}"
        command.add_argument(
            "model",
            metavar="MODEL",
            help="folder of the model, realnvp_DATASET",
        )
        command.set_defaults(
            run=lambda flags, _: _run(run, flags), prog=command.prog
        )
        return command

    _add_sample(add)
    _add_evaluate(add)
    _add_interpolate(add)
    _add_manifold(add)
    _add_reconstruct(add)
    _add_direction(add)
    _add_score(add)


def _add_sample(add):
    command = add(
        _sample,
        "sample",
        "realnvp_digits --n 36 --temperature 0.8 --seed 1 --out grid.png",
        "draw new images",
    )
    _add_number(command, "n", WholeNumber(1), 36, "number of images")
    _add_number(
        command,
        "temperature",
        RealNumber(includes_low=True),
        1.0,
        "factor on the standard deviation of the latents; below 1 images "
        "are less varied",
    )
    _add_seed(command, None, "of the images")
    _add_out(
        command,
        "samples.png",
        "PNG file for a grid of all images; or a folder (one that exists, or "
        "a name that ends in /) for a PNG file of each, as large as the image",
        lambda text: text if arguments.is_folder(text) else _png(text),
    )


def _add_evaluate(add):
    command = add(
        _evaluate,
        "evaluate",
        "realnvp_digits --dataset digits --importance_samples 16",
        "measure bits/dim on the test images of a data set",
        """
The density of an image with noise added gives a bound: on average over the
noise, the true bits/dim are at most what is printed. The mean of the density
itself over several draws gives a tighter one (arXiv:1509.00519), in
expectation the lower the more draws there are. Beside each figure stands its
standard error, which comes from the choice of the test images.""",
    )
    command.add_argument(
        "--dataset",
        metavar="NAME",
        help="a data set as in training (default: what the model was trained "
        "on)",
    )
    command.add_argument(
        "--data_dir",
        default="datasets",
        metavar="DIR",
        help="folder of TensorFlow Datasets' copies (default: datasets)",
    )
    _add_number(
        command,
        "max_images",
        WholeNumber(2),
        None,
        "use the first N test images (default: all)",
    )
    _add_number(
        command,
        "importance_samples",
        WholeNumber(1),
        1,
        "draws of noise for each image",
    )
    _add_number(
        command, "batch_size", WholeNumber(1), 64, "images evaluated at once"
    )
    _add_seed(command, 0, "of the noise")


def _add_interpolate(add):
    command = add(
        _interpolate,
        "interpolate",
        "realnvp_digits a.png b.png --steps 8 --out strip.png",
        "go from one picture to another through the latent space",
        """
Draws a strip of images whose latents lie on the arc between those of the two
pictures (spherical interpolation), which are at its ends.""",
    )
    _add_pictures(command, 2)
    _add_number(
        command,
        "steps",
        WholeNumber(2),
        8,
        "number of images, both pictures included",
    )
    _add_out(command, "interpolation.png", "PNG file for the strip", _png)


def _add_manifold(add):
    command = add(
        _manifold,
        "manifold",
        "realnvp_digits a.png b.png c.png d.png --size 8 --out grid.png",
        "draw the surface that four pictures span in the latent space",
        """
With the latents z1 to z4 of the pictures, the image in row i and column j is
that of (arXiv:1605.08803, equation 19)

  cos(phi) (cos(phi') z1 + sin(phi') z2)
    + sin(phi) (cos(phi') z3 + sin(phi') z4),

where phi = 2 pi i / size and phi' = 2 pi j / size. If size is a multiple of 4
the pictures themselves are among the images: the first at the top left, the
second in its row, the third in its column, the fourth below the second.""",
    )
    _add_pictures(command, 4)
    _add_number(
        command, "size", WholeNumber(2), 8, "rows and columns of the grid"
    )
    _add_out(command, "manifold.png", "PNG file for the grid", _png)


def _add_reconstruct(add):
    command = add(
        _reconstruct,
        "reconstruct",
        "realnvp_digits a.png b.png --draws 6 --out grid.png",
        "show what is left of pictures when the fine latents are drawn anew",
        """
Draws a row for each picture: the picture; what comes back from all of its
latents, which is the same; and what comes back when those that the model
factors out half-way are drawn anew. The latter shows what the others hold.""",
    )
    _add_pictures(command, "+")
    _add_number(
        command, "draws", WholeNumber(1), 6, "number of draws for each picture"
    )
    _add_seed(command, 0, "of the draws")
    _add_out(command, "reconstructions.png", "PNG file for the grid", _png)


def _add_direction(add):
    command = add(
        _direction,
        "direction",
        "realnvp_faces --with smiling/ --without serious/ --apply face.jpg",
        "move a picture along what two folders of pictures differ in",
        """
The direction is the difference of the mean latents of the two folders. Draws a
strip of the picture moved by some strengths: 1 is from one mean to the other, 0
is the picture. How well the direction tells pictures apart that had no part in
it is printed, so that one knows whether it means anything.""",
    )
    for flag, text in (
        ("with", "pictures that have something"),
        ("without", "pictures that have it not"),
    ):
        command.add_argument(
            f"--{flag}", required=True, metavar="DIR", help=f"folder of {text}"
        )
    command.add_argument(
        "--apply", required=True, metavar="PICTURE", help="PNG or JPEG file"
    )
    command.add_argument(
        "--strength",
        nargs=2,
        type=arguments.number(RealNumber(low=-FLOAT32_MAX)),
        default=(-2.0, 2.0),
        metavar=("FROM", "TO"),
        help="range of the strengths (default: -2 2)",
    )
    _add_number(command, "steps", WholeNumber(2), 9, "number of images")
    _add_seed(command, 0, "of the choice of pictures that are set apart")
    _add_out(command, "direction.png", "PNG file for the strip", _png)


def _add_score(add):
    command = add(
        _score,
        "score",
        "realnvp_digits my_pictures --out scores.csv",
        "score the pictures of a folder, the least likely first",
        """
Writes a CSV file with the columns file, log_prob (nats for the whole picture)
and bits_per_dim. Files that can't be read are named, and left out.""",
    )
    command.add_argument(
        "folder",
        metavar="DIR",
        help="folder of pictures; other folders inside are left alone, and so "
        "are hidden files",
    )
    _add_seed(command, 0, "of the noise that is added to the pictures")
    _add_out(command, "scores.csv", "CSV file", arguments.file(".csv"))


def _add_number(command, name, allowed, default, text):
    command.add_argument(
        f"--{name}",
        type=arguments.number(allowed),
        default=default,
        metavar="N" if isinstance(allowed, WholeNumber) else "X",
        help=text if default is None else f"{text} (default: {default:g})",
    )


def _add_seed(command, default, of_what):
    drawn = " (default: one is drawn and printed)" if default is None else ""
    seeds = WholeNumber(0, 2**32 - 1)
    _add_number(command, "seed", seeds, default, f"seed {of_what}{drawn}")


def _add_out(command, default, text, parse):
    command.add_argument(
        "--out",
        type=parse,
        default=default,
        metavar="PATH",
        help=f"{text} (default: {default})",
    )


def _add_pictures(command, number):
    command.add_argument(
        "pictures", nargs=number, metavar="PICTURE", help="PNG or JPEG file"
    )


def _run(command, flags):
    """Loads the model, and does with it what a command does."""
    if "out" in flags:
        _check_out(flags.out, may_be_folder=command is _sample)
    command(flags, _load(flags, needs_pictures=command is not _evaluate))


def _check_out(out, may_be_folder):
    """Finds out whether the result can be written before it is computed."""
    is_folder = arguments.is_folder(out)
    if is_folder and not may_be_folder:
        raise UsageError(
            f"argument --out: {printable(out)} is a folder, not a file"
        )
    path = pathlib.Path(out)
    folder = path if is_folder else path.parent
    arguments.check_writable(folder, "--out", make=is_folder)


def _load(flags, needs_pictures):
    from tf_realnvp.serving import saved_model

    model = saved_model.SavedModel(flags.model)
    channels = model.image_shape[2]
    if needs_pictures and channels not in (1, 3):
        raise UsageError(
            "pictures have 1 or 3 channels, and the images of "
            f"{printable(flags.model)} have {channels}"
        )
    return model


def _read_pictures(flags, model):
    """Returns all pictures of the command line as images of the model."""
    import numpy as np

    from tf_realnvp import pictures

    return np.stack(
        [
            pictures.read(path, model.image_shape, model.num_colors)
            for path in flags.pictures
        ]
    )


def _write_grid(flags, model, images, columns=None):
    from tf_realnvp import plots

    plots.save_image_grid(flags.out, images, model.num_colors, columns)
    print(flags.out)


def _sample(flags, model):
    import numpy as np

    from tf_realnvp import pictures

    seed = flags.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    print(f"{flags.n:,} images, temperature {flags.temperature}, seed {seed}")
    batches = model.sample(flags.n, flags.temperature, seed)
    if not arguments.is_folder(flags.out):
        _write_grid(flags, model, np.concatenate(list(batches)))
        return
    folder = pathlib.Path(flags.out)
    for index, image in enumerate(itertools.chain.from_iterable(batches)):
        pictures.write(
            folder / f"sample_{index:04d}.png", image, model.num_colors
        )
    print(folder)


def _evaluate(flags, model):
    import numpy as np

    from tf_realnvp.serving import saved_model
    from tf_realnvp.serving.metadata import describe_levels
    from tf_realnvp.training.progress import Progress

    dataset = _load_dataset(flags, model)
    num_draws = flags.importance_samples
    num_images = min(flags.max_images or dataset.num_test, dataset.num_test)
    num_batches = math.ceil(num_images / flags.batch_size)
    batches = dataset.test_batches(flags.batch_size).take(num_batches)
    streams = itertools.count()
    # Of every image: the bound from single draws, and that from all of them.
    single, joint = np.zeros(0), np.zeros(0)
    with (
        dataset.naming_damage(),
        Progress("test", num_batches) as display,
    ):
        for images in batches:
            images = images[: num_images - len(single)]
            log_probs = np.stack(
                [
                    model.log_prob(
                        images,
                        saved_model.stream(flags.seed, next(streams)),
                    )
                    for _ in range(num_draws)
                ]
            )
            single = np.append(single, np.mean(log_probs, axis=0))
            joint = np.append(joint, saved_model.importance_bound(log_probs))
            display.update(1, len(images), np.mean(_bits(model, joint)))

    title = "1 test image" if num_images == 1 else f"{num_images:,} test images"
    print(
        f"{title} of {dataset.name}, {describe_levels(model.num_colors)}, "
        f"seed {flags.seed}"
    )
    print(f"1 draw of noise: {_summary(_bits(model, single))}")
    if num_draws > 1:
        print(f"{num_draws} draws of noise: {_summary(_bits(model, joint))}")


def _load_dataset(flags, model):
    """Loads the data set, and checks that the model is of such images."""
    from tf_realnvp import data
    from tf_realnvp.data.image_dataset import describe_skipped
    from tf_realnvp.serving.metadata import describe_images

    name = flags.dataset or model.dataset
    if name is None:
        raise UsageError(
            f"argument --dataset: name one, for {printable(flags.model)} does "
            "not tell what it was trained on"
        )
    height, width, _ = model.image_shape
    image_size = height if height == width else None
    dataset = data.load(name, flags.data_dir, image_size)
    num_bits = checks.bits_of_levels(model.num_colors)
    if dataset.num_colors == 256 and num_bits is not None:
        dataset = dataset.keep_bits(num_bits)  # As `--num_bits` in training.
    if dataset.skipped:
        print(f"warning: {describe_skipped(dataset.skipped)}", file=sys.stderr)
    theirs = describe_images(dataset.image_shape, dataset.num_colors)
    own = describe_images(model.image_shape, model.num_colors)
    if theirs != own:
        raise UsageError(
            f"argument --dataset: the images of {printable(dataset.name)} are "
            f"{theirs}, those of {printable(flags.model)} {own}"
        )
    return dataset


def _bits(model, log_prob):
    """Returns bits/dim, given nats for whole images."""
    return -log_prob / (model.num_dims * math.log(2.0))


def _summary(bits):
    """Returns the mean and its standard error, for people."""
    mean = f"{bits.mean():.4f} bits/dim"
    if len(bits) == 1:
        return f"{mean}; one image has no standard error"
    error = bits.std(ddof=1) / math.sqrt(len(bits))
    return f"{mean}, standard error {error:.4f}"


def _interpolate(flags, model):
    from tf_realnvp import latents

    start, end = model.encode(_read_pictures(flags, model))
    images = model.decode(latents.slerp(start, end, flags.steps))
    _write_grid(flags, model, images, columns=flags.steps)


def _manifold(flags, model):
    from tf_realnvp import latents

    corners = model.encode(_read_pictures(flags, model))
    points = latents.manifold(corners, flags.size)
    images = model.decode(points.reshape(-1, *points.shape[2:]))
    _write_grid(flags, model, images, columns=flags.size)


def _reconstruct(flags, model):
    import numpy as np

    from tf_realnvp import latents

    images = _read_pictures(flags, model)
    kept = model.encode(images)
    drawn = latents.redraw_factored_out(kept, flags.draws, flags.seed)
    points = np.concatenate([kept[:, np.newaxis], drawn], axis=1)
    decoded = model.decode(points.reshape(-1, *kept.shape[1:]))
    decoded = decoded.reshape(*points.shape[:2], *model.image_shape)
    exact = np.sum(np.all(decoded[:, 0] == images, axis=(1, 2, 3)))
    print(f"{exact} of {len(images)} pictures came back exactly")
    rows = np.concatenate([images[:, np.newaxis], decoded], axis=1)
    _write_grid(
        flags,
        model,
        rows.reshape(-1, *model.image_shape),
        columns=rows.shape[1],
    )


def _direction(flags, model):
    import numpy as np
    import tensorflow as tf

    from tf_realnvp import latents, pictures

    start = pictures.read(flags.apply, model.image_shape, model.num_colors)
    (start,) = model.encode(start[None])
    rng = np.random.default_rng(flags.seed)
    sides = [
        rng.permutation(model.encode(_read_folder(folder, model)))
        for folder in (vars(flags)["with"], flags.without)
    ]
    # A fifth is set apart.
    apart = [side[: max(1, len(side) // 5)] for side in sides]
    rest = [side[len(some) :] for side, some in zip(sides, apart, strict=True)]
    auroc = latents.separation(latents.direction(*rest), *apart)
    lowest, highest = flags.strength
    strengths = np.linspace(lowest, highest, flags.steps)
    moved = start + np.multiply.outer(strengths, latents.direction(*sides))
    try:
        with np.errstate(over="ignore"):
            images = model.decode(moved.astype(np.float32))
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(
            "argument --strength: moved so far, pictures cannot be decoded: "
            "give a smaller range"
        ) from error
    print(
        f"AUROC {auroc:.3f} (chance: 0.5) on pictures that had no part in the "
        f"direction: {len(apart[0]):,} with it, {len(apart[1]):,} without"
    )
    _write_grid(flags, model, images, columns=flags.steps)


def _read_folder(folder, model):
    """Returns the pictures of a folder as images, and names the others."""
    import numpy as np

    from tf_realnvp import pictures

    images = []
    for path in _list_files(folder):
        try:
            images.append(
                pictures.read(path, model.image_shape, model.num_colors)
            )
        except PictureError as error:
            print(error, file=sys.stderr)
    if len(images) < 2:
        raise UsageError(
            f"{printable(folder)} must have two pictures at least, and "
            f"{len(images)} of its files can be read"
        )
    return np.stack(images)


def _score(flags, model):
    from tf_realnvp import files, pictures
    from tf_realnvp.training.progress import Progress

    paths = _list_files(flags.folder)
    scores, total = [], 0.0
    with Progress("score", len(paths)) as display:
        for path in paths:
            try:
                image = pictures.read(path, model.image_shape, model.num_colors)
            except PictureError as error:
                print(error, file=sys.stderr)
                continue
            # One at a time, and all with the same noise: the score of a
            # picture must not depend on those beside it.
            log_prob = model.log_prob(image[None], flags.seed)[0]
            bits = _bits(model, log_prob)
            scores.append((path.name, float(log_prob), float(bits)))
            total += bits
            display.update(1, 1, total / len(scores))
    num_unreadable = len(paths) - len(scores)
    if not scores:
        raise UsageError(
            f"none of the {num_unreadable:,} files in "
            f"{printable(flags.folder)} can be read as a picture"
        )
    scores.sort(key=lambda score: (-score[2], score[0]))
    with (
        files.replace_file(flags.out) as new,
        # Names of files need not be text.
        new.open("w", newline="", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "log_prob", "bits_per_dim"])
        writer.writerows(scores)
    print(
        f"{len(scores):,} pictures, mean {total / len(scores):.4f} bits/dim; "
        f"{num_unreadable:,} files could not be read"
    )
    print(flags.out)


def _list_files(folder):
    """Returns all that is in a folder, but for folders and hidden files."""
    name = printable(folder)
    try:
        paths = sorted(
            path
            for path in pathlib.Path(folder).iterdir()
            if not path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise UsageError(
            f"cannot read the folder {name}: {error.strerror}"
        ) from error
    if not paths:
        raise UsageError(f"there are no files in {name}")
    return paths
