"""Tests for arguments."""

import argparse
import contextlib
import io
import os
import pathlib
import tempfile

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import arguments
from tf_realnvp.errors import UsageError


class NumbersTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (arguments.whole_number(0), "0", 0),
        (arguments.whole_number(0), "99999999999", 99999999999),
        (arguments.whole_number(2, 4), "2", 2),
        (arguments.whole_number(2, 4), "4", 4),
        (arguments.positive_number, "1e-30", 1e-30),
        (arguments.positive_number, "3.4e38", 3.4e38),
        (arguments.non_negative_number, "0", 0.0),
        (arguments.non_negative_number, "0.8", 0.8),
        (arguments.non_negative_number, "3.4e38", 3.4e38),
    )
    def test_good(self, parse, text, expected):
        value = parse(text)
        self.assertEqual(value, expected)
        self.assertIs(type(value), type(expected))

    @parameterized.parameters(
        (arguments.whole_number(0), "of at least 0", "-1 1.0 1e3 inf x"),
        (arguments.whole_number(2), "of at least 2", "1 nan"),
        (arguments.whole_number(2, 4), "from 2 to 4", "1 5 x"),
        # 3.5e38 is infinite in float32.
        (arguments.positive_number, "above 0", "0 -1 nan inf 3.5e38 x"),
        (
            arguments.non_negative_number,
            "of at least 0",
            "-0.1 nan inf -inf 3.5e38 x",
        ),
    )
    def test_bad(self, parse, message, texts):
        for text in (*texts.split(), ""):
            with self.assertRaises(argparse.ArgumentTypeError) as context:
                parse(text)
            self.assertStartsWith(str(context.exception), repr(text))
            self.assertEndsWith(str(context.exception), message)


class CheckWritableTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)

    def test_leaves_nothing(self):
        arguments.check_writable(self.folder, "--out", make=False)
        self.assertEmpty(os.listdir(self.folder))

    def test_makes_the_folder(self):
        path = self.folder / "a" / "b"
        with self.assertRaisesRegex(UsageError, "No such file"):
            arguments.check_writable(path, "--out", make=False)
        arguments.check_writable(path, "--out")
        self.assertEmpty(os.listdir(path))

    def test_is_no_folder(self):
        path = self.folder / "file"
        path.touch()
        for make, reason in ((True, "File exists"), (False, "Not a directory")):
            with self.assertRaisesRegex(
                UsageError,
                f"^argument --out: cannot write to {path}: {reason}$",
            ):
                arguments.check_writable(path, "--out", make)

    def test_name_cannot_be_foreseen(self):
        """Else others can lay a symlink there, and choose what is made."""
        link = self.folder / f".write-test-{os.getpid()}"
        link.symlink_to(self.folder / "target")
        arguments.check_writable(self.folder, "--out")
        self.assertEqual(os.listdir(self.folder), [link.name])


class ParserTest(tf.test.TestCase):
    def test_error_is_one_line(self):
        parser = arguments.Parser(prog="program")
        parser.add_argument("--n", type=arguments.whole_number(1))
        stderr = io.StringIO()
        with (
            self.assertRaises(SystemExit) as context,
            contextlib.redirect_stderr(stderr),
        ):
            parser.parse_args(["--n", "0"])
        self.assertEqual(context.exception.code, 2)
        self.assertEqual(
            stderr.getvalue(),
            "program: error: argument --n: '0' is not a whole number of at "
            "least 1\n",
        )


if __name__ == "__main__":
    tf.test.main()
