"""The commands that find out-of-distribution images: `score` and `detect`.

TensorFlow takes seconds to import, and so does scikit-learn: the commands do so
when it is clear that the command line makes sense.
"""

import argparse
import itertools
import pathlib

import numpy as np

from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.cli.arguments import argument, command
from tf_realnvp.serving import metadata, saved_model
from tf_realnvp.training.progress import Progress
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.checks import WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import counted, say, warn
from tf_realnvp.utils.overlap import overlapped

_MIN_IMAGES = 20  # Half of a reference is what the methods are fitted to.
_MAX_REFERENCES = 4000  # By default, as the next.
_MAX_MAPS = 100
_NUM_SHOWN = 12  # Images in a row of the grids.
_NUM_MAPS = 8  # Of each set, in the figure of `detect`.
_NUM_MAP_REFERENCES = 1000
_SPLITS = {"fit": "train", "normal": "test", "unusual": "test"}


@command(
    "realnvp_digits my_images --out scores.csv",
    argument(
        "folder",
        "folder of images; other folders inside are left alone, and so are "
        "hidden files",
        arguments.path,
        metavar="DIR",
    ),
    image_sets.argument(
        "--reference",
        "normal images, which the model was not trained on: at least "
        f"{_MIN_IMAGES}",
    ),
    argument(
        "--max_images",
        "use at most so many images of the reference (default: "
        f"{_MAX_REFERENCES})",
        WholeNumber(_MIN_IMAGES),
    ),
    argument(
        "--maps",
        "folder for heat maps of the first images: the bits that each position "
        "costs, or with --reference by how many standard deviations more than "
        "normal",
        arguments.path,
        metavar="DIR",
    ),
    argument(
        "--max_maps",
        f"number of heat maps (default: {_MAX_MAPS})",
        WholeNumber(1),
    ),
    arguments.DATA_DIR,
    arguments.seed("of the noise, and of the choice and halves of a reference"),
    arguments.out("CSV file", "scores.csv"),
    notes=image_sets.HELP,
)
def score(flags: argparse.Namespace) -> None:
    """Score the images of a folder, the least likely first.

    Writes a CSV file with the columns file, log_prob (nats for the whole image)
    and bits_per_dim, and of a model with classes likeliest_label. Files that
    can't be read are named, and left out.

    An image may be likely and yet out of distribution. With --reference, images
    of the normal kind, there is a column more for each method of `detect`, the
    higher the more anomalous, and p_value: how often normal images are as
    anomalous as this, by one of the methods, which is printed. It goes by half
    of the reference, and the methods are fitted to the other half. The most
    anomalous come first then. For all images of DIR together a p-value is
    printed, which tells whether they have drifted from the reference, even
    where no single one shows it.
    """
    for name, of in (("max_images", "reference"), ("max_maps", "maps")):
        if getattr(flags, name) is not None and getattr(flags, of) is None:
            raise UsageError(
                f"argument --{name}: it is for --{of}, which is not given"
            )
    arguments.check_out(flags.out)
    if flags.maps is not None:
        arguments.check_new_files(flags.maps, "--maps", "map_*.png")
        image_sets.check_apart("maps", flags.maps, flags.reference)
    # For the likelihood alone, what TensorFlow loads is enough.
    if flags.reference is None and flags.maps is None:
        model = saved_model.SavedModel(flags.model)
        paths, measure = _list_files(flags.folder), model.score_each
    else:
        model = _read_metadata(flags.model)
        paths, measure = _list_files(flags.folder), _load_measurer(flags.model)
    reference, by = None, "bits_per_dim"
    normal = np.zeros([0, *model.image_shape], np.uint8)
    if flags.reference is not None:
        reference, normal = _load_reference(flags, model, measure)
        by = reference.method

    rows = _rows(paths, model, measure, flags.seed, reference, normal)
    num_unreadable = len(paths) - len(rows)
    if not rows:
        raise UsageError(
            f"none of the {num_unreadable:,} files in {flags.folder} can be "
            "read as an image"
        )
    rows.sort(key=lambda row: (-row[by], row["file"]))
    files.write_csv(flags.out, [rows[0], *(row.values() for row in rows)])
    bits = sum(row["bits_per_dim"] for row in rows) / len(rows)
    say(
        f"{counted(len(rows), 'image')}, mean {bits:.4f} bits/dim; "
        f"{counted(num_unreadable, 'file')} could not be read"
    )
    if reference is not None:
        p_value = reference.set_p_value([row[by] for row in rows])
        # For a large set that is all anomalous it underflows.
        text = f"{p_value:.2g}" if p_value >= 1e-16 else "below 1e-16"
        say(f"p-value of all images together: {text}")
    if flags.maps is not None:
        first = rows[: flags.max_maps or _MAX_MAPS]
        paths = [pathlib.Path(flags.folder, row["file"]) for row in first]
        if reference is not None:
            normal = normal[reference.others[:_NUM_MAP_REFERENCES]]
        _draw_maps(flags.maps, paths, model, measure, flags.seed, normal)
        say(flags.maps)
    say(flags.out)


@command(
    "realnvp_parts --normal good_parts --unusual bad_parts --out detect",
    image_sets.argument(
        "--normal",
        "normal images (default: test images of what the model was trained on)",
    ),
    image_sets.argument("--unusual", "anomalous images", required=True),
    image_sets.argument(
        "--fit",
        "normal images that the methods are fitted to (default: training "
        "images of what the model was trained on); of a named data set the "
        "training images are used",
    ),
    argument(
        "--max_images",
        "use at most so many images of each set",
        WholeNumber(_MIN_IMAGES),
        2000,
    ),
    arguments.DATA_DIR,
    arguments.seed("of the noise, the choice and the bootstrap"),
    argument(
        "--out",
        "folder for the table and all scores (CSV), histograms, the least and "
        "most anomalous images, and heat maps",
        arguments.path,
        metavar="PATH",
    ),
    notes=image_sets.HELP,
)
def detect(flags: argparse.Namespace) -> None:
    """Measure how well anomalous images can be told from normal ones.

    Scores both sets by every method, none of which has seen an anomalous image,
    and prints how well the scores tell them apart: AUROC, AUPR (the average
    precision) and the share of false alarms where 95 % of the anomalous images
    are found, each with the interval of 95 % that a bootstrap gives: too narrow
    below some hundred images, and without width where all scores of one set are
    higher. Whether a method is better than chance is told by the test of Mann
    and Whitney, at 5 %. Which one is best was chosen by these very images.
    """
    if flags.out is not None:
        arguments.check_writable(pathlib.Path(flags.out), "--out")
        names = flags.fit, flags.normal, flags.unusual
        image_sets.check_apart("out", flags.out, *names)
    model = _read_metadata(flags.model)
    loader = image_sets.Loader(
        model, flags.data_dir, flags.max_images, flags.seed
    )
    sets = {
        flag: loader.load(
            *(flag, getattr(flags, flag), split),
            minimum=_MIN_IMAGES if flag == "fit" else 2,
        )
        for flag, split in _SPLITS.items()
    }
    image_sets.check_distinct(sets)

    from tf_realnvp import detection

    measure = _load_measurer(flags.model)
    fit, normal, unusual = (
        _measure(measure, flag, its.images, flags.seed)
        for flag, its in sets.items()
    )
    scores = {
        name: (method(normal), method(unusual))
        for name, method in detection.fit(fit).items()
    }
    comparisons = {
        name: detection.compare(*both, seed=flags.seed)
        for name, both in scores.items()
    }
    for flag, its in sets.items():
        say(f"{flag}: {len(its):,} {its.title}")
    _say_table(scores, comparisons)
    if flags.out is not None:
        with files.replace_files(flags.out) as folder:
            _write_tables(folder, sets, scores, comparisons)
            _draw_figures(
                folder, sets, scores, measure, flags.seed, model.num_colors
            )
        say(flags.out)


def _read_metadata(path):
    """Reads what a model is of, and sets up TensorFlow."""
    model = metadata.read(path)
    runtime.configure()
    return model


def _load_measurer(path):
    from tf_realnvp import detection
    from tf_realnvp.serving import weights

    return detection.Measurer(weights.load_model(path))


def _measure(measure, title, images, seed):
    """Measures images, and shows how far that is."""
    bits = []

    def update(measured):
        bits.extend(measured.bits_per_dim)
        display.update(len(measured), len(measured), sum(bits) / len(bits))

    with Progress(title, len(images)) as display:
        return measure(images, seed, update)


def _list_files(folder):
    """Returns all that is in a folder, but for folders and hidden files."""
    try:
        paths = sorted(
            path
            for path in pathlib.Path(folder).iterdir()
            if not path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise UsageError(
            f"cannot read the folder {folder}: {error.strerror}"
        ) from error
    if not paths:
        raise UsageError(
            f"there are no files in {folder} (those in folders inside are left "
            "alone)"
        )
    return paths


def _load_reference(flags, model, measure):
    """Returns what images are judged by, and the normal ones it is made of."""
    from tf_realnvp import detection

    loader = image_sets.Loader(
        *(model, flags.data_dir, flags.max_images or _MAX_REFERENCES),
        flags.seed,
    )
    normal = loader.load("reference", flags.reference, "test", _MIN_IMAGES)
    distinct = {image.tobytes() for image in normal.images}
    if num_copies := len(normal) - len(distinct):
        warn(
            f"{num_copies:,} of the {len(normal):,} {normal.title} are copies "
            "of others: p-values are too small by them"
        )
    measured = _measure(measure, "reference", normal.images, flags.seed)
    reference = detection.Reference(measured, flags.seed)
    num_others = len(reference.others)
    say(
        f"p_value: of the method {reference.method}, by {num_others:,} "
        f"{normal.title}; fitted to {len(normal) - num_others:,} others of them"
    )
    return reference, normal.images


def _rows(paths, model, measure, seed, reference, normal):
    """Returns a row of the table for each image, by the names of columns."""
    rows, total, num_shared = [], 0.0, 0
    known = {image.tobytes() for image in normal}

    def batches():
        for start in range(0, len(paths), saved_model.BATCH_SIZE):
            part = paths[start : start + saved_model.BATCH_SIZE]
            if batch := [*image_sets.read_readable(part, model)]:
                yield len(part), batch

    def score(read):
        num_files, batch = read
        images = np.stack([image for _, image in batch])
        return num_files, batch, measure(images, seed)

    with Progress("score", len(paths)) as display:
        for num_files, batch, measured in overlapped(score, batches()):
            num_shared += sum(image.tobytes() in known for _, image in batch)
            if num_shared > len(paths) / 2:
                raise UsageError(
                    "argument --reference: it has most of the images to score"
                )
            columns = {
                "log_prob": measured.log_prob,
                "bits_per_dim": measured.bits_per_dim,
            }
            if model.class_names:
                names = np.take(model.class_names, measured.label)
                columns["likeliest_label"] = names
            if reference is not None:
                columns |= reference(measured)
            values = zip(*(c.tolist() for c in columns.values()), strict=True)
            rows += [
                {"file": path.name} | dict(zip(columns, row, strict=True))
                for (path, _), row in zip(batch, values, strict=True)
            ]
            total += measured.bits_per_dim.sum()
            display.update(num_files, len(batch), total / len(rows))
    if num_shared:
        warn(
            f"{counted(num_shared, 'image')} of the reference are among those "
            "that are scored: their p-values mean nothing"
        )
    return rows


def _draw_maps(folder, paths, model, measure, seed, normal):
    """Draws maps of images; against those of normal images, if there are."""
    from tf_realnvp import bit_maps
    from tf_realnvp.images import plots

    images = np.stack([image_sets.read(path, model) for path in paths])
    maps, label = bit_maps.smooth(measure.maps(images, seed)), "bits"
    if len(normal):
        others = bit_maps.smooth(measure.maps(normal, seed))
        maps = bit_maps.standardize(maps, others)
        label = "standard deviations"
    limits = plots.map_limits(maps)
    with files.replace_files(folder) as new:
        for path, image, values in zip(paths, images, maps, strict=True):
            plots.save_bit_maps(
                new / f"map_{path.name}.png",
                image[np.newaxis],
                values[np.newaxis],
                label,
                model.num_colors,
                limits,
            )


def _say_table(scores, comparisons):
    """Prints the figures of all methods, and what they come to."""
    from tf_realnvp import detection

    rows = [["method", "AUROC", "AUPR", "false alarms at 95 %", "than chance"]]
    for name, (normal, unusual) in scores.items():
        figures = [
            f"{value:.3f} ({low:.3f}-{high:.3f})"
            for value, low, high in comparisons[name]
        ]
        than_chance = "no better"
        if detection.set_p_value(unusual, normal) <= 0.05:
            is_better = comparisons[name].auroc.value > 0.5
            than_chance = "better" if is_better else "worse"
        rows.append([name, *figures, than_chance])
    share = len(unusual) / (len(normal) + len(unusual))
    rows.append(["(chance)", "0.500", f"{share:.3f}", "0.950", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(map(str.ljust, row, widths)).rstrip())
    aurocs = {name: its.auroc.value for name, its in comparisons.items()}
    best = max(aurocs, key=lambda name: aurocs[name])
    say(
        f"best here: {best}, AUROC {aurocs[best]:.3f}; `score --reference` "
        f"goes by {detection.DEFAULT}, {aurocs[detection.DEFAULT]:.3f}"
    )


def _write_tables(folder, sets, scores, comparisons):
    """Writes the figures of all methods, and the scores of all images."""
    from tf_realnvp import detection

    figures = detection.Comparison._fields
    ends = ("", "_low", "_high")
    table = [["method", *(name + end for name in figures for end in ends)]]
    for name, comparison in comparisons.items():
        table.append([name, *itertools.chain.from_iterable(comparison)])
    files.write_csv(folder / "table.csv", table)
    table = [["set", "picture", *scores]]
    for index, flag in enumerate(("normal", "unusual")):
        columns = (both[index].tolist() for both in scores.values())
        lines = zip(sets[flag].names, *columns, strict=True)
        table += [[flag, *line] for line in lines]
    files.write_csv(folder / "scores.csv", table)


def _draw_figures(folder, sets, scores, measure, seed, num_colors):
    """Draws histograms, the least and most anomalous images, and maps."""
    from tf_realnvp import bit_maps, detection
    from tf_realnvp.images import plots

    flags = ("normal", "unusual")
    plots.save_histograms(folder / "histograms.png", scores, flags)
    rows, mapped = {}, []
    for flag, values in zip(flags, scores[detection.DEFAULT], strict=True):
        images = sets[flag].images[np.argsort(values, kind="stable")]
        rows[f"{flag}: the least anomalous"] = images[:_NUM_SHOWN]
        rows[f"{flag}: the most anomalous"] = images[::-1][:_NUM_SHOWN]
        mapped.append(images[::-1][:_NUM_MAPS])
    plots.save_rows(
        folder / "pictures.png",
        rows,
        f"by the method {detection.DEFAULT}",
        num_colors,
    )
    images = np.concatenate(mapped)
    plots.save_bit_maps(
        folder / "maps.png",
        images,
        bit_maps.smooth(measure.maps(images, seed)),
        "bits",
        num_colors,
        titles=[flag for flag in flags for _ in sets[flag].names[:_NUM_MAPS]],
    )


COMMANDS = (score, detect)
