"""Training with several workers: connecting them, and consistency checks."""

import contextlib
import functools
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tf_realnvp.errors import FailureError, UsageError
from tf_realnvp.utils import ranges, runtime

MAX_MINUTES = 10  # Between the starts of the first and last worker.
_SECONDS_BETWEEN_TRIES = 0.2


def read_slurm_job() -> None:
    """Sets `TF_CONFIG` in a process that `srun` started as one of several.

    Slurm gives each of them its GPUs.
    """
    num_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if num_tasks == 1 or "TF_CONFIG" in os.environ:
        return
    runtime.configure()
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        # Jobs that share a machine need different ports.
        port_base=20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000,
        # Any numbers that fit: it fails on machines without GPUs.
        gpus_per_node=num_tasks,
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    cluster = resolver.cluster_spec().as_dict()
    kind, index = resolver.get_task_info()
    task = {"type": kind, "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})


def is_chief() -> bool:
    """Returns whether this process is the worker that writes the results.

    Raises:
      UsageError: If `TF_CONFIG` does not name this worker and all others.
    """
    return _job()[1] == 0


def _job():
    """Parses `TF_CONFIG`, without TensorFlow, which takes seconds to import.

    Returns:
      Host and port of all workers, by names such as "worker 0", the chief
      first; and the index of this process among them.
    """
    text = os.environ["TF_CONFIG"]
    addresses = {}
    try:
        config = json.loads(text)
        for kind in ("chief", "worker"):  # TensorFlow's order.
            for index, address in enumerate(config["cluster"].get(kind, [])):
                host, port = address.rsplit(":", 1)
                addresses[f"{kind} {index}"] = host.strip("[]"), int(port)
        name = f"{config['task']['type']} {config['task']['index']}"
        return addresses, list(addresses).index(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the environment variable TF_CONFIG is {text!r}: it must have the "
            "addresses of all workers and the task of this one, or be unset to "
            "train on this machine alone"
        ) from error


@functools.cache
def connect():
    """Connects all workers, and returns their `tf.distribute` strategy.

    This must happen before anything is computed. From then on, TensorFlow
    detects the loss of a worker within seconds, and the collective operations
    of all other workers fail.

    Raises:
      UsageError: If `TF_CONFIG` does not name this worker and all others.
      FailureError: If not all workers connect within ten minutes.
    """
    import tensorflow as tf

    _wait_for_all(*_job())
    return tf.distribute.MultiWorkerMirroredStrategy()


def _wait_for_all(addresses, index):
    """Waits until all workers listen.

    TensorFlow would also wait, but forever and without handling signals.
    """
    give_up = time.monotonic() + 60.0 * MAX_MINUTES
    this_address = list(addresses.values())[index]
    with _listening(this_address[1]):
        for name, (host, port) in addresses.items():
            while (host, port) != this_address and not _listens(host, port):
                if time.monotonic() > give_up:
                    raise FailureError(
                        f"{name} of TF_CONFIG, {host}:{port}, did not come in "
                        f"{MAX_MINUTES} minutes: start the same command there"
                    )
                time.sleep(_SECONDS_BETWEEN_TRIES)


def _listening(port):
    """Context manager that listens on the port that TensorFlow will use."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dual)


def _listens(host, port):
    # An invalid address does not listen either.
    with contextlib.suppress(OSError, OverflowError, UnicodeError):
        socket.create_connection((host, port), timeout=5.0).close()
        return True
    return False


def agree(record: Mapping[str, Any]) -> None:
    """Checks that records are the same on all workers, if there are several.

    Args:
      record: The record of this worker, serializable as JSON.

    Raises:
      UsageError: If anything differs, for all workers alike.
      tf.errors.OpError: If a worker is gone.
    """
    if not runtime.is_one_of_many():
        return
    chief, *others = gather(record)
    differences = [
        f"worker {number} differs from worker 0: {difference}"
        for number, other in enumerate(others, start=1)
        for difference in ranges.differences(other, chief)
    ]
    if differences:
        raise UsageError(
            f"{'; '.join(differences)}; all workers must train alike"
        )


def any_worker(condition: bool) -> bool:
    """Returns whether a condition holds for any worker; all must call it."""
    return any(gather(condition)) if runtime.is_one_of_many() else condition


def of_chief(record: Any) -> Any:
    """Returns the record of the chief; all workers must call it."""
    return gather(record)[0] if runtime.is_one_of_many() else record


def agree_on_state(
    variables: Iterable[Any], source: str | None, argument: str
) -> None:
    """Checks that all workers, if any, start from the same state.

    Args:
      variables: The state of this worker, `tf.Variable`s.
      source: Description of the restored checkpoint or model; `None` if there
        was none.
      argument: Name of the argument that gives its location.

    Raises:
      UsageError: If the states differ.
      tf.errors.OpError: If a worker is gone.
    """
    state = "nothing read"
    if source is not None and runtime.is_one_of_many():
        digest = hashlib.sha256()
        for variable in variables:
            digest.update(variable.numpy().tobytes())
        state = f"{source} read, {digest.hexdigest()[:8]}"
    agree({argument: state})


def gather(record):
    """Returns the records of all workers, in order."""
    import tensorflow as tf

    # `gather` supports int32 but not 8-bit integers, and different lengths.
    line = tf.constant(list(f"{json.dumps(record)}\n".encode()), tf.int32)
    lines = bytes(_gathering()(line).numpy().tolist()).splitlines()
    return [json.loads(line) for line in lines]


@functools.cache
def _gathering():
    """Returns `gather` as a graph, which takes 3 ms in place of 60."""
    import tensorflow as tf

    gather = functools.partial(connect().gather, axis=0)
    lines = [tf.TensorSpec([None], tf.int32)]
    return tf.function(gather, lines, autograph=False)
