"""Tests for main: names, exit codes, and what all commands have in common."""

import functools
import os
import re
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import arguments, main
from tf_realnvp.errors import DataError, FailureError, UsageError

COMMANDS = (
    *("train", "sample", "evaluate", "interpolate", "manifold"),
    *("reconstruct", "translate", "direction", "score", "detect", "restore"),
    *("export", "explore"),
)
PROGRAMS = {
    "run.py": main.train_main,
    "tf-realnvp": main.main,
    "python -m tf_realnvp": functools.partial(
        main.main, prog="python -m tf_realnvp"
    ),
}


class NamesTest(tf.test.TestCase, parameterized.TestCase):
    """Each program is called by the name that was typed."""

    @parameterized.parameters(*PROGRAMS)
    def test_program(self, name):
        program = PROGRAMS[name]
        _, stdout, _ = command_lines.call(program, "--help")
        self.assertStartsWith(stdout, f"usage: {name} ")
        for command in COMMANDS if name != "run.py" else ():
            self.assertRegex(stdout, rf"(?m)^    {command}\b")
            result = command_lines.call(program, command, "--help")
            self.assertEqual((result[0], result[2]), (0, ""))
            self.assertStartsWith(result[1], f"usage: {name} {command} ")
            examples = result[1].partition("example")[2]
            self.assertIn(f"  {name} {command} ", examples)


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def call(self, work):
        """Runs a command that does what is given."""
        parser = arguments.Parser(prog="program")
        parser.add_argument("--batch_size")
        parser.set_defaults(run=work, prog="program")
        return command_lines.call(functools.partial(main.run, parser))

    @parameterized.parameters(
        (UsageError("no such thing"), 2, "no such thing"),
        (DataError("no way\nto it"), 2, "no way\nto it"),
        (FailureError("no luck"), 1, "no luck"),
        (OSError(28, "No space left", "x"), 1, "[Errno 28] No space left: 'x'"),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM\nhere"),
            *(1, "out of memory: OOM; a smaller --batch_size takes less"),
        ),
        (
            MemoryError("OOM of NumPy"),
            *(1, "out of memory: OOM of NumPy; a smaller --batch_size takes "),
        ),
        # The message names the flags, and can be printed.
        (UsageError("`\x1b`, `lr`: `batch_size`"), 2, "`\\x1b`, `lr`: --batch"),
    )
    def test_errors(self, error, code, message):
        result = self.call(mock.Mock(side_effect=error))
        self.assertEqual(result[:2], (code, ""))
        self.assertStartsWith(result[2], f"program: error: {message}")

    def test_faults_of_the_program(self):
        """Their traceback is shown."""
        with self.assertRaises(KeyError):
            self.call(mock.Mock(side_effect=KeyError))


class StartTest(command_lines.CommandTestCase):
    def test_no_tensorflow_for_mistakes(self):
        """A mistake is reported before TensorFlow is imported."""
        (self.folder / "file").write_text("")
        (self.folder / "other").mkdir()
        (self.folder / "other" / "thesis.tex").write_text("")
        lines = ["--help", "train --epochs 0", "train --output_dir file"]
        lines += ["train --run_dir other", "sample . --n 0"]
        lines += ["sample . --out missing/grid.png"]
        of_models = "sample,evaluate,interpolate a b,manifold a b c d,export"
        of_models += ",reconstruct a,translate a,explore,score other,restore a"
        of_models += ",direction --with a --without b,detect --unusual a"
        for line in of_models.split(","):
            command, *others = line.split()
            lines.append(" ".join([command, ".", *others]))
        script = f"""if True:
            import sys
            from tf_realnvp.cli import main
            for line in {lines}:
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
        self.assertEqual("".join(codes), "0" + (len(lines) - 1) * "2")
        self.assertIn("\nslow []\n", stdout)
        self.assertEqual(stderr.count("\n"), len(lines) - 1)
        # Without npm's packages `explore` ends with another line.
        self.assertIn(stderr.count("no model in . "), (11, 12))
        self.assertCountEqual(os.listdir(), ["file", "other"])

    def test_script(self):
        path = command_lines.REPOSITORY / "run.py"
        code, _, stderr = command_lines.run(self.folder, path, "--x")
        self.assertEqual(code, 2)
        self.assertStartsWith(stderr, "run.py: error: ")
