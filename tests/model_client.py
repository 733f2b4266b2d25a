"""What other programs do with a SavedModel: `model_client.py MODEL DATA OUT`.

It needs TensorFlow alone. DATA has some `images` and `latents`; what the model
makes of them goes into OUT, with what was drawn without a seed.
"""

import sys

import numpy as np
import tensorflow as tf

_BEFORE = set(sys.modules)


def draw(model: tf.Module, images: np.ndarray) -> list[np.ndarray]:
    """Returns what a model draws without a seed: nothing of it is to be twice.

    Args:
      model: What was loaded.
      images: What the model takes.
    """
    images, n = tf.constant(images), tf.constant(4)
    values = []
    for _ in range(2):
        values += [
            model.sample(n),
            model.sample(n + 1)[:4],  # May not begin like another.
            model.log_prob(images),
            *model.signatures["serving_default"](images).values(),
        ]
    return [value.numpy() for value in values]


def main(path: str, data: str, out: str) -> None:
    """Does all that the docstring of the module says."""
    # Each server of a model may have the same seed of its own.
    tf.random.set_seed(7)
    data = np.load(data)
    images, latents = data["images"], data["latents"]
    values = {}
    for index, value in enumerate(draw(tf.saved_model.load(path), images)):
        values[f"drawn {index}"] = value

    model = tf.saved_model.load(path)
    values |= {
        "sample": model.sample(36, 0.5, seed=2**40 + 3).numpy(),
        "log_prob": model.log_prob(images, seed=5).numpy(),
        "encode": model.encode(images).numpy(),
        "decode": model.decode(latents).numpy(),
    }
    packages = {name.partition(".")[0] for name in sys.modules}
    assert not packages & {"tf_realnvp", "tensorflow_probability", "tf_keras"}
    # TensorFlow itself imports a little of Keras.
    new = {name.partition(".")[0] for name in set(sys.modules) - _BEFORE}
    assert "keras" not in new
    np.savez(out, **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
