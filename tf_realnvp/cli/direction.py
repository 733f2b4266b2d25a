"""The command that moves pictures along a direction of the latent space."""

import os

import numpy as np

from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.serving import metadata, saved_model
from tf_realnvp.utils.checks import FLOAT32_MAX, RealNumber, WholeNumber
from tf_realnvp.utils.errors import UsageError

_MAX_IMAGES = 2000
_NUM_SHOWN = 4  # Rows of the grid where no pictures are named.
_SPLITS = {"with": "test", "without": "test"}


def add_command(add) -> None:
    """Adds the command.

    Args:
      add: As for `detection.add_commands`.
    """
    command = add(
        _direction,
        "direction",
        "realnvp_faces --with smiling --without serious --apply face.jpg",
        "move pictures along what two sets of pictures differ in",
        f"""
The direction is the difference of the mean latents of the two sets. Draws a row
for each picture, moved by some strengths: 1 is from one mean to the other, 0 is
the picture. How well the direction tells pictures apart that had no part in it
is printed, so that one knows whether it means anything. Of a model with classes
pictures are moved within their class.
{image_sets.HELP}""",
    )
    for flag, text in (
        ("with", "pictures that have something"),
        ("without", "pictures that do not have it"),
    ):
        command.add_argument(f"--{flag}", required=True, metavar="D", help=text)
    command.add_argument(
        "--apply",
        nargs="+",
        type=arguments.path,
        metavar="PICTURE",
        help=f"PNG or JPEG files (default: {_NUM_SHOWN} pictures of --without)",
    )
    command.add_argument(
        "--strength",
        nargs=2,
        type=arguments.number(RealNumber(low=-FLOAT32_MAX)),
        default=(-2.0, 2.0),
        metavar=("FROM", "TO"),
        help="range of the strengths (default: -2 2)",
    )
    arguments.add_number(
        command, "steps", WholeNumber(2, 10_000), 9, "number of images in a row"
    )
    arguments.add_number(
        command,
        "max_images",
        WholeNumber(2),
        _MAX_IMAGES,
        "use at most so many pictures of each set",
    )
    arguments.add_label(command)
    arguments.add_data_dir(command)
    arguments.add_seed(command, 0, "of the choice of pictures")
    arguments.add_out(
        command,
        "direction.png",
        "PNG file for the rows",
        arguments.file(".png"),
    )


def _direction(flags):
    arguments.check_out(flags.out, may_be_folder=False, pictures=flags.apply)
    described = metadata.read(flags.model)
    label = arguments.find_label(flags, described.class_names)
    model = saved_model.SavedModel(flags.model)
    arguments.check_channels(flags.model, model.image_shape[2])
    import tensorflow as tf

    from tf_realnvp import latents
    from tf_realnvp.images import files as image_files
    from tf_realnvp.images import plots

    image_sets.check_disjoint(flags, described, _SPLITS)
    folder = os.path.dirname(flags.out) or "."
    image_sets.check_apart(flags, "out", folder, described, _SPLITS)
    named = [
        image_files.read(path, model.image_shape, model.num_colors)
        for path in flags.apply or ()
    ]
    rng = np.random.default_rng(flags.seed)
    sides = []
    for flag, split in _SPLITS.items():
        loaded = image_sets.load(flags, flag, described, split, 2)
        images = rng.permutation(loaded.images)
        sides.append(model.encode_likeliest(images, label)[0])
    # The last ones are those without.
    starts, labels = model.encode_likeliest(
        np.stack(named) if named else images[:_NUM_SHOWN], label
    )
    # A fifth is set apart.
    apart = [side[: max(1, len(side) // 5)] for side in sides]
    rest = [side[len(some) :] for side, some in zip(sides, apart, strict=True)]
    auroc = latents.separation(latents.direction(*rest), *apart)
    lowest, highest = flags.strength
    strengths = np.linspace(lowest, highest, flags.steps)
    steps = np.multiply.outer(strengths, latents.direction(*sides))
    moved = np.concatenate([start + steps for start in starts])
    try:
        with np.errstate(over="ignore"):
            images = model.decode(
                moved.astype(np.float32), np.repeat(labels, flags.steps)
            )
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(
            "argument --strength: moved so far, pictures cannot be decoded: "
            "give a smaller range"
        ) from error
    print(
        f"AUROC {auroc:.3f} (chance: 0.5) on pictures that had no part in the "
        f"direction: {len(apart[0]):,} with it, {len(apart[1]):,} without"
    )
    plots.save_image_grid(flags.out, images, model.num_colors, flags.steps)
    print(flags.out)
