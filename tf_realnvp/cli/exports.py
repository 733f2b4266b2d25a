"""The commands that write a model for programs without TensorFlow."""

import argparse
import functools
import importlib.util
import pathlib

import numpy as np

import tf_realnvp
from tf_realnvp.cli import arguments, image_sets
from tf_realnvp.cli.arguments import argument, command
from tf_realnvp.cli.image_sets import Loader
from tf_realnvp.errors import UsageError
from tf_realnvp.utils.console import say
from tf_realnvp.utils.ranges import Folder, OneOf, Switch


@command(
    "models/realnvp_fashion_mnist --format onnx --out clothes",
    argument("--format", "file format", OneOf(("onnx", "tflite")), "onnx"),
    argument("--out", "folder for the files", Folder(), "exported"),
)
def export(flags: argparse.Namespace) -> None:
    """Write a model for programs without TensorFlow.

    onnx: decode.onnx maps latents to images, and score.onnx maps images to
    bits/dim, latents and bit maps, for any batch size. tflite: decode.tflite
    maps the latents of a single image to the image.
    """
    arguments.check_output(flags.out, is_folder=True)
    if flags.format == "onnx":
        _check_packages()
    model = _open(flags.model)
    from tf_realnvp.serving import formats

    for name in formats.save(model, flags.out, flags.format):
        say(f"{flags.out}/{name}")


@command(
    "models/realnvp_fashion_mnist --dataset fashion_mnist --open",
    image_sets.argument(
        "--dataset", "test images for a histogram of bits/dim (default: none)"
    ),
    image_sets.max_images("--dataset", 2, 1000),
    arguments.DATA_DIR,
    arguments.seed("of the noise, and of the images of --max_images"),
    argument("--out", "folder for the page", Folder(), "page"),
    argument("--open", "open the page, served on this machine only", Switch()),
    notes=image_sets.HELP,
)
def explore(flags: argparse.Namespace) -> None:
    """Write a web page that shows what a model does.

    The page draws images, moves between them, shows them as other classes,
    scores the images of a visitor, and shows the image after each coupling. All
    of it runs in the browser. The folder can be published on any web server.
    """
    arguments.check_output(flags.out, is_folder=True)
    _check_packages()
    npm = pathlib.Path(tf_realnvp.__file__).parent / "serving" / "explorer"
    package = npm / "node_modules" / "onnxruntime-web"
    if not package.is_dir():
        raise UsageError(f"first install its runtime: npm ci --prefix {npm}")
    model = _open(flags.model)
    if model.context_shape and model.observe != "mask":
        raise UsageError(f"{flags.model} takes a context that the page lacks")
    from tf_realnvp.serving import explorer

    bits: list[float] = []
    if flags.dataset:
        loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
        images = loader.load("dataset", flags.dataset, "test").images
        say(f"scoring {len(images):,} images")
        measure = tf_realnvp.detection.Measurer(model)
        log_prob = measure(images, flags.seed).log_prob
        bits = model.values.per_dim(log_prob, model.num_dims).tolist()
    title = pathlib.Path(flags.model).resolve().name
    say("converting the model to ONNX, which takes a few minutes")
    explorer.write(model, flags.out, title, bits, package)
    say(f"{flags.out}/index.html")
    if flags.open:
        _serve(flags.out)


def _open(path):
    """Loads a model, and checks that its images are bytes."""
    model = arguments.open_model(path)
    if model.values.dtype != np.uint8:
        raise UsageError(f"{path} is not of at most 256 levels, as exports are")
    return model


def _check_packages():
    """Checks that the optional packages are installed."""
    if not all(map(importlib.util.find_spec, ("onnx", "tf2onnx"))):
        raise UsageError("first install ONNX: pip install '.[onnx]'")


def _serve(folder):
    """Serves a folder to this machine, and opens it in a browser."""
    import http.server
    import webbrowser

    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=folder
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        say(f"{address} (Ctrl+C ends it)")
        webbrowser.open(address)
        server.serve_forever()


COMMANDS = (export, explore)
