"""Measures how fast the default model learns.

`python -m benchmarks.learning` trains on real images as `run.py --lr 3e-4`
does, with some of its flags, and prints the bits/dim of test images by the time
since the start of the command, without evaluation.
"""

import argparse
import dataclasses
import time

START = time.monotonic()


def main() -> None:
    """Trains, and prints a row of the table now and then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="CIFAR10")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--num_blocks", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--lr_schedule", default="constant")
    parser.add_argument("--warmup_steps", type=int, default=0)
    parser.add_argument("--clip_grad", type=float)
    parser.add_argument("--ema", type=float)
    parser.add_argument("--identity", action="store_true", help="start so")
    parser.add_argument("--test_images", type=int, default=512)
    parser.add_argument("--every", type=int, default=50, help="steps")
    parser.add_argument("--save", help="folder for a SavedModel")
    flags = parser.parse_args()

    from tf_realnvp.utils import runtime

    runtime.configure()
    import keras

    from tf_realnvp import RealNVP, data, initialization
    from tf_realnvp.serving import export
    from tf_realnvp.training import loop
    from tf_realnvp.training.optimizers import learning_rate
    from tf_realnvp.training.trainer import Trainer

    if flags.precision == "auto":
        flags.precision = runtime.settle_precision("auto")
    dataset = data.load(flags.dataset, flags.data_dir)
    keras.utils.set_random_seed(flags.seed)
    model = RealNVP(
        dataset.image_shape,
        dataset.num_colors,
        filters=flags.filters,
        num_blocks=flags.num_blocks,
    )
    trainer = Trainer(
        model,
        learning_rate(
            flags.lr, flags.steps, flags.warmup_steps, flags.lr_schedule
        ),
        clip_grad=flags.clip_grad,
        seed=flags.seed,
        precision=flags.precision,
        ema=flags.ema,
    )
    if not flags.identity:
        images = dataset.initial_images(flags.seed)
        initialization.initialize(model, images, flags.seed)
    test = dataset.splits["test"].select(slice(flags.test_images))
    splits = {**dataset.splits, "test": test}
    test_set = dataclasses.replace(dataset, splits=splits)
    evaluation = 0.0

    def seconds():
        return time.monotonic() - START - evaluation

    def evaluate():
        nonlocal evaluation
        start = time.monotonic()
        bits = dataset.values.from_nats(loop.evaluate(trainer, test_set))
        evaluation += time.monotonic() - start
        print(
            f"| {seconds():.0f} | {trainer.num_steps} | {bits:.3f} |",
            flush=True,
        )

    print(vars(flags))
    print("\n| s | steps | test bits/dim |\n| --- | --- | --- |", flush=True)
    evaluate()
    batches = iter(dataset.train_batches(flags.batch_size, flags.seed, 1))
    while trainer.num_steps < flags.steps and seconds() < 60 * flags.minutes:
        trainer.train(batches)
        if trainer.num_steps % flags.every == 0:
            evaluate()
    if trainer.num_steps % flags.every:
        evaluate()
    if flags.save:
        export.save(
            trainer.evaluated_model(),
            flags.save,
            {"dataset": dataset.name, "flags": vars(flags)},
        )


if __name__ == "__main__":
    main()
