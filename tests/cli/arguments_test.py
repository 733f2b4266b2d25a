"""Tests for arguments."""

import argparse
import os
from unittest import mock

import command_lines
import folders
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import arguments
from tf_realnvp.utils.checks import RealNumber, WholeNumber
from tf_realnvp.utils.errors import UsageError

ANY = WholeNumber(0)
EVEN = WholeNumber(2, 4, even=True)
POSITIVE = RealNumber()
PART = RealNumber(includes_low=True, below=1.0)


class NumberTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (ANY, "0", 0),
        (ANY, "2147483647", 2147483647),
        (EVEN, "4", 4),
        (POSITIVE, "1e-30", 1e-30),
        (POSITIVE, "3.4e38", 3.4e38),
        (PART, "0", 0.0),
    )
    def test_good(self, allowed, text, expected):
        value = arguments.number(allowed)(text)
        self.assertEqual(value, expected)
        self.assertIs(type(value), type(expected))

    @parameterized.parameters(
        (ANY, "-1 1.0 1e3 inf x"),
        (EVEN, "1 3 6 x"),
        (POSITIVE, "0 -1 nan inf 3.5e38 x"),  # Infinite in float32.
        (PART, "-0.1 1 nan inf -inf x"),
    )
    def test_bad(self, allowed, texts):
        for text in (*texts.split(), ""):
            with self.assertRaises(argparse.ArgumentTypeError) as context:
                arguments.number(allowed)(text)
            message = str(context.exception)
            self.assertEqual(message, f"{text!r} is not {allowed}")


class PathsTest(folders.FolderTestCase, parameterized.TestCase):
    def test_writable(self):
        path = self.folder / "a" / "b"
        with self.assertRaisesRegex(UsageError, "No such file"):
            arguments.check_writable(path, "--out", make=False)
        arguments.check_writable(path, "--out")
        self.assertEmpty(os.listdir(self.folder))  # Left to who writes.
        path.mkdir(parents=True)
        for make in (True, False):
            arguments.check_writable(path, "--out", make)
            self.assertEmpty(os.listdir(path))

    @parameterized.parameters("model", "model/in/new", "link")
    def test_in_a_model(self, path):
        """Another training would replace it with all that is in it."""
        (self.folder / "model" / "in").mkdir(parents=True)
        (self.folder / "model" / "saved_model.pb").touch()
        (self.folder / "link").symlink_to("model/in")
        with self.assertRaisesRegex(UsageError, "--out: .*/model is a model"):
            arguments.check_writable(self.folder / path, "--out")
        with self.assertRaisesRegex(UsageError, "--out: .*/model is a model"):
            arguments.check_out(
                str(self.folder / "model" / "in" / "a.png"), may_be_folder=False
            )

    def test_path(self):
        home = {"HOME": "/home/me"}
        self.enterContext(mock.patch.dict(os.environ, home))
        for text, expected in (("~/a", "/home/me/a"), ("a/~", "a/~")):
            self.assertEqual(arguments.path(text), expected)
        self.assertEqual(arguments.file(".png")("~/a.png"), "/home/me/a.png")
        with self.assertRaisesRegex(argparse.ArgumentTypeError, "empty"):
            arguments.path("")

    @parameterized.parameters((True, "File exists"), (False, "Not a directory"))
    def test_is_no_folder(self, make, reason):
        path = self.folder / "two\nlines"
        path.touch()
        with self.assertRaisesRegex(
            UsageError, rf"^argument --out: .*/two\\nlines: {reason}$"
        ):
            arguments.check_writable(path, "--out", make)

    @parameterized.parameters(True, False)
    def test_name_that_is_too_long(self, make):
        with self.assertRaisesRegex(UsageError, "--out: .* name too long"):
            arguments.check_writable(self.folder / ("x" * 300), "--out", make)

    def test_is_not_writable(self):
        # A mode would not keep root out.
        error = PermissionError(13, "Permission denied")
        with (
            mock.patch("tempfile.TemporaryFile", side_effect=error),
            self.assertRaisesRegex(UsageError, "--out: .*Permission denied"),
        ):
            arguments.check_writable(self.folder, "--out")

    def test_name_cannot_be_foreseen(self):
        """Else others can lay a symlink there, and choose what is made."""
        link = self.folder / f".write-test-{os.getpid()}"
        link.symlink_to(self.folder / "target")
        arguments.check_writable(self.folder, "--out")
        self.assertEqual(os.listdir(self.folder), [link.name])


class ParserTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (["--n", "0"], "argument --n: '0'"), (["a\nb\x1b"], r"a\nb\x1b")
    )
    def test_error_is_one_line(self, argv, message):
        parser = arguments.Parser(prog="program")
        parser.add_argument("--n", type=arguments.number(WholeNumber(1)))
        result = command_lines.call(parser.parse_args, *argv)
        code, stdout, stderr = result
        self.assertEqual((code, stdout), (2, ""))
        self.assertRegex(stderr, r"^program: error: .*\n$")
        self.assertIn(message, stderr)


if __name__ == "__main__":
    tf.test.main()
