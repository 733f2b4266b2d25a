"""Runs the tests with the settings of the command."""

import os
import signal
import tempfile
from unittest import mock

from tf_realnvp import runtime

# As the models of the tests are small; for processes that tests start, too.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
runtime.configure()

import tensorflow as tf  # noqa: E402
from tensorflow.python.framework import random_seed  # noqa: E402

# Classes that take longest: most start processes. They begin first, lest one
# process of pytest-xdist does them when the others have ended.
LONGEST = ("SameTrainingTest", "KillsTest", "OtherProgramsTest", "RunTest")

# The commands leave alone what is ignored, as SIGINT is in a background job of
# a shell's script and SIGHUP after `nohup`. These tests may be run so as well.
for signum in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(signum) == signal.SIG_IGN:
        signal.signal(signum, lambda *_: None)

_set_up = tf.test.TestCase.setUp


def set_up(test):
    """Seeds Python and NumPy, but not TensorFlow's global generator.

    That would empty TensorFlow's cache of compiled functions, so that every
    test compiles those of its class again: a tenth of the time of all tests.
    """
    with mock.patch.object(random_seed, "set_random_seed"):
        _set_up(test)


tf.test.TestCase.setUp = set_up

# No test loses power. Those of what is on the disk when patch this again.
os.fsync = lambda descriptor: None


def pytest_configure(config):
    """Makes a folder for what all processes of pytest-xdist share."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        os.environ["SHARED_BY_TESTS"] = folder.name
    config.option.loadscopereorder = False  # The order is that below.


def pytest_collection_modifyitems(items):
    # `tf.test.TestCase` has a method of this name, which is no test.
    items[:] = [item for item in items if item.name != "test_session"]
    items.sort(
        key=lambda item: getattr(item.cls, "__name__", "") not in LONGEST
    )
