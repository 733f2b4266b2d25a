"""The commands that tell unusual pictures: `score` and `detect`."""

import csv
import itertools
import math
import os
import pathlib

from tf_realnvp.checks import WholeNumber
from tf_realnvp.cli import arguments, picture_sets
from tf_realnvp.errors import UsageError, printable

# TensorFlow takes seconds to import, and so does scikit-learn: this module
# leaves them to the commands, when it is clear that the line makes sense.

_MIN_PICTURES = 20  # Half of a reference is what the methods are fitted to.
_NUM_SHOWN = 12  # Pictures in a row of the grids.
_NUM_MAPS = 8  # Of each set, in the picture of `detect`.
_NUM_MAP_REFERENCES = 1000
_SPLITS = {"fit": "train", "normal": "test", "unusual": "test"}
_LABEL = "likeliest_label"  # A column for models with classes.
_SETS = """
A data set D is a folder of pictures, all of which are used, those in folders
inside as well; a file of NumPy, likewise; or a name as in training, of which
the test images are used (and the training images for --fit). Of what the model
was trained on, a folder or not, training and test images are kept apart so.
D:CLASS is the images of D that have that label.
"""


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
and bits_per_dim. Files that can't be read are named, and left out.

A picture may be likely and yet unusual. With --reference, pictures of the kind
that is usual, there is a column more for each method of `detect`, the higher
the more unusual, and p_value: how often pictures of that kind are as unusual
as this, by one of the methods, which is printed. It goes by half of the
reference, and the methods are fitted to the other half. The most unusual come
first then. For all pictures of DIR together a p-value is printed, which tells
whether they have drifted from the reference, even where no single one shows it.
{_SETS}""",
    )
    command.add_argument(
        "folder",
        metavar="DIR",
        help="folder of pictures; other folders inside are left alone, and so "
        "are hidden files",
    )
    command.add_argument(
        "--reference",
        metavar="D",
        help="usual pictures, which the model was not trained on: at least "
        f"{_MIN_PICTURES}",
    )
    _add_max_images(command, 4000, "of the reference")
    command.add_argument(
        "--maps",
        metavar="DIR",
        help="folder for heat maps of the first pictures: the bits that each "
        "position costs, or with --reference by how many standard deviations "
        "more than usual",
    )
    arguments.add_number(
        command, "max_maps", WholeNumber(1), 100, "number of heat maps"
    )
    arguments.add_data_dir(command)
    arguments.add_seed(command, 0, "of the noise that is added to the pictures")
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
found, each with the interval of 95 % that a bootstrap gives.
{_SETS}""",
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
        "training images of what the model was trained on)",
    )
    _add_max_images(command, 2000, "of each set")
    arguments.add_data_dir(command)
    arguments.add_seed(command, 0, "of the noise, the choice and the bootstrap")
    arguments.add_out(
        command,
        None,
        "folder for the table and all scores (CSV), histograms, the least and "
        "most unusual pictures, and heat maps",
        str,
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
    from tf_realnvp import runtime
    from tf_realnvp.serving import metadata

    metadata.read_architecture(flags.model)
    result = metadata.read(flags.model)
    runtime.configure()
    return result


def _progress(title, count):
    """Returns a display, and what tells it of the measurements of a batch."""
    from tf_realnvp.training.progress import Progress

    display = Progress(title, count)
    seen = []

    def update(measured):
        seen.extend(measured.bits_per_dim)
        display.update(len(measured), len(measured), sum(seen) / len(seen))

    return display, update


def _measure(measure, title, images, seed):
    display, update = _progress(title, len(images))
    with display:
        return measure(images, seed, update)


# --- score ---


def _score(flags):
    """Scores the pictures of a folder."""
    arguments.check_out(flags.out, may_be_folder=False)
    if flags.maps is not None:
        _check_maps(flags)
    is_plain = flags.reference is None and flags.maps is None
    scorer = _Likely(flags) if is_plain else _Unusual(flags)
    paths = _list_files(flags.folder)
    rows, total = [], 0.0
    from tf_realnvp.serving.saved_model import BATCH_SIZE
    from tf_realnvp.training.progress import Progress

    with Progress("score", len(paths)) as display:
        readable = picture_sets.read_all(paths, scorer)
        while batch := list(itertools.islice(readable, BATCH_SIZE)):
            for (path, _), row in zip(batch, scorer(batch), strict=True):
                rows.append((path, *row))
                total += row[1]
            display.update(len(batch), len(batch), total / len(rows))
    num_unreadable = len(paths) - len(rows)
    if not rows:
        raise UsageError(
            f"none of the {num_unreadable:,} files in "
            f"{printable(flags.folder)} can be read as a picture"
        )
    rows.sort(key=lambda row: (-row[1 + scorer.sorted_by], row[0].name))
    _write_csv(
        flags.out,
        ["file", *scorer.columns],
        [(path.name, *row) for path, *row in rows],
    )
    print(
        f"{len(rows):,} pictures, mean {total / len(rows):.4f} bits/dim; "
        f"{num_unreadable:,} files could not be read"
    )
    if isinstance(scorer, _Unusual) and flags.reference is not None:
        p_value = scorer.set_p_value([row for _, *row in rows])
        # For a large set that is all unusual it underflows.
        text = f"{p_value:.2g}" if p_value >= 1e-16 else "below 1e-16"
        print(f"p-value of all pictures together: {text}")
    if isinstance(scorer, _Unusual) and flags.maps is not None:
        scorer.draw([path for path, *_ in rows[: flags.max_maps]])
        print(flags.maps)
    print(flags.out)


def _check_maps(flags):
    folder = pathlib.Path(flags.maps)
    arguments.check_writable(folder, "--maps")
    if os.path.isdir(flags.folder) and folder.samefile(flags.folder):
        raise UsageError("argument --maps: it is the folder of the pictures")


class _Likely:
    """Scores by the likelihood alone, with what TensorFlow loads.

    Attributes:
      columns: What it gives for a picture.
      sorted_by: Which of them orders the pictures, the highest first.
      image_shape: `(H, W, C)` of the model's images.
      num_colors: Number of their levels.
    """

    columns: tuple[str, ...] = ("log_prob", "bits_per_dim")
    sorted_by = 1

    def __init__(self, flags):
        from tf_realnvp.serving import saved_model

        self._seed = flags.seed
        self._model = saved_model.SavedModel(flags.model)
        self.image_shape = self._model.image_shape
        self.num_colors = self._model.num_colors
        arguments.check_channels(flags.model, self.image_shape[2])
        if self._model.class_names:
            self.columns = (*_Likely.columns, _LABEL)

    def __call__(self, batch):
        import numpy as np

        images, names = np.stack([image for _, image in batch]), []
        if self._model.class_names:
            joint = self._model.log_prior + self._model.log_prob_of_classes(
                images, self._seed, each=True
            )
            log_probs = np.logaddexp.reduce(joint, axis=1)
            names = [self._model.class_names[k] for k in joint.argmax(axis=1)]
        else:
            log_probs = self._model.log_prob_each(images, self._seed)
        bits = -log_probs / (self._model.num_dims * math.log(2.0))
        columns = [log_probs.tolist(), bits.tolist()]
        if names:
            columns.append(names)
        return list(zip(*columns, strict=True))


class _Unusual:
    """Scores by all methods if there is a reference, and draws maps.

    Attributes:
      As those of `_Likely`.
    """

    def __init__(self, flags):
        metadata = _load_metadata(flags)
        self.image_shape = metadata.image_shape
        self.num_colors = metadata.num_colors
        arguments.check_channels(flags.model, self.image_shape[2])
        _list_files(flags.folder)  # Before the long work.
        reference = None
        if flags.reference is not None:
            picture_sets.check_outside(
                flags, "reference", metadata, flags.folder
            )
            reference = picture_sets.load(
                flags, "reference", metadata, "test", _MIN_PICTURES
            )

        from tf_realnvp import detection
        from tf_realnvp.serving import weights

        self._flags = flags
        self._measure = detection.Measurer(weights.load_model(flags.model))
        self._scores = {}
        self._reference = None
        self._class_names = metadata.class_names
        self.columns, self.sorted_by = _Likely.columns, _Likely.sorted_by
        if self._class_names:
            self.columns += (_LABEL,)
        if reference is not None:
            self._fit(reference)

    def _fit(self, reference):
        """Fits the methods to a half of the reference."""
        import numpy as np

        from tf_realnvp import detection

        seed, size = self._flags.seed, len(reference)
        measured = _measure(self._measure, "reference", reference.images, seed)
        order = np.random.default_rng(seed).permutation(size)
        fitted, others = order[: size // 2], order[size // 2 :]
        self._scores = detection.fit(measured.take(fitted))
        self._others = self._scores[detection.DEFAULT](measured.take(others))
        self._reference = reference.images[others]
        self.columns += (*self._scores, "p_value")
        self.sorted_by = self.columns.index(detection.DEFAULT)
        print(
            f"p_value: of the method {detection.DEFAULT}, by {len(others):,} "
            f"{reference.title}; fitted to {len(fitted):,} others of them"
        )

    def __call__(self, batch):
        import numpy as np

        from tf_realnvp import detection

        images = np.stack([image for _, image in batch])
        measured = self._measure(images, self._flags.seed)
        columns = {
            "log_prob": measured.log_prob,
            "bits_per_dim": measured.bits_per_dim,
        }
        if self._class_names:
            columns[_LABEL] = np.take(self._class_names, measured.label)
        for name, score in self._scores.items():
            columns[name] = score(measured)
        if self._scores:
            columns["p_value"] = detection.p_values(
                columns[detection.DEFAULT], self._others
            )
        values = [columns[name].tolist() for name in self.columns]
        return list(zip(*values, strict=True))

    def set_p_value(self, rows):
        """Returns the p-value of pictures together, given the rows of each."""
        import numpy as np

        from tf_realnvp import detection

        scores = np.array([row[self.sorted_by] for row in rows])
        return detection.set_p_value(scores, self._others)

    def draw(self, paths):
        """Draws maps of pictures."""
        import numpy as np

        from tf_realnvp import bit_maps, plots

        seed, folder = self._flags.seed, pathlib.Path(self._flags.maps)
        read = list(picture_sets.read_all(paths, self))
        images = np.stack([image for _, image in read])
        maps = bit_maps.smooth(self._measure.maps(images, seed))
        label = "bits"
        if self._reference is not None:
            usual = bit_maps.smooth(
                self._measure.maps(self._reference[:_NUM_MAP_REFERENCES], seed)
            )
            maps = bit_maps.standardise(maps, usual)
            label = "standard deviations"
        limits = plots.map_limits(maps)
        for (path, image), values in zip(read, maps, strict=True):
            plots.save_bit_maps(
                folder / f"map_{path.name}.png",
                image[None],
                values[None],
                label,
                self.num_colors,
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
        raise UsageError(f"there are no files in {name}")
    return paths


def _write_csv(path, columns, rows):
    from tf_realnvp import files

    with (
        files.replace_file(path) as new,
        # Names of files need not be text.
        new.open("w", newline="", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


# --- detect ---


def _detect(flags):
    """Tells two sets of pictures apart."""
    if flags.out is not None:
        arguments.check_writable(pathlib.Path(flags.out), "--out")
    metadata = _load_metadata(flags)
    picture_sets.check_disjoint(flags, metadata, _SPLITS)
    sets = {
        flag: picture_sets.load(
            *(flags, flag, metadata, split),
            minimum=_MIN_PICTURES if flag == "fit" else 2,
        )
        for flag, split in _SPLITS.items()
    }

    from tf_realnvp import detection
    from tf_realnvp.serving import weights

    measure = detection.Measurer(weights.load_model(flags.model))
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
    _print_table(comparisons, share)
    if flags.out is not None:
        _write_results(flags, sets, scores, comparisons, measure, metadata)
        print(flags.out)


def _print_table(comparisons, share):
    """Prints the figures of all methods, and what they come to."""
    from tf_realnvp import detection

    rows = [["method", "AUROC", "AUPR", "false alarms at 95 %", "than chance"]]
    for name, comparison in comparisons.items():
        figures = [
            f"{value:.3f} ({low:.3f}-{high:.3f})"
            for value, low, high in comparison
        ]
        rows.append([name, *figures, _against_chance(comparison.auroc)])
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


def _against_chance(auroc):
    if auroc.low > 0.5:
        return "better"
    return "worse" if auroc.high < 0.5 else "no better"


def _write_results(flags, sets, scores, comparisons, measure, metadata):
    """Writes all files into the folder; others there stay as they are."""
    import numpy as np

    from tf_realnvp import bit_maps, detection, plots

    folder = pathlib.Path(flags.out)
    figures = detection.Comparison._fields
    ends = ("", "_low", "_high")
    _write_csv(
        folder / "table.csv",
        ["method", *(figure + end for figure in figures for end in ends)],
        [
            [name, *itertools.chain.from_iterable(comparison)]
            for name, comparison in comparisons.items()
        ],
    )
    both = [(flag, sets[flag]) for flag in ("normal", "unusual")]
    _write_csv(
        folder / "scores.csv",
        ["set", "picture", *scores],
        [
            [flag, name, *values]
            for index, (flag, pictures) in enumerate(both)
            for name, *values in zip(
                pictures.names,
                *(columns[index].tolist() for columns in scores.values()),
                strict=True,
            )
        ],
    )
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
        maps.append(bit_maps.smooth(measure.maps(images[-1], flags.seed)))
    plots.save_rows(
        folder / "pictures.png",
        rows,
        f"by the method {detection.DEFAULT}",
        metadata.num_colors,
    )
    plots.save_bit_maps(
        folder / "maps.png",
        np.concatenate(images),
        np.concatenate(maps),
        "bits",
        metadata.num_colors,
        titles=titles,
    )
