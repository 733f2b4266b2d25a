"""Measures how fast a saved model scores images, and draws them.

`python -m benchmarks.evaluating MODEL` prints milliseconds for a batch of 64:
of the float32 test step with which training evaluates, ten steps a call; and of
the calls that `evaluate` and `sample` make, one batch after the other and two
at once, as those commands do. The images are drawn from the model. All ways are
measured in turn, and ratios of speeds are medians of the ratios of each round.
"""

import argparse
import itertools
import statistics

from benchmarks.measuring import once

_NUM_BATCHES = 10


def main() -> None:
    """Measures a model and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="its folder; one without classes")
    parser.add_argument("--rounds", type=int, default=15)
    flags = parser.parse_args()

    from tf_realnvp.serving import saved_model

    served = saved_model.SavedModel(flags.model)
    import tensorflow as tf

    import tf_realnvp
    from tf_realnvp.training.trainer import Trainer
    from tf_realnvp.utils import runtime
    from tf_realnvp.utils.overlap import overlapped

    (images,) = served.sample(saved_model.BATCH_SIZE, 1.0, seed=0)
    trainer = Trainer(
        tf_realnvp.load(flags.model), 1e-3, seed=0, precision="float32"
    )
    steps = iter(tf.data.Dataset.from_tensors(images).repeat().enumerate())
    seeds = range(_NUM_BATCHES)

    def log_prob(seed):
        return served.log_prob_of_classes(images, seed)

    def sample(seed):
        return list(served.sample(saved_model.BATCH_SIZE, 1.0, seed))

    ways = {
        "test step": lambda: trainer.test(steps, _NUM_BATCHES),
        "`log_prob`": lambda: list(map(log_prob, seeds)),
        "`log_prob`, two at once": lambda: list(overlapped(log_prob, seeds)),
        "`sample`": lambda: list(map(sample, seeds)),
        "`sample`, two at once": lambda: list(overlapped(sample, seeds)),
    }
    for run in ways.values():
        run()
    order = itertools.cycle(ways)  # Each is the first of a round in turn.
    rounds = []
    for _ in range(flags.rounds):
        names = list(itertools.islice(order, len(ways)))
        rounds.append({name: once(ways[name]) for name in names})
        next(order)
    print(
        f"{flags.model}, {runtime.describe_devices()}; medians of "
        f"{flags.rounds} rounds\n"
        "| | ms a batch | speed, of the test step's | of one by one |\n"
        "| --- | --- | --- | --- |"
    )
    for name in ways:
        alone = name.partition(",")[0]
        seconds = statistics.median(seen[name] for seen in rounds)
        of_step, of_alone = (
            statistics.median(seen[other] / seen[name] for seen in rounds)
            for other in ("test step", alone)
        )
        print(
            f"| {name} | {1000 * seconds / _NUM_BATCHES:.1f} "
            f"| {of_step:.3f} | {of_alone:.3f} |"
        )


if __name__ == "__main__":
    main()
