"""Tests for files."""

import fcntl
import os
import pathlib
import stat
import sys
import tempfile
import unittest
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import files


class Interrupted(Exception):
    """What the tests raise in the middle of writing."""


class FilesTestCase(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)

    def names(self):
        """Names of all that lies in the test's folder, hidden files too."""
        return sorted(os.listdir(self.folder))


class ReplaceFileTest(FilesTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "table.csv"

    def test_makes_a_file(self):
        with files.replace_file(self.path) as new:
            new.write_text("new")
            self.assertFalse(self.path.exists())
        self.assertEqual(self.path.read_text(), "new")
        self.assertEqual(self.names(), ["table.csv"])

    def test_replaces_a_file_when_it_is_complete(self):
        self.path.write_text("old")
        with files.replace_file(str(self.path)) as new:
            new.write_text("new")
            self.assertEqual(self.path.read_text(), "old")
        self.assertEqual(self.path.read_text(), "new")
        self.assertEqual(self.names(), ["table.csv"])

    @parameterized.parameters("table.csv", "curve.png", "two.dots.png")
    def test_new_file_has_the_suffix_and_the_folder(self, name):
        # What writes a picture goes by the suffix; a rename must not copy.
        path = self.folder / name
        with files.replace_file(path) as new:
            self.assertNotEqual(new, path)
            self.assertEqual(new.suffix, path.suffix)
            self.assertEqual(new.parent, path.parent)
            new.write_text("")
        self.assertEqual(self.names(), [name])

    @parameterized.parameters("old", None)
    def test_exception(self, old):
        if old is not None:
            self.path.write_text(old)
        before = self.names()
        with self.assertRaises(Interrupted):
            with files.replace_file(self.path) as new:
                new.write_text("half of the ne")
                raise Interrupted
        self.assertEqual(self.names(), before)
        if old is not None:
            self.assertEqual(self.path.read_text(), old)

    def test_exception_before_anything_is_written(self):
        with self.assertRaises(Interrupted):
            with files.replace_file(self.path):
                raise Interrupted
        self.assertEmpty(self.names())

    def test_nothing_written(self):
        self.path.write_text("old")
        with self.assertRaises(FileNotFoundError):
            with files.replace_file(self.path):
                pass
        self.assertEqual(self.names(), ["table.csv"])
        self.assertEqual(self.path.read_text(), "old")

    def test_failed_replacement(self):
        self.path.write_text("old")
        with mock.patch.object(pathlib.Path, "replace", side_effect=OSError):
            with self.assertRaises(OSError):
                with files.replace_file(self.path) as new:
                    new.write_text("new")
        self.assertEqual(self.names(), ["table.csv"])
        self.assertEqual(self.path.read_text(), "old")

    def test_no_such_folder(self):
        with self.assertRaises(FileNotFoundError):
            with files.replace_file(self.folder / "nowhere" / "a.csv") as new:
                new.write_text("new")
        self.assertEmpty(self.names())


class ReplaceDirectoryTest(FilesTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "model"

    def fill(self, folder, content):
        (folder / "inside").mkdir(parents=True)
        (folder / "inside" / content).write_text(content)

    def assert_filled(self, content):
        """Asserts that the folder holds this content, and nothing is left."""
        self.assertEqual(self.names(), ["model"])
        self.assertEqual(os.listdir(self.path), ["inside"])
        inside = self.path / "inside"
        self.assertEqual(os.listdir(inside), [content])
        self.assertEqual((inside / content).read_text(), content)

    def test_makes_a_folder(self):
        with files.replace_directory(self.path) as new:
            self.assertEmpty(os.listdir(new))
            self.fill(new, "new")
            self.assertFalse(self.path.exists())
        self.assert_filled("new")

    @parameterized.parameters(True, False)
    def test_replaces_a_folder_when_it_is_complete(self, can_exchange):
        self.fill(self.path, "old")
        if not can_exchange:
            self.enterContext(
                mock.patch.object(files, "_exchange", return_value=False)
            )
        with files.replace_directory(str(self.path)) as new:
            self.assertEqual(new.parent, self.folder)
            self.fill(new, "new")
            self.assertEqual(os.listdir(self.path / "inside"), ["old"])
        self.assert_filled("new")

    def test_exception(self):
        self.fill(self.path, "old")
        with self.assertRaises(Interrupted):
            with files.replace_directory(self.path) as new:
                self.fill(new, "new")
                raise Interrupted
        self.assert_filled("old")

    def test_exception_without_an_old_folder(self):
        with self.assertRaises(Interrupted):
            with files.replace_directory(self.path) as new:
                self.fill(new, "new")
                raise Interrupted
        self.assertEmpty(self.names())

    def test_failed_replacement(self):
        self.fill(self.path, "old")
        rename = pathlib.Path.rename

        def fail(path, target):
            # The new folder can't take its place; the old one can move.
            if pathlib.Path(target) == self.path and "new" in os.listdir(
                path / "inside"
            ):
                raise OSError("Input/output error")
            return rename(path, target)

        self.enterContext(
            mock.patch.object(files, "_exchange", return_value=False)
        )
        with mock.patch.object(pathlib.Path, "rename", fail):
            with self.assertRaisesRegex(OSError, "Input/output error"):
                with files.replace_directory(self.path) as new:
                    self.fill(new, "new")
        self.assert_filled("old")

    @unittest.skipUnless(sys.platform == "linux", "Linux can exchange.")
    def test_there_is_a_folder_at_every_instant(self):
        self.fill(self.path, "old")
        rename = mock.Mock(side_effect=AssertionError("a gap"))
        with mock.patch.object(pathlib.Path, "rename", rename):
            with files.replace_directory(self.path) as new:
                self.fill(new, "new")
        self.assert_filled("new")

    def test_after_a_run_that_was_killed(self):
        """What it left behind does not stay."""
        self.fill(self.path, "old")
        killed = files.replace_directory(self.path)
        with mock.patch("shutil.rmtree"):
            with killed as new:
                self.fill(new, "killed")
        self.assertLen(self.names(), 2)
        with files.replace_directory(self.path) as new:
            self.fill(new, "new")
        self.assert_filled("new")

    def test_another_process_writes(self):
        others = [".model.new-mine", ".models.new-12345678", ".model.new-"]
        for name in others:
            (self.folder / name).mkdir()
        with files.replace_directory(self.path) as first:
            self.fill(first, "first")
            with files.replace_directory(self.path) as second:
                self.fill(second, "second")
        for name in others:
            (self.folder / name).rmdir()
        self.assert_filled("first")

    @parameterized.parameters("open", "flock")
    def test_taken_for_a_leftover_before_it_is_locked(self, step):
        module = {"open": os, "flock": fcntl}[step]
        original = getattr(module, step)
        removed = []

        def remove(*arguments):
            if not removed:
                (name,) = self.names()
                removed.append(name)
                (self.folder / name).rmdir()
            return original(*arguments)

        with mock.patch.object(module, step, remove):
            with files.replace_directory(self.path) as new:
                self.assertNotEqual([new.name], removed)
                self.fill(new, "new")
        self.assert_filled("new")

    def test_file_system_without_locks(self):
        error = OSError(37, "No locks available")
        with mock.patch.object(fcntl, "flock", side_effect=error):
            with files.replace_directory(self.path) as new:
                self.fill(new, "new")
                with files.replace_directory(self.folder / "model") as second:
                    self.fill(second, "second")
        self.assert_filled("new")

    def test_others_may_read_the_new_folder(self):
        with files.replace_directory(self.path):
            pass
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o755)

    def test_no_such_folder(self):
        with self.assertRaises(FileNotFoundError):
            with files.replace_directory(self.folder / "nowhere" / "model"):
                self.fail("There is nothing to fill.")
        self.assertEmpty(self.names())


if __name__ == "__main__":
    tf.test.main()
