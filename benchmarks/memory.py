"""Measures the memory that stays in a process that works on many models.

`python -m benchmarks.memory` does each thing that a notebook does over and over
again (a training, a load, a call with another batch size), in a process of its
own. It prints the anonymous memory after the third time and after the last, and
what each time in between has added. All objects are deleted and all free memory
is returned to the system before it is measured.
"""

import argparse
import contextlib
import ctypes
import gc
import tempfile

from benchmarks.measuring import in_new_process

_SIZE = (8, 8, 1)
_FROM = 3  # The first times fill caches.


def main() -> None:
    """Measures all cases, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(_CASES)}")
    args = parser.parse_args()
    print(
        "| case | times | MB after three | MB after all | MB each | "
        "graphs each | gradients each |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for case in args.cases or _CASES:
        in_new_process(_measure, case)


def _measure(case):
    """Measures a case in this process, and prints its row."""
    from tf_realnvp import runtime

    runtime.configure(num_cpus=2 if case == "train on two CPUs" else 1)
    prepare, times = _CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        again = prepare(folder)
        for time in range(times):
            again(time)
            if time == _FROM - 1:
                before = _held()
        after = _held()
    pairs = zip(before, after, strict=True)
    each = [(last - first) / (times - _FROM) for first, last in pairs]
    print(
        f"| {case} | {times} | {before[0]:.0f} | {after[0]:.0f} | "
        f"{each[0]:.1f} | {each[1]:.1f} | {each[2]:.1f} |",
        flush=True,
    )


def _held():
    """Returns MB of anonymous memory, and numbers of graphs and gradients."""
    from tensorflow.python.framework import func_graph, ops

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as lines:
        sizes = dict(line.split(":") for line in lines if "kB" in line)
    graphs = sum(isinstance(o, func_graph.FuncGraph) for o in gc.get_objects())
    kilobytes = int(sizes["Anonymous"].split()[0])
    return kilobytes / 1024, graphs, len(ops.gradient_registry.list())


def _model():
    import tf_realnvp

    return tf_realnvp.RealNVP(_SIZE, 17, filters=4, num_blocks=1)


def _images(n=64):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(17, size=(n, *_SIZE)).astype(np.uint8)


def _train(on_epoch=None, scope=contextlib.nullcontext, **settings):
    import tf_realnvp

    with scope():
        model = _model()
        tf_realnvp.train(
            model,
            _images(),
            max_steps=2,
            batch_size=16,
            on_epoch=on_epoch,
            progress=False,
            **settings,
        )


def _training(folder):
    return lambda time: _train()


def _training_with_all(folder):
    return lambda time: _train(
        recompute=True, ema=0.9, run_dir=f"{folder}/{time}"
    )


def _training_on_two(folder):
    from tf_realnvp import runtime

    return lambda time: _train(scope=runtime.make_strategy().scope)


def _interrupted(folder):
    def stop(metrics):
        if metrics.step:
            raise KeyboardInterrupt

    def again(time):
        with contextlib.suppress(KeyboardInterrupt):
            _train(stop)

    return again


def _saved(folder):
    _model().save(f"{folder}/model")
    return f"{folder}/model"


def _saving(folder):
    model = _model()
    return lambda time: model.save(f"{folder}/model")


def _loading(folder):
    import tf_realnvp

    path = _saved(folder)
    return lambda time: tf_realnvp.load(path).log_prob(_images(), seed=0)


def _loading_saved_model(folder):
    import tensorflow as tf

    def again(time):
        model = tf.saved_model.load(path)
        model.signatures["encode"](images=tf.constant(_images()))

    path = _saved(folder)
    return again


def _calls(folder):
    model = _model()

    def again(time):
        images = model.sample(time + 1)
        model.log_prob(images)
        model.encode(images)

    return again


def _compiled(folder):
    import tensorflow as tf

    def again(time):
        function = tf.function(_model().log_prob)
        function(_images())

    return again


def _measuring(folder):
    from tf_realnvp import detection

    model = _model()
    return lambda time: detection.Measurer(model)(_images())


_CASES = {
    "train": (_training, 10),
    "train, recompute, run_dir": (_training_with_all, 10),
    "train on two CPUs": (_training_on_two, 10),
    "train, Ctrl-C": (_interrupted, 10),
    "save": (_saving, 10),
    "tf_realnvp.load": (_loading, 50),
    "tf.saved_model.load": (_loading_saved_model, 50),
    "sample, log_prob, encode": (_calls, 50),
    "tf.function(log_prob)": (_compiled, 20),
    "detection.Measurer": (_measuring, 20),
}

if __name__ == "__main__":
    main()
