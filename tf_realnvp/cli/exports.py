"""The commands that write a model for programs without TensorFlow."""

import argparse
import functools
import http.server
import pathlib
import webbrowser

import numpy as np

from tf_realnvp.analysis import detection
from tf_realnvp.cli.commands import check_context
from tf_realnvp.cli.detection import fit_reference
from tf_realnvp.cli.image_sets import MIN_IMAGES, Loader
from tf_realnvp.errors import UsageError
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.serving import formats
from tf_realnvp.utils.console import say


def export(flags: argparse.Namespace, model: RealNVP) -> None:
    """Writes the files of a format."""
    reference, seed = None, flags.seed
    if flags.reference is not None:
        check_context(model)
        loader = Loader(model, flags.data_dir, flags.max_images, seed, True)
        normal = loader.load("reference", flags.reference, "test", MIN_IMAGES)
        measure = detection.Measurer(model)
        reference = fit_reference(model, measure, normal, seed)
    options = flags.format, reference, seed
    for name in formats.save(model, flags.out, *options):
        say(f"{flags.out}/{name}")


def explore(flags: argparse.Namespace, model: RealNVP) -> None:
    """Writes a web page, and opens it."""
    if model.values.file_dtype != np.uint8:
        raise UsageError("the page shows models of files of 8 bits only")
    if model.context_shape and model.observe != "mask":
        raise UsageError(f"{flags.model} takes a context that the page lacks")
    from tf_realnvp.serving import explorer  # It imports ONNX, an extra.

    bits: list[float] = []
    if flags.dataset:
        loader = Loader(model, flags.data_dir, flags.max_images, flags.seed)
        images = loader.load("dataset", flags.dataset, "test").images
        say(f"scoring {len(images):,} images")
        log_prob = detection.Measurer(model)(images, flags.seed).log_prob
        bits = model.values.per_dim(log_prob, model.num_dims).tolist()
    title = pathlib.Path(flags.model).resolve().name
    say("converting the model to ONNX, which takes a few minutes")
    explorer.write(model, flags.out, title, bits, flags.package)
    say(f"{flags.out}/index.html")
    if flags.open:
        _serve(flags.out)


def _serve(folder):
    """Serves a folder to this machine, and opens it in a browser."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=folder
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        say(f"{address} (Ctrl+C ends it)")
        webbrowser.open(address)
        server.serve_forever()
