"""The command that moves images along a direction of the latent space."""

import argparse

import numpy as np

from tf_realnvp.cli import arguments, commands, image_sets
from tf_realnvp.cli.arguments import argument
from tf_realnvp.serving import saved_model
from tf_realnvp.utils.checks import FLOAT32_MAX, Folder, RealNumber, WholeNumber
from tf_realnvp.utils.messages import say

_NUM_SHOWN = 4  # Rows of the grid without `--apply`.


@arguments.command(
    "realnvp_faces --with smiling --without serious --apply face.jpg",
    image_sets.argument("--with", "images with an attribute", required=True),
    image_sets.argument("--without", "images without it", required=True),
    argument(
        "--apply",
        f"PNG or JPEG files (default: {_NUM_SHOWN} images of --without)",
        Folder(),
        nargs="+",
        metavar="IMAGE",
    ),
    argument(
        "--strength",
        "lowest and highest strength (default: -2 2)",
        RealNumber(low=-FLOAT32_MAX),
        nargs=2,
        metavar=("FROM", "TO"),
    ),
    argument("--steps", "number of images per row", WholeNumber(2, 10_000), 9),
    image_sets.max_images("each set", 2, 2000),
    arguments.label("the likeliest class of each image"),
    arguments.DATA_DIR,
    arguments.seed("of the sampling of images"),
    arguments.out("PNG file for the rows", "direction.png"),
    notes=image_sets.HELP,
)
def direction(flags: argparse.Namespace) -> None:
    """Move images along the difference between two sets of images.

    The direction is the difference of the mean latents of the two sets. Draws a
    row per image, moved by several strengths: 0 is the image, and 1 is the
    distance between the two means. To show whether the direction is meaningful,
    prints how well it separates held-out images of the two sets. With a model
    with classes, images are moved within their class.
    """
    names = {"with": vars(flags)["with"], "without": flags.without}
    applied = flags.apply or ()
    arguments.check_output(flags.out, inputs=(*applied, *names.values()))
    model = saved_model.SavedModel(flags.model)
    label = arguments.find_label(flags.label, model.class_names)
    from tf_realnvp import latents

    named = [image_sets.read(path, model) for path in applied]
    loader = image_sets.Loader(
        model, flags.data_dir, flags.max_images, flags.seed
    )
    sets = {flag: loader.load(flag, names[flag], "test") for flag in names}
    image_sets.check_distinct(sets)
    rng = np.random.default_rng(flags.seed)
    shuffled = [rng.permutation(its.images) for its in sets.values()]
    sides = [model.encode_likeliest(images, label)[0] for images in shuffled]
    starts, labels = model.encode_likeliest(
        np.stack(named) if named else shuffled[1][:_NUM_SHOWN], label
    )
    # A fifth is held out, to evaluate the direction.
    apart = [side[: max(1, len(side) // 5)] for side in sides]
    rest = [side[len(some) :] for side, some in zip(sides, apart, strict=True)]
    auroc = latents.separation(latents.direction(*rest), *apart)
    low, high = flags.strength or (-2.0, 2.0)
    strengths = np.linspace(low, high, flags.steps)
    steps = np.multiply.outer(strengths, latents.direction(*sides))
    points = (starts[:, np.newaxis] + steps).astype(np.float32)
    rows = commands.decode_rows(model, points, labels[:, np.newaxis])
    say(
        f"AUROC {auroc:.3f} (chance: 0.5) on images that had no part in the "
        f"direction: {len(apart[0]):,} with it, {len(apart[1]):,} without"
    )
    commands.write_rows(flags.out, model, rows)


COMMANDS = (direction,)
