"""Tests for streams."""

import os
import subprocess
import sys

import command_lines
import folders
from absl.testing import parameterized

# Shows much, writes a file and ends with a code of its own.
SCRIPT = """
import contextlib, os, sys
from tf_realnvp.cli import streams
streams.make_unbreakable()
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
# Runs a command that only prints.
COMMAND = """
from tf_realnvp.cli import arguments, main
def dream(flags):
    print("a figure")
parser = arguments.Parser(prog="program")
arguments.command("m")(dream)(parser.add_subparsers())
raise SystemExit(main.run(parser, ["dream", "m"]))
"""


class StreamsTest(folders.FolderTestCase, parameterized.TestCase):
    def start(self, script, redirections="", **options):
        """Starts Python in a shell."""
        options = {"env": command_lines.environment()} | options
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$0" -c "$1" {redirections}']
            + [sys.executable, script],
            cwd=self.folder,
            **options,
        )
        self.enterContext(process)
        self.addCleanup(process.kill)
        return process

    def run_python(self, script, redirections="", **options):
        """Runs Python in a shell; returns exit code, output and errors."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.start(script, redirections, **pipes, **options)
        output = process.communicate(timeout=300)
        return process.returncode, *output

    def assert_done(self, code):
        self.assertEqual(code, 3)
        self.assertEqual((self.folder / "data").read_text(), "data")

    @parameterized.parameters(
        ("", STDOUT, STDERR),
        ("2>&-", STDOUT, b""),
        ("<&- >&-", b"", STDERR),
        ("<&- >&- 2>&-", b"", b""),
        (">/dev/full 2>&1", b"", b""),
    )
    def test_broken(self, redirections, stdout, stderr):
        code, *output = self.run_python(SCRIPT, redirections)
        self.assert_done(code)
        self.assertEqual(output, [stdout, stderr])

    @parameterized.parameters((SCRIPT, 3), (COMMAND, 0))
    def test_reader_has_gone(self, script, code):
        process = self.start(
            f"import os; os.read(0, 1)\n{script}",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        process.stdout.close()
        process.communicate(b"x", timeout=300)
        self.assertEqual(process.returncode, code)

    def test_reader_does_not_read(self):
        """Where a write would have to wait, but must not."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with open(reader, "rb"), open(writer, "wb") as file:
            self.assert_done(self.start(SCRIPT, stdout=file).wait(timeout=300))

    def test_any_name_can_be_printed(self):
        """Names of files need not be text, nor of a terminal's characters."""
        script = """if True:
            import os
            from tf_realnvp.cli import streams
            streams.make_unbreakable()
            print(os.fsdecode(b'\\xff.png'), chr(0x663))
        """
        ascii = command_lines.environment(PYTHONIOENCODING="ascii")
        result = self.run_python(script, env=ascii)
        self.assertEqual(result, (0, b"\\udcff.png \\u0663\n", b""))

    def test_full_disk(self):
        """What is lost there is an error to commands that only print."""
        code, _, stderr = self.run_python(COMMAND, ">/dev/full")
        self.assertEqual(code, 1)
        self.assertRegex(
            stderr,
            rb"^program dream: error: .*No space left .*: 'standard output'\n$",
        )
        for redirections in (">&-", "2>/dev/full"):
            result = self.run_python(COMMAND, redirections)
            self.assertEqual((result[0], result[2]), (0, b""))
