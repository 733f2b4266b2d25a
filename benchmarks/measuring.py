"""What the benchmarks share: flags, tables, timing, processes and images."""

import argparse
import functools
import multiprocessing
import pathlib
import re
import statistics
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

# Flags of programs that use the images of a saved model.
OF_IMAGES: dict[str, Any] = {"dataset": str, "data_dir": "datasets"}


def parse_flags(
    docstring: str, *arguments: str, **flags: Any
) -> argparse.Namespace:
    """Parses the command line of a benchmark.

    Args:
      docstring: The docstring of the module, which `--help` prints.
      *arguments: Names of the required arguments; `models...` takes one or more
        and is called `models`.
      **flags: Defaults of the flags. `False` is a switch, and a list takes any
        number of values. A type instead of a value stands for no default.
    """
    parser = argparse.ArgumentParser(
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in arguments:
        nargs = "+" if name.endswith("...") else None
        parser.add_argument(name.removesuffix("..."), nargs=nargs)
    for name, default in flags.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
            continue
        value = default[0] if isinstance(default, list) else default
        is_type = isinstance(value, type)
        nargs = "*" if isinstance(default, list) else None
        parser.add_argument(
            f"--{name}",
            type=value if is_type else type(value),
            nargs=nargs,
            default=([] if nargs else None) if is_type else default,
        )
    return parser.parse_args()


def print_row(*cells: object) -> None:
    """Prints a row of a table in Markdown."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_header(*titles: object) -> None:
    """Prints the first rows of a table in Markdown."""
    print_row(*titles)
    print_row(*["---"] * len(titles))


def once(function: Callable[[], object]) -> float:
    """Returns the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def timed(function: Callable[[], object], repetitions: int) -> float:
    """Returns the median seconds of a call, after one to warm up."""
    function()
    return statistics.median(once(function) for _ in range(repetitions))


def new_process() -> futures.ProcessPoolExecutor:
    """Returns an executor that runs everything in one new process.

    Nothing has allocated memory or configured TensorFlow there.
    """
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(1, context)


def in_new_process(
    function: Callable[..., Any], *arguments: Any, timeout: float | None = None
) -> Any:
    """Returns what a function of a module returns in a process of its own.

    Args:
      function: The function.
      *arguments: Its arguments.
      timeout: Seconds after which the process is killed.

    Raises:
      TimeoutError: If the process was killed.
    """
    with new_process() as process:
        try:
            return process.submit(function, *arguments).result(timeout)
        except TimeoutError:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def peak_memory() -> float:
    """Returns the peak memory of this process in MiB.

    Unlike `ru_maxrss`, it does not start from that of the parent process.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


def load(path: str):
    """Loads a model, with the settings of the commands."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tf_realnvp

    return tf_realnvp.load(path)


def load_dataset(model, flags: argparse.Namespace, labels: bool | None = None):
    """Loads images in the size and levels of a model.

    Args:
      model: The model.
      flags: Flags that include `OF_IMAGES`. The default of `--dataset` is the
        data set that the model was trained on.
      labels: Whether to load labels. Default: if the model has classes.

    Returns:
      The `ImageDataset`.
    """
    from tf_realnvp.cli import image_sets

    labels = bool(model.class_names) if labels is None else labels
    loader = image_sets.Loader(model, flags.data_dir)
    return loader.load_dataset(flags.dataset, labels)


def take(dataset, split: str, number: int | None = None):
    """Returns the first images of a split, and their labels.

    Args:
      dataset: The `ImageDataset`.
      split: "train" or "test".
      number: Number of images. Default: all.

    Returns:
      `[n, H, W, C]`, and int32 `[n]`, or `None` if there are no labels.
    """
    chosen = dataset.splits[split].select(slice(number))
    return dataset.take(split, range(chosen.num_images)), chosen.labels


def make_trainer(model, lr: float = 3e-4, **settings):
    """Returns a `Trainer`, by default with Adam in float32.

    Args:
      model: The model.
      lr: The learning rate.
      **settings: Other settings of `TrainingConfig`.
    """
    from tf_realnvp.config import TrainingConfig
    from tf_realnvp.training.trainer import Trainer

    config = TrainingConfig(dataset="random", lr=lr, **settings)
    return Trainer(model, config, config.batch_size)


def training_steps(trainer, batch_size: int) -> Callable[[int], None]:
    """Returns a function that runs training steps on random images.

    If the model has classes, all images are of the first.

    Args:
      trainer: The `Trainer`.
      batch_size: Images per batch.
    """
    import tensorflow as tf

    model = trainer.model
    images = tf.random.stateless_uniform(
        [batch_size, *model.image_shape], [0, 0], 0, model.num_colors, tf.int32
    )
    images = tf.cast(images, tf.uint8)
    condition = {}
    if model.num_classes is not None:
        condition["label"] = tf.zeros([batch_size], tf.int32)
    batch = images, condition
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return functools.partial(trainer.train, batches)
