"""The commands that draw images, and the one that evaluates a model.

TensorFlow takes seconds to import: the commands do so when it is clear that the
command line makes sense.
"""

import argparse
import collections
import dataclasses
import itertools
import math
import random

import numpy as np

from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.cli.arguments import argument, command
from tf_realnvp.serving import saved_model
from tf_realnvp.serving.metadata import describe_levels
from tf_realnvp.training.progress import Progress, Silent
from tf_realnvp.utils import files, units
from tf_realnvp.utils.checks import RealNumber, WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import counted, say
from tf_realnvp.utils.overlap import overlapped

_LABEL_OF_ALL = argument(
    "--label",
    "class that the images are taken for, of a model that has classes "
    "(default: the likeliest one of all together)",
    metavar="NAME",
)
_MANY_BATCHES = 10
_EACH_OF_ALL = 8  # Images of a class, where there are some of all.


@command(
    "realnvp_digits --n 36 --temperature 0.8 --seed 1 --out grid.png",
    argument(
        "--n",
        "number of images, with --label all of each class (default: 36, with "
        "--label all 8)",
        WholeNumber(1),
    ),
    argument(
        "--temperature",
        "factor on the standard deviation of the latents; below 1 images are "
        "less varied",
        RealNumber(includes_low=True),
        1.0,
    ),
    argument(
        "--label",
        "class of the images, of a model that has classes; all: a row of each "
        "(default: drawn for each image)",
        metavar="NAME",
    ),
    arguments.seed("of the images", None),
    argument(
        "--out",
        "PNG file for a grid of all images; or a folder (one that exists, or a "
        "name that ends in /) for a PNG file of each, as large as the image",
        arguments.file(".png", or_folder=True),
        "samples.png",
        metavar="PATH",
    ),
)
def sample(flags: argparse.Namespace) -> None:
    """Draw new images."""
    to_folder = arguments.is_folder(flags.out)
    if to_folder:
        arguments.check_new_files(flags.out, "--out", "sample_*.png")
    else:
        arguments.check_out(flags.out)
    model = saved_model.SavedModel(flags.model)
    seed = flags.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    names, columns = model.class_names, None
    label: np.ndarray | int | None
    if flags.label == "all" and names and "all" not in names:
        columns = flags.n or _EACH_OF_ALL
        label = np.repeat(np.arange(len(names)), columns)
        n, of = len(label), f" of {', '.join(names)}"
    else:
        n, label = flags.n or 36, arguments.find_label(flags.label, names)
        of = "" if label is None else f" of {names[label]}"
    say(
        f"{counted(n, 'image')}{of}, temperature {flags.temperature}, seed "
        f"{seed}"
    )
    batches = _drawn(model.sample(n, flags.temperature, seed, label), n)
    if to_folder:
        _write_each(flags.out, batches, n, model.num_colors)
    else:
        from tf_realnvp.images import plots

        images = np.concatenate([*batches])
        plots.save_image_grid(flags.out, images, model.num_colors, columns)
    say(flags.out)


def _drawn(batches, n):
    """Yields batches of `n` images in all; shows how far it is."""
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


def _write_each(folder, batches, n, num_colors):
    """Writes a file of each image, so that their names sort as numbers."""
    from tf_realnvp.images import files as image_files

    width = max(4, len(str(n - 1)))
    with files.replace_files(folder) as new:
        for index, image in enumerate(itertools.chain.from_iterable(batches)):
            content = image_files.encode(image, num_colors)
            (new / f"sample_{index:0{width}d}.png").write_bytes(content)


@command(
    "realnvp_digits --dataset digits --importance_samples 16",
    argument(
        "--dataset",
        "a data set as in training (default: what the model was trained on)",
        metavar="NAME",
    ),
    arguments.DATA_DIR,
    argument(
        "--max_images",
        "use N of the test images, drawn by the seed (default: all)",
        WholeNumber(2),
    ),
    argument(
        "--importance_samples",
        "draws of noise for each image",
        WholeNumber(1),
        1,
    ),
    argument(
        "--batch_size",
        "images in a batch, two of which are evaluated at once",
        WholeNumber(1),
        64,
    ),
    arguments.seed("of the noise, and of the images of --max_images"),
)
def evaluate(flags: argparse.Namespace) -> None:
    """Measure bits/dim on the test images of a data set.

    The density of an image with noise added gives a bound: on average over the
    noise, the true bits/dim are at most what is printed. The mean of the
    density itself over several draws gives a tighter one (arXiv:1509.00519), in
    expectation the lower the more draws there are. Beside each figure stands
    its standard error, which comes from the choice of the test images. A model
    with classes is measured given the label of each image, as the mixture of
    all classes, and as a classifier.
    """
    model = saved_model.SavedModel(flags.model)
    dataset = _load_dataset(flags.dataset, flags.data_dir, model)
    if flags.max_images is not None:
        dataset = dataset.sample_test(flags.max_images, flags.seed)
    num_images, num_draws = dataset.num_test, flags.importance_samples
    batch_size = min(flags.batch_size, num_images)
    measured: list[tuple[np.ndarray, ...]] = []
    bits: list[float] = []  # Of each image so far.
    with (
        dataset.naming_damage(),
        Progress("test", math.ceil(num_images / batch_size)) as display,
    ):
        batches = dataset.test_batches(batch_size)
        for given, labels in _log_probs(model, batches, flags.seed, num_draws):
            joint = given + model.log_prior[:, np.newaxis]
            likeliest = saved_model.importance_bound(joint).argmax(axis=0)
            mixture = model.mixture(np.swapaxes(given, 1, 2))
            of_label = given[:, labels, range(len(labels))]
            measured.append((mixture, of_label, likeliest == labels))
            bits.extend(_bits(model, saved_model.importance_bound(mixture)))
            display.update(1, len(labels), np.mean(bits))

    mixture, of_label, is_right = (
        np.concatenate(parts, axis=-1) for parts in zip(*measured, strict=True)
    )
    title = f"{counted(num_images, 'test image')} of {dataset.name}, "
    title += describe_levels(model.num_colors)
    if model.class_names:
        title += f", {counted(len(model.class_names), 'class')}"
    say(f"{title}, seed {flags.seed}")
    if not model.class_names:
        _say_bits(model, mixture)
        return
    _say_bits(model, of_label, ", given the label")
    _say_bits(model, mixture, ", mixture of the classes")
    say(
        f"accuracy as a classifier: {is_right.mean():.4f} "
        f"({is_right.sum():,} of {num_images:,})"
    )


def _load_dataset(name, data_dir, model):
    """Loads a data set, with labels numbered as a model's classes are."""
    own = model.class_names
    try:
        loader = image_sets.Loader(model, data_dir)
        dataset = loader.load_dataset(name, labels=bool(own))
        if not own:
            return dataset
        known = [arguments.find_class(n, own) for n in dataset.class_names]
    except UsageError as error:
        raise UsageError(f"argument --dataset: {error}") from error
    dataset = dataclasses.replace(dataset, class_names=tuple(known))
    return dataset.relabel(own)


def _log_probs(model, batches, seed, num_draws):
    """Yields log-probabilities of the images of each batch, given each class.

    Args:
      model: The model.
      batches: The images, with their labels if the model has classes.
      seed: Seed of the noise.
      num_draws: Draws of noise for each image.

    Yields:
      Float64 `[num_draws, num_classes, n]`, nats, and the labels `[n]`. Without
      classes there is one, 0.
    """
    # One draw and one class a call: an interruption waits for two calls.
    conditions: list[tuple[int, ...]] = [()]
    if model.class_names:
        conditions = [(label,) for label in range(len(model.class_names))]
    labels: collections.deque[np.ndarray] = collections.deque()

    def calls():
        streams = itertools.count()
        for images in batches:
            its = np.zeros(len(images), int)
            if model.class_names:
                images, its = images
            labels.append(np.asarray(its))
            for stream in itertools.islice(streams, num_draws):
                draw = saved_model.stream(seed, stream)
                for condition in conditions:
                    yield images, draw, *condition

    results = overlapped(lambda call: model.log_prob(*call), calls())
    num_calls = num_draws * len(conditions)
    while of_batch := [*itertools.islice(results, num_calls)]:
        shape = [num_draws, len(conditions), -1]
        yield np.reshape(of_batch, shape), labels.popleft()


def _bits(model, log_prob):
    """Returns bits/dim, given nats for whole images."""
    return units.bits_per_dim(log_prob, model.num_dims)


def _say_bits(model, log_probs, what=""):
    """Prints the bound from single draws of noise, and that from all of them.

    Args:
      model: The model.
      log_probs: Of images, nats `[num_draws, n]`.
      what: What they are.
    """
    num_draws = len(log_probs)
    single = _summary(_bits(model, np.mean(log_probs, axis=0)))
    mean = f", mean of {num_draws} such" if num_draws > 1 else ""
    say(f"1 draw of noise{mean}{what}: {single}")
    if num_draws > 1:
        joint = _summary(_bits(model, saved_model.importance_bound(log_probs)))
        say(f"{num_draws} draws of noise{what}: {joint}")


def _summary(bits):
    """Returns the mean and its standard error, in words."""
    mean = f"{bits.mean():.4f} bits/dim"
    if len(bits) == 1:
        return f"{mean}; one image has no standard error"
    error = bits.std(ddof=1) / math.sqrt(len(bits))
    return f"{mean}, standard error {error:.4f}"


@command(
    "realnvp_digits a.png b.png --steps 8 --out strip.png",
    arguments.images(2),
    _LABEL_OF_ALL,
    argument(
        "--steps",
        "number of images, both given ones included",
        WholeNumber(2, 10_000),
        8,
    ),
    arguments.out("PNG file for the strip", "interpolation.png"),
)
def interpolate(flags: argparse.Namespace) -> None:
    """Go from one image to another through the latent space.

    Draws a strip of images whose latents lie on the arc between those of the
    two given ones (spherical interpolation), which are at its ends.
    """
    model, images = _open(flags)
    from tf_realnvp import latents

    (start, end), labels = _encode(flags, model, images, together=True)
    points = latents.slerp(start, end, flags.steps)[np.newaxis]
    write_rows(flags.out, model, decode_rows(model, points, labels[:1]))


@command(
    "realnvp_digits a.png b.png c.png d.png --size 8 --out grid.png",
    arguments.images(4),
    _LABEL_OF_ALL,
    argument("--size", "rows and columns of the grid", WholeNumber(2, 1000), 8),
    arguments.out("PNG file for the grid", "manifold.png"),
)
def manifold(flags: argparse.Namespace) -> None:
    """Draw the surface that four images span in the latent space.

    With the latents z1 to z4 of the images, the one in row i and column j is
    that of (arXiv:1605.08803, equation 19)

      cos(phi) (cos(phi') z1 + sin(phi') z2)
        + sin(phi) (cos(phi') z3 + sin(phi') z4),

    where phi = 2 pi i / size and phi' = 2 pi j / size. If size is a multiple of
    4 the images themselves are in the grid: the first at the top left, the
    second in its row, the third in its column, the fourth below the second.
    """
    model, images = _open(flags)
    from tf_realnvp import latents

    corners, labels = _encode(flags, model, images, together=True)
    points = latents.manifold(corners, flags.size)
    write_rows(flags.out, model, decode_rows(model, points, labels[:1]))


@command(
    "realnvp_digits a.png b.png --draws 6 --out grid.png",
    arguments.images("+"),
    arguments.LABEL,
    argument(
        "--draws", "number of draws for each image", WholeNumber(1, 10_000), 6
    ),
    arguments.seed("of the draws"),
    arguments.out("PNG file for the grid", "reconstructions.png"),
)
def reconstruct(flags: argparse.Namespace) -> None:
    """Show what is left of images when the fine latents are drawn anew.

    Draws a row for each image: the image; what comes back from all of its
    latents, which is the same; and what comes back when those that the model
    factors out first are drawn anew. The latter shows what the others hold.
    """
    model, images = _open(flags)
    from tf_realnvp import latents

    kept, labels = _encode(flags, model, images)
    drawn = latents.redraw_factored_out(kept, flags.draws, flags.seed)
    points = np.concatenate([kept[:, np.newaxis], drawn], axis=1)
    rows = decode_rows(model, points, labels[:, np.newaxis])
    exact = np.sum(np.all(rows[:, 0] == images, axis=(1, 2, 3)))
    say(f"{exact} of {len(images)} images came back exactly")
    write_rows(flags.out, model, rows, images)


@command(
    "models/realnvp_fashion_mnist_classes a.png b.png --out grid.png",
    arguments.images("+"),
    arguments.LABEL,
    arguments.out("PNG file for the grid", "translations.png"),
)
def translate(flags: argparse.Namespace) -> None:
    """Show images as they would be, were they of other classes.

    Draws a row for each image: the image, and what its latents give in each
    class of the model. Latents do not know the class: what they have of an
    image is the rest, such as its brightness, its texture and its pose. In its
    own class the image comes back.
    """
    model, images = _open(flags)
    names = model.class_names
    if not names:
        raise UsageError(
            f"{flags.model} has no classes to translate between: it takes a "
            "model that was trained with --conditional"
        )
    kept, _ = _encode(flags, model, images)
    points = np.repeat(kept[:, np.newaxis], len(names), axis=1)
    say(f"as {', '.join(names)}")
    rows = decode_rows(model, points, np.arange(len(names)))
    write_rows(flags.out, model, rows, images)


def _open(flags):
    """Returns the model and the images, if the output can be written."""
    arguments.check_out(flags.out, flags.images)
    model = saved_model.SavedModel(flags.model)
    images = [image_sets.read(path, model) for path in flags.images]
    return model, np.stack(images)


def _encode(flags, model, images, together=False):
    """Returns latents of images, and the labels `[n]` that they are of.

    Args:
      flags: The flags, of which `--label` tells the class.
      model: The model.
      images: The images.
      together: Whether, without that flag, all get the label that is the
        likeliest of them together, rather than each its own.
    """
    label = arguments.find_label(flags.label, model.class_names)
    latents, labels = model.encode_likeliest(images, label, together)
    if model.class_names and label is None:
        named = labels[:1] if together else labels
        say(f"taken for {', '.join(model.class_names[k] for k in named)}")
    return latents, labels


def decode_rows(
    model: saved_model.SavedModel, points: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Decodes rows of latents.

    Args:
      model: The model.
      points: Float32 `[rows, columns, ...]`.
      labels: Their classes, of a shape that broadcasts to `[rows, columns]`.

    Returns:
      `uint8` `[rows, columns, H, W, C]`.
    """
    labels = np.broadcast_to(labels, points.shape[:2])
    images = model.decode(np.concatenate(points), np.ravel(labels))
    return images.reshape(*points.shape[:2], *model.image_shape)


def write_rows(
    out: str,
    model: saved_model.SavedModel,
    rows: np.ndarray,
    first: np.ndarray | None = None,
) -> None:
    """Writes rows of images.

    Args:
      out: PNG file.
      model: The model.
      rows: `uint8` `[rows, columns, H, W, C]`.
      first: Images `[rows, H, W, C]` to put before them.
    """
    from tf_realnvp.images import plots

    if first is not None:
        rows = np.concatenate([first[:, np.newaxis], rows], axis=1)
    images = np.concatenate(rows)
    plots.save_image_grid(out, images, model.num_colors, rows.shape[1])
    say(out)


COMMANDS = (sample, evaluate, interpolate, manifold, reconstruct, translate)
