"""Tests for streams, and for commands whose output nobody can take."""

import contextlib
import csv
import io
import os
import pathlib
import pty
import subprocess
import sys
import tempfile

import matplotlib.image
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import streams

REPOSITORY = pathlib.Path(__file__).parents[2]
# Shows much, writes a file and ends with a code of its own.
SCRIPT = """
import contextlib, os, sys
from tf_realnvp import streams
with streams.unbreakable():
    print("a line\\n" * 50_000, end="")
    print("an error", file=sys.stderr)
    with open("data", "w") as file:
        for native in (1, 2):
            with contextlib.suppress(OSError):
                os.write(native, b"from native code\\n")
        file.write("data")
    print("last", end="")
sys.exit(3)
"""
STDOUT = b"a line\n" * 50_000 + b"from native code\nlast"
STDERR = b"an error\nfrom native code\n"
# Runs Python on a terminal, whose end sends SIGHUP.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
TRAIN = (
    str(REPOSITORY / "run.py"),
    *("--dataset", "digits", "--image_size", "4", "--filters", "2"),
    *("--num_blocks", "1", "--batch_size", "256", "--seed", "0", "--resume"),
)
CLOSED = "<&- >&- 2>&-"


class StreamsTestCase(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)

    def start(self, *arguments, **keywords):
        """Starts Python as a user does, with no settings of these tests."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TF_", "PYTHON"))
        }
        process = subprocess.Popen(
            arguments,
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(REPOSITORY)},
            **keywords,
        )
        self.enterContext(process)
        self.addCleanup(process.kill)
        return process

    def run_python(self, redirections, *arguments, variables=""):
        """Runs Python in a shell; returns exit code, output and errors."""
        process = self.start(
            *("sh", "-c", f'{variables} exec "$0" "$@" {redirections}'),
            *(sys.executable, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output = process.communicate(timeout=300)
        return process.returncode, *output


class UnbreakableTest(StreamsTestCase, parameterized.TestCase):
    def assert_done(self, code):
        self.assertEqual(code, 3)
        self.assertEqual((self.folder / "data").read_text(), "data")

    def test_all_is_well(self):
        code, stdout, stderr = self.run_python("", "-c", SCRIPT)
        self.assert_done(code)
        self.assertEqual(stdout, STDOUT)
        self.assertEqual(stderr, STDERR)

    @parameterized.parameters("<&-", "2>&-", "<&- 2>&-", "2>/dev/full")
    def test_standard_error_is_broken(self, redirections):
        code, stdout, stderr = self.run_python(redirections, "-c", SCRIPT)
        self.assert_done(code)
        self.assertEqual(stdout, STDOUT)
        self.assertEqual(stderr, STDERR if redirections == "<&-" else b"")

    @parameterized.parameters(">&-", "<&- >&-", ">/dev/full", "1</dev/null")
    def test_standard_output_is_broken(self, redirections):
        code, stdout, stderr = self.run_python(redirections, "-c", SCRIPT)
        self.assert_done(code)
        self.assertEqual(stdout, b"")
        self.assertEqual(stderr, STDERR)

    @parameterized.parameters(
        ">&- 2>&-", CLOSED, ">/dev/full 2>&1", ">&- 2>/dev/full"
    )
    def test_both_are_broken(self, redirections):
        code, stdout, stderr = self.run_python(redirections, "-c", SCRIPT)
        self.assert_done(code)
        self.assertEqual((stdout, stderr), (b"", b""))

    def test_reader_has_gone(self):
        process = self.start(
            *(sys.executable, "-c", SCRIPT), stdout=subprocess.PIPE
        )
        self.assertEqual(process.stdout.readline(), b"a line\n")
        process.stdout.close()
        self.assert_done(process.wait(timeout=300))

    def test_reader_does_not_read(self):
        """Where a write would have to wait, but must not."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with open(reader, "rb"), open(writer, "wb") as file:
            process = self.start(sys.executable, "-c", SCRIPT, stdout=file)
            self.assert_done(process.wait(timeout=300))

    def test_terminal_has_gone(self):
        master, slave = pty.openpty()
        with open(slave, "wb") as file:
            os.close(master)
            process = self.start(
                *(sys.executable, "-c", SCRIPT), stdout=file, stderr=file
            )
            self.assert_done(process.wait(timeout=300))

    def test_any_name_can_be_printed(self):
        """Names of files need not be text, nor of a terminal's characters."""
        code, stdout, stderr = self.run_python(
            "",
            "-c",
            "import os\n"
            "from tf_realnvp import streams\n"
            "with streams.unbreakable():\n"
            "    print(os.fsdecode(b'\\xff.png'), chr(0x663))\n",
            variables="PYTHONIOENCODING=ascii",
        )
        self.assertEqual((code, stderr), (0, b""))
        self.assertEqual(stdout, b"\\udcff.png \\u0663\n")

    def test_streams_of_a_caller(self):
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            streams.unbreakable(),
        ):
            self.assertIs(sys.stdout, stdout)
            self.assertIs(sys.stderr, stderr)

    def test_streams_are_given_back(self):
        code, stdout, _ = self.run_python(
            "",
            "-c",
            "import sys\n"
            "from tf_realnvp import streams\n"
            "before = sys.stdout, sys.stderr\n"
            "print('before')\n"
            "try:\n"
            "    with streams.unbreakable():\n"
            "        print('within')\n"
            "        raise KeyError\n"
            "except KeyError:\n"
            "    print(before == (sys.stdout, sys.stderr))\n",
        )
        self.assertEqual((code, stdout), (0, b"before\nwithin\nTrue\n"))


class CommandTest(StreamsTestCase):
    """Runs the commands for real."""

    def assert_results(self):
        with (self.folder / "metrics_digits.csv").open(newline="") as file:
            self.assertLen(list(csv.DictReader(file)), 2)
        for name in ("loss_digits.png", "samples_digits.png"):
            matplotlib.image.imread(self.folder / name)
        tf.saved_model.load(str(self.folder / "realnvp_digits"))

    def test_all_is_closed(self):
        # TensorFlow logs to the second descriptor, whatever that is.
        code, _, _ = self.run_python(
            CLOSED,
            *(*TRAIN, "--epochs", "1"),
            variables="TF_CPP_MIN_LOG_LEVEL=0",
        )
        self.assertEqual(code, 0)
        self.assert_results()
        lock = self.folder / "runs" / "digits" / "lock"
        self.assertEqual(lock.read_bytes(), b"")

        code, _, _ = self.run_python(
            ">/dev/full 2>&-", "-m", "tf_realnvp", "sample", "realnvp_digits"
        )
        self.assertEqual(code, 0)
        matplotlib.image.imread(self.folder / "samples.png")

    def test_terminal_is_closed(self):
        master, slave = pty.openpty()
        with open(slave, "r+b", buffering=0) as file:
            process = self.start(
                *(sys.executable, "-c", ON_TERMINAL),
                *(*TRAIN, "--epochs", "100000"),
                stdin=file,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        with open(master, "rb", buffering=0) as terminal:
            seen = b""
            while b"epoch 0/" not in seen:  # It trains then.
                seen += terminal.read(1000)  # Raises if the process has ended.
        self.assertEqual(process.wait(timeout=300), 129)
        run = self.folder / "runs" / "digits"
        self.assertNotEmpty(list((run / "checkpoints").glob("ckpt-*.index")))
        self.assertFalse((self.folder / "realnvp_digits").exists())


if __name__ == "__main__":
    tf.test.main()
