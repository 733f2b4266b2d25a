"""Tests for arguments."""

import os
import pathlib
from unittest import mock

import command_lines
from absl.testing import parameterized

from tf_realnvp.cli import arguments
from tf_realnvp.utils.checks import (
    Folder,
    ImageSize,
    RealNumber,
    WholeNumber,
    WholeNumbers,
)
from tf_realnvp.utils.errors import UsageError

EVEN = WholeNumber(2, 4, even=True)
PNG = arguments.File(".png")
PNG_OR_FOLDER = arguments.File(".png", or_folder=True)


class ValuesTest(command_lines.CommandTestCase, parameterized.TestCase):
    name = "program"

    def parse(self, allowed, text):
        parser = arguments.Parser(prog="program")
        name, options = arguments.argument("--flag", "help", allowed)
        parser.add_argument(name, **options)
        parsed = []

        def parse(argv):
            parsed.append(parser.parse_args(argv).flag)

        result = command_lines.call(parse, f"--flag={text}")
        return result, parsed

    @parameterized.parameters(
        (EVEN, "4", 4),
        (WholeNumbers(3, 1, 9), "1,2,3", (1, 2, 3)),
        (ImageSize(), "4x6", (4, 6)),
        (RealNumber(low=-10.0), "-1e-1", -0.1),
        (Folder(), "~/a", "/home/me/a"),
        (Folder(), "a b//", "a b"),
        (Folder(), "/", "/"),
        (PNG, "~/a.PNG", "/home/me/a.PNG"),
        (PNG_OR_FOLDER, "new/", "new/"),
        (PNG_OR_FOLDER, "/", "/"),
    )
    def test_good(self, allowed, text, expected):
        home = {"HOME": "/home/me"}
        self.enterContext(mock.patch.dict(os.environ, home))
        _, parsed = self.parse(allowed, text)
        self.assertEqual(parsed, [expected])
        self.assertIs(type(parsed[0]), type(expected))

    @parameterized.parameters(
        (EVEN, "1 3 6 x \x1b"),
        (RealNumber(), "0 -1 nan inf 3.5e38 x"),  # Infinite in float32.
        (Folder(), ""),
        (PNG, "a.jpg .png a.png/ ./"),
        (PNG_OR_FOLDER, "a.jpg .png"),
    )
    def test_bad(self, allowed, texts):
        for text in (*texts.split(), ""):
            result, _ = self.parse(allowed, text)
            self.assert_usage_error(result, f"{text!r} is not {allowed}")

    def test_classes(self):
        names = ("Cat", "cafe\u0301", "cat")
        for label, number in (
            *((None, None), ("cat", 2), ("Cat", 0), ("CAT", 0)),
            *(("caf\u00e9", 1), ("CAF\u00c9", 1)),
        ):
            self.assertEqual(arguments.find_label(label, names), number)
        for its, known in ((names, "Cat, ca"), ((), "none")):
            with self.assertRaisesRegex(
                UsageError, f"--label: no class 'bird', but {known}"
            ):
                arguments.find_label("bird", its)


class OutputsTest(command_lines.CommandTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        os.mkdir("maps")
        for name in ("file", "maps/map_1.png"):
            pathlib.Path(name).touch()
        os.symlink("file", "link")
        os.symlink("maps", "linked")

    def test_good(self):
        before = sorted(self.folder.rglob("*"))
        arguments.check_output("maps/a.png", inputs=["digits", None, "file"])
        arguments.check_output("a/b", is_folder=True, inputs=["a/b/c", "maps"])
        arguments.check_new_files("maps", "--maps", "sample_*.png")
        # Folders are left to what writes.
        self.assertEqual(sorted(self.folder.rglob("*")), before)

    @parameterized.parameters(
        ("./link", "among the images: file"),
        ("maps/a.png", "among the images: linked"),
        ("linked/new/a.png", "among the images: linked"),
    )
    def test_links(self, out, message):
        """They lead to images; `commands_test` has what else is refused."""
        with self.assertRaisesRegex(
            UsageError, f"^argument --out: .*{message}"
        ):
            arguments.check_output(out, inputs=["other", "file", "linked"])
