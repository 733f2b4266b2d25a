"""The commands that tell unusual pictures: `score` and `detect`."""

import itertools
import os
import pathlib
import sys

import numpy as np

from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.serving import metadata, saved_model
from tf_realnvp.training.progress import Progress
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.checks import WholeNumber
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import counted, printable
from tf_realnvp.utils.overlap import overlapped

# TensorFlow takes seconds to import, and so does scikit-learn: this module
# leaves them to the commands, when it is clear that the line makes sense.

_MIN_PICTURES = 20  # Half of a reference is what the methods are fitted to.
_MAX_REFERENCES = 4000  # By default, as the next.
_MAX_MAPS = 100
_NUM_SHOWN = 12  # Pictures in a row of the grids.
_NUM_MAPS = 8  # Of each set, in the picture of `detect`.
_NUM_MAP_REFERENCES = 1000
_SPLITS = {"fit": "train", "normal": "test", "unusual": "test"}
_LABEL = "likeliest_label"  # A column for models with classes.


def add_commands(add) -> None:
    """Adds the commands.

    Args:
      add: Adds a command, given what runs it, its name, an example, a title and
        details; returns its parser.
    """
    _add_score(add)
    _add_detect(add)


def _add_score(add):
    command = add(
        _score,
        "score",
        "realnvp_digits my_pictures --out scores.csv",
        "score the pictures of a folder, the least likely first",
        f"""
Writes a CSV file with the columns file, log_prob (nats for the whole picture)
and bits_per_dim, and of a model with classes likeliest_label. Files that can't
be read are named, and left out.

A picture may be likely and yet unusual. With --reference, pictures of the kind
that is usual, there is a column more for each method of `detect`, the higher
the more unusual, and p_value: how often pictures of that kind are as unusual
as this, by one of the methods, which is printed. It goes by half of the
reference, and the methods are fitted to the other half. The most unusual come
first then. For all pictures of DIR together a p-value is printed, which tells
whether they have drifted from the reference, even where no single one shows it.
{image_sets.HELP}""",
    )
    command.add_argument(
        "folder",
        metavar="DIR",
        type=arguments.path,
        help="folder of pictures; other folders inside are left alone, and so "
        "are hidden files",
    )
    command.add_argument(
        "--reference",
        metavar="D",
        help="usual pictures, which the model was not trained on: at least "
        f"{_MIN_PICTURES}",
    )
    _add_max_images(
        command, None, f"of the reference (default: {_MAX_REFERENCES})"
    )
    command.add_argument(
        "--maps",
        metavar="DIR",
        type=arguments.path,
        help="folder for heat maps of the first pictures: the bits that each "
        "position costs, or with --reference by how many standard deviations "
        "more than usual",
    )
    arguments.add_number(
        *(command, "max_maps", WholeNumber(1), None),
        f"number of heat maps (default: {_MAX_MAPS})",
    )
    arguments.add_data_dir(command)
    arguments.add_seed(
        command, 0, "of the noise, and of the choice and halves of a reference"
    )
    arguments.add_out(command, "scores.csv", "CSV file", arguments.file(".csv"))


def _add_detect(add):
    command = add(
        _detect,
        "detect",
        "realnvp_parts --normal good_parts --unusual bad_parts --out detect",
        "measure how well unusual pictures can be told from normal ones",
        f"""
Scores both sets by every method, none of which has seen an unusual picture,
and prints how well the scores tell them apart: AUROC, AUPR (the average
precision) and the share of false alarms where 95 % of the unusual pictures are
found, each with the interval of 95 % that a bootstrap gives: too narrow below
some hundred pictures, and without width where all scores of one set are higher.
Whether a method is better than chance is told by the test of Mann and Whitney,
at 5 %. Which one is best was chosen by these very pictures.
{image_sets.HELP}""",
    )
    command.add_argument(
        "--normal",
        metavar="D",
        help="normal pictures (default: test images of what the model was "
        "trained on)",
    )
    command.add_argument(
        "--unusual", metavar="D", required=True, help="unusual pictures"
    )
    command.add_argument(
        "--fit",
        metavar="D",
        help="normal pictures that the methods are fitted to (default: "
        "training images of what the model was trained on); of a named data "
        "set the training images are used",
    )
    _add_max_images(command, 2000, "of each set")
    arguments.add_data_dir(command)
    arguments.add_seed(command, 0, "of the noise, the choice and the bootstrap")
    arguments.add_out(
        command,
        None,
        "folder for the table and all scores (CSV), histograms, the least and "
        "most unusual pictures, and heat maps",
        arguments.path,
    )


def _add_max_images(command, default, of_what):
    arguments.add_number(
        command,
        "max_images",
        WholeNumber(_MIN_PICTURES),
        default,
        f"use at most so many pictures {of_what}",
    )


def _load_metadata(flags):
    """Reads what the model is of, and sets up TensorFlow."""
    result = metadata.read(flags.model)
    runtime.configure()
    return result


def _measure(measure, title, images, seed):
    """Measures images, and shows how far that is."""
    bits = []

    def update(measured):
        bits.extend(measured.bits_per_dim)
        display.update(len(measured), len(measured), sum(bits) / len(bits))

    with Progress(title, len(images)) as display:
        return measure(images, seed, update)


# --- score ---


def _score(flags):
    """Scores the pictures of a folder."""
    for name, default, of in (
        ("max_images", _MAX_REFERENCES, "reference"),
        ("max_maps", _MAX_MAPS, "maps"),
    ):
        if getattr(flags, name) is None:
            setattr(flags, name, default)
        elif getattr(flags, of) is None:
            raise UsageError(
                f"argument --{name}: it is for --{of}, which is not given"
            )
    arguments.check_out(flags.out, may_be_folder=False)
    if flags.maps is not None:
        _check_maps(flags)
    # For the likelihood alone, what TensorFlow loads is enough.
    is_plain = flags.reference is None and flags.maps is None
    if is_plain:
        model = saved_model.SavedModel(flags.model)
    else:
        model = _load_metadata(flags)
    arguments.check_channels(flags.model, model.image_shape[2])
    paths = _list_files(flags.folder)  # Before the long work.
    measure = model.score_each if is_plain else _load_measurer(flags)
    reference, usual, by = None, None, "bits_per_dim"
    if flags.reference is not None:
        reference, usual = _load_reference(flags, model, measure)
        by = reference.method

    rows = _rows(flags, paths, model, measure, reference)
    num_unreadable = len(paths) - len(rows)
    if not rows:
        raise UsageError(
            f"none of the {num_unreadable:,} files in "
            f"{printable(flags.folder)} can be read as a picture"
        )
    rows.sort(key=lambda row: (-row[by], row["file"]))
    files.write_csv(flags.out, [rows[0], *(row.values() for row in rows)])
    bits = sum(row["bits_per_dim"] for row in rows) / len(rows)
    print(
        f"{counted(len(rows), 'picture')}, mean {bits:.4f} bits/dim; "
        f"{counted(num_unreadable, 'file')} could not be read"
    )
    if reference is not None:
        p_value = reference.set_p_value([row[by] for row in rows])
        # For a large set that is all unusual it underflows.
        text = f"{p_value:.2g}" if p_value >= 1e-16 else "below 1e-16"
        print(f"p-value of all pictures together: {text}")
    if flags.maps is not None:
        names = [row["file"] for row in rows[: flags.max_maps]]
        _draw_maps(flags, names, model, measure, usual)
        print(flags.maps)
    print(flags.out)


def _check_maps(flags):
    folder = pathlib.Path(flags.maps)
    arguments.check_writable(folder, "--maps")
    if all(map(os.path.isdir, (folder, flags.folder))) and folder.samefile(
        flags.folder
    ):
        raise UsageError("argument --maps: it is the folder of the pictures")
    if any(folder.glob("map_*.png")):
        raise UsageError(
            f"argument --maps: {printable(folder)} has maps of before, which "
            "would be mixed with these: give another folder, or remove them"
        )


def _map_name(path):
    return f"map_{path.name}.png"


def _load_measurer(flags):
    from tf_realnvp import detection
    from tf_realnvp.serving import weights

    return detection.Measurer(weights.load_model(flags.model))


def _load_reference(flags, model, measure):
    """Returns the reference, and its images that p-values go by."""
    from tf_realnvp import detection

    if image_sets.includes(flags, "reference", model, flags.folder):
        raise UsageError(
            "argument --reference: it has the pictures of "
            f"{printable(flags.folder)}"
        )
    if flags.maps is not None:
        image_sets.check_apart(
            *(flags, "maps", flags.maps, model, ["reference"])
        )
    image_sets.warn_of_seen(flags, "reference", model)
    usual = image_sets.load(flags, "reference", model, "test", _MIN_PICTURES)
    distinct = {image.tobytes() for image in usual.images}
    if num_copies := len(usual) - len(distinct):
        print(
            f"warning: {num_copies:,} of the {len(usual):,} {usual.title} are "
            "copies of others: p-values are too small by them",
            file=sys.stderr,
        )
    measured = _measure(measure, "reference", usual.images, flags.seed)
    reference = detection.Reference(measured, flags.seed)
    num_others = len(reference.others)
    print(
        f"p_value: of the method {reference.method}, by {num_others:,} "
        f"{usual.title}; fitted to {len(usual) - num_others:,} others of them"
    )
    return reference, usual.images[reference.others]


def _rows(flags, paths, model, measure, reference):
    """Returns a row of the table for each picture, by the names of columns."""
    rows, total = [], 0.0

    def batches():
        for start in range(0, len(paths), saved_model.BATCH_SIZE):
            part = paths[start : start + saved_model.BATCH_SIZE]
            if batch := list(image_sets.read_all(part, model)):
                yield len(part), batch

    def score(read):
        num_files, batch = read
        images = np.stack([image for _, image in batch])
        return num_files, batch, measure(images, flags.seed)

    with Progress("score", len(paths)) as display:
        for num_files, batch, measured in overlapped(score, batches()):
            columns = {
                "log_prob": measured.log_prob,
                "bits_per_dim": measured.bits_per_dim,
            }
            if model.class_names:
                columns[_LABEL] = np.take(model.class_names, measured.label)
            if reference is not None:
                columns |= reference(measured)
            values = zip(*(c.tolist() for c in columns.values()), strict=True)
            rows += [
                {"file": path.name} | dict(zip(columns, row, strict=True))
                for (path, _), row in zip(batch, values, strict=True)
            ]
            total += measured.bits_per_dim.sum()
            display.update(num_files, len(batch), total / len(rows))
    return rows


def _draw_maps(flags, names, model, measure, usual):
    """Draws maps of pictures; against those of usual images, if there are."""
    from tf_realnvp import bit_maps
    from tf_realnvp.images import plots

    paths = [pathlib.Path(flags.folder) / name for name in names]
    read = list(image_sets.read_all(paths, model))
    images = np.stack([image for _, image in read])
    maps, label = bit_maps.smooth(measure.maps(images, flags.seed)), "bits"
    if usual is not None:
        its = measure.maps(usual[:_NUM_MAP_REFERENCES], flags.seed)
        maps = bit_maps.standardize(maps, bit_maps.smooth(its))
        label = "standard deviations"
    limits = plots.map_limits(maps)
    with files.replace_files(flags.maps) as folder:
        for (path, image), values in zip(read, maps, strict=True):
            plots.save_bit_maps(
                folder / _map_name(path),
                image[None],
                values[None],
                label,
                model.num_colors,
                limits,
            )


def _list_files(folder):
    """Returns all that is in a folder, but for folders and hidden files."""
    name = printable(folder)
    try:
        paths = sorted(
            path
            for path in pathlib.Path(folder).iterdir()
            if not path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise UsageError(
            f"cannot read the folder {name}: {error.strerror}"
        ) from error
    if not paths:
        raise UsageError(
            f"there are no files in {name} (those in folders inside are left "
            "alone)"
        )
    return paths


# --- detect ---


def _detect(flags):
    """Tells two sets of pictures apart."""
    if flags.out is not None:
        arguments.check_writable(pathlib.Path(flags.out), "--out")
    model = _load_metadata(flags)
    image_sets.check_disjoint(flags, model, _SPLITS)
    image_sets.warn_of_seen(flags, "normal", model)
    if flags.out is not None:
        image_sets.check_apart(flags, "out", flags.out, model, _SPLITS)
    sets = {
        flag: image_sets.load(
            *(flags, flag, model, split),
            minimum=_MIN_PICTURES if flag == "fit" else 2,
        )
        for flag, split in _SPLITS.items()
    }

    from tf_realnvp import detection

    measure = _load_measurer(flags)
    measured = {
        flag: _measure(measure, flag, pictures.images, flags.seed)
        for flag, pictures in sets.items()
    }
    scores = {
        name: (score(measured["normal"]), score(measured["unusual"]))
        for name, score in detection.fit(measured["fit"]).items()
    }
    comparisons = {
        name: detection.compare(*both, seed=flags.seed)
        for name, both in scores.items()
    }
    for flag, pictures in sets.items():
        print(f"{flag}: {len(pictures):,} {pictures.title}")
    share = len(sets["unusual"]) / (len(sets["normal"]) + len(sets["unusual"]))
    p_values = {
        name: detection.set_p_value(unusual, normal)
        for name, (normal, unusual) in scores.items()
    }
    _print_table(comparisons, p_values, share)
    if flags.out is not None:
        with files.replace_files(flags.out) as folder:
            _write_results(
                folder, flags.seed, sets, scores, comparisons, measure, model
            )
        print(flags.out)


def _print_table(comparisons, p_values, share):
    """Prints the figures of all methods, and what they come to."""
    from tf_realnvp import detection

    rows = [["method", "AUROC", "AUPR", "false alarms at 95 %", "than chance"]]
    for name, comparison in comparisons.items():
        figures = [
            f"{value:.3f} ({low:.3f}-{high:.3f})"
            for value, low, high in comparison
        ]
        against_chance = "no better"
        if p_values[name] <= 0.05:
            is_better = comparison.auroc.value > 0.5
            against_chance = "better" if is_better else "worse"
        rows.append([name, *figures, against_chance])
    rows.append(["(chance)", "0.500", f"{share:.3f}", "0.950", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.ljust(width) for text, width in zip(row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())
    best = max(comparisons, key=lambda name: comparisons[name].auroc.value)
    print(
        f"best here: {best}, AUROC {comparisons[best].auroc.value:.3f}; "
        f"`score --reference` goes by {detection.DEFAULT}, "
        f"{comparisons[detection.DEFAULT].auroc.value:.3f}"
    )


def _write_results(folder, seed, sets, scores, comparisons, measure, model):
    """Writes all files into a folder."""
    from tf_realnvp import bit_maps, detection
    from tf_realnvp.images import plots

    figures = detection.Comparison._fields
    ends = ("", "_low", "_high")
    table = [["method", *(name + end for name in figures for end in ends)]]
    for name, comparison in comparisons.items():
        table.append([name, *itertools.chain.from_iterable(comparison)])
    files.write_csv(folder / "table.csv", table)
    both = [(flag, sets[flag]) for flag in ("normal", "unusual")]
    table = [["set", "picture", *scores]]
    for index, (flag, pictures) in enumerate(both):
        columns = (values[index].tolist() for values in scores.values())
        lines = zip(pictures.names, *columns, strict=True)
        table += [[flag, *line] for line in lines]
    files.write_csv(folder / "scores.csv", table)
    plots.save_histograms(
        folder / "histograms.png", scores, ("normal", "unusual")
    )
    rows, images, maps, titles = {}, [], [], []
    for index, (flag, pictures) in enumerate(both):
        order = np.argsort(scores[detection.DEFAULT][index], kind="stable")
        least, most = order[:_NUM_SHOWN], order[::-1][:_NUM_SHOWN]
        rows[f"{flag}: the least unusual"] = pictures.images[least]
        rows[f"{flag}: the most unusual"] = pictures.images[most]
        images.append(pictures.images[most[:_NUM_MAPS]])
        titles += len(images[-1]) * [flag]
        maps.append(bit_maps.smooth(measure.maps(images[-1], seed)))
    plots.save_rows(
        folder / "pictures.png",
        rows,
        f"by the method {detection.DEFAULT}",
        model.num_colors,
    )
    plots.save_bit_maps(
        folder / "maps.png",
        np.concatenate(images),
        np.concatenate(maps),
        "bits",
        model.num_colors,
        titles=titles,
    )
