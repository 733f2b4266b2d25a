"""What commands on a saved model look like to who types them.

The docstring of a function is the `--help` of its command. Its body checks what
can be checked before TensorFlow is imported. What the command does is in a
module that is imported after that, in a function of the same name.
"""

import argparse
import importlib.util
import itertools
import pathlib

from tf_realnvp.cli import arguments, shards
from tf_realnvp.cli.arguments import SEED, File, ImageSet, argument, command
from tf_realnvp.errors import UsageError
from tf_realnvp.serving import metadata
from tf_realnvp.utils import ranges
from tf_realnvp.utils.ranges import Folder, RealNumber, WholeNumber

NPM = pathlib.Path(__file__).parents[1] / "serving" / "explorer"
_SETS = """
D is a folder (all images, including sub-folders), a NumPy file (all images), or
the name of a data set as for training (its test images). A folder or file that
has training images of the model, wherever it is now, is split as in training.
D:CLASS selects the images with the label CLASS, such as fashion_mnist:Pullover.
"""


@command(
    "commands",
    "realnvp_digits --n 36 --temperature 0.8 --seed 1 --out grid.png",
    argument("--n", WholeNumber(1)),
    argument("--temperature", RealNumber(includes_low=True), 1.0),
    argument("--label"),
    arguments.CONTEXT,
    argument("--seed", SEED),
    argument("--shard", shards.Shards()),
    argument("--out", File(".png", ".npy", or_folder=True), "samples.png"),
)
def sample(flags: argparse.Namespace) -> None:
    """Draw new images.

    Many processes can share the work. Each gets another I of --shard I/N, from
    1 to N, and all other arguments alike. Their files together, in order, have
    the images that one process draws. A part is of whole batches of 64 images.

    Flags:
      n: number of images; per class with --label all (default: 36, or the rows
        of --context; 8 with --label all)
      temperature: factor on the standard deviation of the latents
      label: class of the images, for a model with classes (default: drawn for
        each image; all: a row per class)
      seed: seed of the images (default: drawn at random and printed)
      shard: draw part I of N of the images; a file of --out gets I and N in its
        name
      out: PNG file for a grid of all images, or .npy file of the images; or a
        folder, such as new/, for one PNG file per image, at its original size
    """
    new = "" if flags.shard else "sample_*.*"  # Other shards write there.
    arguments.check_output(flags.out, new=new)
    if flags.shard is not None and flags.seed is None:
        raise UsageError("argument --shard: give all shards the same --seed")
    flags.context = arguments.read_context(flags.context)


@command(
    "commands",
    "realnvp_digits --dataset digits --importance_samples 16",
    argument("--dataset"),
    arguments.DATA_DIR,
    argument("--max_images", WholeNumber(2)),
    argument("--importance_samples", WholeNumber(1), 1),
    argument("--batch_size", WholeNumber(1), 64),
    argument("--seed", SEED, 0),
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

    Flags:
      dataset: data set (default: that of the model's training)
      max_images: use N test images (default: all)
      importance_samples: noise samples per image
      batch_size: images per batch
      seed: seed of the noise, and of the images of --max_images
    """


@command(
    "commands",
    "realnvp_digits a.png b.png --steps 8 --out strip.png",
    arguments.images(nargs=2),
    argument("--label"),
    argument("--steps", WholeNumber(2, 10_000), 8),
    argument("--out", File(".png"), "interpolation.png"),
)
def interpolate(flags: argparse.Namespace) -> None:
    """Interpolate between two images in the latent space.

    Draws a strip of images by spherical interpolation between the latents of
    the two given images, which are at its ends.

    Flags:
      label: class of the images, for a model with classes (default: the
        likeliest class of all images together)
      steps: images in the strip
      out: PNG file for the strip
    """
    arguments.check_output(flags.out, inputs=flags.images)


@command(
    "commands",
    "realnvp_digits a.png b.png c.png d.png --size 8 --out grid.png",
    arguments.images(nargs=4),
    argument("--label"),
    argument("--size", WholeNumber(2, 1000), 8),
    argument("--out", File(".png"), "manifold.png"),
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

    Flags:
      label: class of the images, for a model with classes (default: the
        likeliest class of all images together)
      size: rows and columns of the grid
      out: PNG file for the grid
    """
    arguments.check_output(flags.out, inputs=flags.images)


@command(
    "commands",
    "realnvp_digits a.png b.png --draws 6 --out grid.png",
    arguments.images(),
    argument("--label"),
    argument("--draws", WholeNumber(1, 10_000), 6),
    argument("--seed", SEED, 0),
    argument("--out", File(".png"), "reconstructions.png"),
)
def reconstruct(flags: argparse.Namespace) -> None:
    """Show what is left of images when the fine latents are resampled.

    Draws a row per image: the image; its exact reconstruction from all of its
    latents; and reconstructions in which the latents that are factored out
    first, which hold the finest detail, are resampled. They show what the
    remaining latents represent.

    Flags:
      label: class of the images, for a model with classes (default: the
        likeliest class of each image)
      draws: samples per image
      seed: seed of the samples
      out: PNG file for the grid
    """
    arguments.check_output(flags.out, inputs=flags.images)


@command(
    "commands",
    "models/realnvp_fashion_mnist a.png b.png --out grid.png",
    arguments.images(),
    argument("--label"),
    argument("--out", File(".png"), "translations.png"),
)
def translate(flags: argparse.Namespace) -> None:
    """Translate images to other classes.

    Draws a row per image: the image, and its latents decoded with each class of
    the model. The latents hold what does not depend on the class, such as
    brightness, texture and pose. With its own class, the image is recovered.

    Flags:
      label: class of the images, for a model with classes (default: the
        likeliest class of each image)
      out: PNG file for the grid
    """
    arguments.check_output(flags.out, inputs=flags.images)


@command(
    "commands",
    "realnvp_faces --with smiling --without serious --apply face.jpg",
    argument("--with", ImageSet(), required=True),
    argument("--without", ImageSet(), required=True),
    arguments.images("--apply"),
    argument(
        "--strength",
        RealNumber(low=-ranges.FLOAT32_MAX),
        nargs=2,
        metavar=("FROM", "TO"),
    ),
    argument("--steps", WholeNumber(2, 10_000), 9),
    argument("--max_images", WholeNumber(2), 2000),
    argument("--label"),
    arguments.DATA_DIR,
    argument("--seed", SEED, 0),
    argument("--out", File(".png"), "direction.png"),
    notes=_SETS,
)
def direction(flags: argparse.Namespace) -> None:
    """Move images along the difference between two sets of images.

    The direction is the difference of the mean latents of the two sets. Draws a
    row per image, moved by several strengths: 0 is the image, and 1 is the
    distance between the two means. To show whether the direction is meaningful,
    prints how well it separates held-out images of the two sets. With a model
    with classes, images are moved within their class.

    Flags:
      with: images with an attribute
      without: images without it
      apply: PNG, JPEG or TIFF files, or .npy files of real numbers (default: 4
        images of --without)
      strength: lowest and highest strength (default: -2 2)
      steps: number of images per row
      max_images: use at most N images of each set
      label: class of the images, for a model with classes (default: the
        likeliest class of each image)
      seed: seed of the sampling of images
      out: PNG file for the rows
    """
    sets = vars(flags)["with"], flags.without
    arguments.check_output(flags.out, inputs=(*(flags.apply or ()), *sets))


@command(
    "detection",
    "realnvp_digits my_images --out scores.csv",
    argument("folder", Folder()),
    argument("--reference", ImageSet()),
    argument("--max_images", WholeNumber(20), 4000),
    argument("--fdr", RealNumber(below=1.0)),
    argument("--alarm", RealNumber(below=1.0)),
    argument("--maps", Folder()),
    argument("--max_maps", WholeNumber(1), 100),
    arguments.DATA_DIR,
    arguments.CONTEXT,
    argument("--seed", SEED, 0),
    argument("--shard", shards.Shards()),
    argument("--merge", WholeNumber(1)),
    argument("--out", File(".csv"), "scores.csv"),
    notes=_SETS,
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
    too small to see in a single image. With --fdr or --alarm, the column
    flagged is 1 for the images that are flagged, and 0 for the others.

    A model that was trained with --tiles scores whole images of any size, by
    tiles that cover them: log_prob is the mean of an image's tiles, and its
    score by each method the highest of them.

    Many processes can share the work. Each gets another I of --shard I/N, from
    1 to N, and all other arguments alike. When all have ended, the same command
    with --merge N writes what one process would have written.

    Flags:
      folder: folder of images, without sub-folders
      reference: normal images that the model was not trained on
      max_images: use at most N images of the reference
      fdr: flag images so that, on average, at most this share of the flagged is
        normal, such as 0.05
      alarm: flag this share of normal images, such as 0.01, and all that are as
        anomalous
      maps: folder for heat maps of the first images: bits, or with --reference
        deviations from normal images
      max_maps: number of heat maps
      seed: seed of the noise, and of the split of --reference
      shard: score part I of N of the files; --out gets I and N in its name
      merge: join what N shards wrote in --out
      out: CSV file
    """
    arguments.check_output(flags.out)
    if flags.maps is not None:
        if flags.shard is not None:
            raise UsageError("argument --maps: give it with --merge instead")
        sets = flags.folder, flags.reference
        arguments.check_output(flags.maps, "--maps", sets, True, "map_*.png")
    for name in ("fdr", "alarm"):
        if getattr(flags, name) is not None and flags.reference is None:
            raise UsageError(f"argument --{name}: give it with --reference")
    if flags.fdr is not None and flags.alarm is not None:
        raise UsageError("argument --alarm: give it without --fdr")
    if flags.shard is not None and flags.merge is not None:
        raise UsageError("argument --merge: give it without --shard")
    with arguments.naming("DIR"):
        flags.paths = arguments.list_files(flags.folder)
    flags.part, flags.tables = slice(None), []
    if flags.shard is not None:
        flags.part = flags.shard.part(len(flags.paths))
        flags.out = flags.shard.path(flags.out)
    if flags.merge is not None:
        with arguments.naming("--merge"):
            flags.tables = shards.open_tables(flags.out, flags.merge)
    flags.context = arguments.read_context(flags.context)


@command(
    "detection",
    "realnvp_parts --normal good_parts --unusual bad_parts --out detect",
    argument("--normal", ImageSet()),
    argument("--unusual", ImageSet(), required=True),
    argument("--fit", ImageSet()),
    argument("--max_images", WholeNumber(20), 2000),
    arguments.DATA_DIR,
    argument("--seed", SEED, 0),
    argument("--out", Folder()),
    notes=_SETS,
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

    Flags:
      normal: normal images (default: test images of the model's data)
      unusual: anomalous images
      fit: other normal images, which the methods are fitted to (default:
        training images of the model's data)
      max_images: use at most N images of each set
      seed: seed of the noise, the sampling and the bootstrap
      out: folder for tables, histograms and images
    """
    if flags.out is not None:
        sets = flags.fit, flags.normal, flags.unusual
        arguments.check_output(flags.out, inputs=sets, as_folder=True)


@command(
    "restore",
    "models/realnvp_fashion_mnist_masks torn.png --out grid.png",
    arguments.images(),
    argument("--mask", Folder(), metavar="PNG"),
    argument("--samples", WholeNumber(1, 1000), 16),
    argument("--reference", ImageSet()),
    argument("--interval", RealNumber(below=1.0), 0.9),
    argument("--max_images", WholeNumber(20), 200),
    arguments.DATA_DIR,
    argument("--label"),
    argument("--seed", SEED, 0),
    argument("--out", File(".png", or_folder=True), "restored.png"),
)
def restore(flags: argparse.Namespace) -> None:
    """Fill in what is missing in images, or undo what a model observes.

    The model is one that was trained with --observe. Of a model of masks, the
    transparent pixels of a PNG file are missing, and what --mask says; the
    known pixels stay as they are. The model draws samples of what it does not
    see, and the restoration averages them with its estimate of their mean. The
    spread is their standard deviation.

    With --reference, there are also the lower and the upper ends of intervals.
    They hold the truth at 90 % of the missing pixels (--interval), if the
    images are like the reference, which is made to miss the same.

    Flags:
      images: PNG, JPEG or TIFF files, or a folder of them
      mask: PNG file of the size of the images; what is above half of its
        highest value, such as white, is missing in all of them
      samples: number of samples per image
      reference: whole images that the model was not trained on
      interval: share of the missing pixels whose interval holds the truth
      max_images: use at most N images of the reference
      label: class of the images, for a model with classes (default: drawn)
      seed: seed of the samples
      out: PNG file for a figure of all images; or a folder, such as new/, for
        PNG files of the size of the images
    """
    inputs = (*flags.images, flags.mask, flags.reference)
    arguments.check_output(flags.out, inputs=inputs, new="*_restored.png")
    content = metadata.read(flags.model)
    if content["num_colors"] is None:
        raise UsageError("real numbers are restored in Python alone")
    if content.get("observe") is None:
        raise UsageError(
            f"{flags.model} observes nothing: train a model of masks from it, "
            f"by --observe mask --init_from {flags.model}, or take "
            "examples/posterior.py"
        )
    names = metadata.class_names(content)
    flags.label = arguments.find_label(flags.label, names)
    with arguments.naming("IMAGE"):
        paths = map(pathlib.Path, flags.images)
        each = [
            arguments.list_files(path) if path.is_dir() else [path]
            for path in paths
        ]
        flags.paths = [*itertools.chain.from_iterable(each)]
        if len({path.stem for path in flags.paths}) < len(flags.paths):
            raise UsageError("two files have the same name")


@command(
    "exports",
    "models/realnvp_fashion_mnist --format onnx --out clothes",
    argument("--format", ranges.OneOf(("onnx", "tflite")), "onnx"),
    argument("--reference", ImageSet()),
    argument("--max_images", WholeNumber(20), 4000),
    arguments.DATA_DIR,
    argument("--seed", SEED, 0),
    argument("--out", Folder(), "exported"),
    notes=_SETS,
)
def export(flags: argparse.Namespace) -> None:
    """Write a model for programs without TensorFlow.

    onnx: decode.onnx maps latents to images, and score.onnx maps images to
    bits/dim, latents and bit maps, for any batch size. tflite: decode.tflite
    maps the latents of a single image to the image. With --reference, a set of
    normal images, detect.onnx maps images to anomaly scores, p-values and bit
    maps, as `score` does; of a model of tiles, it maps tiles.

    Flags:
      format: file format
      reference: normal images that the model was not trained on
      max_images: use at most N images of the reference
      seed: seed of the noise, and of the split of --reference
      out: folder for the files
    """
    arguments.check_output(flags.out, as_folder=True)
    if flags.format == "onnx":
        _check_packages()
    elif flags.reference is not None:
        raise UsageError("argument --reference: it needs --format onnx")


@command(
    "exports",
    "models/realnvp_fashion_mnist --dataset fashion_mnist --open",
    argument("--dataset", ImageSet()),
    argument("--max_images", WholeNumber(2), 1000),
    arguments.DATA_DIR,
    argument("--seed", SEED, 0),
    argument("--out", Folder(), "page"),
    argument("--open", ranges.Switch()),
    notes=_SETS,
)
def explore(flags: argparse.Namespace) -> None:
    """Write a web page that shows what a model does.

    The page draws images, moves between them, shows them as other classes,
    scores the images of a visitor, and shows the image after each coupling. All
    of it runs in the browser. The folder can be published on any web server.

    Flags:
      dataset: test images for a histogram of bits/dim (default: none)
      max_images: use at most N images of --dataset
      seed: seed of the noise, and of the images of --max_images
      out: folder for the page
      open: open the page, served on this machine only
    """
    arguments.check_output(flags.out, as_folder=True)
    _check_packages()
    flags.package = NPM / "node_modules" / "onnxruntime-web"
    if not flags.package.is_dir():
        raise UsageError(f"first install its runtime: npm ci --prefix {NPM}")


def _check_packages():
    """Checks that the optional packages are installed."""
    if not all(map(importlib.util.find_spec, ("onnx", "tf2onnx"))):
        raise UsageError("first install ONNX: pip install '.[onnx]'")


COMMANDS = (
    *(sample, evaluate, interpolate, manifold, reconstruct, translate),
    *(direction, score, detect, restore, export, explore),
)
