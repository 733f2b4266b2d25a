"""Measures how fast a saved model scores images, and draws them.

`python -m benchmarks.evaluating MODEL` prints the milliseconds for a batch of
64, for a model without classes: of the float32 test step with which training
evaluates, ten steps a call; and of the calls of `evaluate` and `sample`, one
batch after the other and two at once, as those commands do. The images are
drawn from the model. All are measured in turn, and ratios of speeds are medians
over the rounds (benchmarks/results/evaluating.md).
"""

import statistics

from benchmarks import measuring
from benchmarks.measuring import once

_NUM_BATCHES = 10


def main() -> None:
    """Measures a model and prints the table."""
    flags = measuring.parse_flags(__doc__, "model", rounds=15)
    from tf_realnvp import batched
    from tf_realnvp.utils.batches import BATCH_SIZE, overlapped

    served = measuring.load(flags.model)
    import tensorflow as tf

    (images,) = batched.sample(served, BATCH_SIZE, 1.0, seed=0)
    trainer = measuring.make_trainer(measuring.load(flags.model))
    steps = iter(
        tf.data.Dataset.from_tensors((images, {})).repeat().enumerate()
    )
    seeds = range(_NUM_BATCHES)

    def log_prob(seed):
        return batched.log_prob_of_classes(served, images, seed)

    def sample(seed):
        return list(batched.sample(served, BATCH_SIZE, 1.0, seed))

    ways = {
        "test step": lambda: trainer.test(steps, _NUM_BATCHES),
        "`log_prob`": lambda: list(map(log_prob, seeds)),
        "`log_prob`, two at once": lambda: list(overlapped(log_prob, seeds)),
        "`sample`": lambda: list(map(sample, seeds)),
        "`sample`, two at once": lambda: list(overlapped(sample, seeds)),
    }
    for run in ways.values():
        run()
    names, rounds = list(ways), []
    for _ in range(flags.rounds):
        rounds.append({name: once(ways[name]) for name in names})
        names = names[1:] + names[:1]  # Each is the first of a round in turn.
    measuring.print_header(
        "", "ms a batch", "speed, of the test step's", "of one by one"
    )
    for name in ways:
        seconds = statistics.median(times[name] for times in rounds)
        ratios = (
            statistics.median(times[other] / times[name] for times in rounds)
            for other in ("test step", name.partition(",")[0])
        )
        measuring.print_row(
            name,
            f"{1000 * seconds / _NUM_BATCHES:.1f}",
            *(f"{ratio:.3f}" for ratio in ratios),
        )


if __name__ == "__main__":
    main()
