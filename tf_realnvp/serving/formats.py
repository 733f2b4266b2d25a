"""Export to ONNX and TensorFlow Lite, for programs without TensorFlow.

Functions of a model are exported:

*   `decode(latents)`: `images`, uint8 `[n, H, W, C]`, of float32 latents
    `[n, H / 2, W / 2, 4 * C]`.
*   `score(images, noise)`, of uint8 images and float32 noise in [0, 1), both
    `[n, H, W, C]`: `log_prob` in nats and `bits_per_dim`, float32 `[n]`;
    `latents`, those of `images + noise`, from which `decode` recovers the
    images; and `map`, float32 `[n, H, W]`, the code length of each position in
    bits.
*   `detect(images, coded_bits)`, with normal images to compare with: `score`
    and `p_value`, float64 `[n]`, as by `detection.Reference`, and `map`. The
    code length of each image under lossless coders, float64 `[n]`, is as by
    `detection.coded_bits`.

With classes, the first two also take `label`, int32 `[n]`; with a context
`context`, float32 `[n, *context_shape]`, or `context_NAME` for each of several.
Random numbers are inputs, since a seed means something else in every runtime,
but for `detect`, which adds the same noise to all images. Inputs are not
checked.
"""

import functools
import inspect
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp import __version__
from tf_realnvp.analysis import bit_maps, detection, measuring
from tf_realnvp.errors import UsageError
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.utils import files

# The version of ONNX's operations: that of 2022, which runtimes of today have.
_OPSET = 18


def save(
    model: RealNVP,
    folder: str | os.PathLike,
    format: str = "onnx",
    reference: detection.Reference | None = None,
    seed: int = 0,
) -> list[str]:
    """Writes the functions of a model, one file each.

    Args:
      model: The model.
      folder: Folder of the files, created if necessary. Files of the same names
        are replaced.
      format: "onnx" for `decode.onnx` and `score.onnx`, for any batch size; or
        "tflite" for `decode.tflite`, for a single image.
      reference: Normal images, for `detect.onnx`; of a model without a context.
      seed: Seed of the noise with which they were measured.

    Returns:
      The names of the files.

    Raises:
      UsageError: If the images of the model are not bytes.
    """
    if model.values.dtype != np.uint8:
        raise UsageError("only models of at most 256 levels can be exported")
    contents = {}
    if format == "tflite":
        contents["decode.tflite"] = to_tflite(model)
    else:
        for function in (decode, score):
            contents[f"{function.__name__}.onnx"] = to_onnx(model, function)
        if reference is not None:
            nothing = np.zeros([1, *model.image_shape], np.uint8)
            noise = model.dequantize_each(nothing, [seed]).numpy()
            function = functools.partial(
                detect, reference=reference, constant=noise
            )
            contents["detect.onnx"] = to_onnx(model, function)
    with files.replace_files(folder) as new:
        for name, content in contents.items():
            (new / name).write_bytes(content)
    return [*contents]


def decode(
    model: RealNVP, latents: tf.Tensor, **condition: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The exported function `decode`."""
    return {"images": model.decode(latents, **condition)}


def score(
    model: RealNVP, images: tf.Tensor, noise: tf.Tensor, **condition: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The exported function `score`."""
    points = tf.cast(images, tf.float32) + noise
    costs, latents = bit_maps.costs_and_latents(model, points, **condition)
    maps = tf.reduce_sum(costs, axis=[1, 2])
    log_prob = -tf.reduce_sum(maps, axis=[1, 2])
    return {
        "log_prob": log_prob,
        "bits_per_dim": model.values.per_dim(log_prob, model.num_dims),
        "latents": latents,
        "map": model.values.from_nats(maps),
    }


def detect(
    model: RealNVP,
    images: tf.Tensor,
    coded_bits: tf.Tensor,
    reference: detection.Reference,
    constant: np.ndarray,
) -> dict[str, tf.Tensor]:
    """The exported function `detect`, of a reference and constant noise."""
    points = tf.cast(images, tf.float32) + constant
    columns = measuring.measure(model, images, points)
    nats = tf.cast(columns.pop("map"), tf.float32)
    measured = measuring.Measurements(
        coded_bits=coded_bits, image=columns["label"], **columns
    )
    return {**reference.in_graph(measured), "map": model.values.from_nats(nats)}


def to_onnx(
    model: RealNVP, function: Callable[..., dict[str, tf.Tensor]]
) -> bytes:
    """Converts a function to ONNX.

    Args:
      model: The model.
      function: `decode`, `score`, or another function of a model and arguments
        of the same names.

    Returns:
      The content of a file. Its `metadata_props` are the entries of
      `describe(model)`, in JSON.
    """
    # It would copy the graph before each optimization, a third of the time.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    import onnx  # Optional packages.
    import tf2onnx

    def of_tensors(*inputs):
        values = tf.nest.pack_sequence_as(specs, inputs)
        # A view that is made here: the constants of the model's own bijectors
        # would become inputs.
        return function(model.for_training(), **values)

    specs = _specs(model, function)

    result, _ = tf2onnx.convert.from_function(
        tf.function(of_tensors, autograph=False),
        tf.nest.flatten(specs),
        opset=_OPSET,
        custom_op_handlers={"Log1p": (_log1p, [])},
    )
    for value in (*result.graph.input, *result.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    entries = {k: json.dumps(v) for k, v in describe(model).items()}
    onnx.helper.set_model_props(result, entries)
    onnx.checker.check_model(result)
    return result.SerializeToString()


def describe(model: RealNVP) -> dict[str, Any]:
    """Returns the description of a model that is part of an export.

    It has the arguments of `RealNVP`, `dataset` and `class_names` of
    `model.metadata`, `latent_shape`, `num_parameters`, and the `version` of
    this package.
    """
    public = ("dataset", "class_names")
    metadata = {k: v for k, v in model.metadata.items() if k in public}
    return {
        **model.get_config(),
        **metadata,
        "latent_shape": model.latent_shape,
        "num_parameters": model.num_parameters,
        "version": __version__,
    }


def to_tflite(model: RealNVP) -> bytes:
    """Converts `decode` to TensorFlow Lite, for a batch of one."""
    traced = tf.function(functools.partial(decode, model), autograph=False)
    concrete = traced.get_concrete_function(**_specs(model, decode, 1))
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [concrete], tf.Module()
    ).convert()


def _specs(model, function, batch_size=None):
    """Returns the types of a function's arguments by name, but the model."""
    types = {
        "latents": (model.latent_shape, tf.float32),
        "images": (model.image_shape, tf.uint8),
        "noise": (model.image_shape, tf.float32),
        "coded_bits": ((), tf.float64),
    }
    parameters = inspect.signature(function).parameters
    names = [n for n in parameters if n in types]
    specs = {
        n: tf.TensorSpec([None, *types[n][0]], types[n][1], n) for n in names
    }
    if "condition" in parameters:
        specs |= model.condition.specs
    return tf.nest.map_structure(
        lambda s: tf.TensorSpec([batch_size, *s.shape[1:]], s.dtype, s.name),
        specs,
    )


def _log1p(graph, node, name, unused_args):
    """Replaces `log1p(x)`, which ONNX lacks, by `log(1 + x)`.

    Noise is a multiple of 2**-23, so the sum is exact.
    """
    one = graph.make_const(f"{name}/one", np.float32(1.0))
    node.type = "Log"
    graph.insert_new_node_on_input(node, "Add", [node.input[0], one.output[0]])
