"""Measures the speed and the memory of training.

`python -m benchmarks.training` prints one table: images a second, floating
point operations a second and their share of what the model's convolutions reach
alone in the same process, peak memory, and the time from the start of the
process to the end of its first training step. Images are random.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time


def main() -> None:
    """Runs the measurement in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--num_blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.start is None:
        # The start of Python and the imports count as well.
        command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:]]
        command.append(f"--start={time.time()}")
        sys.exit(subprocess.run(command).returncode)
    measure(flags)


def measure(flags: argparse.Namespace) -> None:
    """Prints the table.

    Args:
      flags: The command's flags; `start` is the time when it was started.
    """
    from tf_realnvp import runtime

    runtime.configure()
    import tensorflow as tf

    from tf_realnvp import RealNVP
    from tf_realnvp.training import Trainer

    image_shape = (flags.image_size, flags.image_size, 3)
    model = RealNVP(
        image_shape, filters=flags.filters, num_blocks=flags.num_blocks
    )
    train_step = tf.function(Trainer(model).train_step, autograph=False)
    images = tf.random.stateless_uniform(
        [flags.batch_size, *image_shape], [0, 0], 0, 256, tf.int32
    )
    images = tf.cast(images, tf.uint8)
    train_step(images).numpy()
    first_step = time.time() - flags.start

    seconds = timed(lambda: train_step(images).numpy(), flags.steps)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    convolutions = list_convolutions(model)
    operations = flags.batch_size * sum(
        3 * 2 * height * width * kernel**2 * inputs * outputs
        for height, width, kernel, inputs, outputs in convolutions
    )
    alone = sum(
        convolutions.count(shape)
        * time_convolution(flags.batch_size, shape, flags.steps)
        for shape in sorted(set(convolutions))
    )
    rate, rate_alone = operations / seconds / 1e9, operations / alone / 1e9
    print(
        f"batch {flags.batch_size}, {flags.image_size}x{flags.image_size}x3, "
        f"{flags.filters} filters, {flags.num_blocks} blocks, "
        f"{runtime.describe_devices()}; medians of {flags.steps}\n"
        "| precision | images/s | GFLOP/s | convolutions alone | share "
        "| peak memory | first step done after |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        f"| float32 | {flags.batch_size / seconds:.1f} | {rate:.0f} "
        f"| {rate_alone:.0f} GFLOP/s | {rate / rate_alone:.0%} "
        f"| {memory:.1f} GiB | {first_step:.1f} s |"
    )


def list_convolutions(model) -> list[tuple[int, int, int, int, int]]:
    """Returns `(height, width, kernel size, channels in, channels out)`."""
    convolutions = []
    height, width, channels = model.image_shape
    for index, network in enumerate(model.networks):
        size = (height, width) if index < 3 else (height // 2, width // 2)
        channels = network.input_shape[-1]
        wide, narrow = model.filters, model.filters // 2
        convolutions += [
            (*size, 3, channels, wide),
            *[
                (*size, 1, wide, narrow),
                (*size, 3, narrow, narrow),
                (*size, 1, narrow, wide),
            ]
            * model.num_blocks,
            (*size, 3, wide, 2 * channels),
        ]
    return convolutions


def time_convolution(batch_size, shape, repetitions) -> float:
    """Returns the seconds of one convolution and of its two gradients."""
    import tensorflow as tf

    height, width, kernel_size, inputs, outputs = shape
    images = tf.random.stateless_normal(
        [batch_size, height, width, inputs], [0, 0]
    )
    kernel = tf.random.stateless_normal(
        [kernel_size, kernel_size, inputs, outputs], [0, 1]
    )
    upstream = tf.random.stateless_normal(
        [batch_size, height, width, outputs], [0, 2]
    )

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            result = tf.nn.conv2d(images, kernel, 1, "SAME")
        gradients = tape.gradient(result, [images, kernel], upstream)
        # One number of each, so that all three are computed.
        return [tf.reshape(x, [-1])[0] for x in (result, *gradients)]

    return timed(lambda: [x.numpy() for x in run()], repetitions)


def timed(function, repetitions) -> float:
    """Returns the median seconds of a call, after one to warm up."""
    function()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
