"""Measures a saved model in use (docs/measurements.md).

`python -m benchmarks.serving MODEL` prints two tables for a model without
classes. The first has the time to export it, to load it with TensorFlow alone
in a new process, to draw 36 samples for the first time and later, and to score
64 images; and the peak memory of that process.

The second has the milliseconds for a batch of 64: of the float32 test step with
which training evaluates, ten steps a call; and of the calls of `evaluate` and
`sample`, one batch after the other and two at once, as those commands do. All
are measured in turn, and ratios of speeds are medians over the rounds.
"""

import statistics
import tempfile

from benchmarks import measuring
from benchmarks.measuring import once, timed

_NUM_BATCHES = 10


def main() -> None:
    """Measures a model, in processes of their own."""
    flags = measuring.parse_flags(__doc__, "model", calls=5, rounds=15)
    with tempfile.TemporaryDirectory() as folder:
        exported = measuring.in_new_process(export, flags.model, folder)
        cells = measuring.in_new_process(measure, folder, flags.calls)
    measuring.print_header(
        *("export", "load", "first `sample(36)`", "`sample(36)`"),
        *("`log_prob` of 64", "peak memory"),
    )
    measuring.print_row(f"{exported:.1f} s", *cells)
    print()
    measuring.in_new_process(compare, flags.model, flags.rounds)


def export(path: str, folder: str) -> float:
    """Returns the seconds to save a model of one folder to another."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tf_realnvp

    model = tf_realnvp.load(path)
    return once(lambda: model.save(f"{folder}/model"))


def measure(folder: str, calls: int) -> list[str]:
    """Returns the other cells of the first table.

    Args:
      folder: Folder with the model.
      calls: Number of calls, of which the median counts.
    """
    import tensorflow as tf

    loaded = {}

    def load():
        loaded["model"] = tf.saved_model.load(f"{folder}/model")

    def sample():
        return loaded["model"].sample(36).numpy()

    seconds = [once(load), once(sample), timed(sample, calls)]
    images = tf.repeat(sample()[:1], 64, axis=0)
    log_prob = loaded["model"].log_prob
    seconds.append(timed(lambda: log_prob(images).numpy(), calls))
    memory = f"{measuring.peak_memory() / 2**10:.2f} GiB"
    return [*(f"{value:.2f} s" for value in seconds), memory]


def compare(path: str, num_rounds: int) -> None:
    """Prints the second table.

    Args:
      path: Folder of the model.
      num_rounds: Number of rounds.
    """
    from tf_realnvp.serving import saved_model

    served = saved_model.SavedModel(path)
    import tensorflow as tf

    import tf_realnvp
    from tf_realnvp.training.trainer import Trainer
    from tf_realnvp.utils.overlap import overlapped

    (images,) = served.sample(saved_model.BATCH_SIZE, 1.0, seed=0)
    trainer = Trainer(tf_realnvp.load(path))
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
    names = list(ways)
    rounds = []
    for _ in range(num_rounds):
        rounds.append({name: once(ways[name]) for name in names})
        names = names[1:] + names[:1]  # Each is the first of a round in turn.
    measuring.print_header(
        "", "ms a batch", "speed, of the test step's", "of one by one"
    )
    for name in ways:
        ratios = (
            statistics.median(
                seconds[other] / seconds[name] for seconds in rounds
            )
            for other in ("test step", name.partition(",")[0])
        )
        seconds = statistics.median(seconds[name] for seconds in rounds)
        measuring.print_row(
            name,
            f"{1000 * seconds / _NUM_BATCHES:.1f}",
            *(f"{ratio:.3f}" for ratio in ratios),
        )


if __name__ == "__main__":
    main()
