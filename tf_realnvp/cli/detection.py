"""The commands that find out-of-distribution images: `score` and `detect`.

TensorFlow and scikit-learn take seconds to import, so the commands import them
only after the command line has been checked. `tf_realnvp` imports its modules
at first use.
"""

import argparse
import functools
import heapq
import itertools
import json
import pathlib
from typing import Any

import numpy as np

import tf_realnvp
from tf_realnvp.cli import arguments, image_sets, shards
from tf_realnvp.cli.arguments import argument, command
from tf_realnvp.cli.image_sets import Loader
from tf_realnvp.errors import UsageError
from tf_realnvp.serving import metadata
from tf_realnvp.utils import files
from tf_realnvp.utils.batches import BATCH_SIZE, overlapped
from tf_realnvp.utils.console import Progress, counted, say, warn
from tf_realnvp.utils.named import digest
from tf_realnvp.utils.ranges import Folder, WholeNumber

_MIN_IMAGES = 20  # The methods are fitted to half of a reference.
_NUM_SHOWN = 12  # Images per row of the grids.
_NUM_MAPS = 8  # Maps of each set in the figure of `detect`.
_NUM_MAP_REFERENCES = 1000


@command(
    "realnvp_digits my_images --out scores.csv",
    argument("folder", "folder of images, without sub-folders", Folder()),
    image_sets.argument(
        "--reference", "normal images that the model was not trained on"
    ),
    image_sets.max_images("the reference", _MIN_IMAGES, 4000),
    argument(
        "--maps",
        "folder for heat maps of the first images: bits, or with --reference "
        "deviations from normal images",
        Folder(),
    ),
    argument("--max_maps", "number of heat maps", WholeNumber(1), 100),
    arguments.DATA_DIR,
    arguments.CONTEXT,
    arguments.seed("of the noise, and of the split of --reference"),
    shards.argument(
        "score part I of N of the files; --out gets I and N in its name"
    ),
    argument("--merge", "join what N shards wrote in --out", WholeNumber(1)),
    arguments.out("CSV file", "scores.csv"),
    notes=image_sets.HELP,
)
def score(flags: argparse.Namespace) -> None:
    """Score the images of a folder, the least likely first.

    Writes a CSV file with the columns file, log_prob (in nats per image),
    bits_per_dim and, for a model with classes, likeliest_label. For real
    numbers there is nats_per_dim instead of bits_per_dim. Files that cannot be
    read are reported and skipped.

    An out-of-distribution image may still be likely. With --reference, a set of
    normal images, the file has a column for each method of `detect`, with
    higher scores for more anomalous images, and the column p_value: how often
    normal images score as high by one of the methods, whose name is printed.
    The methods are fitted to one half of the reference; the other half gives
    the p-values. The most anomalous images come first. A p-value for all images
    of DIR together is also printed. It detects drift from the reference that is
    too small to see in a single image.

    Many processes can share the work. Each gets another I of --shard I/N, from
    1 to N, and all other arguments alike. When all have ended, the same command
    with --merge N writes what one process would have written.
    """
    arguments.check_output(flags.out)
    if flags.maps is not None:
        if flags.shard is not None:
            raise UsageError("argument --maps: give it with --merge instead")
        sets = flags.folder, flags.reference
        arguments.check_output(flags.maps, "--maps", sets, True, "map_*.png")
    with arguments.naming("DIR"):
        paths = image_sets.list_files(flags.folder)
    out, of_all = flags.out, paths
    if flags.shard is not None:
        if flags.merge is not None:
            raise UsageError("argument --merge: give it without --shard")
        paths = paths[flags.shard.part(len(paths))]
        out = flags.shard.path(out)
    tables: list[shards.Table] = []
    if flags.merge is not None:
        with arguments.naming("--merge"):
            tables = shards.open_tables(out, flags.merge)
    model = arguments.open_model(flags.model)
    context = arguments.read_context(flags.context)
    arguments.check_context(model, context, observes=True)
    measure: Any = functools.partial(tf_realnvp.batched.score_each, model)
    if flags.reference is not None or flags.maps is not None:
        # It takes seconds more to trace.
        measure = tf_realnvp.detection.Measurer(model)
    reference, normal, by = None, None, model.values.measure
    if flags.reference is not None:
        loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
        normal = loader.load("reference", flags.reference, "test", _MIN_IMAGES)
        by = tf_realnvp.detection.DEFAULT
    work = {
        "model": metadata.digest(flags.model),
        "seed": flags.seed,
        "context": digest(context),
        "reference": digest(normal and normal.images),
        "list of files": digest([path.name for path in of_all]),
    }
    shards.check_same(tables, work)
    if normal is not None:
        reference = _fit_reference(model, measure, normal, flags.seed, context)

    first = [[json.dumps(work)]] * (flags.shard is not None)
    parts: list[Any]
    if flags.merge is None:

        def score_batch(images):
            filled = tf_realnvp.batched.fill(model, images)
            scores = measure(filled, flags.seed, context)
            found = tf_realnvp.batched.columns(model, scores, reference)
            return {
                name: values[: len(images)] for name, values in found.items()
            }

        names, columns = _score(flags, paths, model, score_batch, normal)
        values = (column.tolist() for column in columns.values())
        header, table = ["file", *columns], zip(names, *values, strict=True)
        parts = [iter(sorted(table, key=_least_likely(header, by)))]
    else:
        parts = [shard.rows for shard in tables]
        header = [next(rows) for rows in parts][0]
    rows = heapq.merge(*parts, key=_least_likely(header, by))
    files.write_csv(out, itertools.chain(first, [header], rows))
    losses = _numbers(out, model.values.measure, len(first))
    say(
        f"{counted(len(losses), 'image')}, mean "
        f"{losses.sum() / max(len(losses), 1):.4f} {model.values.unit}; "
        f"{counted(len(paths) - len(losses), 'file')} could not be read"
    )
    if reference is not None and flags.shard is None:
        p_value = reference.set_p_value(_numbers(out, by))
        # It underflows for a large set of anomalous images.
        text = f"{p_value:.2g}" if p_value >= 1e-16 else "below 1e-16"
        say(f"p-value of all images together: {text}")
    if flags.maps is not None:
        names = itertools.islice(files.read_column(out, "file"), flags.max_maps)
        paths = [pathlib.Path(flags.folder, name) for name in names]
        others = ()
        if normal is not None and reference is not None:
            others = normal.images[reference.others[:_NUM_MAP_REFERENCES]]
        maps = functools.partial(measure.maps, context=context)
        _draw_maps(flags.maps, paths, model, maps, flags.seed, others)
        say(flags.maps)
    say(out)


def _numbers(path, name, skip=0):
    """Returns the numbers of a column, `[n]`."""
    return np.fromiter(map(float, files.read_column(path, name, skip)), float)


def _least_likely(header, by):
    """Returns the key to sort rows with, by a column and then by name."""
    index = header.index(by)
    return lambda row: (-float(row[index]), row[0])


@command(
    "realnvp_parts --normal good_parts --unusual bad_parts --out detect",
    image_sets.argument(
        "--normal", "normal images (default: test images of the model's data)"
    ),
    image_sets.argument("--unusual", "anomalous images", required=True),
    image_sets.argument(
        "--fit",
        "other normal images, which the methods are fitted to (default: "
        "training images of the model's data)",
    ),
    image_sets.max_images("each set", _MIN_IMAGES, 2000),
    arguments.DATA_DIR,
    arguments.seed("of the noise, the sampling and the bootstrap"),
    argument("--out", "folder for tables, histograms and images", Folder()),
    notes=image_sets.HELP,
)
def detect(flags: argparse.Namespace) -> None:
    """Measure how well anomalous images can be told from normal images.

    Scores both sets by every method and prints how well the scores separate
    them: AUROC, AUPR (average precision) and the false positive rate at 95 %
    detection. No method is fitted to anomalous images. Each value has a 95 %
    bootstrap confidence interval, which is too narrow for fewer than a few
    hundred images, and has zero width if the scores separate the sets
    perfectly. A Mann-Whitney U test at the 5 % level tells whether a method is
    better than chance. Since the best method is selected on these images, its
    values are optimistic.
    """
    if flags.out is not None:
        names = flags.fit, flags.normal, flags.unusual
        arguments.check_output(flags.out, "--out", names, is_folder=True)
    model = arguments.open_model(flags.model)
    arguments.check_context(model, observes=True)
    measure = tf_realnvp.detection.Measurer(model)
    loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
    sets = {
        "fit": loader.load("fit", flags.fit, "train", _MIN_IMAGES),
        "normal": loader.load("normal", flags.normal, "test"),
        "unusual": loader.load("unusual", flags.unusual, "test"),
    }
    image_sets.check_distinct(sets)

    fit, normal, unusual = (
        _measure_set(model, measure, flags.seed, flag, image_set.images)
        for flag, image_set in sets.items()
    )
    scores = {
        name: (method(normal), method(unusual))
        for name, method in tf_realnvp.detection.fit(fit).items()
    }
    comparisons = {
        name: tf_realnvp.significance.compare(*both, seed=flags.seed)
        for name, both in scores.items()
    }
    for flag, image_set in sets.items():
        say(f"{flag}: {len(image_set):,} {image_set.title}")
    if model.values.are_real:
        say("complexity is left out: real numbers have no code length")
    _say_table(scores, comparisons)
    if flags.out is not None:
        with files.replace_files(flags.out) as folder:
            _write_tables(folder, sets, scores, comparisons)
            _draw_figures(folder, sets, scores, model, measure, flags.seed)
        say(flags.out)


def _measure_set(model, measure, seed, title, images, context=None):
    """Measures the images of a set."""

    def in_columns(images):
        return vars(measure(np.stack(images), seed, context))

    columns = _in_batches(model, in_columns, title, images, len(images))
    return tf_realnvp.detection.Measurements(**columns)


def _in_batches(model, measure, title, images, number):
    """Measures images in batches, two at a time, with a progress bar.

    Args:
      model: The model.
      measure: Returns columns of values by name for a list of images.
      title: What is going on.
      images: The images, one after another.
      number: How many there are, at most.

    Returns:
      The columns of all images; none if there are no images.
    """
    images, size = iter(images), BATCH_SIZE
    batches = iter(lambda: [*itertools.islice(images, size)], [])
    parts, total, count = [], 0.0, 0
    with Progress(title, number) as display:
        for part in overlapped(measure, batches):
            n = len(part["log_prob"])
            total, count = total - part["log_prob"].sum(), count + n
            loss = model.values.describe(total / count / model.num_dims)
            display.update(n, n, loss)
            parts.append(part)
    names = parts[0] if parts else ()
    return {
        name: np.concatenate([part[name] for part in parts]) for name in names
    }


def _fit_reference(model, measure, normal, seed, context):
    """Returns the `Reference` that is made of a set of normal images."""
    distinct = {image.tobytes() for image in normal.images}
    if num_copies := len(normal) - len(distinct):
        warn(
            f"{num_copies:,} of the {len(normal):,} {normal.title} are copies "
            "of others: p-values are too small by them"
        )
    measured = _measure_set(
        model, measure, seed, "reference", normal.images, context
    )
    reference = tf_realnvp.detection.Reference(measured, seed)
    num_others = len(reference.others)
    method = tf_realnvp.detection.DEFAULT
    say(
        f"p_value: of the method {method}, by {num_others:,} "
        f"{normal.title}; fitted to {len(normal) - num_others:,} others of them"
    )
    return reference


def _score(flags, paths, model, scorer, normal):
    """Scores images.

    Args:
      flags: The flags.
      paths: The files.
      model: The model.
      scorer: Returns columns of values by name for a list of images.
      normal: The `ImageSet` of the reference, if any.

    Returns:
      The names of the images, and columns of values by their names.
    """
    known = {image.tobytes() for image in normal.images} if normal else ()
    is_known: dict[str, bool] = {}

    def images():
        for path, image in image_sets.read_readable(paths, model):
            is_known[path.name] = image.tobytes() in known
            yield image

    columns = _in_batches(model, scorer, "score", images(), len(paths))
    if not columns and flags.shard is None:
        raise UsageError(f"no file in {flags.folder} can be read as an image")
    num_shared, number = sum(is_known.values()), len(is_known)
    image_sets.check_shared(num_shared, number, "--reference", "DIR")
    return [*is_known], columns or scorer([])


def _draw_maps(folder, paths, model, measure, seed, normal):
    """Draws maps of images, relative to those of normal images if given."""
    bit_maps, plots = tf_realnvp.bit_maps, tf_realnvp.plots
    images = np.stack([image_sets.read(path, model) for path in paths])
    maps = bit_maps.smooth(measure(images, seed))
    label = model.values.total
    if len(normal):
        others = bit_maps.smooth(measure(normal, seed))
        maps = bit_maps.standardize(maps, others)
        label = "standard deviations"
    limits = plots.map_limits(maps)
    with files.replace_files(folder) as new:
        for path, image, values in zip(paths, images, maps, strict=True):
            plots.save_bit_maps(
                new / f"map_{path.name.removesuffix('.png')}.png",
                image[np.newaxis],
                values[np.newaxis],
                label,
                model.values,
                limits,
            )


def _say_table(scores, comparisons):
    """Prints the results of all methods."""
    rows = [["method", "AUROC", "AUPR", "false alarms at 95 %", "than chance"]]
    for name, (normal, unusual) in scores.items():
        figures = [
            f"{value:.3f} ({low:.3f}-{high:.3f})"
            for value, low, high in comparisons[name]
        ]
        than_chance = "no better"
        if tf_realnvp.significance.set_p_value(unusual, normal) <= 0.05:
            is_better = comparisons[name].auroc.value > 0.5
            than_chance = "better" if is_better else "worse"
        rows.append([name, *figures, than_chance])
    share = len(unusual) / (len(normal) + len(unusual))
    rows.append(["(chance)", "0.500", f"{share:.3f}", "0.950", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(map(str.ljust, row, widths)).rstrip())


def _write_tables(folder, sets, scores, comparisons):
    """Writes the results of all methods, and the scores of all images."""
    figures = tf_realnvp.significance.Comparison._fields
    ends = ("", "_low", "_high")
    table = [["method", *(name + end for name in figures for end in ends)]]
    for name, comparison in comparisons.items():
        table.append([name, *itertools.chain.from_iterable(comparison)])
    files.write_csv(folder / "table.csv", table)
    table = [["set", "image", *scores]]
    for index, flag in enumerate(("normal", "unusual")):
        columns = (both[index].tolist() for both in scores.values())
        lines = zip(sets[flag].names, *columns, strict=True)
        table += [[flag, *line] for line in lines]
    files.write_csv(folder / "scores.csv", table)


def _draw_figures(folder, sets, scores, model, measure, seed):
    """Draws histograms, the least and most anomalous images, and maps."""
    flags, plots = ("normal", "unusual"), tf_realnvp.plots
    plots.save_histograms(folder / "histograms.png", scores, flags)
    rows, mapped, method = {}, [], tf_realnvp.detection.DEFAULT
    for flag, values in zip(flags, scores[method], strict=True):
        images = sets[flag].images[np.argsort(values, kind="stable")]
        rows[f"{flag}: the least anomalous"] = images[:_NUM_SHOWN]
        rows[f"{flag}: the most anomalous"] = images[::-1][:_NUM_SHOWN]
        mapped.append(images[::-1][:_NUM_MAPS])
    title, kind = f"by the method {method}", model.values
    plots.save_rows(folder / "images.png", rows, title, kind)
    images = np.concatenate(mapped)
    plots.save_bit_maps(
        folder / "maps.png",
        images,
        tf_realnvp.bit_maps.smooth(measure.maps(images, seed)),
        model.values.total,
        kind,
        titles=[flag for flag in flags for _ in sets[flag].names[:_NUM_MAPS]],
    )


COMMANDS = (score, detect)
