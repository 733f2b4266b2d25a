"""Measures what a model reaches in a given time (docs/measurements.md).

`python -m benchmarks.budget --ms_per_step 308 --minutes 10 20` trains a model
with Adam at a constant rate, with warm-up and clipping, in the fastest
precision of the hardware. For each number of minutes it branches off after 80 %
of the steps, lets the rate fall to zero in the other 20 %, in float32, and
prints the bits/dim of held-out training images. A minute has as many steps as
`--ms_per_step` (from `benchmarks.devices`) says, whatever else runs meanwhile.
"""

from benchmarks import measuring

_WARMUP_STEPS = 100


def main() -> None:
    """Trains, and prints a row for each number of minutes."""
    flags = measuring.parse_flags(
        __doc__,
        dataset="fashion_mnist",
        data_dir="datasets",
        filters=64,
        num_blocks=2,
        num_scales=3,
        num_couplings=[3, 3, 4],
        batch_size=32,
        lr=3e-3,
        seed=0,
        num_validation=5000,
        ms_per_step=300.0,
        minutes=[10.0],
    )
    from tf_realnvp.utils import runtime

    runtime.configure(num_threads=1)
    import keras
    import tensorflow as tf

    from tf_realnvp import RealNVP, data, initialization
    from tf_realnvp.training import loop

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
    dataset = dataset.hold_out(flags.num_validation, flags.seed)
    keras.utils.set_random_seed(flags.seed)
    model = RealNVP(
        dataset.image_shape,
        dataset.num_colors,
        filters=flags.filters,
        num_blocks=flags.num_blocks,
        num_scales=flags.num_scales,
        num_couplings=flags.num_couplings,
    )
    initialization.initialize(
        model, dataset.initial_images(flags.seed), flags.seed
    )
    rate, settings = Rate(), {"clip_grad": 1.0, "seed": flags.seed}
    fastest = runtime.settle_precision("auto", "constant")
    trunk = measuring.make_trainer(model, precision=fastest, **settings)
    branch = measuring.make_trainer(model.clone(), **settings)
    trunk.optimizer.learning_rate = branch.optimizer.learning_rate = rate

    def train_to(trainer, step):
        while trainer.num_steps < step:
            epoch, position = divmod(
                trainer.num_steps, dataset.num_train // flags.batch_size
            )
            batches = dataset.train_batches(
                flags.batch_size, flags.seed, epoch + 1, skip=position
            )
            left = min(step - trainer.num_steps, len(batches))
            iterator = iter(batches)
            while left:
                trainer.train(iterator, min(20, left))
                left -= min(20, left)

    print(f"{model.num_parameters:,} parameters\n")
    measuring.print_header("minutes", "steps", "images", "bits/dim")
    for minutes in sorted(flags.minutes):
        end = int(minutes * 60e3 / flags.ms_per_step)
        begin = int(0.8 * end)
        train_to(trunk, begin)
        for kind, variables in branch.state.items():
            for variable, value in zip(
                variables, trunk.state[kind], strict=True
            ):
                variable.assign(value)
        rate.begin.assign(begin)
        rate.end.assign(end)
        train_to(branch, end)
        loss = loop.evaluate(branch, dataset, "validation")
        bits = dataset.values.from_nats(loss)
        images = end * flags.batch_size
        measuring.print_row(
            f"{minutes:g}", f"{end:,}", f"{images:,}", f"{bits:.3f}"
        )
        rate.end.assign(0.0)


if __name__ == "__main__":
    main()
