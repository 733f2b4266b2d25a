"""Trainings on several devices and in several processes, to be compared.

Each trains a little, on batches that replicas cannot share evenly, and writes
the weights and losses that it has in the end.
"""

import contextlib
import os
import pathlib
from unittest import mock

import graphs
import keras
import numpy as np
import tensorflow as tf
from small_models import SmallModel

import tf_realnvp
from tf_realnvp import RealNVP, initialization
from tf_realnvp.errors import UsageError
from tf_realnvp.training import workers
from tf_realnvp.utils import runtime

LONG = "a much longer one: \u00fc\n\udcff"
# What the first worker has, and the second. That one ends before the first
# asks once more.
RECORDS = (("same", "same"), (LONG, "short"), ("x", "x"), ("gone", None))


def alone(folder: pathlib.Path) -> None:
    """Trains as the others are to, in two parts at once, and on two devices."""
    # On a CPU this changes no bit; but what has no seed raises.
    runtime.configure(2, deterministic=True)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    # What two devices compile, one computes as it is written.
    tf.config.run_functions_eagerly(True)
    with mock.patch.object(runtime, "parts_at_once", lambda: 1):
        _train(runtime.make_strategy(1), _conditional, folder / "one")
        _train(runtime.make_strategy(1), _small, folder / "small")
    tf.config.run_functions_eagerly(False)
    _train(runtime.make_strategy(1), _conditional, folder / "parts")
    _train(runtime.make_strategy(2), _conditional, folder / "two")


def together(folder: pathlib.Path, name: str, environment: dict) -> None:
    """Trains as one of several workers, and compares records with them."""
    os.environ.update(environment)
    runtime.configure()
    # First of all: workers connect before anything is computed.
    strategy = workers.connect()
    with strategy.scope():
        variable = keras.Variable([0.0])  # The first is the chief's in all.
    variable.assign([2.0 + workers.is_chief()])
    initialization._agree(strategy, [variable])
    np.save(folder / f"{name}.npy", variable)
    _train(strategy, _small, folder / name)
    with open(folder / f"{name}.txt", "w") as file:
        with contextlib.redirect_stdout(file):
            _compare()


def _conditional():
    return RealNVP(
        (4, 4, 1),
        17,
        filters=4,
        num_blocks=1,
        num_couplings=(1, 1, 1),
        num_classes=3,
        context_shape={"a": (2,), "b": (1,)},
    )


def _context():
    rng = np.random.default_rng(1)
    return {"a": rng.normal(size=[24, 2]), "b": rng.normal(size=[24, 1])}


def _small():
    """A model that takes no time: what is between workers does not see it."""
    model = SmallModel((4, 4, 1), 17)
    model.offset.assign([8.0])  # It needs no data-dependent initialization.
    return model


def _train(strategy, make, path):
    # The last three are for testing.
    images = np.random.default_rng(0).integers(0, 17, [24, 4, 4, 1], np.uint8)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = make()
    replicas, add_noise = set(), model.add_noise

    def record(*arguments):
        # Data-dependent initialization is for all replicas at once.
        if context := tf.distribute.get_replica_context():
            replicas.add(context.num_replicas_in_sync)
        return add_noise(*arguments)

    # It trains in the scope of the model by itself.
    model.add_noise = record
    history = tf_realnvp.train(
        model,
        images,
        labels=np.arange(24) % 3 if model.num_classes else None,
        context=_context() if model.num_classes else None,
        epochs=2,
        batch_size=7,
        optimizer="muon" if model.num_classes else "adam",
        lr=1e-2,
        clip_grad=1.0,
        ema=0.9,
        seed=3,
        precision="float32",
        progress=False,
    )
    [num_replicas] = replicas
    losses = [m.test_loss for m in history]
    losses += [m.train_loss for m in history[1:]]
    np.savez(
        path,
        num_replicas=num_replicas,
        num_gradients=graphs.live()[1],
        losses=losses,
        weights=np.concatenate([v.numpy().ravel() for v in model.variables]),
    )


def _compare():
    for mine in [records[not workers.is_chief()] for records in RECORDS]:
        if mine is None:
            break
        try:
            workers.agree({"it": mine})
            print("agreed on", mine)
        except UsageError as error:
            print(error)
        except tf.errors.OpError:
            print("gone")
