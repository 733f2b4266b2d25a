"""Compares models in ONNX Runtime with TensorFlow.

`python -m benchmarks.exporting MODEL …` exports saved models, and prints the
sizes of the files and by how much the outputs differ at most, beside their mean
size: for test images of their data sets with uniform noise, and for normal
latents.
"""

import argparse
import math

import numpy as np

from benchmarks.measuring import test_images


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--n", type=int, default=64)
    flags = parser.parse_args()
    from tf_realnvp.utils import runtime

    runtime.configure()
    import onnxruntime
    import tensorflow as tf

    from tf_realnvp import bijectors, bit_maps
    from tf_realnvp.serving import formats
    from tf_realnvp.serving.saved_model import SavedModel

    for path in flags.models:
        rng = np.random.default_rng(0)
        saved = SavedModel(path)
        model = saved.model
        images, labels = test_images(saved, flags.data_dir, flags.n)
        noise = rng.random(images.shape, np.float32)
        latents = rng.standard_normal(
            (flags.n, *model.latent_shape), np.float32
        )
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
        print(
            f"| pixels of decode | {np.mean(wrong > 0):.3%} | {wrong.max()} |"
        )
        for name, values in expected.items():
            error = np.abs(outputs[name] - np.array(values)).max()
            size = np.abs(values).mean()
            print(f"| {name} | {error:.2g} of {size:,.4g} |", flush=True)


if __name__ == "__main__":
    main()
