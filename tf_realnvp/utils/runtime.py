"""Configuration of TensorFlow: devices, threads and precision."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator

from tf_realnvp.errors import UsageError
from tf_realnvp.utils.console import counted

# The largest image side times filters for which one thread is fastest, from
# benchmarks/results/devices.md.
SMALL = 512


def fastest_cpus(image_size: int, filters: int) -> tuple[int, int | None]:
    """Returns the fastest numbers of parts and threads for training on a CPU.

    Args:
      image_size: The longer side of the images in pixels.
      filters: Hidden channels of the coupling networks.

    Returns:
      The number of parts of a batch to compute at once, and the number of
      threads per operation in each; `None` if the parts share all cores.
    """
    if is_one_of_many():
        return 1, None
    if image_size * filters <= SMALL:
        return 1, 1
    return min(2, num_cores()), None


def configure(
    num_parts: int = 1,
    num_threads: int | None = None,
    deterministic: bool = False,
    is_command: bool = False,
) -> None:
    """Configures TensorFlow; call it before TensorFlow is imported.

    Environment variables set by the user are kept, except for the Keras
    backend. TF32 is disabled on GPUs, except in `compiling`.

    Args:
      num_parts: Number of parts of a batch that a training step computes at
        once, if there is no GPU.
      num_threads: Number of threads per operation. Default: all cores, or the
        share of each part.
      deterministic: Whether to use deterministic operations only, on GPUs as
        well. Random operations without a seed then raise an error.
      is_command: Whether nothing else runs in this process, so that Keras need
        not import what it has for scikit-learn and pyplot, a second's work.
    """
    # TensorFlow's log warns about missing GPU libraries, and about retracing of
    # networks for each of their shapes, which is intended. "0" shows the log.
    quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0"
    # oneDNN's convolutions are twice as fast as Eigen's on x86 processors, but
    # the default only on the newest.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # By default the gradients of convolutions are compiled at each step, which
    # saves hardly any memory.
    os.environ.setdefault("TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE", "0")
    # Other backends that a user's keras.json may name are not supported.
    os.environ["KERAS_BACKEND"] = "tensorflow"

    # During the import, it logs all the same: tensorflow issue 100442.
    unused = {"sklearn", "matplotlib.pyplot"} - sys.modules.keys()
    hidden = dict.fromkeys(unused if is_command else ())
    with _silent_stderr() if quiet else contextlib.nullcontext():
        sys.modules.update(hidden)  # type: ignore[arg-type]
        import tensorflow as tf

        for name in hidden:
            del sys.modules[name]
        gpus = _gpus()
    if quiet:
        tf.get_logger().setLevel("ERROR")
    if num_parts > 1 and not gpus:
        tf.config.threading.set_inter_op_parallelism_threads(num_parts)
        # Gradients in several threads crash oneDNN's convolution with a fused
        # addition, which this makes.
        tf.config.optimizer.set_experimental_options({"remapping": False})
        num_threads = num_threads or num_cores() // num_parts
    if num_threads and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def compiling(tensor_float_32: bool = False) -> Iterator[None]:
    """Context manager for the graphs of a training.

    It sets how TensorFlow compiles what is called first inside. The previous
    settings are restored afterwards.

    Args:
      tensor_float_32: Whether TF32 is allowed in convolutions on GPUs, in calls
        that start and end inside.
    """
    import tensorflow as tf

    allow = tf.config.experimental.enable_tensor_float_32_execution
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    optimizer = tf.config.optimizer
    steps = {"layout_optimizer": True, "remapping": True}
    options = steps | {"disable_meta_optimizer": False}
    options |= optimizer.get_experimental_options()
    allow(tensor_float_32)
    if not _gpus():
        # The graph optimizer takes half of the time of the first step, and
        # makes no step faster (benchmarks/results/training.md).
        optimizer.set_experimental_options({"disable_meta_optimizer": True})
    elif tensor_float_32:
        # TensorFlow 2.21 caches cuDNN's convolution plans, with or without
        # TF32, by shape and layout alone. These steps of the graph optimizer
        # choose the layout: NHWC without them and NCHW with them, so that the
        # two never share a plan.
        optimizer.set_experimental_options(dict.fromkeys(steps, False))
    try:
        yield
    finally:
        allow(before)
        optimizer.set_experimental_options(options)


def parts_at_once() -> int:
    """Returns the number of parts of a batch that `configure` was given."""
    import tensorflow as tf

    options = tf.config.optimizer.get_experimental_options()
    if options.get("remapping", True):  # Several would crash: see `configure`.
        return 1
    return tf.config.threading.get_inter_op_parallelism_threads() or 1


def describe_devices(num_devices: int | None = None) -> str:
    """Returns a human-readable description of TensorFlow's devices.

    Args:
      num_devices: As for `make_strategy`.
    """
    import tensorflow as tf

    if gpus := _gpus():
        details = tf.config.experimental.get_device_details(gpus[0])
        name = details.get("device_name") or gpus[0].name
        return f"{counted(num_devices or len(gpus), 'GPU')} {name}"
    text = f"CPU with {counted(num_cores(), 'core')}"
    if (num_parts := parts_at_once()) > 1:
        text += f" ({num_parts} parts of a batch at once)"
    return text


def settle_precision(precision: str) -> str:
    """Returns a precision that the hardware supports.

    Args:
      precision: As in `TrainingConfig`. "auto" selects the fastest: "bfloat16"
        if the hardware multiplies it natively, else "float32", since values
        would have to be converted.

    Raises:
      UsageError: If it is "tf32" and there is no GPU, or a GPU without TF32.
    """
    import tensorflow as tf

    gpus = _gpus()
    details = map(tf.config.experimental.get_device_details, gpus)
    capabilities = [gpu.get("compute_capability", (0, 0)) for gpu in details]
    # NVIDIA's GPUs since Ampere, all of them.
    is_native = min(capabilities, default=(0, 0)) >= (8, 0)
    if precision == "tf32" and not is_native:
        raise UsageError(
            "argument `precision`: TensorFlow finds no GPUs that all have "
            "tf32, as NVIDIA's do since Ampere: give float32 or bfloat16"
        )
    if precision != "auto":
        return precision
    if not gpus:
        native = {"avx512_bf16", "amx_bf16"}
        is_native = not native.isdisjoint(processor_features())
    return "bfloat16" if is_native else "float32"


def make_strategy(num_devices: int | None = None):
    """Returns the `tf.distribute` strategy to train with in one process.

    Args:
      num_devices: Number of GPUs, or of logical CPUs where there is no GPU.
        Default: all.

    Raises:
      UsageError: If there are fewer GPUs than `num_devices`.
    """
    import tensorflow as tf

    num_gpus = len(_gpus())
    if num_gpus and (num_devices or 1) > num_gpus:
        raise UsageError(
            f"argument `devices`: {num_devices} is more than the number of "
            f"GPUs that TensorFlow finds, {num_gpus}"
        )
    kind = "GPU" if num_gpus else "CPU"
    devices = tf.config.list_logical_devices(kind)[:num_devices]
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def is_one_of_many() -> bool:
    """Returns whether `TF_CONFIG` makes this process one of several workers."""
    return "TF_CONFIG" in os.environ


def num_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_features() -> frozenset[str]:
    """Returns the processor's features by Linux's names; empty if unknown."""
    with contextlib.suppress(OSError):
        return frozenset(pathlib.Path("/proc/cpuinfo").read_text().split())
    return frozenset()


@contextlib.contextmanager
def _silent_stderr():
    """Suppresses output of native code to standard error."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _gpus():
    import tensorflow as tf

    return tf.config.get_visible_devices("GPU")
