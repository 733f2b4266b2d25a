# ruff: noqa: E501 (tables of command lines)
"""Records what the package does, seen from outside, and compares it later.

    python -m benchmarks.golden record FOLDER [--data_dir DIR] [--only NAME ...]
    python -m benchmarks.golden compare FOLDER [--only NAME ...] [--strict]

`record` runs the code of the checkout that it is started in and writes what
comes out to a folder, which should lie outside of the repository. `compare`
runs the code of the checkout that *it* is started in, prints each difference
from the record, and exits with 1 if there is one. So a refactoring is checked:
record before it, compare after each step.

There are two kinds of results. Numbers, files, hashes and exit codes (NAME.json
in the folder) must be the same to the last bit. Texts, such as help, messages
and figures with words in them (NAME.txt), may change on purpose: a diff of them
is printed, and counts only with `--strict`.

The sections are

    batches    batches and fingerprints of every kind of data set
    weights    what the training command writes, for many settings
    python     RealNVP, load, train, the exchange of weights with PyTorch
    serving    functions and signatures of the SavedModel
    commands   what the commands on a model write and print
    help       --help
    errors     exit codes and messages of bad command lines

`--only` takes the name of a section, or the beginning of a result's name, such
as `weights/ema`; of a record that is there, `record` then replaces that part.
Commands and serving start from models in the record's folder, so a change in
training does not show in them.

A record holds on the machine where it was made, and with the same versions of
all packages: other processors round differently. Everything runs with one
thread for each operation (TF_NUM_INTRAOP_THREADS=1), as sums depend on the
number of threads. Only public entry points are called, so that the same program
runs on both sides of a refactoring. The data sets of TensorFlow Datasets are
read if `--data_dir` names a folder that has them.
"""

import argparse
import contextlib
import csv
import difflib
import hashlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

os.environ |= {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "80",
}
CHECKOUT = pathlib.Path.cwd()
sys.path.insert(0, str(CHECKOUT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402


def table(text: str) -> dict[str, str]:
    """Returns what follows the colons in the lines of a text, by what is before."""
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


TINY = (
    "--dataset digits --seed 0 --filters 4 --num_blocks 1 --num_couplings 1,1,2 "
    "--lr 1e-3 --batch_size 32 --max_steps 20 --devices 1 --precision float32"
)
# The models that commands and serving start from; TINY comes before the flags.
MODELS = table("""
plain: --num_couplings 3,3,4
classes: --num_couplings 1,1,2 --conditional --dequantization variational
""")
# Those in the repository.
PUBLISHED = ("realnvp_fashion_mnist", "realnvp_fashion_mnist_classes")
# Settings of the training command; TINY comes before all but the first.
TRAININGS = table("""
documented: --dataset digits --seed 0 --max_steps 20 --devices 1 --precision float32
plain: --num_couplings 3,3,4
variational: --dequantization variational
classes: --conditional --verbose
ema: --ema 0.9 --accumulate 3
validation: --num_validation 100 --batch_size 128
all: --conditional --dequantization variational --ema 0.9 --num_validation 100
recompute: --accumulate 2 --recompute
bfloat16: --precision bfloat16 --recompute --dequantization variational
bfloat16_classes: --precision bfloat16 --conditional --ema 0.9 --accumulate 3
two_cpus: --devices 2 --conditional --dequantization variational
two_cpus_bfloat16: --devices 2 --precision bfloat16 --accumulate 2 --num_validation 50 --deterministic
scales: --num_scales 3 --num_couplings 1,2,1 --alpha 0.05
schedule: --dataset colors.npz --num_bits 5 --flip --image_size 8x12 --lr_schedule cosine --warmup_steps 5 --clip_grad 0.5 --batch_size 8
folder: --dataset kinds --image_size 8 --conditional --batch_size 4
warm_start: --init_from models/plain --num_couplings 4,3,4 --conditional --dequantization variational
""")
COMMANDS = table("""
sample: sample models/plain --n 6 --seed 1 --out a.png
sample_folder: sample models/plain --n 5 --temperature 0.7 --seed 2 --out new/
sample_label: sample models/classes --label 3 --n 4 --seed 1 --out a.png
sample_all: sample models/classes --label all --n 2 --seed 3 --out a.png
sample_mixture: sample models/classes --n 4 --seed 3
sample_published: sample {checkout}/models/realnvp_fashion_mnist --n 2 --seed 1
evaluate: evaluate models/plain --max_images 50
evaluate_file: evaluate models/plain --dataset digits.npz --batch_size 7
evaluate_draws: evaluate models/plain --dataset digits --seed 4 --importance_samples 3 --max_images 30
evaluate_classes: evaluate models/classes --importance_samples 3 --max_images 40 --batch_size 16
interpolate: interpolate models/plain 0.png 1.png --steps 5
interpolate_label: interpolate models/classes 0.png 1.png --label 2 --steps 4 --out a.png
interpolate_likeliest: interpolate models/classes 0.png 1.png
manifold: manifold models/plain 0.png 1.png 2.png 3.png --size 4
reconstruct: reconstruct models/plain 0.png 1.png --draws 2 --seed 5
reconstruct_classes: reconstruct models/classes 0.png 1.png --draws 2
translate: translate models/classes 0.png 1.png
translate_label: translate models/classes 0.png --label 4
direction: direction models/plain --with digits:3 --without digits:7 --max_images 60 --steps 5 --seed 2
direction_classes: direction models/classes --with kinds/noise --without normal --apply 0.png 1.png --strength -1 1 --steps 3
score: score models/plain incoming
score_classes: score models/classes incoming --seed 3
score_maps: score models/plain incoming --maps maps --max_maps 2
score_reference: score models/plain incoming --reference normal --maps maps --max_maps 3 --seed 1
score_reference_classes: score models/classes incoming --reference digits --max_images 30 --out b.csv
detect: detect models/plain --unusual kinds/noise --normal normal --fit digits --max_images 40 --out found
detect_classes: detect models/classes --unusual kinds/noise --max_images 24 --seed 1
""")
HELP = [
    "",
    "train",
    *dict.fromkeys(line.split()[0] for line in COMMANDS.values()),
]
# Bad command lines; those of the first text follow `train` and small settings.
BAD_TRAININGS = """
--image_size 3|--image_size 0|--image_size 8x|--image_size 8x7|--image_size x|--image_size 5000|--num_bits 0
--num_bits 9|--num_bits 5|--num_validation 0|--num_validation 1437|--epochs 0|--epochs x|--epochs 1.5|--lr 0|--lr -1
--lr nan|--lr inf|--lr_schedule linear|--warmup_steps -1|--ema 0|--ema 1|--ema x|--batch_size 0|--batch_size 2000
--clip_grad 0|--seed -1|--seed 4294967296|--seed x|--max_steps 0|--filters 3|--filters 0|--num_blocks 0
--num_blocks -1|--alpha 0|--alpha 1|--alpha 1e-9|--num_scales 1|--num_scales 5|--num_couplings 3,3
--num_couplings 0,1,1|--num_couplings a|--num_couplings 3|--dequantization none|--precision float16|--precision tf32
--accumulate 0|--accumulate 33|--devices 0|--devices 500|--checkpoint_minutes 0|--samples_every 0|--flip 1|--unknown
--epoch 3|--dataset|--lr|extra|--init_from missing|--init_from normal|--init_from models/plain --filters 8
--init_from models/classes|--dataset missing.npz|--dataset ./missing|--dataset no_such_data_set|--dataset broken.npz
--dataset floats.npy|--dataset empty|--dataset one|--dataset normal --conditional|--dataset colors.npz --conditional
--dataset text.npy|--output_dir 0.png|--output_dir 0.png/in|--output_dir models/plain|--run_dir 0.png|--run_dir what?
--run_dir models/plain|--output_dir what?|--run_dir normal|--dataset digits --image_size 300
"""
BAD_COMMANDS = """
|unknown|sample|sample missing|sample normal|sample models/plain --n 0|sample models/plain --n x
sample models/plain --temperature -1|sample models/plain --temperature 3e38 --seed 1|sample models/plain --label 3
sample models/classes --label cat|sample models/plain --out a.jpg|sample models/plain --out missing/a.png
sample models/plain --out 0.png/a.png|sample models/plain --out models/plain/a.png|sample models/plain --seed -1
sample models/plain --temp 1|sample damaged_model|evaluate models/plain --x|evaluate models/plain --dataset colors.npz
evaluate models/plain --batch_size 0|evaluate models/plain --dataset no_such_data_set
evaluate models/plain --importance_samples 0|evaluate models/plain --dataset ./missing
evaluate models/classes --dataset normal|evaluate models/classes --dataset kinds|interpolate models/plain 0.png
interpolate models/plain 0.png missing.png|interpolate models/plain 0.png text.png
interpolate models/plain 0.png normal|interpolate models/plain 0.png 1.png --steps 0
interpolate models/plain 0.png 1.png --out 0.png|interpolate models/plain 0.png 1.png --out normal
manifold models/plain 0.png 1.png 2.png|manifold models/plain 0.png 1.png 2.png 3.png --size 1
reconstruct models/plain 0.png --draws 0|reconstruct models/plain|translate models/plain 0.png
translate models/classes 0.png --label cat|direction models/plain --with normal
direction models/plain --with normal --without missing|direction models/plain --with normal --without normal
direction models/plain --with digits:3 --without digits:cat
direction models/plain --with digits:3 --without digits:7 --steps 1
direction models/plain --with digits:3 --without digits:7 --strength 1
direction models/plain --with one --without normal|score models/plain missing|score models/plain empty
score models/plain text|score models/plain incoming --out a.png|score models/plain incoming --max_maps 2
score models/plain incoming --max_images 30|score models/plain incoming --reference one
score models/plain incoming --reference missing|score models/plain incoming --maps incoming
score models/plain incoming --maps 0.png|detect models/plain|detect models/plain --unusual missing
detect models/plain --unusual one|detect models/plain --unusual kinds/noise --fit one
detect models/plain --unusual kinds/noise --max_images 5|detect models/plain --unusual kinds/noise --out 0.png
detect models/plain --unusual kinds/noise --out kinds/noise/in|detect models/plain --unusual normal --normal normal
"""
WORDS_IN_FIGURES = re.compile(
    r"(loss_.*|histograms|pictures|images|maps)\.png|maps/.*\.png"
)


def digest(*arrays) -> str:
    """Returns a hash of arrays, with what helps to see how far they are off."""
    arrays = [np.asarray(array) for array in arrays]
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype}{array.shape}".encode())
        content.update(array.tobytes())
    shapes = " ".join(f"{a.dtype}{list(a.shape)}" for a in arrays[:3])
    more = f" and {len(arrays) - 3} more" if len(arrays) > 3 else ""
    total = sum(float(np.sum(a, dtype=np.float64)) for a in arrays)
    return f"{shapes}{more}, sum {total:.10g}, {content.hexdigest()[:16]}"


def spell(value) -> str:
    """Returns what JSON knows as a line."""
    return json.dumps(value, sort_keys=True, default=dict)


def flat(value, name=""):
    """Yields the leaves of what JSON knows, with their paths."""
    if isinstance(value, dict):
        for key, inner in sorted(value.items()):
            yield from flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, spell(value)


class Record:
    """What comes out: results that must be the same, and texts.

    Attributes:
      results: Values by names, `SECTION/...`.
      texts: The same of texts.
      only: What names begin with; all are wanted if there are none.
      workspace: The folder where everything runs.
      data_dir: Folder of TFDS's data sets, if there is one.
    """

    def __init__(self, workspace, data_dir=None, only=()):
        self.results, self.texts = {}, {}
        self.only, self.workspace, self.data_dir = only, workspace, data_dir

    def wants(self, name: str) -> bool:
        """Returns whether a result, or some that begin so, are asked for."""
        return not self.only or any(
            name.startswith(some) or some.startswith(f"{name}/")
            for some in self.only
        )

    def item(self, function, name, *arguments):
        """Lets a function add what begins with a name, if that is wanted."""
        if self.wants(name):
            try:
                function(self, name, *arguments)
            except Exception as error:
                self.add(f"{name}/raised", f"{type(error).__name__}: {error}")

    def add(self, name, value):
        """Adds a result; of arrays, or a list of them, their hash."""
        if not isinstance(value, str | bool | int | float | None):
            is_list = isinstance(value, list | tuple)
            value = digest(*value) if is_list else digest(value)
        self.results[name] = self.scrub(value)

    def add_text(self, name, text):
        """Adds a text."""
        self.texts[name] = self.scrub(text.strip("\n"))

    def scrub(self, value):
        """Takes times and places of this very run out of a text."""
        if not isinstance(value, str):
            return value
        value = value.replace(str(self.workspace), "<WORKSPACE>")
        value = value.replace(str(CHECKOUT), "<CHECKOUT>")
        value = "".join(
            line
            for line in value.splitlines(keepends=True)
            if "images/s" not in line  # Of a progress bar.
        )
        return re.sub(r"\b\d[\d.,]* s\b", "<TIME> s", value)

    def add_file(self, name, path):
        """Adds the content of a file."""
        if path.suffix == ".png":
            with Image.open(path) as image:
                pixels = digest(np.asarray(image))
            if WORDS_IN_FIGURES.search(name):
                self.add_text(name, pixels)
            else:
                self.add(name, pixels)
        elif path.suffix == ".csv":
            for number, row in enumerate(csv.reader(path.open())):
                self.add(f"{name}:{number}", ",".join(row))
        elif path.suffix == ".json":
            for key, value in flat(json.loads(path.read_text())):
                if not key.startswith("versions"):
                    self.add(f"{name}:{key}", value)

    def call(self, name, main, line):
        """Runs a command line here; adds its exit code, and what it prints."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            try:
                code = main(shlex.split(line))
            except SystemExit as error:
                code = error.code
            except Exception as error:
                code = f"raised {type(error).__name__}: {error}"
        self.add(f"{name}/code", code)
        self.add_text(f"{name}/stdout", stdout.getvalue())
        self.add_text(f"{name}/stderr", stderr.getvalue())
        return code, stdout.getvalue(), stderr.getvalue()


# --- The inputs ---


def make_inputs():
    """Writes arrays and image files into the current folder."""
    from sklearn import datasets

    rng = np.random.default_rng(0)
    digits = datasets.load_digits()
    levels = digits.images.astype(np.uint8)
    np.savez("digits.npz", images=levels[:60], num_colors=17)
    np.save("gray.npy", rng.integers(256, size=(45, 8, 8), dtype=np.uint8))
    colors = rng.integers(256, size=(40, 10, 14, 3), dtype=np.uint8)
    np.savez("colors.npz", images=colors)
    np.savez(
        "splits.npz",
        train=colors[:30, :8, :8],
        test=colors[30:, :8, :8],
        train_labels=np.arange(30)[:, None] % 3,
        test_labels=np.arange(10) % 3,
    )
    np.save("floats.npy", np.zeros([4, 8, 8], np.float32))
    pathlib.Path("broken.npz").write_bytes(b"PK nothing")
    pathlib.Path("text.npy").write_text("no array")
    pathlib.Path("text.png").write_text("no image")
    for folder in ("empty", "one", "text", "damaged_model", "normal", "odd"):
        pathlib.Path(folder).mkdir()
    pathlib.Path("text", "a.png").write_text("no image")
    pathlib.Path("damaged_model", "saved_model.pb").write_bytes(b"")
    pathlib.Path("damaged_model", "metadata.json").write_text("{")

    def write(path, pixels, **settings):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **settings)

    gray = (levels * 15).astype(np.uint8)
    write("one/a.png", gray[0])
    for index in range(4):
        write(f"{index}.png", gray[index])
    for index in range(40):
        write(f"normal/{index:02}.png", gray[100 + index])
    for index in range(8):
        write(f"incoming/digit_{index}.png", gray[200 + index])
    for index in range(24):
        noise = rng.integers(256, size=(8, 8), dtype=np.uint8)
        write(f"kinds/noise/{index}.png", noise)
        write(f"kinds/digits/in/{index}.png", gray[300 + index])
        if index < 4:
            write(f"incoming/noise {index}.png", noise)
    pathlib.Path("incoming", "text.png").write_text("no image")
    for kind in ("train/a", "train/b", "test/a", "test/b"):
        for index in range(6):
            pixels = rng.integers(256, size=(11, 9 + index, 3), dtype=np.uint8)
            write(f"photos/{kind}/{index}.jpg", pixels, quality=90)
    # What cameras and scanners make, and damage.
    pixels = rng.integers(256, size=(8, 12, 4), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = f"odd/turned_{orientation}.jpg"
        write(path, pixels[:8, :8, :3], quality=95, exif=exif)
    write("odd/alpha.png", pixels)
    write("odd/deep.png", np.arange(96, dtype=np.uint16).reshape(8, 12) * 500)
    Image.fromarray(pixels[..., :3]).quantize(8).save("odd/palette.png")
    Image.fromarray(pixels[..., 0] > 99).save("odd/bits.png")
    Image.fromarray(pixels).convert("CMYK").save("odd/cmyk.jpg")
    Image.fromarray(pixels).save("odd/other.tiff")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save("odd/moves.png", save_all=True, append_images=frames[1:])
    jpeg = pathlib.Path("odd/turned_1.jpg").read_bytes()
    pathlib.Path("odd/cut_off.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    pathlib.Path("odd/tail.jpg").write_bytes(jpeg + b"some bytes")
    inside = jpeg[:-2] + b"some bytes" + jpeg[-2:]
    pathlib.Path("odd/faulty.jpg").write_bytes(inside)
    png = pathlib.Path("odd/alpha.png").read_bytes()
    pathlib.Path("odd/cut_off.png").write_bytes(png[: len(png) // 2])
    pathlib.Path("odd/.hidden.png").write_bytes(png)
    pathlib.Path("odd/notes.txt").write_text("no image")


# --- Sections ---


def batches(record: Record):
    """Batches, fingerprints and descriptions of data sets."""
    sources = {
        "digits": {"name": "digits"},
        "digits_all": {
            "name": "digits",
            "image_size": (4, 6),
            "flip": True,
            "labels": True,
        },
        "npy": {"name": "gray.npy"},
        "npz_sized": {"name": "colors.npz", "image_size": 6, "flip": True},
        "npz_levels": {"name": "digits.npz"},
        "npz_splits": {"name": "splits.npz", "labels": True, "num_bits": 3},
        "npz_unlabelled": {"name": "splits.npz"},
        "folder": {"name": "normal", "flip": True},
        "folder_classes": {"name": "kinds", "labels": True},
        "folder_splits": {
            "name": "photos",
            "labels": True,
            "image_size": (6, 8),
            "num_bits": 5,
        },
        "folder_splits_default": {"name": "./photos"},
        "folder_odd": {"name": "odd"},
        "folder_odd_small": {"name": "odd", "image_size": 4},
    }
    if record.data_dir is not None:
        tfds = {"data_dir": record.data_dir}
        fashion = {"name": "fashion_mnist", "labels": True, "flip": True} | tfds
        sources |= {
            "tfds_fashion": fashion,
            "tfds_cifar": {"name": "cifar10", "num_bits": 5} | tfds,
        }
    for name, arguments in sources.items():
        record.item(_add_dataset, f"batches/{name}", arguments)


def _add_dataset(record, name, arguments):
    from tf_realnvp import data

    dataset = data.load(**arguments)
    for field in ("name", "fingerprint", "source", "flip"):
        record.add(f"{name}/{field}", getattr(dataset, field))
    for field in ("image_shape", "num_colors", "num_train", "num_test"):
        record.add(f"{name}/{field}", str(getattr(dataset, field)))
    for field in ("class_names", "class_probs", "metadata", "load_settings"):
        record.add(f"{name}/{field}", spell(getattr(dataset, field)))
    record.add(f"{name}/skipped", str(sorted(dataset.skipped)))
    record.add_text(
        f"{name}/skipped", str(dict(sorted(dataset.skipped.items())))
    )

    def add(what, batches, most=None):
        parts = [
            part.numpy()
            for batch in (batches if most is None else batches.take(most))
            for part in (batch if isinstance(batch, tuple) else (batch,))
        ]
        record.add(f"{name}/{what}", parts)

    is_large = dataset.num_train > 10_000
    size = 256 if is_large else 4
    record.add(f"{name}/initial", dataset.initial_images(7).numpy())
    add("epoch 3, some", dataset.train_batches(size, 0, 3, skip=2), 3)
    record.add(f"{name}/taken", dataset.take("train", [3, 0, 4]))
    if not name.endswith("tfds_cifar"):  # It takes too long as a whole.
        add("epoch 0", dataset.train_batches(size, 5, 0))
        add("epoch 1", dataset.train_batches(size, 5, 1))
        add("epoch 1, skip", dataset.train_batches(size, 5, 1, skip=3), 5)
        add("test", dataset.batches("test", size))
    if not is_large:
        add("again 0", dataset.train_batches(size, 5, 0, skip=1))
        add("test again", dataset.batches("test", size + 3))
        add("some test", dataset.sample_test(3, 1).batches("test", 2))
        rest = dataset.hold_out(4, seed=3)
        add("held out", rest.batches("validation", 3))
        add("rest 0", rest.train_batches(size, 1, 0))
        add("rest 1", rest.train_batches(size, 1, 1, skip=1))
        add("rest, initial", [rest.initial_images(2)])
        if dataset.num_colors == 256:
            add("bits", dataset.keep_bits(2).train_batches(size, 0, 0))


def weights(record: Record):
    """What the training command writes."""
    for name, flags in TRAININGS.items():
        if name != "documented":
            flags = f"{TINY} {flags}"
        record.item(_train, f"weights/{name}", flags)
    record.item(_train_in_parts, "weights/in_parts")


def _train_in_parts(record, name):
    """Trains as "all", the second part from the middle of an epoch on."""
    flags = f"{TINY} {TRAININGS['all']}"
    _train(record, name, f"{flags} --max_steps 7")
    shutil.rmtree(f"results/{name}")
    _train(record, name, f"{flags} --resume")


def _train(record, name, flags):
    """Trains; adds everything that is written."""
    import tensorflow as tf

    import tf_realnvp
    from tf_realnvp.cli.main import train_main

    output = pathlib.Path("results", name)
    run = pathlib.Path("runs", name)
    line = f"{flags} --output_dir {output} --run_dir {run}"
    if "--devices 2" in line:
        # The number of logical CPUs is that of a process.
        result = subprocess.run(
            [sys.executable, CHECKOUT / "run.py", *shlex.split(line)],
            capture_output=True,
            text=True,
        )
        record.add(f"{name}/code", result.returncode)
        record.add_text(f"{name}/stdout", result.stdout)
        record.add_text(f"{name}/stderr", result.stderr)
    else:
        record.call(name, train_main, line)
    for root in (output, run):
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        names = [
            re.sub(r"(events.out.tfevents).*", r"\1", str(path))
            for path in paths
            if "checkpoints" not in path.parts
        ]
        record.add(f"{name}/files of {root.parts[0]}", " ".join(names))
        for path in paths:
            file = path.relative_to(root)
            record.add_file(f"{name}/{root.parts[0]}/{file}", path)
    models = list(output.glob("realnvp_*"))
    for model in models:
        reader = tf.train.load_checkpoint(str(model / "variables/variables"))
        for key, dtype in sorted(reader.get_variable_to_dtype_map().items()):
            if dtype != tf.string:
                value = reader.get_tensor(key)
                record.add(f"{name}/weights of the SavedModel/{key}", value)
    if models and "ema" in flags:
        model = tf_realnvp.load(run)
        record.add(f"{name}/weights of the run", _values(model))


def _values(model):
    return [variable.numpy() for variable in model.variables]


def _make(**settings):
    import keras

    import tf_realnvp

    keras.utils.set_random_seed(0)
    small = {"filters": 4, "num_blocks": 1, "num_couplings": (1, 1, 2)}
    return tf_realnvp.RealNVP((8, 8, 1), 17, **small | settings)


def _load_levels():
    """Returns images of digits, and labels of three classes."""
    levels = np.load("digits.npz")["images"]
    return levels, np.arange(len(levels)) % 3


def python(record: Record):
    """What a Python program does with models and arrays."""
    import tensorflow as tf

    import tf_realnvp

    tf.get_logger().setLevel("ERROR")  # It warns of retracing.
    levels, labels = _load_levels()
    pairs = tf.data.Dataset.from_tensor_slices((levels[..., None], labels))
    digits = tf_realnvp.data.load("digits", labels=True)
    classes = {"num_classes": 3, "class_probs": (0.5, 0.25, 0.25)}
    variational = {"dequantization": "variational"}
    scales = {"num_scales": 3, "num_couplings": (1, 1, 1)}
    average = {"labels": labels, "ema": 0.9, "num_validation": 9}
    bfloat16 = {"recompute": True, "precision": "bfloat16"}
    for name, model, data, settings in (
        ("array", {}, levels, {"flip": True}),
        ("array_with_labels", classes | variational, levels, average),
        ("tf_data", {}, pairs, {"lr": 1e-3, "accumulate": 2}),
        ("tf_data_batches", classes, pairs.batch(7), {"epochs": 1}),
        ("data_set", {"num_classes": 10}, digits, {"max_steps": 9}),
        ("recompute", variational | scales, levels, bfloat16),
    ):
        record.item(
            _add_training, f"python/train/{name}", model, data, settings
        )
    record.item(_add_run_dir, "python/run_dir")
    record.item(_add_pytorch, "python/pytorch")
    for saved in MODELS:
        record.item(_add_model, f"python/model/{saved}", f"models/{saved}")
    for saved in PUBLISHED:
        record.item(_add_published_model, f"python/model/{saved}", saved)

    RealNVP, train = tf_realnvp.RealNVP, tf_realnvp.train
    for name, function in {
        "odd shape": lambda: RealNVP((7, 8, 1)),
        "odd filters": lambda: RealNVP((8, 8, 1), filters=3),
        "colors": lambda: RealNVP((8, 8, 1), num_colors=300),
        "alpha": lambda: RealNVP((8, 8, 1), alpha=1.0),
        "scales": lambda: RealNVP((8, 8, 1), num_scales=6),
        "probabilities": lambda: _make(num_classes=2, class_probs=(0.5, 0.6)),
        "no model": lambda: tf_realnvp.load("missing"),
        "no data set": lambda: tf_realnvp.data.load("./missing"),
        "floats": lambda: train(_make(), levels / 17),
        "other shape": lambda: train(_make(), levels[:, :4]),
        "high levels": lambda: train(_make(), levels + 9),
        "labels": lambda: train(_make(), levels, labels=labels),
        "epochs": lambda: train(_make(), levels, epochs=0),
        "batch": lambda: train(_make(), levels, batch_size=99),
        "levels": lambda: _make().log_prob(levels[:2, ..., None] + 9),
        "no label": lambda: _make(**classes).encode(levels[:2, ..., None]),
    }.items():
        record.item(_add_error, f"python/errors/{name}", function)


def _add_error(record, name, function):
    try:
        function()
    except Exception as error:
        record.add(name, type(error).__name__)
        record.add_text(name, str(error))
    else:
        record.add(name, "no error")


_SETTINGS = {
    "epochs": 2,
    "batch_size": 8,
    "progress": False,
    "seed": 3,
    "precision": "float32",
}


def _add_training(record, name, model, data, settings):
    import tf_realnvp

    model = _make(**model)
    record.add(f"{name}/made", _values(model))

    def on_epoch(metrics):
        record.add(f"{name}/weights {metrics.epoch}", _values(model))

    history = tf_realnvp.train(
        model, data, on_epoch=on_epoch, **_SETTINGS | settings
    )
    for metrics in history:
        record.add(f"{name}/history {metrics.epoch}", repr(metrics))
        bits = spell(metrics.bits_per_dim())
        record.add(f"{name}/bits {metrics.epoch}", bits)
    record.add(f"{name}/trained", _values(model))
    record.add(f"{name}/metadata", spell(model.metadata))


def _add_run_dir(record, name):
    """Trains in two calls, the second of which goes on with the first."""
    import tf_realnvp

    levels, _ = _load_levels()
    for max_steps in (5, 12):
        model = _make()
        settings = {"max_steps": max_steps, "run_dir": "a run"}
        history = tf_realnvp.train(model, levels, **_SETTINGS | settings)
    for metrics in history:
        record.add(f"{name}/history {metrics.epoch}", repr(metrics))
    record.add(f"{name}/trained", _values(model))
    record.add_file(f"{name}/run.json", pathlib.Path("a run/run.json"))
    at_once = _make()
    tf_realnvp.train(at_once, levels, **_SETTINGS | {"max_steps": 12})
    record.add(f"{name}/trained at once", _values(at_once))


def _add_pytorch(record, name):
    import tf_realnvp

    model = tf_realnvp.load("models/plain")
    tf_realnvp.pytorch.save_weights(model, "torch.npz")
    for key, value in np.load("torch.npz").items():
        record.add(f"{name}/{key}", value)
    again = tf_realnvp.pytorch.load_model("torch.npz", (8, 8, 1), 17)
    record.add(f"{name}/again", _values(again))


def _add_published_model(record, name, saved):
    import tf_realnvp

    model = tf_realnvp.load(CHECKOUT / "models" / saved)
    images = model.sample(3, seed=1).numpy()
    record.add(f"{name}/sample", images)
    record.add(f"{name}/log_prob", model.log_prob(images, 2).numpy())


def _add_model(record, name, path):
    """Adds what a model computes."""
    import tf_realnvp

    model = tf_realnvp.load(path)
    images = _load_levels()[0][:5, ..., None]
    has_classes = model.num_classes is not None
    label = {"label": np.array([3, 1, 4, 1, 5])} if has_classes else {}
    record.add(f"{name}/config", spell(model.get_config()))
    record.add(f"{name}/metadata", spell(model.metadata))
    record.add(f"{name}/weights", _values(model))
    for what, value in {
        "log_prob": model.log_prob(images, seed=1),
        "log_prob, label": model.log_prob(images, seed=1, **label),
        "encode": (latents := model.encode(images, **label)),
        "decode": model.decode(latents, **label),
        "decode, moved": model.decode(1.3 * latents, **label),
        "sample": model.sample(5, temperature=0.8, seed=3),
        "sample, label": model.sample(5, seed=4, **label),
        "points": (points := model.dequantize(images, seed=(1, 2))),
        "log_density": model.log_density(points, **label),
        "initial": model.clone().log_density(points, **label),
    }.items():
        record.add(f"{name}/{what}", value.numpy())
    if not has_classes:
        points = model.dequantize(images, seed=(1, 2))
        record.add(
            f"{name}/distribution", model.distribution.log_prob(points).numpy()
        )
        bijector = model.bijector
        base = bijector.inverse(points)
        record.add(f"{name}/inverse", base.numpy())
        ldj = bijector.forward_log_det_jacobian(base, event_ndims=3)
        record.add(f"{name}/ldj", ldj.numpy())


def serving(record: Record):
    """Functions and signatures of a SavedModel that is written anew."""
    for saved in MODELS:
        record.item(_add_saved, f"serving/{saved}", saved)
    for saved in PUBLISHED:
        record.item(_add_published, f"serving/{saved}", saved)


def _add_saved(record, name, saved):
    import tensorflow as tf

    import tf_realnvp

    path = pathlib.Path("saved", saved)
    tf_realnvp.load(f"models/{saved}").save(path)
    record.add_file(f"{name}/metadata.json", path / "metadata.json")
    model = tf.saved_model.load(str(path))
    images = _load_levels()[0][:5, ..., None]
    label = (np.array([3, 1, 4, 1, 5]),) if saved == "classes" else ()
    latents = model.encode(images, *label)
    results = {
        "log_prob": model.log_prob(images, 7),
        "log_prob, lists": model.log_prob(images.tolist(), 7),
        "log_prob, large seed": model.log_prob(images, 2**63 + 5),
        "log_prob_each": model.log_prob_each(images, list(range(5))),
        "bits_per_dim": model.bits_per_dim(images, 7),
        "encode": latents,
        "decode": model.decode(latents, *label),
        "decode, moved": model.decode(1.5 * latents, *label),
        "sample": model.sample(4, seed=1),
        "sample, all": model.sample(5, 0.7, 3, *label),
    }
    if label:
        results |= {
            "classify": model.classify(images, 7),
            "classify, other": model.classify(images, 8),
            "log_prob, label": model.log_prob(images, 7, *label),
            "log_prob, one label": model.log_prob(images, 7, 3),
            "bits_per_dim, label": model.bits_per_dim(images, 7, *label),
            "each, label": model.log_prob_each(images, [1] * 5, *label),
        }
    for what, value in results.items():
        record.add(f"{name}/{what}", value.numpy())
    once, twice = (model.log_prob(images).numpy() for _ in range(2))
    record.add(f"{name}/fresh noise", not np.array_equal(once, twice))
    _add_signatures(record, name, model, images, latents, label)


def _add_published(record, name, saved):
    import tensorflow as tf

    path = CHECKOUT / "models" / saved
    record.add_file(f"{name}/metadata.json", path / "metadata.json")
    model = tf.saved_model.load(str(path))
    record.add(f"{name}/signatures", str(sorted(model.signatures)))
    images = model.sample(2, seed=1)
    record.add(f"{name}/sample", images.numpy())
    record.add(f"{name}/log_prob", model.log_prob(images, 1).numpy())


def _add_signatures(record, name, model, images, latents, label):
    import tensorflow as tf

    inputs = {
        "images": tf.constant(images),
        "latents": latents,
        "n": tf.constant(4),
        "temperature": tf.constant(0.9),
        "seed": tf.constant(3, tf.int64),
    }
    if label:
        inputs["label"] = tf.constant(label[0])
    for key, signature in sorted(model.signatures.items()):
        takes = signature.structured_input_signature[1]
        given = {}
        for argument, spec in takes.items():
            value = tf.cast(inputs[argument], spec.dtype)
            is_one = argument == "label" and key == "sample"
            given[argument] = value[:4] if is_one else value
        what = f"{name}/signature {key}"
        types = {k: spec.dtype.name for k, spec in sorted(takes.items())}
        record.add(f"{what}/inputs", str(types))
        shapes = {k: str(spec.shape) for k, spec in sorted(takes.items())}
        record.add_text(f"{what}/shapes", str(shapes))
        try:
            outputs = signature(**given)
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            record.add(f"{what}/error", type(error).__name__)
            record.add_text(f"{what}/error", str(error))
            continue
        for output, value in sorted(outputs.items()):
            is_noisy = key in ("serving_default", "classify")
            value = value.numpy()
            # Scores draw fresh noise: it is small beside what is scored.
            value = f"{value.dtype}{value.shape}" if is_noisy else value
            record.add(f"{what}/{output}", value)


def commands(record: Record):
    """What the commands on a model write and print."""
    for name, line in COMMANDS.items():
        record.item(_add_command, f"commands/{name}", line)


def _add_command(record, name, line):
    from tf_realnvp.cli.main import main

    folder = pathlib.Path(name)
    folder.mkdir(parents=True)
    inputs = set(record.workspace.iterdir()) - {record.workspace / "commands"}
    for path in inputs:
        (folder / path.name).symlink_to(path)
    with contextlib.chdir(folder):
        record.call(name, main, line.format(checkout=CHECKOUT))
    for path in sorted(folder.iterdir()):
        if not path.is_symlink():
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                file_name = f"{name}/{file.relative_to(folder)}"
                record.add(f"{file_name} is there", True)
                record.add_file(file_name, file)


def help_(record: Record):
    """What --help prints."""
    from tf_realnvp.cli.main import main, train_main

    for command in HELP:
        record.call(f"help/{command or 'program'}", main, f"{command} --help")
    record.call("help/run.py", train_main, "--help")


def errors(record: Record):
    """Exit codes and messages of bad command lines."""
    from tf_realnvp.cli.main import main, train_main

    def add(name, main, line):
        if record.wants(name):
            _, stdout, stderr = record.call(name, main, line)
            record.add(f"{name}/lines of stdout", len(stdout.splitlines()))
            record.add(f"{name}/lines of stderr", len(stderr.splitlines()))

    for line in BAD_TRAININGS.strip().replace("\n", "|").split("|"):
        small = (
            "--dataset digits --filters 4 --num_blocks 1 --max_steps 1 --seed 0"
        )
        add(f"errors/train {line}", train_main, f"{small} {line}")
    for line in BAD_COMMANDS.strip().replace("\n", "|").split("|"):
        add(f"errors/{line}", main, line)


SECTIONS = {
    "batches": batches,
    "weights": weights,
    "python": python,
    "serving": serving,
    "commands": commands,
    "help": help_,
    "errors": errors,
}


# --- The program ---


def observe(models, data_dir, only, sections=SECTIONS) -> Record:
    """Runs sections in an empty folder, which has the models of the record."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        record = Record(pathlib.Path(folder).resolve(), data_dir, only)
        make_inputs()
        if models is not None:
            shutil.copytree(models, "models")
        for name, section in sections.items():
            if record.wants(name):
                start = time.monotonic()
                section(record)
                print(f"# {name}: {time.monotonic() - start:.0f} s", flush=True)
        return record


def make_models(folder):
    """Returns a section that trains models, and copies them to a folder."""

    def section(record):
        for name, flags in MODELS.items():
            _train(record, name, f"{TINY} {flags} --max_steps 100")
            shutil.copytree(f"results/{name}/realnvp_digits", folder / name)

    return section


def read(folder, section):
    """Returns the results and the texts of a section of a record."""
    path = folder / f"{section}.json"
    if not path.exists():
        return {}, {}
    text = path.with_suffix(".txt").read_text()
    parts = re.split(r"(?m)^=== (.*)\n", text)
    contents = (content.strip("\n") for content in parts[2::2])
    texts = dict(zip(parts[1::2], contents, strict=True))
    return json.loads(path.read_text()), texts


def record_command(flags):
    """Writes a record."""
    models = flags.folder / "models"
    if not models.exists():
        models.mkdir(parents=True)
        settings = {"data_dir": flags.data_dir}
        (flags.folder / "settings.json").write_text(json.dumps(settings))
        observe(None, None, (), {"models": make_models(models)})
    settings = json.loads((flags.folder / "settings.json").read_text())
    for section in SECTIONS:
        only = [
            name
            for name in flags.only or SECTIONS
            if name.split("/")[0] == section
        ]
        if not only:
            continue
        record = observe(models, settings["data_dir"], only)
        before = read(flags.folder, section)
        results, texts = (
            {name: old[name] for name in old if not record.wants(name)} | new
            for old, new in zip(
                before, (record.results, record.texts), strict=True
            )
        )
        path = flags.folder / f"{section}.json"
        path.write_text(json.dumps(results, indent=1))
        lines = [f"=== {name}\n{text}\n" for name, text in texts.items()]
        (flags.folder / f"{section}.txt").write_text("\n".join(lines))
        print(f"{len(results):,} results, {len(texts):,} texts")
    return 0


def compare_command(flags):
    """Compares with a record; returns the exit code."""
    settings = json.loads((flags.folder / "settings.json").read_text())
    record = observe(
        flags.folder / "models", settings["data_dir"], flags.only or ()
    )
    before, texts = {}, {}
    for section in filter(record.wants, SECTIONS):
        of_section = read(flags.folder, section)
        before, texts = before | of_section[0], texts | of_section[1]
    num_compared, num_results, num_texts = 0, 0, 0
    for name in filter(record.wants, before | record.results):
        num_compared += 1
        was, is_ = before.get(name), record.results.get(name)
        if was != is_:
            num_results += 1
            print(f"{name}\n  was {was}\n  is  {is_}")
    for name in filter(record.wants, texts | record.texts):
        was, is_ = texts.get(name, ""), record.texts.get(name, "")
        if was != is_:
            num_texts += 1
            lines = difflib.unified_diff(
                was.splitlines(), is_.splitlines(), lineterm="", n=0
            )
            print(f"text {name}", *list(lines)[2:], sep="\n  ")
    print(
        f"{num_results:,} of {num_compared:,} results differ, and "
        f"{num_texts:,} texts"
    )
    return int(num_results > 0 or (flags.strict and num_texts > 0))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("record")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--data_dir", type=os.path.abspath)
    command.add_argument("--only", nargs="+", metavar="NAME")
    command.set_defaults(run=record_command)
    command = commands.add_parser("compare")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--only", nargs="+", metavar="NAME")
    command.add_argument("--strict", action="store_true")
    command.set_defaults(run=compare_command)
    flags = parser.parse_args()
    flags.folder = flags.folder.resolve()
    return flags.run(flags)


if __name__ == "__main__":
    sys.exit(main())
