"""The commands on a saved model: flags, messages and exit codes."""

import argparse
import functools
import itertools
import math
import pathlib
import random

from tf_realnvp.checks import RealNumber, WholeNumber
from tf_realnvp.cli import arguments, detection, direction, picture_sets
from tf_realnvp.errors import UsageError, printable

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
        command.set_defaults(run=lambda flags, _: run(flags), prog=command.prog)
        return command

    _add_sample(add)
    _add_evaluate(add)
    _add_interpolate(add)
    _add_manifold(add)
    _add_reconstruct(add)
    direction.add_command(add)
    detection.add_commands(add)


def _add_sample(add):
    command = add(
        functools.partial(_run, _sample),
        "sample",
        "realnvp_digits --n 36 --temperature 0.8 --seed 1 --out grid.png",
        "draw new images",
    )
    arguments.add_number(command, "n", WholeNumber(1), 36, "number of images")
    arguments.add_number(
        command,
        "temperature",
        RealNumber(includes_low=True),
        1.0,
        "factor on the standard deviation of the latents; below 1 images "
        "are less varied",
    )
    arguments.add_seed(command, None, "of the images")
    arguments.add_out(
        command,
        "samples.png",
        "PNG file for a grid of all images; or a folder (one that exists, or "
        "a name that ends in /) for a PNG file of each, as large as the image",
        lambda text: text if arguments.is_folder(text) else _png(text),
    )


def _add_evaluate(add):
    command = add(
        functools.partial(_run, _evaluate),
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
    arguments.add_data_dir(command)
    arguments.add_number(
        command,
        "max_images",
        WholeNumber(2),
        None,
        "use the first N test images (default: all)",
    )
    arguments.add_number(
        command,
        "importance_samples",
        WholeNumber(1),
        1,
        "draws of noise for each image",
    )
    arguments.add_number(
        command, "batch_size", WholeNumber(1), 64, "images evaluated at once"
    )
    arguments.add_seed(command, 0, "of the noise")


def _add_interpolate(add):
    command = add(
        functools.partial(_run, _interpolate),
        "interpolate",
        "realnvp_digits a.png b.png --steps 8 --out strip.png",
        "go from one picture to another through the latent space",
        """
Draws a strip of images whose latents lie on the arc between those of the two
pictures (spherical interpolation), which are at its ends.""",
    )
    _add_pictures(command, 2)
    arguments.add_number(
        command,
        "steps",
        WholeNumber(2),
        8,
        "number of images, both pictures included",
    )
    arguments.add_out(
        command, "interpolation.png", "PNG file for the strip", _png
    )


def _add_manifold(add):
    command = add(
        functools.partial(_run, _manifold),
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
    arguments.add_number(
        command, "size", WholeNumber(2), 8, "rows and columns of the grid"
    )
    arguments.add_out(command, "manifold.png", "PNG file for the grid", _png)


def _add_reconstruct(add):
    command = add(
        functools.partial(_run, _reconstruct),
        "reconstruct",
        "realnvp_digits a.png b.png --draws 6 --out grid.png",
        "show what is left of pictures when the fine latents are drawn anew",
        """
Draws a row for each picture: the picture; what comes back from all of its
latents, which is the same; and what comes back when those that the model
factors out half-way are drawn anew. The latter shows what the others hold.""",
    )
    _add_pictures(command, "+")
    arguments.add_number(
        command, "draws", WholeNumber(1), 6, "number of draws for each picture"
    )
    arguments.add_seed(command, 0, "of the draws")
    arguments.add_out(
        command, "reconstructions.png", "PNG file for the grid", _png
    )


def _add_pictures(command, number):
    command.add_argument(
        "pictures", nargs=number, metavar="PICTURE", help="PNG or JPEG file"
    )


def _run(command, flags):
    """Loads the model, and does with it what a command does."""
    if "out" in flags:
        arguments.check_out(flags.out, may_be_folder=command is _sample)
    command(flags, _load(flags, needs_pictures=command is not _evaluate))


def _load(flags, needs_pictures):
    from tf_realnvp.serving import saved_model

    model = saved_model.SavedModel(flags.model)
    if needs_pictures:
        arguments.check_channels(flags.model, model.image_shape[2])
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
    """Loads the data set that is to be evaluated."""
    name = flags.dataset or model.dataset
    if name is None:
        raise UsageError(
            f"argument --dataset: name one, for {printable(flags.model)} does "
            "not tell what it was trained on"
        )
    return picture_sets.load_dataset(flags, "dataset", name, model)


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
