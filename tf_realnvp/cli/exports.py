"""The command that writes a model in other formats."""

import argparse
import importlib.util

from tf_realnvp.cli import arguments
from tf_realnvp.cli.arguments import argument, command
from tf_realnvp.serving import metadata
from tf_realnvp.utils import runtime
from tf_realnvp.utils.checks import Folder, OneOf
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import say


@command(
    "models/realnvp_fashion_mnist --format onnx --out clothes",
    argument(
        "--format", "format of the files", OneOf(("onnx", "tflite")), "onnx"
    ),
    argument("--out", "folder for the files", Folder(), "exported"),
)
def export(flags: argparse.Namespace) -> None:
    """Write a model for programs without TensorFlow.

    onnx: decode.onnx maps latents to images, and score.onnx maps images to
    bits/dim, latents and bit maps, for any batch size. tflite: decode.tflite
    maps the latents of a single image to the image.
    """
    arguments.check_output(flags.out, is_folder=True)
    metadata.read(flags.model)
    if flags.format == "onnx":
        _check_packages()
    model = _load(flags.model)
    from tf_realnvp.serving import formats

    for name in formats.save(model, flags.out, flags.format):
        say(f"{flags.out}/{name}")


def _check_packages():
    """Checks that the optional packages are installed."""
    if not all(map(importlib.util.find_spec, ("onnx", "tf2onnx"))):
        raise UsageError(
            "ONNX takes more packages: pip install 'tf_realnvp[onnx]'"
        )


def _load(path):
    runtime.configure()
    from tf_realnvp.serving import weights

    return weights.load_model(path)


COMMANDS = (export,)
