"""Compares exported ONNX models with TensorFlow.

`python -m benchmarks.exporting MODEL...` exports saved models and prints the
sizes of the files, and the largest difference of each output beside its mean
magnitude: for test images of their data sets with uniform noise, and for normal
latents.
"""

import math

import numpy as np

from benchmarks import measuring


def main() -> None:
    """Prints a table for each model."""
    flags = measuring.parse_flags(
        __doc__, "models...", **measuring.OF_IMAGES, n=64
    )

    for path in flags.models:
        saved = measuring.load(path)
        dataset = measuring.load_dataset(saved, flags)
        compare(path, saved, *measuring.take(dataset, "test", flags.n))


def compare(path: str, model, images: np.ndarray, labels) -> None:
    """Prints the table of a model.

    Args:
      path: Its folder, for the title.
      model: The `RealNVP`.
      images: `[n, H, W, C]`.
      labels: `[n]`, or `None`.
    """
    import onnxruntime
    import tensorflow as tf

    from tf_realnvp import bijectors, bit_maps
    from tf_realnvp.serving import formats

    rng = np.random.default_rng(0)
    noise = rng.random(images.shape, np.float32)
    shape = (len(images), *model.latent_shape)
    latents = rng.standard_normal(shape, np.float32)
    label = {} if labels is None else {"label": labels}
    outputs = {}
    for function, inputs in (
        (formats.decode, {"latents": latents}),
        (formats.score, {"images": images, "noise": noise}),
    ):
        content = formats.to_onnx(model, function)
        print(f"{path}: {function.__name__}, {len(content) / 1e6:.1f} MB")
        session = onnxruntime.InferenceSession(content)
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {**inputs, **label})
        outputs |= dict(zip(names, values, strict=True))
    points = tf.constant(images + noise)
    condition = bijectors.condition_kwargs(model.bijector, **label)
    log_prob = model.log_density(points, **label).numpy()
    costs = bit_maps.costs(model, points, **label)
    expected = {
        "log_prob": log_prob,
        "bits_per_dim": -log_prob / (model.num_dims * math.log(2.0)),
        "latents": model.bijector.inverse(points, **condition),
        "map": tf.reduce_sum(costs, axis=[1, 2]) / math.log(2.0),
    }
    decoded = np.int64(model.decode(latents, **label))
    wrong = np.abs(outputs["images"] - decoded)
    measuring.print_row(
        "pixels of decode", f"{np.mean(wrong > 0):.3%}", wrong.max()
    )
    for name, values in expected.items():
        error = np.abs(outputs[name] - np.array(values)).max()
        measuring.print_row(
            name, f"{error:.2g} of {np.abs(values).mean():,.4g}"
        )


if __name__ == "__main__":
    main()
