"""How TensorFlow is set up for the commands."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Sends to nowhere what native code writes to standard error."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def configure() -> None:
    """Chooses TensorFlow's settings; to be called before it is imported.

    What the user has set in the environment stays.
    """
    # TensorFlow's log tells of GPU libraries that are missing; "0" shows it.
    quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0"
    # oneDNN's convolutions are twice as fast as Eigen's on x86 processors, but
    # the default only on the newest.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

    # While it is imported it logs all the same: tensorflow issue 100442.
    with silent_stderr() if quiet else contextlib.nullcontext():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        # On CPUs Grappler rewrites these graphs for ten seconds and gains
        # nothing.
        tf.config.optimizer.set_experimental_options(
            {"disable_meta_optimizer": True}
        )


def describe_devices() -> str:
    """Returns what TensorFlow computes on, for people."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"GPU {details.get('device_name', gpus[0].name)}"
    return f"CPU with {os.cpu_count()} cores"
