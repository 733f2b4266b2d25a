"""The private parts of TFP, Keras and TensorFlow that the package uses.

Each may change in any minor version, which is why `requirements.txt` holds them
to one. This module has those that can be called; the others are overridden
where they are needed:

*   `training.optimizers.FusedAdam` overrides two methods of
    `keras.optimizers.Adam`, `_backend_update_step` and
    `_update_model_variables_moving_average`, and reads its slots. First to
    fail: `tests/training/optimizers_test.py`.
"""

import contextlib

import tensorflow as tf
from tensorflow.python.saved_model import save_context
from tensorflow_probability import bijectors as tfb


def remember_fldj(bijector: tfb.Bijector, x, fldj, condition: dict) -> None:
    """Caches the log-det of `forward` at `x`.

    TFP calls a bijector for its value and for its log-det apart, and offers no
    way to return both. Its cache files the log-det of the inverse as "ildj",
    whichever direction was computed, and finds it by either end of the pair
    (x, y) and the condition. First to fail: `test_every_network_runs_once` in
    `tests/bijectors_test.py`.
    """
    bijector._cache.forward_attributes(x, **condition)["ildj"] = -fldj


def remember_ildj(bijector: tfb.Bijector, y, ildj, condition: dict) -> None:
    """Caches the log-det of `inverse` at `y`, see `remember_fldj`."""
    bijector._cache.inverse_attributes(y, **condition)["ildj"] = ildj


def saving() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which functions are traced as for a SavedModel.

    Otherwise `tf.saved_model.save` traces each of them once more. First to
    fail: the import of this module.
    """
    return save_context.save_context(tf.saved_model.SaveOptions())
