"""How TensorFlow is set up for the commands."""

import os


def configure() -> None:
    """Chooses TensorFlow's settings; to be called before it is imported.

    What the user has set in the environment stays.
    """
    # TensorFlow's own log tells of libraries it does without; "0" shows it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN's convolutions are twice as fast as Eigen's on x86 processors, but
    # the default only on the newest.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
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
