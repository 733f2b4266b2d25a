"""A page that shows what a model does, in the browser and without a server.

In the page, ONNX Runtime, from the npm package that `package.json` names, runs
`score` of `serving.formats`, and `flow` below.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import onnx
import tensorflow as tf

from tf_realnvp.flow import bijectors
from tf_realnvp.flow.bijectors import AffineCoupling, FactorOut, steps_of
from tf_realnvp.flow.dequantization import VariationalDequantization
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.serving import formats
from tf_realnvp.utils import files

_FILES = ("index.html", "explorer.css", "explorer.js")
_RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
_WEIGHTS = "weights.bin"
_NUM_SAMPLES = 20
_TEMPERATURE = 0.8


def write(
    model: RealNVP,
    folder: str | os.PathLike,
    title: str,
    bits_per_dim: Sequence[float],
    runtime: pathlib.Path,
) -> None:
    """Writes the page.

    Args:
      model: The model, of images with one or three channels.
      folder: Folder of the page, created if necessary. Files of the same names
        are replaced.
      title: Title of the page.
      bits_per_dim: Bits/dim of test images, for a histogram; may be empty.
      runtime: Folder of the npm package onnxruntime-web.
    """
    labels = np.arange(_NUM_SAMPLES) % (model.num_classes or 1)
    # With this seed the first face of `models/realnvp_faces` is a good one.
    latents = model.sample_latents(_NUM_SAMPLES, _TEMPERATURE, seed=9)
    images = model.decode(latents, labels if model.num_classes else None)
    content = formats.describe(model) | {
        "title": title,
        "bits_per_dim": np.sort(bits_per_dim).round(3).tolist(),
        "temperature": _TEMPERATURE,
        "labels": labels.tolist(),
    }
    functions = _convert(model)
    page = [pathlib.Path(__file__).with_name(name) for name in _FILES]
    page += [runtime / "dist" / name for name in _RUNTIME]
    with files.replace_files(folder) as new:
        for name, binary in functions.items():
            (new / name).write_bytes(binary)
        (new / "model.json").write_text(json.dumps(content))
        # What is shown until the runtime is loaded.
        samples = latents.numpy().tobytes() + images.numpy().tobytes()
        (new / "samples.bin").write_bytes(samples)
        for path in page:
            shutil.copyfile(path, new / path.name)


def flow(
    model: RealNVP, latents: tf.Tensor, **condition: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Decodes latents, and returns the images before and after each coupling.

    Args:
      model: The model.
      latents: Float32 `[n, H / 2, W / 2, 4 * C]`.
      **condition: What to condition on, as for `RealNVP.decode`.

    Returns:
      `steps`, uint8 `[n, 1 + number of couplings, H, W, C]`: what the bijectors
      other than couplings make of the latents and of the outputs of each
      coupling. The last ones are what `decode` returns.
    """
    condition = model.condition(latents, **condition)
    if model.visible:
        latents = model.visible.in_latents(latents, condition["context"])
    condition = model.condition.encode(condition)
    kwargs = bijectors.condition_kwargs(model.bijector, **condition)
    points = tf.stack(_states(model.bijector, latents, kwargs), axis=1)
    levels = tf.clip_by_value(tf.floor(points), 0.0, model.values.highest)
    return {"steps": tf.cast(levels, tf.uint8)}


def _states(bijector, latents, kwargs):
    """Returns all states of the forward pass, each `[n, h, w, c]`."""
    states = [latents]
    for step in reversed(steps_of(bijector)):
        own = kwargs.get(step.name, {})
        if isinstance(step, FactorOut):
            kept, rest = tf.split(states[0], 2, axis=-1)
            states = [
                tf.concat([state, rest], axis=-1)
                for state in _states(step.bijector, kept, own)
            ]
        elif isinstance(step, AffineCoupling):
            states.append(step.forward(states[-1], **own))
        elif not isinstance(step, VariationalDequantization):
            states = tf.unstack(step.forward(tf.stack(states)))
    return states


def _convert(model):
    """Returns the ONNX files of the functions, and one of all their weights."""
    weights, places, contents = bytearray(), {}, {}
    for function in (formats.score, flow):
        converted = onnx.load_from_string(formats.to_onnx(model, function))
        for tensor in converted.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < 1024:
                continue
            if raw not in places:
                places[raw] = len(weights)
                weights += raw + bytes(-len(raw) % 64)
            onnx.external_data_helper.set_external_data(
                tensor, _WEIGHTS, places[raw], len(raw)
            )
            tensor.ClearField("raw_data")
        name = f"{function.__name__}.onnx"
        contents[name] = converted.SerializeToString()
    return contents | {_WEIGHTS: bytes(weights)}
