"""Measures the memory that is not freed in a process with many models.

`python -m benchmarks.memory` does what a notebook does again and again, such as
training, loading and calls with another batch size, each in a process of its
own. It prints the anonymous memory after the third time and after the last, and
what each time in between has added (benchmarks/results/memory.md). Before
memory is measured, all objects are deleted, and free memory is returned to the
system.
"""

import contextlib
import ctypes
import gc
import tempfile

from benchmarks import measuring

_SHAPE = (8, 8, 1)
_FIRST = 3  # The first times fill caches.


def main() -> None:
    """Measures all cases, and prints the table."""
    flags = measuring.parse_flags(__doc__, cases=list(_CASES))
    measuring.print_header(
        *("case", "times", "MB after three", "MB after all", "MB each"),
        *("graphs each", "gradients each"),
    )
    for case in flags.cases:
        measuring.in_new_process(measure, case)


def measure(case: str) -> None:
    """Measures a case in this process, and prints its row.

    Args:
      case: A key of `_CASES`.
    """
    from tf_realnvp import runtime

    runtime.configure(2 if case == "train in two parts" else 1)
    prepare, times = _CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        repeat = prepare(folder)
        for index in range(times):
            repeat(index)
            if index == _FIRST - 1:
                before = _held()
        after = _held()
    pairs = zip(before, after, strict=True)
    each = [(last - first) / (times - _FIRST) for first, last in pairs]
    measuring.print_row(
        *(case, times, f"{before[0]:.0f}", f"{after[0]:.0f}"),
        *(f"{value:.1f}" for value in each),
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

    return tf_realnvp.RealNVP(_SHAPE, 17, filters=4, num_blocks=1)


def _images():
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(17, size=(64, *_SHAPE)).astype(np.uint8)


def _train(**settings):
    import tf_realnvp

    with tf_realnvp.runtime.make_strategy().scope():
        tf_realnvp.train(
            _model(),
            _images(),
            max_steps=2,
            batch_size=16,
            progress=False,
            **settings,
        )


def _recompute(folder):
    return lambda index: _train(
        recompute=True, ema=0.9, run_dir=f"{folder}/{index}"
    )


def _interrupt(folder):
    def stop(metrics):
        if metrics.step:
            raise KeyboardInterrupt

    def repeat(index):
        with contextlib.suppress(KeyboardInterrupt):
            _train(on_epoch=stop)

    return repeat


def _save(folder):
    model = _model()
    return lambda index: model.save(f"{folder}/model")


def _load(folder):
    import tf_realnvp

    _model().save(f"{folder}/model")
    return lambda index: tf_realnvp.load(f"{folder}/model").log_prob(
        _images(), seed=0
    )


def _load_saved_model(folder):
    import tensorflow as tf

    _model().save(f"{folder}/model")

    def repeat(index):
        model = tf.saved_model.load(f"{folder}/model")
        model.signatures["encode"](images=tf.constant(_images()))

    return repeat


def _call(folder):
    model = _model()

    def repeat(index):
        images = model.sample(index + 1)
        model.log_prob(images)
        model.encode(images)

    return repeat


def _trace(folder):
    import tensorflow as tf

    return lambda index: tf.function(_model().log_prob)(_images())


def _detect(folder):
    from tf_realnvp import detection

    model = _model()
    return lambda index: detection.Measurer(model)(_images())


# What returns the function to repeat, and how often.
_CASES = {
    "train": (lambda folder: lambda index: _train(), 10),
    "train, recompute, run_dir": (_recompute, 10),
    "train in two parts": (lambda folder: lambda index: _train(), 10),
    "train, Ctrl-C": (_interrupt, 10),
    "save": (_save, 10),
    "tf_realnvp.load": (_load, 50),
    "tf.saved_model.load": (_load_saved_model, 50),
    "sample, log_prob, encode": (_call, 50),
    "tf.function(log_prob)": (_trace, 20),
    "detection.Measurer": (_detect, 20),
}

if __name__ == "__main__":
    main()
