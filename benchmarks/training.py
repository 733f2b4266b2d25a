"""Measures the speed and the memory of training.

`python -m benchmarks.training` prints a row for each way to train: images per
second; the share of the time that the convolutions of the model and their
gradients take alone, in turn with the steps; peak memory; and the time from the
start of the process to the end of the first step. Below the table is the speed
of ten classes relative to none, in turn in one process. Images are random. The
figures are in benchmarks/results/training.md.
"""

import collections
import math
import statistics
import time

from benchmarks import measuring
from benchmarks.measuring import once, timed

# Settings of `TrainingConfig`.
_WAYS = [
    {"precision": "float32"},
    {"precision": "float32", "recompute": True},
    {"precision": "bfloat16"},
    {"precision": "bfloat16", "recompute": True},
    {"precision": "bfloat16", "recompute": True, "accumulate": 3},
]


def main() -> None:
    """Measures each way in a process of its own."""
    flags = measuring.parse_flags(
        __doc__,
        batch_size=64,
        image_size=32,
        filters=128,
        num_blocks=8,
        steps=3,
        jit=False,
    )
    print(
        f"batch {flags.batch_size}, {flags.image_size}x{flags.image_size}x3, "
        f"{flags.filters} filters, {flags.num_blocks} blocks; medians of "
        f"{flags.steps} steps\n"
    )
    measuring.print_header(
        *("networks", "recompute", "accumulate", "images/s"),
        *("convolutions", "peak memory", "first step after"),
    )
    for settings in _WAYS:
        # The start of Python and the imports count as well.
        measuring.in_new_process(measure, flags, settings, time.time())
    measuring.in_new_process(compare, flags)


def make_trainer(flags, num_classes=None, **settings):
    """Returns a trainer of a new model."""
    from tf_realnvp import RealNVP

    model = RealNVP(
        (flags.image_size, flags.image_size, 3),
        filters=flags.filters,
        num_blocks=flags.num_blocks,
        num_classes=num_classes,
    )
    return measuring.make_trainer(model, jit=flags.jit, **settings)


def measure(flags, settings: dict, start: float) -> None:
    """Prints a row of the table.

    Args:
      flags: The flags of the program.
      settings: Settings of `TrainingConfig`.
      start: Time at which the process was started.
    """
    from tf_realnvp.utils import runtime

    runtime.configure()
    trainer = make_trainer(flags, **settings)
    train = measuring.training_steps(trainer, flags.batch_size)
    train(1)
    first_step = time.time() - start
    train(1)
    memory = measuring.peak_memory() / 2**10
    time_alone = convolutions_alone(
        trainer.model, flags.batch_size, settings["precision"]
    )
    # In turn, as the speed of the machine drifts.
    rounds = [
        (once(lambda: train(1)), time_alone()) for _ in range(flags.steps)
    ]
    step = statistics.median(step for step, _ in rounds)
    share = statistics.median(alone / step for step, alone in rounds)
    measuring.print_row(
        settings["precision"],
        "yes" if settings.get("recompute") else "no",
        settings.get("accumulate", 1),
        f"{flags.batch_size / step:.1f}",
        f"{share:.0%}",
        f"{memory:.2f} GiB",
        f"{first_step:.1f} s",
    )


def compare(flags) -> None:
    """Prints the ratio of the speeds of steps, taken in turn."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    steps = []
    for num_classes in (None, 10):
        trainer = make_trainer(flags, num_classes)
        steps.append(measuring.training_steps(trainer, flags.batch_size))
        steps[-1](1)
    plain, classes = (lambda step=step: once(lambda: step(1)) for step in steps)
    ratios = [plain() / classes() for _ in range(flags.steps)]
    print(
        f"ten classes: {statistics.median(ratios):.3f} times the speed of none "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def list_convolutions(model) -> list[tuple[int, int, int, int, int]]:
    """Returns `(height, width, kernel size, channels in, channels out)`.

    Args:
      model: A model with the default scales and couplings.
    """
    convolutions = []
    height, width, _ = model.image_shape
    for index, network in enumerate(model.networks):
        size = (height, width) if index < 3 else (height // 2, width // 2)
        for part in (network.first, *network.blocks, network.last):
            *stack, kernel, _, inputs, outputs = part.direction.shape
            number = math.prod(stack)  # Of blocks.
            convolutions += number * [(*size, kernel, inputs, outputs)]
    return convolutions


def convolutions_alone(model, batch_size: int, dtype: str):
    """Returns a function that measures convolutions and their gradients alone.

    Args:
      model: A model with the default scales and couplings.
      batch_size: Images per batch.
      dtype: What they are computed in.

    Returns:
      A function without arguments. It runs each convolution of a training step
      by itself, and returns the sum of the seconds.
    """
    counts = collections.Counter(list_convolutions(model))
    functions = {
        shape: _make_convolution(batch_size, shape, dtype) for shape in counts
    }
    return lambda: sum(
        number * timed(functions[shape], 3) for shape, number in counts.items()
    )


def _make_convolution(batch_size, shape, dtype):
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
