"""What the benchmarks have in common."""

import functools
import multiprocessing
import pathlib
import re
import statistics
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any


def timed(function: Callable[[], object], repetitions: int) -> float:
    """Returns the median seconds of a call, after one to warm up."""
    function()
    return statistics.median(once(function) for _ in range(repetitions))


def once(function: Callable[[], object]) -> float:
    """Returns the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_new_process(function: Callable[..., Any], *arguments) -> Any:
    """Returns what a function of a module returns in a process of its own.

    Nothing has taken memory there before, or set TensorFlow up.
    """
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> float:
    """Returns the peak memory of this process in MiB.

    Not `ru_maxrss`, which a process begins with that of the one that starts it.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


def test_images(saved, data_dir: str, n: int):
    """Returns test images of a model's data set, and their labels.

    Args:
      saved: The `SavedModel`.
      data_dir: As for `data.load`.
      n: Number of images.

    Returns:
      `[n, H, W, C]`, and int32 `[n]`; `None` if the model has no classes.
    """
    from tf_realnvp.cli import image_sets

    has_classes = bool(saved.class_names)
    loader = image_sets.Loader(saved, data_dir)
    dataset = loader.load_dataset(None, labels=has_classes)
    labels = dataset.splits["test"].labels[:n] if has_classes else None
    return dataset.take("test", range(n)), labels


def training_steps(trainer, batch_size: int) -> Callable[[int], None]:
    """Returns a function that does real training steps on random images.

    If the model has classes, all images are of the first.

    Args:
      trainer: The `Trainer`.
      batch_size: Images in a batch.
    """
    import tensorflow as tf

    model = trainer.model
    images = tf.random.stateless_uniform(
        [batch_size, *model.image_shape], [0, 0], 0, model.num_colors, tf.int32
    )
    images = tf.cast(images, tf.uint8)
    batch = images
    if model.num_classes is not None:
        batch = images, tf.zeros([batch_size], tf.int32)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return functools.partial(trainer.train, batches)
