"""Tests for arguments."""

import os
import pathlib
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.cli import arguments
from tf_realnvp.errors import UsageError
from tf_realnvp.utils import ranges

PNG = arguments.File(".png")
PNG_OR_FOLDER = arguments.File(".png", or_folder=True)


class ValuesTest(tf.test.TestCase, parameterized.TestCase):
    """`train_test` has other values, and `commands_test` the wrong ones."""

    @parameterized.parameters(
        (ranges.RealNumber(low=-10.0), "-1e-1", -0.1),
        (ranges.Folder(), "~/a", "/home/me/a"),
        (ranges.Folder(), "a b//", "a b"),
        (ranges.Folder(), "/", "/"),
        (PNG, "~/a.PNG", "/home/me/a.PNG"),
        (PNG_OR_FOLDER, "new/", "new/"),
        (PNG_OR_FOLDER, "/", "/"),
    )
    def test_parsed(self, allowed, text, expected):
        self.enterContext(mock.patch.dict(os.environ, HOME="/home/me"))
        parser = arguments.Parser(prog="program")
        name, options = arguments.argument("--flag", allowed)
        parser.add_argument(name, **options)
        parsed = parser.parse_args([f"--flag={text}"]).flag
        self.assertEqual(parsed, expected)
        self.assertIs(type(parsed), type(expected))

    def test_classes(self):
        names = ("Cat", "cafe\u0301", "cat")
        for label, number in (
            *((None, None), ("cat", 2), ("Cat", 0), ("CAT", 0)),
            *(("caf\u00e9", 1), ("CAF\u00c9", 1)),
        ):
            self.assertEqual(arguments.find_label(label, names), number)
        for some, known in ((names, "Cat, ca"), ((), "none")):
            with self.assertRaisesRegex(
                UsageError, f"--label: no class 'bird', but {known}"
            ):
                arguments.find_label("bird", some)


class OutputsTest(command_lines.CommandTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        os.mkdir("maps")
        for name in ("file", "maps/map_1.png"):
            pathlib.Path(name).touch()
        os.symlink("file", "link")
        os.symlink("maps", "linked")

    @parameterized.parameters(
        ("./link", "among the images: file"),
        ("maps/a.png", "among the images: linked"),
        ("linked/new/a.png", "among the images: linked"),
        ("with/new/a.png", "among the images: with:1"),
    )
    def test_links(self, out, message):
        """Files are not written over images that links lead to."""
        with self.assertRaisesRegex(
            UsageError, f"^argument --out: .*{message}"
        ):
            arguments.check_output(
                out, inputs=["other", "file", "linked", "with:1"]
            )
