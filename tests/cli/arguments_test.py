"""Tests for arguments."""

import argparse
import os
import pathlib
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import arguments
from tf_realnvp.utils.checks import RealNumber, WholeNumber
from tf_realnvp.utils.errors import UsageError

ANY = WholeNumber(0)
EVEN = WholeNumber(2, 4, even=True)
POSITIVE = RealNumber()
PART = RealNumber(includes_low=True, below=1.0)


class ValuesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (ANY, "0", 0),
        (ANY, "2147483647", 2147483647),
        (EVEN, "4", 4),
        (POSITIVE, "1e-30", 1e-30),
        (PART, "0", 0.0),
    )
    def test_good_numbers(self, allowed, text, expected):
        value = arguments.number(allowed)(text)
        self.assertEqual(value, expected)
        self.assertIs(type(value), type(expected))

    @parameterized.parameters(
        (ANY, "-1 1.0 1e3 inf x"),
        (EVEN, "1 3 6 x"),
        (POSITIVE, "0 -1 nan inf 3.5e38 x"),  # Infinite in float32.
        (PART, "-0.1 1 nan inf -inf x"),
    )
    def test_bad_numbers(self, allowed, texts):
        for text in (*texts.split(), ""):
            with self.assertRaises(argparse.ArgumentTypeError) as context:
                arguments.number(allowed)(text)
            message = str(context.exception)
            self.assertEqual(message, f"{text!r} is not {allowed}")

    def test_path(self):
        home = {"HOME": "/home/me"}
        self.enterContext(mock.patch.dict(os.environ, home))
        for text, expected in (("~/a", "/home/me/a"), ("a/~", "a/~")):
            self.assertEqual(arguments.path(text), expected)
        self.assertEqual(arguments.file(".png")("~/a.png"), "/home/me/a.png")
        with self.assertRaisesRegex(argparse.ArgumentTypeError, "empty"):
            arguments.path("")

    def test_command(self):
        def dream(flags):
            """Draw what it dreams.

            Of sheep.
            """
            print(flags.model, flags.depth, flags.name)

        command = arguments.command(
            "m --depth 4",
            arguments.argument("--depth", "how deep", EVEN, 2),
            arguments.argument("--name", "of a sheep", metavar="NAME"),
            notes="\nElectric.",
        )(dream)
        parser = arguments.Parser(prog="program")
        command.add_to(parser.add_subparsers())
        code, stdout, _ = command_lines.call(parser.parse_args, "--help")
        self.assertRegex(stdout, r"\bdream +draw what it dreams\n")
        code, stdout, _ = command_lines.call(parser.parse_args, "dream", "-h")
        self.assertEqual(code, 0)
        self.assertIn("\nDraw what it dreams.\n\nOf sheep.\n\nElec", stdout)
        self.assertRegex(stdout, r"--depth N +how deep \(default: 2\)\n")
        self.assertRegex(stdout, r"--name NAME +of a sheep\n")
        self.assertIn("\nexample:\n  program dream m --depth 4\n", stdout)

        def run(argv):
            flags = parser.parse_args(argv)
            return flags.run(flags, None)

        _, stdout, _ = command_lines.call(run, "dream", "m", "--name", "Dolly")
        self.assertEqual(stdout, "m 2 Dolly\n")

    def test_bad_words_are_printable(self):
        parser = arguments.Parser(prog="program")
        result = command_lines.call(parser.parse_args, "a\x1b")
        message = "program: error: unrecognized arguments: a\\x1b\n"
        self.assertEqual(result, (2, "", message))

    def test_classes(self):
        names = ("cat", "cafe\u0301")
        for label, number in ((None, None), ("cat", 0), ("caf\u00e9", 1)):
            self.assertEqual(arguments.find_label(label, names), number)
        with self.assertRaisesRegex(UsageError, "no class 'bird', but cat, ca"):
            arguments.find_label("bird", names)
        with self.assertRaisesRegex(UsageError, "the model has no classes"):
            arguments.find_label("cat", ())


class OutputsTest(command_lines.CommandTestCase, parameterized.TestCase):
    def test_folders_are_left_to_who_writes(self):
        path = pathlib.Path("a", "b")
        arguments.check_writable(path, "--out")
        self.assertEmpty(os.listdir())
        path.mkdir(parents=True)
        for make in (True, False):
            arguments.check_writable(path, "--out", make)
            self.assertEmpty(os.listdir(path))

    @parameterized.parameters(
        ("missing/a.png", "cannot write to missing: No such file"),
        ("file/a.png", "cannot write to file: Not a directory"),
        (f"{'x' * 300}/a.png", "File name too long"),
        ("d.png", "d.png is a folder"),
        ("file", "file is one of the images"),
        ("./link", "link is one of the images"),
        # Another training would replace it with all that is in it.
        ("model/in/a.png", ".*/model is a model"),
        ("in/a.png", ".*/model is a model"),
    )
    def test_bad_files(self, out, message):
        self.write()
        with self.assertRaisesRegex(
            UsageError, f"^argument --out: .*{message}"
        ):
            arguments.check_out(out, ["other", "file"])

    @parameterized.parameters(
        ("file", "cannot write to file: File exists"),
        ("file/new", "cannot write to file/new: "),
        ("model", "/model is a model"),
        ("model/in/new", "/model is a model"),
        ("d.png", "d.png has map_.* of before"),
    )
    def test_bad_folders(self, folder, message):
        self.write()
        (self.folder / "d.png" / "map_1.png").touch()
        with self.assertRaisesRegex(
            UsageError, f"^argument --maps: .*{message}"
        ):
            arguments.check_new_files(folder, "--maps", "map_*.png")

    def write(self):
        os.makedirs("model/in")
        os.mkdir("d.png")
        for name in ("file", "model/saved_model.pb"):
            pathlib.Path(name).touch()
        os.symlink("file", "link")
        os.symlink("model/in", "in")


if __name__ == "__main__":
    tf.test.main()
