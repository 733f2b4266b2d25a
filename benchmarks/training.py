"""Measures the speed and the memory of training.

`python -m benchmarks.training` prints a table, with a row for each way to
train: images a second; floating point operations a second, without those of
rematerialization, and their share of the rate that the model's convolutions
reach alone in the same process, in turn with the steps; peak memory; and the
time from the start of the process to the end of its first training step. Below
the table are the speed of bfloat16 relative to float32, in turn in one process,
and the time that Python takes for a step. Images are random.
"""

import argparse
import statistics
import time

from benchmarks.measuring import (
    in_new_process,
    once,
    peak_memory,
    timed,
    training_steps,
)

# What networks compute in, --recompute, --accumulate.
_WAYS = [
    ("float32", False, 1),
    ("float32", True, 1),
    ("bfloat16", False, 1),
    ("bfloat16", True, 1),
    ("bfloat16", True, 3),
]


def main() -> None:
    """Measures each way in a process of its own, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--num_blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--jit", action="store_true")
    flags = parser.parse_args()
    print(
        f"batch {flags.batch_size}, {flags.image_size}x{flags.image_size}x3, "
        f"{flags.filters} filters, {flags.num_blocks} blocks; medians of "
        f"{flags.steps} steps\n\n"
        "| networks | recomputed | parts | images/s | GFLOP/s "
        "| convolutions alone | share | peak memory | first step done after |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    for way in _WAYS:
        # The start of Python and the imports count as well.
        in_new_process(measure, flags, *way, time.time())
    in_new_process(compare_precisions, flags)
    in_new_process(measure_host)


def measure(
    flags: argparse.Namespace,
    precision: str,
    recompute: bool,
    parts: int,
    start: float,
) -> None:
    """Prints a row of the table.

    Args:
      flags: The command's flags.
      precision: What networks compute in.
      recompute: As for `Trainer`.
      parts: Those of a batch, `accumulate` of `Trainer`.
      start: The time when the process was started.
    """
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tensorflow as tf

    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    # `make_convolution` makes many functions, of which TensorFlow warns.
    tf.get_logger().setLevel("ERROR")
    model = RealNVP(
        (flags.image_size, flags.image_size, 3),
        filters=flags.filters,
        num_blocks=flags.num_blocks,
    )
    trainer = Trainer(
        model,
        precision=precision,
        recompute=recompute,
        jit=flags.jit,
        accumulate=parts,
    )
    train = training_steps(trainer, flags.batch_size)
    train(1)
    first_step = time.time() - start

    train(1)
    memory = peak_memory() / 2**10
    convolutions = list_convolutions(model)
    # Each is run once forward, and twice for its gradients.
    operations = 3 * flags.batch_size * sum(map(count_operations, convolutions))
    alone_functions = {
        shape: make_convolution(flags.batch_size, shape, precision)
        for shape in set(convolutions)
    }
    # In turn, so that both have the same machine if its speed drifts.
    rounds = []
    for _ in range(flags.steps):
        step = once(lambda: train(1))
        alone = sum(
            convolutions.count(shape) * timed(function, 3)
            for shape, function in alone_functions.items()
        )
        rounds.append((step, alone))
    seconds, alone = map(statistics.median, zip(*rounds, strict=True))
    share = statistics.median(alone / step for step, alone in rounds)
    rate, rate_alone = operations / seconds / 1e9, operations / alone / 1e9
    print(
        f"| {precision} | {'yes' if recompute else 'no'} | {parts} "
        f"| {flags.batch_size / seconds:.1f} | {rate:.0f} "
        f"| {rate_alone:.0f} GFLOP/s | {share:.0%} "
        f"| {memory:.2f} GiB | {first_step:.1f} s |",
        flush=True,
    )


def compare_precisions(flags: argparse.Namespace) -> None:
    """Prints how many times as fast as float32 bfloat16 is."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    trains = []
    for precision in ("float32", "bfloat16"):
        model = RealNVP(
            (flags.image_size, flags.image_size, 3),
            filters=flags.filters,
            num_blocks=flags.num_blocks,
        )
        trainer = Trainer(model, precision=precision, jit=flags.jit)
        train = training_steps(trainer, flags.batch_size)
        train(1)
        trains.append(train)
    ratios = []
    for _ in range(flags.steps):
        float32, bfloat16 = (once(lambda t=t: t(1)) for t in trains)
        ratios.append(float32 / bfloat16)
    print(
        f"\na step in bfloat16 is {statistics.median(ratios):.2f} times as "
        "fast as one in float32, in turn in one process "
        f"({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def measure_host() -> None:
    """Prints what Python costs, on a model with next to nothing to compute."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    model = RealNVP((2, 2, 1), 2, filters=2, num_blocks=1)
    train = training_steps(Trainer(model), batch_size=1)
    alone = timed(lambda: train(1), 50)
    together = timed(lambda: train(50), 5) / 50
    print(
        f"the smallest model, batch 1: {1e3 * alone:.2f} ms a step in calls "
        f"of one step, {1e3 * together:.2f} ms in calls of 50"
    )


def list_convolutions(model) -> list[tuple[int, int, int, int, int]]:
    """Returns `(height, width, kernel size, channels in, channels out)`."""
    convolutions = []
    height, width, channels = model.image_shape
    for index, network in enumerate(model.networks):
        size = (height, width) if index < 3 else (height // 2, width // 2)
        channels = network.channels
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


def count_operations(shape: tuple[int, int, int, int, int]) -> int:
    """Returns the floating point operations of a convolution, for an image."""
    height, width, kernel_size, inputs, outputs = shape
    return 2 * height * width * kernel_size**2 * inputs * outputs


def make_convolution(batch_size, shape, dtype):
    """Returns a function that runs a convolution and its two gradients."""
    import tensorflow as tf

    height, width, kernel_size, inputs, outputs = shape
    images, kernel, upstream = (
        tf.cast(tf.random.stateless_normal(shape, [0, seed]), dtype)
        for seed, shape in enumerate(
            (
                [batch_size, height, width, inputs],
                [kernel_size, kernel_size, inputs, outputs],
                [batch_size, height, width, outputs],
            )
        )
    )

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            result = tf.nn.conv2d(images, kernel, 1, "SAME")
        gradients = tape.gradient(result, [images, kernel], upstream)
        # One number of each, so that all three are computed.
        return [tf.reshape(x, [-1])[0] for x in (result, *gradients)]

    return lambda: [x.numpy() for x in run()]


if __name__ == "__main__":
    main()
