"""The commands that draw images, and `evaluate`: see `usage`."""

import argparse
import dataclasses
import functools
import math
import random

import numpy as np
import tensorflow as tf

from tf_realnvp.analysis import batched, latents, plots
from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.cli.image_sets import Loader
from tf_realnvp.data import image_files
from tf_realnvp.errors import UsageError, reason
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import files
from tf_realnvp.utils.batches import BATCH_SIZE, overlapped, stream
from tf_realnvp.utils.console import Progress, counted, say
from tf_realnvp.utils.named import by_name

_NUM_SHOWN = 4  # Rows of `direction` without `--apply`.


def check_context(
    model: RealNVP, context: object = None, n: int = 1, observes: bool = False
) -> None:
    """Checks the context of `n` images.

    Args:
      model: The model.
      context: The context that a flag names, if any.
      n: Number of images.
      observes: Whether the command makes the context of a model that observes
        images.

    Raises:
      UsageError: If the model needs another one.
    """
    has_default = model.observe == "mask" or (observes and model.observe)
    if context is None and model.context_shape is not None and not has_default:
        raise UsageError(
            f"the model needs a context of shape {model.context_shape}, which "
            "only `sample` and `score` take (--context), and Python"
        )
    try:
        if context is not None:
            model.condition(np.zeros([n]), context=context)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise UsageError(f"argument --context: {reason(error)}") from error


def sample(flags: argparse.Namespace, model: RealNVP) -> None:
    """Draws images."""
    out, shard, seed = flags.out, flags.shard, flags.seed
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
            for name, values in by_name(flags.context).items()
            if values.ndim > len(shapes.get(name, values.shape))
        ]
        n = flags.n or max(rows, default=36)
        label = arguments.find_label(flags.label, names)
        kind = "" if label is None else f" of {names[label]}"
    check_context(model, flags.context, n)
    numbers, of = range(math.ceil(n / BATCH_SIZE)), ""
    to_folder = arguments.is_folder(out)
    if shard is not None:
        numbers, of = numbers[shard.part(len(numbers))], f"{shard} of "
        out = out if to_folder else shard.path(out)
    kind = f"{of}{counted(n, 'image')}{kind}"
    say(f"{kind}, temperature {flags.temperature}, seed {seed}")

    def draw():
        rest = flags.temperature, seed, label, flags.context, numbers
        with Progress("sample", len(numbers)) as display:
            for images in batched.sample(model, n, *rest):
                yield from images
                display.update(1, len(images))

    if to_folder:
        first = numbers[0] * BATCH_SIZE
        width = max(4, len(str(n - 1)))  # Names sort by index.
        with files.replace_files(out) as folder:
            for index, image in enumerate(draw(), first):
                name = f"sample_{index:0{width}d}{model.values.suffix}"
                image_files.write(folder / name, image, model.values)
    elif out.lower().endswith(".npy"):
        # An open file, since `save` appends `.npy` to paths without it.
        with files.replace_file(out) as path, path.open("wb") as file:
            np.save(file, [*draw()])
    else:
        images = np.stack([*draw()])
        plots.save_image_grid(out, images, model.values, columns)
    say(out)


def evaluate(flags: argparse.Namespace, model: RealNVP) -> None:
    """Measures bits/dim."""
    dataset = _load_dataset(flags.dataset, flags.data_dir, model)
    if flags.max_images is not None:
        dataset = dataset.sample_test(flags.max_images, flags.seed)
    batches = dataset.batches("test", flags.batch_size)

    def measure(numbered):
        """Returns nats given each class, `[num_draws, n, K]`, and labels."""
        index, (images, condition) = numbered
        labels = condition.pop("label", np.zeros(len(images), int))
        draws = [
            batched.log_prob_of_classes(
                model,
                images,
                stream(flags.seed, index * flags.importance_samples + draw),
                **condition,
            )
            for draw in range(flags.importance_samples)
        ]
        return np.stack(draws), np.asarray(labels)

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    losses: list[float] = []  # Of each image so far.
    with dataset.naming_damage(), Progress("test", len(batches)) as display:
        for nats, labels in overlapped(measure, enumerate(batches)):
            parts.append((nats, labels))
            bound = batched.importance_bound(batched.mixture(model, nats))
            losses.extend(-bound / model.num_dims)
            loss = model.values.describe(np.mean(losses))
            display.update(1, len(labels), loss)

    all_nats, all_labels = zip(*parts, strict=True)
    nats, labels = np.concatenate(all_nats, axis=1), np.concatenate(all_labels)
    mixture = batched.mixture(model, nats)
    title = f"{counted(dataset.num_test, 'test image')} of {dataset.name}, "
    title += str(model.values)
    if not model.class_names:
        say(f"{title}, seed {flags.seed}")
        _say_losses(model, mixture)
        return
    classes = counted(len(model.class_names), "class")
    say(f"{title}, {classes}, seed {flags.seed}")
    of_label = nats[:, range(len(labels)), labels]
    _say_losses(model, of_label, ", given the label")
    _say_losses(model, mixture, ", mixture of the classes")
    joint = batched.importance_bound(nats + batched.log_prior(model))
    is_right = joint.argmax(axis=-1) == labels
    right = f"{is_right.sum():,} of {len(labels):,}"
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


def _say_losses(model, log_probs, what=""):
    """Prints the bounds from single noise samples and from all of them.

    Args:
      model: The model.
      log_probs: Log-probabilities of images, `[num_draws, n]` in nats.
      what: Description of the log-probabilities.
    """
    num_draws, values = len(log_probs), model.values
    mean = f", mean of {num_draws} such" if num_draws > 1 else ""
    title = "log-density" if values.are_real else f"1 draw of noise{mean}"
    bounds = {title: np.mean(log_probs, axis=0)}
    if num_draws > 1:
        joint = batched.importance_bound(log_probs)
        bounds[f"{num_draws} draws of noise"] = joint
    for title, bound in bounds.items():
        losses = values.per_dim(bound, model.num_dims)
        error = losses.std(ddof=1) / math.sqrt(len(losses))
        say(
            f"{title}{what}: {losses.mean():.4f} {values.unit}, standard error "
            f"{error:.4f}"
        )


def interpolate(flags: argparse.Namespace, model: RealNVP) -> None:
    """Draws a strip between two images."""
    _, (start, end), labels = _encode(flags, model, together=True)
    points = latents.slerp(start, end, flags.steps)[np.newaxis]
    _write_rows(flags.out, model, _decode_rows(model, points, labels[:1]))


def manifold(flags: argparse.Namespace, model: RealNVP) -> None:
    """Draws what four images span."""
    _, corners, labels = _encode(flags, model, together=True)
    points = latents.manifold(corners, flags.size)
    _write_rows(flags.out, model, _decode_rows(model, points, labels[:1]))


def reconstruct(flags: argparse.Namespace, model: RealNVP) -> None:
    """Draws images again with other fine latents."""
    images, kept, labels = _encode(flags, model)
    drawn = latents.redraw_factored_out(kept, flags.draws, flags.seed)
    points = np.concatenate([kept[:, np.newaxis], drawn], axis=1)
    rows = _decode_rows(model, points, labels[:, np.newaxis])
    if model.values.are_real:
        error = np.abs(rows[:, 0] - images).max()
        say(f"images came back with errors up to {error:.1g}")
    else:
        exact = np.sum(np.all(rows[:, 0] == images, axis=(1, 2, 3)))
        say(f"{exact} of {len(images)} images came back exactly")
    _write_rows(flags.out, model, rows, images)


def translate(flags: argparse.Namespace, model: RealNVP) -> None:
    """Draws images as if of each class."""
    images, kept, _ = _encode(flags, model)
    names = model.class_names
    if not names:
        raise UsageError(f"{flags.model} was trained without --conditional")
    points = np.repeat(kept[:, np.newaxis], len(names), axis=1)
    say(f"as {', '.join(names)}")
    rows = _decode_rows(model, points, np.arange(len(names)))
    _write_rows(flags.out, model, rows, images)


def direction(flags: argparse.Namespace, model: RealNVP) -> None:
    """Draws images moved along the difference between two sets."""
    check_context(model)
    label = arguments.find_label(flags.label, model.class_names)
    images = [image_sets.read(path, model) for path in flags.apply or ()]
    loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
    sets = {
        flag: loader.load(flag, vars(flags)[flag], "test")
        for flag in ("with", "without")
    }
    image_sets.check_distinct(sets)
    rng = np.random.default_rng(flags.seed)
    shuffled = [rng.permutation(part.images) for part in sets.values()]
    encode = functools.partial(batched.encode_likeliest, model)
    sides = [encode(side, label)[0] for side in shuffled]
    moved = np.stack(images or [*shuffled[1][:_NUM_SHOWN]])
    starts, labels = encode(moved, label)
    # A fifth is held out, to evaluate the direction.
    parts = [np.split(side, [max(1, len(side) // 5)]) for side in sides]
    held_out, others = zip(*parts, strict=True)
    auroc = latents.separation(latents.direction(*others), *held_out)
    low, high = flags.strength or (-2.0, 2.0)
    strengths = np.linspace(low, high, flags.steps)
    steps = np.multiply.outer(strengths, latents.direction(*sides))
    points = (starts[:, np.newaxis] + steps).astype(np.float32)
    rows = _decode_rows(model, points, labels[:, np.newaxis])
    say(
        f"AUROC {auroc:.3f} (chance: 0.5) on images that had no part in the "
        f"direction: {len(held_out[0]):,} with it, {len(held_out[1]):,} without"
    )
    _write_rows(flags.out, model, rows)


def _encode(flags, model, together=False):
    """Encodes the images that the flags name.

    Args:
      flags: The flags; `--label` gives the class.
      model: The model.
      together: Whether, without `--label`, all images get the label that is the
        likeliest for them together, rather than one label each.

    Returns:
      The images, their latents, and the labels `[n]` used for encoding.
    """
    check_context(model)
    images = np.stack([image_sets.read(path, model) for path in flags.images])
    label = arguments.find_label(flags.label, model.class_names)
    kept, labels = batched.encode_likeliest(model, images, label, together)
    if model.class_names and label is None:
        named = labels[:1] if together else labels
        say(f"taken for {', '.join(model.class_names[k] for k in named)}")
    return images, kept, labels


def _decode_rows(model, points, labels):
    """Decodes rows of latents, `[rows, columns, ...]`, to images.

    Args:
      model: The model.
      points: Float32 `[rows, columns, ...]`.
      labels: Labels of a shape that broadcasts to `[rows, columns]`.
    """
    labels = np.broadcast_to(labels, points.shape[:2])
    images = batched.decode(model, np.concatenate(points), np.ravel(labels))
    return images.reshape(*points.shape[:2], *model.image_shape)


def _write_rows(out, model, rows, first=None):
    """Writes rows of images in a grid, and prints where.

    Args:
      out: PNG file.
      model: The model.
      rows: Images `[rows, columns, H, W, C]`.
      first: Images `[rows, H, W, C]` to show in an additional first column.
    """
    if first is not None:
        rows = np.concatenate([first[:, np.newaxis], rows], axis=1)
    images = np.concatenate(rows)
    plots.save_image_grid(out, images, model.values, rows.shape[1])
    say(out)
