"""Runs the tests with the settings of the command."""

import gc
import os
import shutil
import signal
import tempfile

from xdist.scheduler import LoadScopeScheduling

from tf_realnvp.utils import runtime

# As the models of the tests are small; for processes that tests start, too.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# What takes longest: most start processes. They begin first, lest one process
# of pytest-xdist does them when the others have ended.
LONGEST = ("SameTrainingTest", "KillsTest", "OtherProgramsTest", "values_test")
# What one process does, as it shares what takes long to make: a process to fork
# others from that has imported TensorFlow; models that are loaded, or trained.
TOGETHER = (
    ("SameTrainingTest", "KillsTest"),
    tuple(
        f"cli/{name}_test"
        for name in ("commands", "detection", "direction", "exports", "restore")
    ),
    ("values_test",),
)

# A folder in memory, on Linux.
MEMORY = "/dev/shm"

# The commands leave alone what is ignored, as SIGINT is in a background job of
# a shell's script and SIGHUP after `nohup`. These tests may be run so as well.
for signum, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, lambda *_: None),
):
    if signal.getsignal(signum) == signal.SIG_IGN:
        signal.signal(signum, handler)

# Where nothing has to be written through to a disk, which takes time.
if "TMPDIR" not in os.environ and os.path.isdir(MEMORY):
    if shutil.disk_usage(MEMORY).free > 2**30:
        tempfile.tempdir = os.environ["TMPDIR"] = MEMORY


def set_up_tensorflow():
    """Imports it, which takes seconds, with the settings of the command."""
    runtime.configure()
    from tensorflow.python import pywrap_tfe

    # For a global seed TensorFlow drops what it has compiled, to start
    # operations that keep a state anew. `tf.test.TestCase` sets one, and each
    # test would compile all again, a tenth of the time of all. Nothing here
    # goes by such operations.
    pywrap_tfe.TFE_ContextClearCaches = lambda context: None


def pytest_configure(config):
    """Makes a folder for what all processes of pytest-xdist share."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        os.environ["SHARED_BY_TESTS"] = folder.name
    config.option.loadscopereorder = False  # The order is that below.
    # A process that hands out the tests to others needs no TensorFlow.
    others = config.getoption("dist", "no") != "no" and config.option.tx
    if config.option.collectonly or not others:
        set_up_tensorflow()


def pytest_xdist_make_scheduler(config, log):
    """Lets one process have all tests that share what takes long to make."""
    if config.getoption("dist") != "loadscope":
        return None

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            scope = super()._split_scope(nodeid)
            for names in TOGETHER:
                if any(name in scope for name in names):
                    return names[0]
            return scope

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    # `tf.test.TestCase` has a method of this name, which is no test.
    items[:] = [item for item in items if item.name != "test_session"]
    items.sort(key=lambda item: not any(n in item.nodeid for n in LONGEST))
    # To look for garbage among all that was imported takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
