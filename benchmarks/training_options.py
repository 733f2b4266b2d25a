"""Measures what the options of training bring, at equal steps.

`python -m benchmarks.training_options` trains a model on real images with each
set of options and with several seeds, and prints the bits/dim of test images
that follow: mean and standard deviation over the seeds.
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time


@dataclasses.dataclass(frozen=True)
class _Options:
    initialize: bool = True
    lr: float = 1e-3
    warmup_steps: int = 0
    clip_grad: float | None = None
    lr_schedule: str = "constant"
    ema: float | None = None
    accumulate: int = 1


_WAYS = {
    "none: identity at first, --lr 3e-4": _Options(initialize=False, lr=3e-4),
    "linear prediction at first, --lr 3e-4": _Options(lr=3e-4),
    "identity at first, --lr 1e-3": _Options(initialize=False),
    "A: linear prediction at first, --lr 1e-3": _Options(),
    "A --lr 2e-3": _Options(lr=2e-3),
    "A --warmup_steps 20": _Options(warmup_steps=20),
    "A --clip_grad 1": _Options(clip_grad=1.0),
    "A --lr_schedule cosine": _Options(lr_schedule="cosine"),
    "A --ema 0.98": _Options(ema=0.98),
    "A --accumulate 4": _Options(accumulate=4),
    "A --lr_schedule cosine --ema 0.98": _Options(
        lr_schedule="cosine", ema=0.98
    ),
}


def main() -> None:
    """Trains with each set of options, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="CIFAR10")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--num_blocks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test_images", type=int, default=1024)
    parser.add_argument("--ways", type=int, nargs="*")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way is not None:
        print(train(flags, _WAYS[flags.way], flags.seed))
        return
    print(
        f"{flags.dataset}, {flags.filters} filters, {flags.num_blocks} blocks, "
        f"{flags.steps} steps of 64 images; {flags.test_images} test images\n\n"
        "| options | test bits/dim | sd | of each seed | minutes |\n"
        "| --- | --- | --- | --- | --- |",
        flush=True,
    )
    ways = list(_WAYS)
    for way in [ways[i] for i in flags.ways] if flags.ways else ways:
        start = time.monotonic()
        bits = []
        for seed in range(flags.seeds):
            # A process for each, since TensorFlow keeps what it has traced.
            command = [sys.executable, "-m", "benchmarks.training_options"]
            command += [*sys.argv[1:], f"--way={way}", f"--seed={seed}"]
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            bits.append(float(output.splitlines()[-1]))
        spread = statistics.stdev(bits) if len(bits) > 1 else 0.0
        minutes = (time.monotonic() - start) / 60
        print(
            f"| {way} | {statistics.mean(bits):.3f} | {spread:.3f} "
            f"| {' '.join(f'{b:.3f}' for b in bits)} | {minutes:.1f} |",
            flush=True,
        )


def train(flags: argparse.Namespace, options: _Options, seed: int) -> float:
    """Returns the test bits/dim after training from scratch.

    Args:
      flags: The command's flags.
      options: How to train.
      seed: Seed of everything.
    """
    from tf_realnvp import runtime

    runtime.configure()
    import keras
    import tensorflow as tf

    from tf_realnvp import RealNVP, data, initialization
    from tf_realnvp.training import Trainer, bits_from_nats, learning_rate

    dataset = data.load(flags.dataset, flags.data_dir)
    keras.utils.set_random_seed(seed)
    model = RealNVP(
        dataset.image_shape,
        dataset.num_colors,
        filters=flags.filters,
        num_blocks=flags.num_blocks,
    )
    if options.initialize:
        initialization.initialize(model, dataset, seed)
    trainer = Trainer(
        model,
        learning_rate(
            options.lr, flags.steps, options.warmup_steps, options.lr_schedule
        ),
        options.clip_grad,
        seed,
        runtime.native_precision(),
        accumulate=options.accumulate,
        ema=options.ema,
    )
    batches = iter(dataset.train_batches(64, seed, 1))
    trainer._train_steps(batches, tf.constant(flags.steps))
    trainer.evaluated_model()
    total = 0.0
    num_batches = flags.test_images // 64
    test_batches = iter(dataset.test_batches(64).take(num_batches))
    for index, images in enumerate(test_batches):
        loss = trainer.test_step(images, tf.constant(index, tf.int64))
        total += float(loss)
    return bits_from_nats(total / (64 * num_batches))


if __name__ == "__main__":
    main()
