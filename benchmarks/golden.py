"""Records what the package does, as seen from outside, and compares it later.

    python -m benchmarks.golden record ../golden.json   # before a refactoring
    python -m benchmarks.golden compare ../golden.json  # after each step

`record` runs the code of the current folder on digits and writes what comes out
to a file: batches, weights after some steps, files, exit codes and output of
commands, log-densities and samples. `compare` runs the code again, prints each
difference, and ends with 1 if there is one. Results must be equal to the last
bit, so a record holds for one machine and the same versions of all packages.
Only public entry points are called (CONTRIBUTING.md, "To refactor").
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import shlex
import sys
import tempfile

import numpy as np
from PIL import Image

from benchmarks import measuring

os.environ |= {
    "TF_NUM_INTRAOP_THREADS": "1",  # Sums depend on the number of threads.
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "80",
}
_TRAIN = (
    "train --dataset digits --seed 0 --filters 4 --num_blocks 1 --lr 1e-3 "
    "--channel_masks alternating --num_couplings 1,1,1 --batch_size 32 "
    "--max_steps 50 --devices 1 --output_dir ."
)
# Command lines, by the part that runs them. Each part has a process and a
# folder of its own. The first line trains `realnvp_digits`.
_COMMANDS = {
    "plain": [
        f"{_TRAIN} --ema 0.9 --num_validation 100 --precision float32",
        "sample realnvp_digits --n 6 --temperature 0.7 --seed 1 --out a.png",
        "evaluate realnvp_digits --max_images 50 --importance_samples 2",
        "interpolate realnvp_digits normal/00.png normal/01.png --steps 4",
        "score realnvp_digits normal --maps maps --max_maps 2 --out a.csv",
        "detect realnvp_digits --unusual noise --fit digits --max_images 24",
        # These end with an error.
        f"{_TRAIN} --image_size 3",
        f"{_TRAIN} --lr nan",
        f"{_TRAIN} --batch_size 2000 --run_dir other",
        f"{_TRAIN} --num_couplings 3,3",
        f"{_TRAIN} --init_from normal --run_dir other",
        "train --dataset ./missing --devices 1",
        "unknown",
        "sample normal",
        "sample realnvp_digits --out missing/a.png",
        "interpolate realnvp_digits normal/00.png",
        "interpolate realnvp_digits normal/00.png broken.png",
    ],
    "classes": [
        f"{_TRAIN} --conditional --precision bfloat16 --lr_schedule cosine "
        "--clip_grad 1",
        "sample realnvp_digits --label 3 --n 2 --seed 1 --out folder/",
    ],
    "contexts": [
        f"{_TRAIN} --observe mask --precision float32",
        "restore realnvp_digits normal/00.png --mask noise/00.png --out out/",
        f"{_TRAIN} --dataset fields.npz --precision float32 --recompute",
        "evaluate realnvp_fields --max_images 5",
        "sample realnvp_fields --context one.npz --n 2 --seed 1 --out a.npy",
    ],
}
_results: dict[str, object] = {}


def main() -> None:
    """Records, or compares; ends with 1 if there is a difference."""
    flags = measuring.parse_flags(__doc__, "action", "file")
    file = pathlib.Path(flags.file)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(measuring.new_process()) for _ in _COMMANDS
        ]
        parts = [
            process.submit(run, name)
            for process, name in zip(processes, _COMMANDS, strict=True)
        ]
        after = {k: v for part in parts for k, v in part.result().items()}
    if flags.action == "record":
        file.write_text(json.dumps(after, indent=1))
        return
    before = json.loads(file.read_text())
    names = before | after
    different = [n for n in names if before.get(n) != after.get(n)]
    for name in different:
        print(f"{name}\n  was {before.get(name)}\n  is  {after.get(name)}")
    print(f"{len(different)} of {len(names)} results differ")
    sys.exit(bool(different))


def run(part: str) -> dict[str, object]:
    """Runs a part in an empty folder.

    Args:
      part: A key of `_COMMANDS`.

    Returns:
      The results by name.
    """
    from tf_realnvp.utils import runtime

    runtime.configure()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_images()
        for line in _COMMANDS[part]:
            add_command(f"{part}/{line.replace(_TRAIN, 'train')}", line)
        add_model(part)
        if part == "plain":
            add_datasets()
        elif part == "classes":
            add_training()
    return _results


def make_images() -> None:
    """Writes images to the current folder."""
    from sklearn import datasets

    rng = np.random.default_rng(0)
    digits = (datasets.load_digits().images * 15).astype(np.uint8)
    noise = rng.integers(256, size=(24, 8, 8), dtype=np.uint8)
    colors = rng.integers(256, size=(40, 8, 12, 3), dtype=np.uint8)
    np.savez("colors.npz", images=colors)
    contexts = {
        "context_a": rng.normal(size=(60, 2)),
        "context_b": rng.normal(size=(60, 4, 4, 1)),
    }
    np.savez("fields.npz", images=rng.normal(size=(60, 8, 8)), **contexts)
    np.savez("one.npz", **{k: values[0] for k, values in contexts.items()})
    for folder, images in (("normal", digits[:24]), ("noise", noise)):
        pathlib.Path(folder).mkdir()
        for index, pixels in enumerate(images):
            Image.fromarray(pixels).save(f"{folder}/{index:02}.png")
    pathlib.Path("broken.png").write_text("no image")


def add(name: str, value) -> None:
    """Adds a result; a hash of arrays, or of a list of them.

    Args:
      name: Its name.
      value: What JSON can hold, or arrays.
    """
    if isinstance(value, str):  # Neither this folder nor times, which vary.
        value = value.replace(str(pathlib.Path.cwd()), "")
        value = re.sub(r".* images/s, .*\n|\b\d[\d.,]* s\b", "", value)
    elif not isinstance(value, int | None):
        arrays = value if isinstance(value, list) else [value]
        arrays = [np.asarray(array) for array in arrays]
        content = hashlib.sha256()
        for array in arrays:
            content.update(f"{array.dtype}{array.shape}".encode())
            content.update(array.tobytes())
        total = sum(float(np.sum(a, dtype=np.float64)) for a in arrays)
        first = f"{arrays[0].dtype}{list(arrays[0].shape)}"
        digest = content.hexdigest()[:16]
        value = f"{len(arrays)} x {first}, sum {total:.10g}, {digest}"
    _results[name] = value


def add_file(name: str, path: pathlib.Path) -> None:
    """Adds that there is a file, and its content if that is stable."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            add(name, np.asarray(image))
    elif path.suffix == ".csv":
        add(name, path.read_text())
    elif path.suffix == ".json":
        content = json.loads(path.read_text())
        content.pop("versions", None)
        add(name, json.dumps(content, sort_keys=True))
    elif ".tfevents." in path.name:
        add(f"{name.partition('.tfevents.')[0]}.tfevents", "there")
    elif "checkpoints" not in path.parts:  # They depend on the time.
        add(name, "there")


def add_command(name: str, line: str) -> None:
    """Runs a command line; adds its exit code, output and files."""
    from tf_realnvp.cli.main import main

    def list_files():
        paths = filter(pathlib.Path.is_file, pathlib.Path().rglob("*"))
        return {(path, path.stat().st_mtime_ns) for path in paths}

    before = list_files()
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code = main(shlex.split(line))
        except SystemExit as error:
            code = error.code
    add(f"{name}/code", code)
    add(f"{name}/stdout", stdout.getvalue())
    add(f"{name}/stderr", stderr.getvalue())
    for path, _ in sorted(list_files() - before):
        add_file(f"{name}/{path}", path)


def add_datasets() -> None:
    """Adds batches and descriptions of data sets."""
    import tensorflow as tf

    from tf_realnvp import data

    for name, settings in {
        "digits": {"labels": True, "flip": True, "image_size": (4, 6)},
        "colors.npz": {"num_bits": 5, "image_size": 6},
        "normal": {},
    }.items():
        dataset = data.load(name, **settings)
        add(f"data/{name}/fingerprint", dataset.fingerprint)
        add(f"data/{name}/metadata", json.dumps(dataset.metadata, default=str))
        dataset = dataset.hold_out(4, seed=3)
        for kind, batches in {
            "train": dataset.train_batches(8, seed=5, epoch=1, skip=1),
            "validation": dataset.batches("validation", 3),
            "test": dataset.batches("test", 7),
        }.items():
            arrays = []
            for batch in batches.as_numpy_iterator():
                arrays += tf.nest.flatten(batch)
            add(f"data/{name}/{kind}", arrays)


def add_model(name: str) -> None:
    """Adds what a model and its SavedModel compute."""
    import tensorflow as tf

    import tf_realnvp

    model = tf_realnvp.load("realnvp_digits")
    saved = tf.saved_model.load("realnvp_digits")
    add(f"{name}/weights", [variable.numpy() for variable in model.variables])
    images = tf_realnvp.data.load("digits").take("test", range(5))
    label = [np.array([3, 1, 4, 1, 5])] * (model.num_classes is not None)
    latents = saved.encode(images, *label)
    for what, value in {
        "log_prob": model.log_prob(images, 7, *label),
        "sample": model.sample(5, temperature=0.8, seed=3),
        "SavedModel/log_prob": saved.log_prob(images, 7),
        "SavedModel/encode": latents,
        "SavedModel/decode": saved.decode(1.3 * latents, *label),
        "SavedModel/sample": saved.sample(5, 0.7, 4, *label),
    }.items():
        add(f"{name}/{what}", value.numpy())


def add_training() -> None:
    """Adds metrics and weights of `tf_realnvp.train` on an array."""
    import keras

    import tf_realnvp

    keras.utils.set_random_seed(0)
    model = tf_realnvp.RealNVP(
        (8, 12, 3),
        filters=4,
        num_blocks=1,
        num_couplings=(1, 1, 1),
        dequantization="variational",
    )
    history = tf_realnvp.train(
        model,
        np.load("colors.npz")["images"],
        batch_size=8,
        max_steps=9,
        seed=3,
        precision="float32",
        progress=False,
    )
    add("train/history", repr(history))
    add("train/weights", [variable.numpy() for variable in model.variables])


if __name__ == "__main__":
    main()
