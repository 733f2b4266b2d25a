"""Tests for main: names, exit codes, and what all commands have in common."""

import functools
import os
import re
import signal
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import arguments, main
from tf_realnvp.utils.errors import DataError, FailureError, UsageError

COMMANDS = (
    *("train", "sample", "evaluate", "interpolate", "manifold"),
    *("reconstruct", "translate", "direction", "score", "detect"),
)
PROGRAMS = {
    "run.py": main.train_main,
    "tf-realnvp": main.main,
    "python -m tf_realnvp": functools.partial(
        main.main, prog="python -m tf_realnvp"
    ),
}


class NamesTest(tf.test.TestCase, parameterized.TestCase):
    """People find what they typed in what they read."""

    @parameterized.parameters(*PROGRAMS)
    def test_program(self, name):
        program = PROGRAMS[name]
        code, stdout, stderr = command_lines.call(program, "--help")
        self.assertEqual((code, stderr), (0, ""))
        self.assertStartsWith(stdout, f"usage: {name} ")
        code, stdout, stderr = command_lines.call(program, "--unknown")
        self.assertEqual((code, stdout), (2, ""))
        self.assertRegex(stderr, rf"^{name}: error: .*\n$")

    @parameterized.product(name=[*PROGRAMS][1:], command=COMMANDS)
    def test_command(self, name, command):
        program = PROGRAMS[name]
        self.assertRegex(
            command_lines.call(program, "-h")[1], rf"(?m)^    {command}\b"
        )
        code, stdout, stderr = command_lines.call(program, command, "--help")
        self.assertEqual((code, stderr), (0, ""))
        self.assertStartsWith(stdout, f"usage: {name} {command} ")
        examples = stdout.partition("example")[2]
        self.assertIn(f"  {name} {command} ", examples)
        for other in PROGRAMS:
            self.assertEqual(other in stdout, other == name)

    @parameterized.parameters("", "dream MODEL", "samp MODEL", "train --dream")
    def test_no_such_word(self, line):
        code, stdout, stderr = command_lines.call(main.main, *line.split())
        self.assertEqual((code, stdout), (2, ""))
        self.assertRegex(stderr, r"^tf-realnvp: error: .*\n$")
        self.assertRegex(stderr, "dream|samp|COMMAND")


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def call(self, work):
        """Runs a command that does what is given."""
        parser = arguments.Parser(prog="program")
        parser.add_argument("--batch_size")
        parser.set_defaults(run=work, prog="program")
        return command_lines.call(functools.partial(main.run, parser))

    @parameterized.parameters(
        (UsageError("no such thing"), 2),
        (DataError("no way\nto it"), 2),
        (FailureError("no luck"), 1),
        (OSError(28, "No space left on device", "x"), 1),
    )
    def test_errors(self, error, code):
        result = self.call(mock.Mock(side_effect=error))
        self.assertEqual(result, (code, "", f"program: error: {error}\n"))

    @parameterized.parameters(
        tf.errors.ResourceExhaustedError(None, None, "OOM\nhere"),
        MemoryError("OOM of NumPy"),
    )
    def test_out_of_memory(self, error):
        code, _, stderr = self.call(mock.Mock(side_effect=error))
        self.assertEqual(code, 1)
        self.assertRegex(
            stderr, r"error: out of memory: OOM.*; a smaller --batch_size .*\n$"
        )

    def test_messages_name_flags_and_can_be_printed(self):
        error = UsageError("`a\x1b` has no `epochs`: give another `batch_size`")
        _, _, stderr = self.call(mock.Mock(side_effect=error))
        self.assertEndsWith(
            stderr, ": `a\\x1b` has no `epochs`: give another --batch_size\n"
        )

    def test_faults_of_the_program(self):
        """They are not for users: a trace tells where they are."""
        with self.assertRaises(KeyError):
            self.call(mock.Mock(side_effect=KeyError))

    @parameterized.parameters(
        (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)
    )
    def test_interruption(self, signum, code):
        result = self.call(lambda *_: signal.raise_signal(signum))
        message = f"\nprogram: interrupted by {signum.name}\n"
        self.assertEqual(result, (code, "", message))


class StartTest(command_lines.CommandTestCase):
    def test_no_tensorflow_for_mistakes(self):
        """What ends at once must not wait for TensorFlow."""
        (self.folder / "file").write_text("")
        (self.folder / "other").mkdir()
        (self.folder / "other" / "thesis.tex").write_text("")
        lines = (
            ("0", "--help"),
            ("0", "score --help"),
            ("2", ""),
            ("2", "train --epochs 0"),
            ("2", "train --batch_size 8 --accumulate 9"),
            ("2", "train --output_dir file"),
            ("2", "train --run_dir other"),
            ("2", "sample . --n 0"),
            ("2", "sample . --out missing/grid.png"),
            ("2", "sample ."),
            ("2", "sample . --out new/samples/"),
            ("2", "evaluate ."),
            ("2", "interpolate . a b"),
            ("2", "manifold . a b c d"),
            ("2", "reconstruct . a"),
            ("2", "translate . a"),
            ("2", "direction . --with a --without b"),
            ("2", "score . a"),
            ("2", "score . a --reference a --maps maps"),
            ("2", "detect . --unusual a"),
        )
        script = f"""if True:
            import sys
            from tf_realnvp.cli import main
            for _, line in {lines}:
                try:
                    print("code", main.main(line.split()))
                except SystemExit as end:
                    print("code", end.code)
            slow = {{"tensorflow", "keras", "matplotlib", "sklearn"}}
            print("slow", sorted(slow & set(sys.modules)))
        """
        code, stdout, stderr = command_lines.run(self.folder, "-c", script)
        self.assertEqual(code, 0, stderr)
        codes = re.findall(r"^code (\d+)$", stdout, re.MULTILINE)
        self.assertEqual(codes, [code for code, _ in lines])
        self.assertIn("\nslow []\n", stdout)
        self.assertEqual(stderr.count("\n"), codes.count("2"))
        self.assertEqual(stderr.count("no SavedModel in .: "), 11)
        self.assertCountEqual(os.listdir(), ["file", "other"])

    def test_programs(self):
        for name, *argv in (
            ("run.py", command_lines.REPOSITORY / "run.py"),
            ("python -m tf_realnvp", "-m", "tf_realnvp"),
        ):
            code, _, stderr = command_lines.run(self.folder, *argv, "--x")
            self.assertEqual(code, 2)
            self.assertStartsWith(stderr, f"{name}: error: ")


if __name__ == "__main__":
    tf.test.main()
