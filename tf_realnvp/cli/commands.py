"""The commands on a saved model: flags, messages and exit codes."""

import argparse
import collections
import dataclasses
import functools
import itertools
import math
import pathlib
import random

import numpy as np

from tf_realnvp.cli import (
    arguments,
    detection,
    direction,
    image_sets,
    streams,
)
from tf_realnvp.serving import saved_model
from tf_realnvp.serving.metadata import describe_levels
from tf_realnvp.training.progress import Progress, Silent
from tf_realnvp.utils import files
from tf_realnvp.utils.checks import RealNumber, WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import counted, printable
from tf_realnvp.utils.overlap import overlapped

# TensorFlow takes seconds to import: this module leaves it to the commands,
# when it is clear that the command line makes sense.


_png = arguments.file(".png")
_OF_ALL_PICTURES = (
    "class that the pictures are taken for, of a model that has classes "
    "(default: the likeliest one of all together)"
)
_MANY_BATCHES = 10
_EACH_OF_ALL = 8  # Images of a class, where there are some of all.


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
            type=arguments.path,
            help="folder of the model, realnvp_DATASET",
        )

        def run_and_check(flags, _):
            run(flags)
            streams.check_written()

        command.set_defaults(run=run_and_check, prog=command.prog)
        return command

    _add_sample(add)
    _add_evaluate(add)
    _add_interpolate(add)
    _add_manifold(add)
    _add_reconstruct(add)
    _add_translate(add)
    direction.add_command(add)
    detection.add_commands(add)


def _add_sample(add):
    command = add(
        functools.partial(_run, _sample),
        "sample",
        "realnvp_digits --n 36 --temperature 0.8 --seed 1 --out grid.png",
        "draw new images",
    )
    arguments.add_number(
        command,
        "n",
        WholeNumber(1),
        None,
        "number of images, with --label all of each class (default: 36, with "
        "--label all 8)",
    )
    arguments.add_number(
        command,
        "temperature",
        RealNumber(includes_low=True),
        1.0,
        "factor on the standard deviation of the latents; below 1 images "
        "are less varied",
    )
    arguments.add_label(
        command,
        "class of the images, of a model that has classes; all: a row of each "
        "(default: drawn for each image)",
    )
    arguments.add_seed(command, None, "of the images")
    arguments.add_out(
        command,
        "samples.png",
        "PNG file for a grid of all images; or a folder (one that exists, or "
        "a name that ends in /) for a PNG file of each, as large as the image",
        arguments.file(".png", or_folder=True),
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
standard error, which comes from the choice of the test images. A model with
classes is measured given the label of each image, as the mixture of all
classes, and as a classifier.""",
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
        "use N of the test images, drawn by the seed (default: all)",
    )
    arguments.add_number(
        command,
        "importance_samples",
        WholeNumber(1),
        1,
        "draws of noise for each image",
    )
    arguments.add_number(
        command,
        "batch_size",
        WholeNumber(1),
        64,
        "images in a batch, two of which are evaluated at once",
    )
    arguments.add_seed(
        command, 0, "of the noise, and of the images of --max_images"
    )


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
    arguments.add_label(command, _OF_ALL_PICTURES)
    arguments.add_number(
        command,
        "steps",
        WholeNumber(2, 10_000),
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
    arguments.add_label(command, _OF_ALL_PICTURES)
    arguments.add_number(
        command, "size", WholeNumber(2, 1000), 8, "rows and columns of the grid"
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
factors out first are drawn anew. The latter shows what the others hold.""",
    )
    _add_pictures(command, "+")
    arguments.add_label(command)
    arguments.add_number(
        command,
        "draws",
        WholeNumber(1, 10_000),
        6,
        "number of draws for each picture",
    )
    arguments.add_seed(command, 0, "of the draws")
    arguments.add_out(
        command, "reconstructions.png", "PNG file for the grid", _png
    )


def _add_translate(add):
    command = add(
        functools.partial(_run, _translate),
        "translate",
        "models/realnvp_fashion_mnist_classes a.png b.png --out grid.png",
        "show pictures as they would be, were they of other classes",
        """
Draws a row for each picture: the picture, and what its latents give in each
class of the model. Latents do not know the class: what they have of a picture
is the rest, such as its brightness, its texture and its pose. In its own class
the picture comes back.""",
    )
    _add_pictures(command, "+")
    arguments.add_label(command)
    arguments.add_out(
        command, "translations.png", "PNG file for the grid", _png
    )


def _add_pictures(command, number):
    command.add_argument(
        "pictures",
        nargs=number,
        type=arguments.path,
        metavar="PICTURE",
        help="PNG or JPEG file",
    )


def _run(command, flags):
    """Loads the model, and does with it what a command does."""
    writes_pictures = "out" in flags
    if writes_pictures:
        arguments.check_out(
            flags.out,
            may_be_folder=command is _sample,
            pictures=getattr(flags, "pictures", ()),
        )
    model = saved_model.SavedModel(flags.model)
    if writes_pictures:
        arguments.check_channels(flags.model, model.image_shape[2])
    command(flags, model)


def _read_pictures(flags, model):
    """Returns all pictures of the command line as images of the model."""
    from tf_realnvp.images import files as image_files

    return np.stack(
        [
            image_files.read(path, model.image_shape, model.num_colors)
            for path in flags.pictures
        ]
    )


def _write_grid(flags, model, images, columns=None):
    from tf_realnvp.images import plots

    plots.save_image_grid(flags.out, images, model.num_colors, columns)
    print(flags.out)


def _sample(flags, model):
    from tf_realnvp.images import files as image_files

    folder = pathlib.Path(flags.out) if arguments.is_folder(flags.out) else None
    if folder is not None and any(folder.glob("sample_*.png")):
        raise UsageError(
            f"argument --out: {printable(folder)} has samples of before, which "
            "would be mixed with these: give another folder, or remove them"
        )
    seed = flags.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    classes, columns = "", None
    names = model.class_names
    label: np.ndarray | int | None
    if flags.label == "all" and names and "all" not in names:
        columns = flags.n or _EACH_OF_ALL
        label = np.repeat(np.arange(len(names)), columns)
        n = len(label)
        classes = f" of {printable(', '.join(names))}"
    else:
        n, label = flags.n or 36, arguments.find_label(flags, names)
        if label is not None:
            classes = f" of {printable(flags.label)}"
    print(
        f"{counted(n, 'image')}{classes}, temperature {flags.temperature}, "
        f"seed {seed}"
    )
    batches = _drawn(model.sample(n, flags.temperature, seed, label), n)
    if folder is None:
        _write_grid(flags, model, np.concatenate(list(batches)), columns)
        return
    with files.replace_files(folder) as new:
        width = max(4, len(str(n - 1)))  # So that names sort as numbers.
        for index, image in enumerate(itertools.chain.from_iterable(batches)):
            content = image_files.encode(image, model.num_colors)
            (new / f"sample_{index:0{width}d}.png").write_bytes(content)
    print(folder)


def _drawn(batches, n):
    """Yields batches of `n` images in all; explains where there are none."""
    import tensorflow as tf

    num_batches = math.ceil(n / saved_model.BATCH_SIZE)
    # Few are there before one could read how far it is.
    show = Progress if num_batches >= _MANY_BATCHES else Silent
    try:
        with show("sample", num_batches) as display:
            for images in batches:
                yield images
                display.update(1, len(images))
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(
            "argument --temperature: what is drawn at it is no image, for the "
            "numbers are too large: give a lower one"
        ) from error


def _evaluate(flags, model):
    dataset = _load_dataset(flags, model)
    num_draws = flags.importance_samples
    if flags.max_images is not None:
        dataset = dataset.sample_test(flags.max_images, flags.seed)
    num_images = dataset.num_test
    batch_size = min(flags.batch_size, num_images)
    num_batches = math.ceil(num_images / batch_size)
    measured: list[list[np.ndarray]] = []
    bits: list[float] = []  # Of each image so far.
    with (
        dataset.naming_damage(),
        Progress("test", num_batches) as display,
    ):
        batches = dataset.test_batches(batch_size)
        for of_batch in _log_probs(model, batches, flags.seed, num_draws):
            measured.append(of_batch)
            bound = saved_model.importance_bound(of_batch[0])
            bits.extend(_bits(model, bound))
            display.update(1, len(bound), np.mean(bits))

    classes = ""
    if model.class_names:
        classes = f", {counted(len(model.class_names), 'class')}"
    print(
        f"{counted(num_images, 'test image')} of {printable(dataset.name)}, "
        f"{describe_levels(model.num_colors)}{classes}, seed {flags.seed}"
    )
    log_probs, *of_label = (
        np.concatenate(parts, axis=-1) for parts in zip(*measured, strict=True)
    )
    if not of_label:
        _print_bits(model, log_probs)
        return
    given, is_right = of_label
    _print_bits(model, given, ", given the label")
    _print_bits(model, log_probs, ", mixture of the classes")
    print(
        f"accuracy as a classifier: {is_right.mean():.4f} "
        f"({is_right.sum():,} of {num_images:,})"
    )


def _print_bits(model, log_probs, what=""):
    """Prints the bound from single draws of noise, and that from all of them.

    Args:
      model: The model.
      log_probs: Of images, nats `[num_draws, n]`.
      what: What they are, for people.
    """
    num_draws = len(log_probs)
    single = _summary(_bits(model, np.mean(log_probs, axis=0)))
    mean = f", mean of {num_draws} such" if num_draws > 1 else ""
    print(f"1 draw of noise{mean}{what}: {single}")
    if num_draws > 1:
        joint = _summary(_bits(model, saved_model.importance_bound(log_probs)))
        print(f"{num_draws} draws of noise{what}: {joint}")


def _log_probs(model, batches, seed, num_draws):
    """Yields log-probabilities of the images of each batch.

    Args:
      model: The model.
      batches: The images, with their labels if the model has classes.
      seed: Seed of the noise.
      num_draws: Draws of noise for each image.

    Yields:
      Float64 `[num_draws, n]`, nats. With labels also the same given the label,
      and whether that is the likeliest, boolean `[n]`.
    """
    # One draw and one class a call: an interruption waits for two calls.
    classes = range(len(model.class_names))
    conditions: list[tuple[int, ...]] = [(label,) for label in classes] or [()]
    labels: collections.deque[np.ndarray] = collections.deque()

    def calls():
        streams = itertools.count()
        for images in batches:
            if classes:
                images, its = images
                labels.append(its.numpy())
            for stream in itertools.islice(streams, num_draws):
                draw = saved_model.stream(seed, stream)
                for condition in conditions:
                    yield images, draw, *condition

    results = overlapped(lambda call: model.log_prob(*call), calls())
    num_calls = num_draws * len(conditions)
    while of_batch := list(itertools.islice(results, num_calls)):
        given = np.reshape(of_batch, [num_draws, len(conditions), -1])
        if not classes:
            yield [given[:, 0]]
            continue
        label = labels.popleft()
        joint = given + model.log_prior[:, np.newaxis]
        yield [
            np.logaddexp.reduce(joint, axis=1),
            given[:, label, range(len(label))],
            saved_model.importance_bound(joint).argmax(axis=0) == label,
        ]


def _load_dataset(flags, model):
    """Loads the data set that is to be evaluated."""
    name = model.source if flags.dataset is None else flags.dataset
    if name is None:
        raise UsageError(
            f"argument --dataset: name one, for {printable(flags.model)} does "
            "not tell what it was trained on"
        )
    has_classes = bool(model.class_names)
    dataset = image_sets.load_dataset(
        flags, "dataset", name, model, labels=has_classes
    )
    known = [
        found
        for name in dataset.class_names
        if (found := arguments.find_class(name, model.class_names)) is not None
    ]
    if len(known) < len(dataset.class_names):
        theirs, own = (
            ", ".join(names)
            for names in (dataset.class_names, model.class_names)
        )
        raise UsageError(
            printable(
                f"argument --dataset: the classes of {dataset.name} are "
                f"{theirs}, those of {flags.model} {own}"
            )
        )
    if not has_classes:
        return dataset
    dataset = dataclasses.replace(dataset, class_names=tuple(known))
    return dataset.relabel(model.class_names)


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


def _encode(flags, model, images, together):
    """Returns latents of images, and the labels that they are of.

    Args:
      flags: The flags, of which `--label` tells the class.
      model: The model.
      images: The images.
      together: Whether, without that flag, all get the label that is the
        likeliest of them together, rather than each its own.

    Returns:
      The latents, and the labels `[n]`; 0 if the model has no classes.
    """
    label = arguments.find_label(flags, model.class_names)
    latents, labels = model.encode_likeliest(images, label, together)
    if model.class_names and label is None:
        named = labels[:1] if together else labels
        names = printable(", ".join(model.class_names[k] for k in named))
        print(f"taken for {names}")
    return latents, labels


def _interpolate(flags, model):
    from tf_realnvp import latents

    def strip(ends):
        start, end = ends
        return latents.slerp(start, end, flags.steps)

    _draw_between(flags, model, strip, flags.steps)


def _manifold(flags, model):
    from tf_realnvp import latents

    def surface(corners):
        return np.concatenate(latents.manifold(corners, flags.size))

    _draw_between(flags, model, surface, flags.size)


def _draw_between(flags, model, span, columns):
    """Draws the images of the points that the pictures' latents span."""
    images = _read_pictures(flags, model)
    ends, labels = _encode(flags, model, images, together=True)
    points = span(ends)
    images = model.decode(points, np.repeat(labels[:1], len(points)))
    _write_grid(flags, model, images, columns)


def _reconstruct(flags, model):
    from tf_realnvp import latents

    images = _read_pictures(flags, model)
    kept, labels = _encode(flags, model, images, together=False)
    drawn = latents.redraw_factored_out(kept, flags.draws, flags.seed)
    points = np.concatenate([kept[:, np.newaxis], drawn], axis=1)
    decoded = model.decode(
        np.concatenate(points), np.repeat(labels, points.shape[1])
    )
    decoded = decoded.reshape(*points.shape[:2], *model.image_shape)
    exact = np.sum(np.all(decoded[:, 0] == images, axis=(1, 2, 3)))
    print(f"{exact} of {len(images)} pictures came back exactly")
    _write_rows(flags, model, images, decoded)


def _translate(flags, model):
    names = model.class_names
    if not names:
        raise UsageError(
            f"{printable(flags.model)} has no classes to translate between: "
            "it takes a model that was trained with --conditional"
        )
    images = _read_pictures(flags, model)
    kept, _ = _encode(flags, model, images, together=False)
    decoded = model.decode(
        np.repeat(kept, len(names), axis=0),
        np.tile(np.arange(len(names)), len(images)),
    )
    print(f"as {printable(', '.join(names))}")
    decoded = decoded.reshape(len(images), len(names), *model.image_shape)
    _write_rows(flags, model, images, decoded)


def _write_rows(flags, model, images, others):
    """Writes a grid with a row for each image, which `others` follow."""
    rows = np.concatenate([images[:, np.newaxis], others], axis=1)
    images = rows.reshape(-1, *model.image_shape)
    _write_grid(flags, model, images, columns=rows.shape[1])
