"""Shows where the time of a training step goes.

`python -m benchmarks.profiling` prints one table: the time of each kind of
operation in a training step of the default model, summed over the threads that
start operations, from TensorFlow's profiler. Images are random.
"""

import argparse
import collections
import pathlib
import re
import tempfile

from benchmarks.measuring import training_steps

_KINDS = {
    "convolutions": r"Conv2D.*|_MklNativeConv2D.*|_.*Conv2D.*",
    "ReLU": r"Relu.*|.*Relu.*",
    "biases": r"BiasAdd.*",
    "sums": r"Add.*|AddN|Sum|Mean",
    "conversions to and from bfloat16": r"Cast",
    "Adam": r"ResourceApplyAdam",
}


def main() -> None:
    """Profiles steps of the default model and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--num_blocks", type=int, default=8)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--steps", type=int, default=3)
    flags = parser.parse_args()

    from tf_realnvp.utils import runtime

    runtime.configure()
    import tensorflow as tf

    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    model = RealNVP(filters=flags.filters, num_blocks=flags.num_blocks)
    train = training_steps(
        Trainer(model, precision=flags.precision), flags.batch_size
    )
    train(1)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        train(flags.steps)
        tf.profiler.experimental.stop()
        seconds = operation_seconds(pathlib.Path(folder))
    kinds = collections.Counter()
    for operation, duration in seconds.items():
        matching = (k for k, p in _KINDS.items() if re.fullmatch(p, operation))
        kinds[next(matching, "other")] += duration
    total = kinds.total()
    print("| operations | s/step, over all threads | share |")
    print("| --- | --- | --- |")
    for kind, duration in kinds.most_common():
        each = duration / flags.steps
        print(f"| {kind} | {each:.3f} | {duration / total:.1%} |")


def operation_seconds(folder: pathlib.Path) -> collections.Counter:
    """Returns the seconds of each type of operation in a profile."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = folder.rglob("*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    seconds = collections.Counter()
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                # "name:Type" is an operation; all else encloses operations.
                name = names[event.metadata_id]
                match = re.fullmatch(r"[^:]+:(_?[A-Z]\w+)", name)
                if match:
                    seconds[match[1]] += event.duration_ps / 1e12
    for enclosing in ("PartitionedCall", "StatefulPartitionedCall", "While"):
        del seconds[enclosing]
    return seconds


if __name__ == "__main__":
    main()
