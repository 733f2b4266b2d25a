"""Private APIs of TFP, Keras and TensorFlow that the package uses.

They may change in any minor version, so `requirements.txt` pins the minor
versions. This module wraps the private functions. Private methods are
overridden where they are needed:

*   `training.optimizers.FusedAdam` overrides two methods of
    `keras.optimizers.Adam`, `_backend_update_step` and
    `_update_model_variables_moving_average`, and reads its slots; `Muon`
    overrides the first once more. If they change,
    `tests/training/optimizers_test.py` fails first.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.saved_model import save_context
from tensorflow_probability import bijectors as tfb


def remember_fldj(bijector: tfb.Bijector, x, fldj, condition: dict) -> None:
    """Caches the log-det of `forward` at `x`.

    TFP computes the value and the log-det of a bijector in separate calls, and
    has no way to return both. Its cache stores the log-det of the inverse as
    "ildj", whichever direction was computed, with x or y and the condition as
    keys. If this changes, `test_every_network_runs_once` in
    `tests/flow/bijectors_test.py` fails first.
    """
    bijector._cache.forward_attributes(x, **condition)["ildj"] = -fldj


def remember_ildj(bijector: tfb.Bijector, y, ildj, condition: dict) -> None:
    """Caches the log-det of `inverse` at `y`; see `remember_fldj`."""
    bijector._cache.inverse_attributes(y, **condition)["ildj"] = ildj


def saving() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which functions are traced as for a SavedModel.

    Otherwise, `tf.saved_model.save` would trace them again. If the API changes,
    the import of this module fails first.
    """
    return save_context.save_context(tf.saved_model.SaveOptions())


@contextlib.contextmanager
def evicting_graph_tensors() -> Iterator[None]:
    """Removes the tensors of the current graph from TFP's cache, at the end.

    All bijectors share one cache. A tensor in it keeps its graph in memory, and
    the graph keeps the tensor in the cache. If this changes,
    `tests/notebook_test.py` fails first.
    """
    try:
        yield
    finally:
        graph = tf.compat.v1.get_default_graph()
        storage = tfb.Bijector._cache.storage
        for key in list(storage):
            if getattr(key(), "graph", None) is graph:
                key.cancel()
                del storage[key]


def sum_over_replicas(values):
    """Returns the sum of tensors over all replicas, in a replica's context.

    `ReplicaContext.all_reduce` also registers a gradient, with which TensorFlow
    keeps the graph for ever. If this changes,
    `tests/training/distribution_test.py` fails first.
    """
    extended = tf.distribute.get_strategy().extended
    return extended._replica_ctx_all_reduce(tf.distribute.ReduceOp.SUM, values)
