"""Measures what a model of some size reaches in a given time.

`python -m benchmarks.budget --ms_per_step 308 --minutes 10 20` trains a model
at a constant rate, with warm-up and clipping as by default, in the fastest
precision that the hardware has. For each number of minutes it takes a branch
after 80 % of their steps, lets the rate fall to zero in the other 20 %, which
are float32, prints the bits/dim of held-out training images, and returns to the
weights before the branch. A minute is as many steps as `--ms_per_step` (from
`benchmarks.devices`) says, whatever else runs at the time.
"""

import argparse

_NUM_VALIDATION = 5000
_WARMUP_STEPS = 100
_STEPS_PER_CALL = 20


def main() -> None:
    """Trains, and prints a line for each number of minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--num_blocks", type=int, default=2)
    parser.add_argument("--num_scales", type=int, default=3)
    parser.add_argument("--num_couplings", type=int, nargs=3, default=[3, 3, 4])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ms_per_step", type=float, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", required=True)
    train(parser.parse_args())


def train(flags: argparse.Namespace) -> None:
    """Trains a model, with a branch for each number of minutes.

    Args:
      flags: The command's flags.
    """
    from tf_realnvp.utils import runtime

    runtime.configure(num_threads=1)
    import keras
    import tensorflow as tf

    from tf_realnvp import RealNVP, data, initialization
    from tf_realnvp.training import loop
    from tf_realnvp.training.trainer import Trainer

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        """Rises, stays, and falls to zero from step `begin` to step `end`."""

        def __init__(self):
            self.begin, self.end = tf.Variable(0.0), tf.Variable(0.0)

        def __call__(self, step):
            step = tf.cast(step, tf.float32)
            rise = tf.minimum(1.0, (step + 1) / (_WARMUP_STEPS + 1))
            part = (self.end - step) / (self.end - self.begin)
            fall = tf.where(self.end > 0, tf.clip_by_value(part, 0, 1), 1.0)
            return flags.lr * rise * fall

    dataset = data.load(flags.dataset, flags.data_dir)
    dataset = dataset.hold_out(_NUM_VALIDATION, flags.seed)
    keras.utils.set_random_seed(flags.seed)
    model = RealNVP(
        dataset.image_shape,
        dataset.num_colors,
        filters=flags.filters,
        num_blocks=flags.num_blocks,
        num_scales=flags.num_scales,
        num_couplings=flags.num_couplings,
    )
    rate = Rate()
    images = dataset.initial_images(flags.seed)
    initialization.initialize(model, images, flags.seed)
    trunk, branch = (
        Trainer(its, rate, clip_grad=1.0, seed=flags.seed, precision=precision)
        for its, precision in (
            (model, runtime.settle_precision("auto")),
            (model.clone(), "float32"),
        )
    )

    def variables(trainer):
        return [v for part in trainer.state.values() for v in part]

    def train_to(trainer, step):
        per_epoch = dataset.num_train // flags.batch_size
        while trainer.num_steps < step:
            epoch, position = divmod(trainer.num_steps, per_epoch)
            left = min(step - trainer.num_steps, per_epoch - position)
            batches = iter(
                dataset.train_batches(
                    flags.batch_size, flags.seed, epoch + 1, skip=position
                )
            )
            while left:
                size = min(_STEPS_PER_CALL, left)
                trainer.train(batches, size)
                left -= size

    print(
        f"{model.num_parameters:,} parameters\n\n"
        "| minutes | steps | images | bits/dim |\n| --- | --- | --- | --- |",
        flush=True,
    )
    for minutes in sorted(flags.minutes):
        end = int(minutes * 60e3 / flags.ms_per_step)
        begin = int(0.8 * end)
        train_to(trunk, begin)
        for of_branch, of_trunk in zip(
            variables(branch), variables(trunk), strict=True
        ):
            of_branch.assign(of_trunk)
        rate.begin.assign(begin)
        rate.end.assign(end)
        train_to(branch, end)
        loss = loop.evaluate(branch, dataset, "validation")
        print(
            f"| {minutes:g} | {end:,} | {end * flags.batch_size:,} "
            f"| {dataset.values.from_nats(loss):.3f} |",
            flush=True,
        )
        rate.end.assign(0.0)


if __name__ == "__main__":
    main()
