"""Several processes that train one model: how they meet, and agree."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.utils.errors import FailureError, UsageError
from tf_realnvp.utils.messages import printable

if TYPE_CHECKING:
    from tf_realnvp.training.trainer import Trainer

_KINDS = ("chief", "worker")  # In the order that TensorFlow gives them.
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_MAX_MINUTES = 10  # From the first worker's start to the last one's.
_SECONDS_BETWEEN_TRIES = 0.2


@dataclasses.dataclass(frozen=True)
class _Job:
    """What `TF_CONFIG` says.

    Attributes:
      names: Of all workers, such as "worker 0"; the first one is the chief.
      addresses: Host and port of each.
      index: Which of them this process is.
    """

    names: list[str]
    addresses: list[tuple[str, int]]
    index: int


def is_chief() -> bool:
    """Returns whether this process is the worker that writes the results.

    Raises:
      UsageError: If `TF_CONFIG` is not what TensorFlow takes.
    """
    return _job().index == 0


def _job():
    text = os.environ["TF_CONFIG"]
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        workers, addresses = [], []
        for kind in _KINDS:
            for index, address in enumerate(cluster.get(kind, [])):
                host, port = address.rsplit(":", 1)
                workers.append((kind, index))
                host.encode("idna")  # `socket` would fail with UnicodeError.
                addresses.append((host.strip("[]"), int(port)))
        index = workers.index((task["type"], task["index"]))
        is_good = type(task["index"]) is int
        is_good = is_good and all(0 < port < 2**16 for _, port in addresses)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_good = False
    if not is_good:
        raise UsageError(
            f"the environment variable TF_CONFIG is {text!r}: give each worker "
            f"one such as {_EXAMPLE}, or unset it to train on this machine "
            "alone"
        )
    names = [f"{kind} {number}" for kind, number in workers]
    return _Job(names, addresses, index)


@functools.cache
def connect():
    """Returns the `tf.distribute` strategy of all workers, once all are there.

    That is to come before anything is computed. From then on TensorFlow finds
    out within seconds when a worker is gone, and what the others compute
    together with it fails.

    Raises:
      UsageError: If `TF_CONFIG` is not what TensorFlow takes.
      FailureError: If the others do not come in ten minutes.
    """
    import tensorflow as tf

    _wait_for_all(_job())
    return tf.distribute.MultiWorkerMirroredStrategy()


def _wait_for_all(job):
    """Waits until all workers listen.

    TensorFlow would do so by itself, but for ever and deaf to signals.
    """
    give_up = time.monotonic() + 60.0 * _MAX_MINUTES
    own = job.addresses[job.index]
    with _listening(own[1]):
        for name, address in zip(job.names, job.addresses, strict=True):
            while address != own and not _listens(address):
                if time.monotonic() > give_up:
                    raise FailureError(
                        f"{name} of TF_CONFIG, {address[0]}:{address[1]}, did "
                        f"not come in {_MAX_MINUTES} minutes: start the same "
                        "command there"
                    )
                time.sleep(_SECONDS_BETWEEN_TRIES)


def _listening(port):
    """Listens where TensorFlow is going to, for as long as it is entered."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, dualstack_ipv6=dual
        )
    except OSError as error:
        raise UsageError(
            f"the environment variable TF_CONFIG: cannot listen on port {port} "
            f"of this machine: {error.strerror}"
        ) from error


def _listens(address):
    with contextlib.suppress(OSError):
        socket.create_connection(address, timeout=5.0).close()
        return True
    return False


def agree(record: Any, differences: Callable[[Any, Any], list[str]]) -> Any:
    """Compares something that all workers must have alike.

    Args:
      record: What this worker has; values that JSON knows.
      differences: Says in what the first record differs from the second, which
        is the chief's.

    Returns:
      The chief's record.

    Raises:
      UsageError: If anything differs, for all workers alike.
      tf.errors.OpError: If a worker is gone.
    """
    names = _job().names
    chief, *others = _gather(record)
    found = [
        f"{name} differs from {names[0]}: {', '.join(words)}"
        for name, other in zip(names[1:], others, strict=True)
        if (words := differences(other, chief))
    ]
    if found:
        raise UsageError(
            printable(f"{'; '.join(found)}; all workers must train alike")
        )
    return chief


def agree_on_settings(
    config: TrainingConfig, data: DataDescription, resume: bool
) -> TrainingConfig:
    """Makes sure that all workers train alike, in the chief's precision.

    Args:
      config: The settings of this worker.
      data: Its images.
      resume: Whether it is to go on from a checkpoint.

    Returns:
      The settings, with the chief's precision.

    Raises:
      UsageError: If anything differs, for all workers alike.
      tf.errors.OpError: If a worker is gone.
    """

    def parse(record):
        return (
            TrainingConfig.from_json(record["config"]),
            DataDescription.from_json(record["data"]),
            "`resume`" if record["resume"] else "no `resume`",
        )

    def differences(worker, chief):
        try:
            config, data, resume = parse(worker)
            of_chief, data_of_chief, resume_of_chief = parse(chief)
        except (KeyError, ValueError):
            return ["another version of this program"]
        found = config.differences_of_worker(of_chief)
        if resume != resume_of_chief:
            found.append(f"{resume} instead of {resume_of_chief}")
        return found + data.differences(data_of_chief)

    record = {
        "config": dataclasses.asdict(config),
        "data": dataclasses.asdict(data),
        "resume": resume,
    }
    chief, *_ = parse(agree(record, differences))
    return dataclasses.replace(config, precision=chief.precision)


def agree_on_state(trainer: "Trainer", found: str | None, where: str) -> None:
    """Makes sure that all workers go on from the same state.

    Args:
      trainer: What has that state in this worker.
      found: What it was restored from; `None` if there was nothing.
      where: Where that was looked for.

    Raises:
      UsageError: If they do not.
      tf.errors.OpError: If a worker is gone.
    """
    mine = "nothing"
    if found is not None:
        digest = hashlib.sha256()
        for variable in itertools.chain(*trainer.state.values()):
            digest.update(variable.numpy().tobytes())
        mine = f"{found} ({digest.hexdigest()[:8]})"

    def differences(worker, chief):
        if worker == chief:
            return []
        return [f"{worker} in {where} instead of {chief}, which all must see"]

    agree(mine, differences)


def _gather(record):
    """Returns the records of all workers, in their order."""
    import tensorflow as tf

    # Gathered numbers may be 32 bits wide, not 8, and be of any length.
    line = tf.constant(list(f"{json.dumps(record)}\n".encode()), tf.int32)
    strategy = connect()
    gathered = _interruptible(lambda: strategy.gather(line, axis=0).numpy())
    return [json.loads(line) for line in bytes(gathered.tolist()).splitlines()]


def _interruptible(function):
    """Returns what a function does, unless a signal comes meanwhile.

    Python handles signals in the main thread, when that is not in TensorFlow.
    """
    future: concurrent.futures.Future = concurrent.futures.Future()

    def run():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # It is no reason for the process to stay.
    threading.Thread(target=run, daemon=True).start()
    return future.result()
