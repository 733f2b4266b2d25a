"""Runs the tests with the settings of the command."""

import signal

from tf_realnvp import runtime

runtime.configure()

# The commands leave alone what is ignored, as SIGINT is in a background job of
# a shell's script and SIGHUP after `nohup`. These tests may be run so as well.
for signum in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(signum) == signal.SIG_IGN:
        signal.signal(signum, lambda *_: None)


def pytest_collection_modifyitems(items):
    # `tf.test.TestCase` has a method of this name, which is no test.
    items[:] = [item for item in items if item.name != "test_session"]
