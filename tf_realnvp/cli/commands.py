"""The commands that draw images, and `evaluate`.

TensorFlow takes seconds to import, so the commands import it only after the
command line has been checked. `tf_realnvp` imports its modules at first use.
"""

import argparse
import dataclasses
import functools
import math
import random

import numpy as np

import tf_realnvp
from tf_realnvp.cli import arguments, image_sets, shards
from tf_realnvp.cli.arguments import argument, command
from tf_realnvp.cli.image_sets import Loader
from tf_realnvp.errors import UsageError
from tf_realnvp.utils import files
from tf_realnvp.utils.batches import BATCH_SIZE, overlapped, stream
from tf_realnvp.utils.console import Progress, counted, say
from tf_realnvp.utils.named import by_name
from tf_realnvp.utils.ranges import FLOAT32_MAX, RealNumber, WholeNumber

_LABEL_OF_ALL = arguments.label("the likeliest class of all images together")
_NUM_SHOWN = 4  # Rows of `direction` without `--apply`.


@command(
    "realnvp_digits --n 36 --temperature 0.8 --seed 1 --out grid.png",
    argument(
        "--n",
        "number of images; per class with --label all (default: 36, or the "
        "rows of --context; 8 with --label all)",
        WholeNumber(1),
    ),
    argument(
        "--temperature",
        "factor on the standard deviation of the latents",
        RealNumber(includes_low=True),
        1.0,
    ),
    arguments.label("drawn for each image; all: a row per class"),
    arguments.CONTEXT,
    arguments.seed("of the images", None),
    shards.argument(
        "draw part I of N of the images; a file of --out gets I and N in its "
        "name"
    ),
    arguments.out(
        "PNG file for a grid of all images, or .npy file of the images",
        "samples.png",
        "one PNG file per image, at its original size",
        ".npy",
    ),
)
def sample(flags: argparse.Namespace) -> None:
    """Draw new images.

    Many processes can share the work. Each gets another I of --shard I/N, from
    1 to N, and all other arguments alike. Their files together, in order, have
    the images that one process draws. A part is of whole batches of 64 images.
    """
    out, shard = flags.out, flags.shard
    to_folder = arguments.is_folder(out)
    new = "" if shard else "sample_*.*"  # Other shards write there.
    arguments.check_output(out, is_folder=to_folder, new=new)
    if shard is not None and flags.seed is None:
        raise UsageError("argument --shard: give all shards the same --seed")
    context = arguments.read_context(flags.context)
    model = arguments.open_model(flags.model)
    seed, temperature = flags.seed, flags.temperature
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    names, columns = model.class_names, None
    label: np.ndarray | int | None
    if flags.label == "all" and names:
        columns = flags.n or 8
        label = np.repeat(np.arange(len(names)), columns)
        n, kind = len(label), f" of {', '.join(names)}"
    else:
        shapes = by_name(model.context_shape)
        rows = [
            len(values)
            for name, values in by_name(context).items()
            if values.ndim > len(shapes.get(name, values.shape))
        ]
        n = flags.n or max(rows, default=36)
        label = arguments.find_label(flags.label, names)
        kind = "" if label is None else f" of {names[label]}"
    numbers, of = range(math.ceil(n / BATCH_SIZE)), ""
    if shard is not None:
        numbers, of = numbers[shard.part(len(numbers))], f"{shard} of "
        out = out if to_folder else shard.path(out)
    arguments.check_context(model, context, n)
    batches = tf_realnvp.batched.sample(
        model, n, temperature, seed, label, context, numbers
    )
    kind = f"{of}{counted(n, 'image')}{kind}"
    say(f"{kind}, temperature {temperature}, seed {seed}")
    images = _with_progress(batches, len(numbers))
    if to_folder:
        first = numbers[0] * BATCH_SIZE
        width = max(4, len(str(n - 1)))  # Names sort by index.
        write = tf_realnvp.image_files.write
        with files.replace_files(out) as folder:
            for index, image in enumerate(images, first):
                name = f"sample_{index:0{width}d}{model.values.suffix}"
                write(folder / name, image, model.values)
        say(out)
    elif out.lower().endswith(".npy"):
        # An open file, since `save` appends `.npy` to paths without it.
        with files.replace_file(out) as path, path.open("wb") as file:
            np.save(file, [*images])
        say(out)
    else:
        _write_grid(out, model, np.stack([*images]), columns)


def _with_progress(batches, num_batches):
    """Yields the images of batches, with a progress bar."""
    with Progress("sample", num_batches) as display:
        for images in batches:
            yield from images
            display.update(1, len(images))


@command(
    "realnvp_digits --dataset digits --importance_samples 16",
    argument("--dataset", "data set (default: that of the model's training)"),
    arguments.DATA_DIR,
    argument(
        "--max_images", "use N test images (default: all)", WholeNumber(2)
    ),
    argument(
        "--importance_samples", "noise samples per image", WholeNumber(1), 1
    ),
    argument("--batch_size", "images per batch", WholeNumber(1), 64),
    arguments.seed("of the noise, and of the images of --max_images"),
)
def evaluate(flags: argparse.Namespace) -> None:
    """Measure bits/dim on the test images of a data set.

    The density of a dequantized image gives a bound: in expectation over the
    noise, the printed value is an upper bound on the true bits/dim. Averaging
    the density over several noise samples gives a tighter bound
    (arXiv:1509.00519), which in expectation decreases with the number of
    samples. Each value is printed with its standard error over the test images.
    A model with classes is evaluated given the label of each image, as the
    mixture of all classes, and as a classifier. Of real numbers it is the mean
    of minus the log-density in nats/dim, without noise.
    """
    model = arguments.open_model(flags.model)
    dataset = _load_dataset(flags.dataset, flags.data_dir, model)
    batched = tf_realnvp.batched
    if flags.max_images is not None:
        dataset = dataset.sample_test(flags.max_images, flags.seed)
    num_images, num_draws = dataset.num_test, flags.importance_samples
    batches = dataset.batches("test", flags.batch_size)
    measured: list[tuple[np.ndarray, ...]] = []
    losses: list[float] = []  # Of each image so far.
    with dataset.naming_damage(), Progress("test", len(batches)) as display:
        for nats, labels in _log_probs(model, batches, flags.seed, num_draws):
            mixture = batched.mixture(model, nats)
            of_label = nats[:, range(len(labels)), labels]
            joint = batched.importance_bound(nats + batched.log_prior(model))
            is_right = joint.argmax(axis=-1) == labels
            measured.append((mixture, of_label, is_right))
            bound = batched.importance_bound(mixture)
            losses.extend(-bound / model.num_dims)
            loss = model.values.describe(np.mean(losses))
            display.update(1, len(labels), loss)

    mixture, of_label, is_right = (
        np.concatenate(parts, axis=-1) for parts in zip(*measured, strict=True)
    )
    title = f"{counted(num_images, 'test image')} of {dataset.name}, "
    title += str(model.values)
    if model.class_names:
        title += f", {counted(len(model.class_names), 'class')}"
    say(f"{title}, seed {flags.seed}")
    if not model.class_names:
        _say_losses(model, mixture)
        return
    _say_losses(model, of_label, ", given the label")
    _say_losses(model, mixture, ", mixture of the classes")
    right = f"{is_right.sum():,} of {num_images:,}"
    say(f"accuracy as a classifier: {is_right.mean():.4f} ({right})")


def _load_dataset(name, data_dir, model):
    """Loads a data set, with labels numbered like the model's classes."""
    names = model.class_names
    with arguments.naming("--dataset"):
        loader = Loader(model, data_dir)
        dataset = loader.load_dataset(name, labels=bool(names))
        loader.check_unseen(dataset)
        # The names may differ from the model's in Unicode normalization.
        known = tuple(
            names[arguments.class_number(n, names)] for n in dataset.class_names
        )
    return dataclasses.replace(dataset, class_names=known).relabel(names)


def _log_probs(model, batches, seed, num_draws):
    """Yields log-probabilities of the images of each batch, given each class.

    Args:
      model: The model.
      batches: The images, with their labels if the model has classes.
      seed: Seed of the noise.
      num_draws: Noise samples per image.

    Yields:
      Float64 `[num_draws, n, num_classes]`, in nats, and the labels `[n]`. A
      model without classes counts as having a single class, 0.
    """

    def measure(numbered):
        index, (images, condition) = numbered
        labels = condition.pop("label", np.zeros(len(images), int))
        streams = range(index * num_draws, (index + 1) * num_draws)
        seeds = [stream(seed, number) for number in streams]
        draws = [
            tf_realnvp.batched.log_prob_of_classes(
                model, images, seed, **condition
            )
            for seed in seeds
        ]
        return np.stack(draws), np.asarray(labels)

    return overlapped(measure, enumerate(batches))


def _say_losses(model, log_probs, what=""):
    """Prints the bounds from single noise samples and from all of them.

    Args:
      model: The model.
      log_probs: Log-probabilities of images, `[num_draws, n]` in nats.
      what: Description of the log-probabilities.
    """
    num_draws, unit = len(log_probs), model.values.unit
    mean = f", mean of {num_draws} such" if num_draws > 1 else ""
    title = "log-density" if model.values.are_real else f"1 draw of noise{mean}"
    bounds = {title: np.mean(log_probs, axis=0)}
    if num_draws > 1:
        joint = tf_realnvp.batched.importance_bound(log_probs)
        bounds[f"{num_draws} draws of noise"] = joint
    for title, bound in bounds.items():
        losses = model.values.per_dim(bound, model.num_dims)
        loss = losses.mean()
        error = losses.std(ddof=1) / math.sqrt(len(losses))
        say(f"{title}{what}: {loss:.4f} {unit}, standard error {error:.4f}")


@command(
    "realnvp_digits a.png b.png --steps 8 --out strip.png",
    arguments.images(nargs=2),
    _LABEL_OF_ALL,
    argument("--steps", "images in the strip", WholeNumber(2, 10_000), 8),
    arguments.out("PNG file for the strip", "interpolation.png"),
)
def interpolate(flags: argparse.Namespace) -> None:
    """Interpolate between two images in the latent space.

    Draws a strip of images by spherical interpolation between the latents of
    the two given images, which are at its ends.
    """
    model, _, ends, labels = _encode(flags, together=True)
    points = tf_realnvp.latents.slerp(*ends, flags.steps)[np.newaxis]
    _write_rows(flags.out, model, _decode_rows(model, points, labels[:1]))


@command(
    "realnvp_digits a.png b.png c.png d.png --size 8 --out grid.png",
    arguments.images(nargs=4),
    _LABEL_OF_ALL,
    argument("--size", "rows and columns of the grid", WholeNumber(2, 1000), 8),
    arguments.out("PNG file for the grid", "manifold.png"),
)
def manifold(flags: argparse.Namespace) -> None:
    """Draw the manifold that four images span in the latent space.

    With the latents z1 to z4 of the images, the image in row i and column j is
    decoded from (arXiv:1605.08803, equation 19)

      cos(phi) (cos(phi') z1 + sin(phi') z2)
        + sin(phi) (cos(phi') z3 + sin(phi') z4),

    where phi = 2 pi i / size and phi' = 2 pi j / size. If size is a multiple of
    4, the grid contains the four images: the first at the top left, the second
    in its row, the third in its column, and the fourth below the second.
    """
    model, _, corners, labels = _encode(flags, together=True)
    points = tf_realnvp.latents.manifold(corners, flags.size)
    _write_rows(flags.out, model, _decode_rows(model, points, labels[:1]))


@command(
    "realnvp_digits a.png b.png --draws 6 --out grid.png",
    arguments.images(),
    arguments.label("the likeliest class of each image"),
    argument("--draws", "samples per image", WholeNumber(1, 10_000), 6),
    arguments.seed("of the samples"),
    arguments.out("PNG file for the grid", "reconstructions.png"),
)
def reconstruct(flags: argparse.Namespace) -> None:
    """Show what is left of images when the fine latents are resampled.

    Draws a row per image: the image; its exact reconstruction from all of its
    latents; and reconstructions in which the latents that are factored out
    first, which hold the finest detail, are resampled. They show what the
    remaining latents represent.
    """
    model, images, kept, labels = _encode(flags)
    drawn = tf_realnvp.latents.redraw_factored_out(
        kept, flags.draws, flags.seed
    )
    points = np.concatenate([kept[:, np.newaxis], drawn], axis=1)
    rows = _decode_rows(model, points, labels[:, np.newaxis])
    if model.values.are_real:
        error = np.abs(rows[:, 0] - images).max()
        say(f"images came back with errors up to {error:.1g}")
    else:
        exact = np.sum(np.all(rows[:, 0] == images, axis=(1, 2, 3)))
        say(f"{exact} of {len(images)} images came back exactly")
    _write_rows(flags.out, model, rows, images)


@command(
    "models/realnvp_fashion_mnist a.png b.png --out grid.png",
    arguments.images(),
    arguments.label("the likeliest class of each image"),
    arguments.out("PNG file for the grid", "translations.png"),
)
def translate(flags: argparse.Namespace) -> None:
    """Translate images to other classes.

    Draws a row per image: the image, and its latents decoded with each class of
    the model. The latents hold what does not depend on the class, such as
    brightness, texture and pose. With its own class, the image is recovered.
    """
    model, images, kept, _ = _encode(flags)
    names = model.class_names
    if not names:
        raise UsageError(f"{flags.model} was trained without --conditional")
    points = np.repeat(kept[:, np.newaxis], len(names), axis=1)
    say(f"as {', '.join(names)}")
    rows = _decode_rows(model, points, np.arange(len(names)))
    _write_rows(flags.out, model, rows, images)


@command(
    "realnvp_faces --with smiling --without serious --apply face.jpg",
    image_sets.argument("--with", "images with an attribute", required=True),
    image_sets.argument("--without", "images without it", required=True),
    arguments.images(
        "--apply",
        f"{arguments.IMAGE_FILES} (default: {_NUM_SHOWN} images of --without)",
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
    model = arguments.open_model(flags.model)
    arguments.check_context(model)
    label = arguments.find_label(flags.label, model.class_names)
    images = [image_sets.read(path, model) for path in applied]
    loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
    sets = {flag: loader.load(flag, names[flag], "test") for flag in names}
    image_sets.check_distinct(sets)
    rng = np.random.default_rng(flags.seed)
    shuffled = [rng.permutation(part.images) for part in sets.values()]
    encode = functools.partial(tf_realnvp.batched.encode_likeliest, model)
    sides = [encode(side, label)[0] for side in shuffled]
    moved = np.stack(images or [*shuffled[1][:_NUM_SHOWN]])
    starts, labels = encode(moved, label)
    # A fifth is held out, to evaluate the direction.
    parts = [np.split(side, [max(1, len(side) // 5)]) for side in sides]
    held_out, others = zip(*parts, strict=True)
    estimate = tf_realnvp.latents.direction(*others)
    auroc = tf_realnvp.latents.separation(estimate, *held_out)
    low, high = flags.strength or (-2.0, 2.0)
    strengths = np.linspace(low, high, flags.steps)
    steps = np.multiply.outer(strengths, tf_realnvp.latents.direction(*sides))
    points = (starts[:, np.newaxis] + steps).astype(np.float32)
    rows = _decode_rows(model, points, labels[:, np.newaxis])
    say(
        f"AUROC {auroc:.3f} (chance: 0.5) on images that had no part in the "
        f"direction: {len(held_out[0]):,} with it, {len(held_out[1]):,} without"
    )
    _write_rows(flags.out, model, rows)


def _encode(flags, together=False):
    """Opens the model, and encodes the images that the flags name.

    Args:
      flags: The flags; `--label` gives the class.
      together: Whether, without `--label`, all images get the label that is the
        likeliest for them together, rather than one label each.

    Returns:
      The model, the images, their latents, and the labels `[n]` used for
      encoding.
    """
    arguments.check_output(flags.out, inputs=flags.images)
    model = arguments.open_model(flags.model)
    arguments.check_context(model)
    images = np.stack([image_sets.read(path, model) for path in flags.images])
    label = arguments.find_label(flags.label, model.class_names)
    latents, labels = tf_realnvp.batched.encode_likeliest(
        model, images, label, together
    )
    if model.class_names and label is None:
        named = labels[:1] if together else labels
        say(f"taken for {', '.join(model.class_names[k] for k in named)}")
    return model, images, latents, labels


def _decode_rows(model, points, labels):
    """Decodes rows of latents, `[rows, columns, ...]`, to images.

    Args:
      model: The model.
      points: Float32 `[rows, columns, ...]`.
      labels: Labels of a shape that broadcasts to `[rows, columns]`.
    """
    labels = np.broadcast_to(labels, points.shape[:2])
    images = tf_realnvp.batched.decode(
        model, np.concatenate(points), np.ravel(labels)
    )
    return images.reshape(*points.shape[:2], *model.image_shape)


def _write_rows(out, model, rows, first=None):
    """Writes rows of images.

    Args:
      out: PNG file.
      model: The model.
      rows: Images `[rows, columns, H, W, C]`.
      first: Images `[rows, H, W, C]` to show in an additional first column.
    """
    if first is not None:
        rows = np.concatenate([first[:, np.newaxis], rows], axis=1)
    _write_grid(out, model, np.concatenate(rows), rows.shape[1])


def _write_grid(out, model, images, columns):
    """Writes images in a grid, and prints where."""
    save = tf_realnvp.plots.save_image_grid
    save(out, images, model.values, columns)
    say(out)


COMMANDS = (
    *(sample, evaluate, interpolate, manifold, reconstruct, translate),
    direction,
)
