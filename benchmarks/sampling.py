"""Measures a model in use: its export, its loading and its sampling.

`python -m benchmarks.sampling` prints one table. Everything after the export is
measured in a process that imports TensorFlow alone, with its default settings
but for oneDNN, as another program would use the model. To tell a slow machine
from a slow model, the table has the time of the same convolutions alone, and
that of as many operations at the rate of a large matrix product, which is about
the peak of the processor. The weights are those of a new model.
"""

import argparse
import tempfile
import time

from benchmarks.measuring import in_new_process, peak_memory, timed
from benchmarks.training import count_operations, list_convolutions


def main() -> None:
    """Exports a model, has another process measure it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--num_blocks", type=int, default=8)
    parser.add_argument("--num_samples", type=int, default=36)
    parser.add_argument("--num_images", type=int, default=64)
    parser.add_argument("--calls", type=int, default=5)
    flags = parser.parse_args()

    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import RealNVP
    from tf_realnvp.serving import export

    image_shape = (flags.image_size, flags.image_size, 3)
    model = RealNVP(
        image_shape, filters=flags.filters, num_blocks=flags.num_blocks
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        export.save(model, f"{folder}/model")
        exported = time.perf_counter() - start
        seconds = in_new_process(
            measure, flags, f"{folder}/model", list_convolutions(model)
        )
    n = flags.num_samples
    print(
        f"{flags.image_size}x{flags.image_size}x3, {flags.filters} filters, "
        f"{flags.num_blocks} blocks, {runtime.describe_devices()}; medians of "
        f"{flags.calls}\n"
        f"| export | load | first `sample({n})` | `sample({n})` | its "
        "convolutions alone | as a matrix product "
        f"| `log_prob` of {flags.num_images} | peak memory of the loading "
        "process |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        f"| {exported:.1f} s | {seconds['load']:.1f} s "
        f"| {seconds['first']:.1f} s | {seconds['sample']:.2f} s "
        f"| {seconds['alone']:.2f} s | {seconds['product']:.2f} s "
        f"| {seconds['log_prob']:.2f} s "
        f"| {seconds['memory']:.2f} GiB |"
    )


def measure(
    flags: argparse.Namespace, path: str, convolutions
) -> dict[str, float]:
    """Measures a SavedModel, with TensorFlow alone.

    Args:
      flags: The command's flags.
      path: The model's folder.
      convolutions: What `list_convolutions` gives for the model.

    Returns:
      The figures of the table, in seconds and GiB.
    """
    import tensorflow as tf

    start = time.perf_counter()
    model = tf.saved_model.load(path)
    loaded = time.perf_counter()
    images = model.sample(flags.num_samples).numpy()
    first = time.perf_counter()

    sample = timed(lambda: model.sample(flags.num_samples).numpy(), flags.calls)
    images = tf.repeat(images[:1], flags.num_images, axis=0)
    log_prob = timed(lambda: model.log_prob(images).numpy(), flags.calls)
    memory = peak_memory() / 2**10
    alone = sum(
        convolutions.count(shape)
        * time_convolution(flags.num_samples, shape, flags.calls)
        for shape in sorted(set(convolutions))
    )
    operations = flags.num_samples * sum(map(count_operations, convolutions))
    side = 4096
    matrix = tf.random.normal([side, side])
    product = timed(lambda: tf.matmul(matrix, matrix)[0, 0].numpy(), 3)
    return {
        "load": loaded - start,
        "first": first - loaded,
        "sample": sample,
        "alone": alone,
        "product": product * operations / (2 * side**3),
        "log_prob": log_prob,
        "memory": memory,
    }


def time_convolution(batch_size, shape, calls) -> float:
    """Returns the seconds of one convolution."""
    import tensorflow as tf

    height, width, kernel_size, inputs, outputs = shape
    images = tf.random.normal([batch_size, height, width, inputs])
    kernel = tf.random.normal([kernel_size, kernel_size, inputs, outputs])

    @tf.function(autograph=False)
    def run():
        # One number, so that no time goes into copying.
        return tf.reshape(tf.nn.conv2d(images, kernel, 1, "SAME"), [-1])[0]

    return timed(lambda: run().numpy(), calls)


if __name__ == "__main__":
    main()
