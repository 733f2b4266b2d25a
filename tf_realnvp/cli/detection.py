"""The commands that find out-of-distribution images: `score` and `detect`."""

import argparse
import functools
import heapq
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_realnvp.analysis import (
    batched,
    bit_maps,
    detection,
    plots,
    significance,
)
from tf_realnvp.cli import image_sets, shards
from tf_realnvp.cli.commands import check_context
from tf_realnvp.cli.image_sets import MIN_IMAGES, Loader
from tf_realnvp.errors import UsageError
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.serving import metadata
from tf_realnvp.utils import files
from tf_realnvp.utils.batches import BATCH_SIZE, overlapped
from tf_realnvp.utils.console import Progress, counted, say, warn
from tf_realnvp.utils.hashing import hash_of
from tf_realnvp.utils.named import digest

_NUM_SHOWN = 12  # Images per row of the grids.
_NUM_MAPS = 8  # Maps of each set in the figure of `detect`.
_NUM_MAP_REFERENCES = 1000
_NUM_LARGE_MAP_REFERENCES = 10


def score_batch(
    model: RealNVP,
    measure: Callable[..., Any],
    seed: int,
    context: Any,
    reference: detection.Reference | None,
    images: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns what `score` writes of images, as columns by name.

    Args:
      model: The model.
      measure: `batched.score_each` of the model, or a `detection.Measurer`.
      seed: Seed of the noise.
      context: As for `measure`.
      reference: As for `batched.columns`.
      images: At most `BATCH_SIZE` images `[H, W, C]`.
    """
    batch: Any = images
    if not model.metadata.get("tiles") or not images:
        batch = batched.fill(model, images)
    scores = measure(batch, seed, context)
    columns = batched.columns(model, scores, reference)
    return {name: values[: len(images)] for name, values in columns.items()}


def score(flags: argparse.Namespace, model: RealNVP) -> None:
    """Scores the images of a folder."""
    out, context, seed = flags.out, flags.context, flags.seed
    check_context(model, context, observes=True)
    measure: Any = functools.partial(batched.score_each, model)
    has_tiles = model.metadata.get("tiles")
    if flags.reference is not None or flags.maps is not None or has_tiles:
        measure = detection.Measurer(model)  # It takes seconds more to trace.
    reference, normal, by = None, None, model.values.measure
    if flags.reference is not None:
        loader = Loader(model, flags.data_dir, flags.max_images, seed, True)
        normal = loader.load("reference", flags.reference, "test", MIN_IMAGES)
        by = detection.DEFAULT
        _check_decision(flags, len(normal) - len(normal) // 2)
    work = {
        "model": metadata.digest(flags.model),
        "seed": seed,
        "context": digest(context),
        "reference": digest(normal and normal.hashes),
        "list of files": digest([path.name for path in flags.paths]),
    }
    shards.check_same(flags.tables, work)
    if normal is not None:
        reference = fit_reference(model, measure, normal, seed, context)

    paths, first = flags.paths[flags.part], []
    if flags.shard is not None:
        first = [[json.dumps(work)]]
    parts: list[Any] = [table.rows for table in flags.tables]
    if parts:
        header = [next(rows) for rows in parts][0]
    else:
        scorer = functools.partial(
            score_batch, model, measure, seed, context, reference
        )
        names, columns = _score(flags, paths, model, scorer, normal)
        values = (column.tolist() for column in columns.values())
        header, table = ["file", *columns], zip(names, *values, strict=True)
        parts = [iter(sorted(table, key=_least_likely(header, by)))]
    rows = heapq.merge(*parts, key=_least_likely(header, by))
    rate = flags.fdr or flags.alarm
    if rate is not None and flags.shard is None:
        limit, place = rate, header.index("p_value")
        if flags.fdr is not None:
            all_p = [
                _numbers(table.path, "p_value", 1) for table in flags.tables
            ]
            all_p = all_p or [columns["p_value"]]
            limit = significance.highest_flagged(np.concatenate(all_p), rate)
        header = [*header, "flagged"]
        rows = ([*row, int(float(row[place]) <= limit)] for row in rows)
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
        if rate is not None:
            number = int(_numbers(out, "flagged").sum())
            say(f"flagged: {counted(number, 'image')}")
    if flags.maps is not None:
        maps = functools.partial(measure.maps, seed=seed, context=context)
        others: Any = ()
        if normal is not None and reference is not None:
            few = reference.others[:_NUM_MAP_REFERENCES]
            others = normal.images[few]
        draw = _draw_large_maps if has_tiles else _draw_maps
        draw(flags, model, maps, others)
        say(flags.maps)
    say(out)


def _check_decision(flags, num_others):
    """Refuses a reference by which no image could be flagged.

    Args:
      flags: The flags.
      num_others: Number of images of the reference that p-values are by.
    """
    rate, lowest = flags.fdr or flags.alarm, 1.0 / (num_others + 1)
    if rate is None:
        return
    if lowest > rate:
        raise UsageError(
            f"argument --reference: {2 * math.ceil(1.0 / rate - 1.0)} images "
            f"are needed to flag any: no p-value is below {lowest:.2g} by "
            f"{num_others}, the half that is not for fitting"
        )
    least = math.ceil(len(flags.paths) * lowest / rate)
    if flags.fdr is not None and least > 1:
        say(
            f"--fdr {rate:g}: with this reference at least {least:,} of "
            f"{len(flags.paths):,} images are flagged, or none"
        )


def _numbers(path, name, skip=0):
    """Returns the numbers of a column, `[n]`."""
    return np.fromiter(map(float, files.read_column(path, name, skip)), float)


def _least_likely(header, by):
    """Returns the key to sort rows with, by a column and then by name."""
    index = header.index(by)
    return lambda row: (-float(row[index]), row[0])


def detect(flags: argparse.Namespace, model: RealNVP) -> None:
    """Measures how well anomalous images can be told from normal ones."""
    check_context(model, observes=True)
    measure, seed = detection.Measurer(model), flags.seed
    loader = Loader(model, flags.data_dir, flags.max_images, seed, True)
    sets = {
        "fit": loader.load("fit", flags.fit, "train", MIN_IMAGES),
        "normal": loader.load("normal", flags.normal, "test"),
        "unusual": loader.load("unusual", flags.unusual, "test"),
    }
    image_sets.check_distinct(sets)

    fit, normal, unusual = (
        _measure_set(model, measure, seed, flag, image_set.images)
        for flag, image_set in sets.items()
    )
    scores = {
        name: (
            normal.of_images(method(normal)),
            unusual.of_images(method(unusual)),
        )
        for name, method in detection.fit(fit).items()
    }
    comparisons = {
        name: significance.compare(*both, seed=seed)
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
            titles = "normal", "unusual"
            plots.save_histograms(folder / "histograms.png", scores, titles)
            if not model.metadata.get("tiles"):  # Images of one size.
                _draw_images(folder, sets, scores, model, measure, seed)
        say(flags.out)


def _measure_set(model, measure, seed, title, images, context=None):
    """Measures the images of a set."""

    def in_columns(images):
        if not model.metadata.get("tiles"):
            images = np.stack(images)
        return vars(measure(images, seed, context))

    parts = _in_batches(model, in_columns, title, images, len(images))
    return detection.Measurements.concatenate(
        [detection.Measurements(**part) for part in parts]
    )


def _in_batches(model, measure, title, images, number):
    """Measures images in batches, two at a time, with a progress bar.

    Args:
      model: The model.
      measure: Returns columns of values by name for a list of images.
      title: What is going on.
      images: The images, one after another.
      number: How many there are, at most.

    Returns:
      The columns of each batch.
    """
    # One large image has many batches of tiles.
    images, size = iter(images), BATCH_SIZE
    if model.metadata.get("tiles"):
        size = 1
    batches = iter(lambda: [*itertools.islice(images, size)], [])
    parts, total, count = [], 0.0, 0
    with Progress(title, number) as display:
        for n, part in overlapped(lambda b: (len(b), measure(b)), batches):
            total, count = total - part["log_prob"].mean() * n, count + n
            loss = model.values.describe(total / count / model.num_dims)
            display.update(n, n, loss)
            parts.append(part)
    return parts


def fit_reference(
    model: RealNVP,
    measure: detection.Measurer,
    normal: image_sets.ImageSet,
    seed: int,
    context: Any = None,
) -> detection.Reference:
    """Returns the `Reference` that is made of a set of normal images.

    Args:
      model: The model.
      measure: Its `detection.Measurer`.
      normal: The `ImageSet`.
      seed: Seed of the noise, and of the split into halves.
      context: As for `measure`.
    """
    if num_copies := len(normal) - len(np.unique(normal.hashes)):
        warn(
            f"{num_copies:,} of the {len(normal):,} {normal.title} are copies "
            "of others: p-values are too small by them"
        )
    measured = _measure_set(
        model, measure, seed, "reference", normal.images, context
    )
    reference = detection.Reference(measured, seed)
    num_others = len(reference.others)
    say(
        f"p_value: of the method {detection.DEFAULT}, by {num_others:,} "
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
    known = {*normal.hashes.tolist()} if normal else ()
    is_known: dict[str, bool] = {}

    def images():
        for path, image in image_sets.read_readable(paths, model, whole=True):
            is_known[path.name] = bool(known) and hash_of(image) in known
            yield image

    parts = _in_batches(model, scorer, "score", images(), len(paths))
    if not parts and flags.shard is None:
        raise UsageError(f"no file in {flags.folder} can be read as an image")
    num_shared, number = sum(is_known.values()), len(is_known)
    image_sets.check_shared(num_shared, number, "--reference", "DIR")
    first, *_ = parts = parts or [scorer([])]
    columns = {
        name: np.concatenate([part[name] for part in parts]) for name in first
    }
    return [*is_known], columns


def _draw_maps(flags, model, measure, normal):
    """Draws maps of the first images, relative to those of normal ones."""
    paths = _first_paths(flags)
    images = np.stack([image_sets.read(path, model) for path in paths])
    maps, unit = bit_maps.smooth(measure(images)), model.values.total
    if len(normal):
        others = bit_maps.smooth(measure(normal))
        maps = bit_maps.standardize(maps, others)
        unit = "standard deviations"
    limits = plots.map_limits(maps)
    with files.replace_files(flags.maps) as new:
        for path, image, values in zip(paths, images, maps, strict=True):
            of_one = image[np.newaxis], values[np.newaxis], unit
            file = _map_file(new, path)
            plots.save_bit_maps(file, *of_one, model.values, limits)


def _draw_large_maps(flags, model, measure, normal):
    """Draws maps of the size of the images, one at a time."""

    def make_map(image):
        return bit_maps.smooth(np.stack(measure([image])))[0]

    mean, deviation, limits = 0.0, 1.0, None
    if len(normal):
        few = map(make_map, normal[:_NUM_LARGE_MAP_REFERENCES])
        moments = np.array([(values.mean(), values.std()) for values in few])
        mean, deviation = moments.mean(axis=0)
    with files.replace_files(flags.maps) as new:
        for path in _first_paths(flags):
            image = image_sets.read(path, model, whole=True)
            values = (make_map(image) - mean) / deviation
            limits = limits or plots.map_limits(values)
            plots.save_map(_map_file(new, path), values, limits)


def _first_paths(flags):
    """Returns the files of the first images of the table."""
    names = files.read_column(flags.out, "file")
    few = itertools.islice(names, flags.max_maps)
    return [pathlib.Path(flags.folder, name) for name in few]


def _map_file(folder, path):
    return folder / f"map_{path.name.removesuffix('.png')}.png"


def _say_table(scores, comparisons):
    """Prints the results of all methods."""
    rows = [["method", "AUROC", "AUPR", "false alarms at 95 %", "than chance"]]
    for name, (normal, unusual) in scores.items():
        figures = [
            f"{value:.3f} ({low:.3f}-{high:.3f})"
            for value, low, high in comparisons[name]
        ]
        than_chance = "no better"
        if significance.set_p_value(unusual, normal) <= 0.05:
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
    figures = significance.Comparison._fields
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


def _draw_images(folder, sets, scores, model, measure, seed):
    """Draws the least and most anomalous images, and maps."""
    flags = "normal", "unusual"
    rows, mapped, method = {}, [], detection.DEFAULT
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
        bit_maps.smooth(measure.maps(images, seed)),
        model.values.total,
        kind,
        titles=[flag for flag in flags for _ in sets[flag].names[:_NUM_MAPS]],
    )
