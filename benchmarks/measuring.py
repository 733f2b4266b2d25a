"""What the benchmarks have in common."""

import functools
import statistics
import time
from collections.abc import Callable


def timed(function: Callable[[], object], repetitions: int) -> float:
    """Returns the median seconds of a call, after one to warm up."""
    function()
    return statistics.median(once(function) for _ in range(repetitions))


def once(function: Callable[[], object]) -> float:
    """Returns the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


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
