"""Tests for files."""

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import time
from unittest import mock

import disks
import folders
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import files

REPLACE = (files.replace_file, files.replace_directory)

over_both = parameterized.parameters(*REPLACE)


class Interrupted(Exception):
    """The error that tests raise in the middle of writing."""


def fill(path, content):
    """Writes into a new file, or into a folder with one inside."""
    if path.is_dir():
        path = path / "inside" / content
        path.parent.mkdir()
    path.write_text(content)


class FilesTestCase(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "table.csv"

    def names(self):
        """Names of all that lies in the test's folder, hidden files too."""
        return sorted(os.listdir(self.folder))

    def make(self, replace):
        """Makes what `replace` replaces."""
        if replace == files.replace_directory:
            self.path.mkdir()
        fill(self.path, "old")

    def content(self):
        """Returns what was filled in, and nothing else is there."""
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            return self.path.read_text()
        (path,) = [path for path in self.path.rglob("*") if path.is_file()]
        self.assertEqual(path.read_text(), path.name)
        return path.name

    def assert_holds(self, content):
        """Asserts what is there, and that nothing is left beside it."""
        self.assertEqual(self.names(), [self.path.name] if content else [])
        self.assertEqual(self.content(), content)

    @contextlib.contextmanager
    def synced(self, state):
        """Gives a list of what is written through to the disk: its name, and
        what `state` returned then."""
        synced, sync = [], files.sync

        def spy(path):
            sync(path)
            synced.append((os.path.basename(path), state()))

        with mock.patch.object(files, "sync", spy):
            yield synced


class ReplaceTest(FilesTestCase):
    @parameterized.product(
        replace=REPLACE, is_there=[True, False], can_exchange=[True, False]
    )
    def test_replaces_when_it_is_on_the_disk(
        self, replace, is_there, can_exchange
    ):
        before = "old" if is_there else None
        if is_there:
            self.make(replace)
        exchange = self.enterContext(
            mock.patch.object(
                files,
                "exchange",
                side_effect=files.exchange if can_exchange else None,
                return_value=False,
            )
        )
        with self.synced(self.content) as synced:
            with replace(str(self.path)) as new:
                # A rename must not copy.
                self.assertEqual(new.parent, self.folder)
                fill(new, "new")
                parts = [new.name]
                if new.is_dir():
                    parts += ["inside", "new"]
                self.assertEqual(self.content(), before)
        self.assert_holds("new")
        *first, last = synced
        self.assertCountEqual(first, [(part, before) for part in parts])
        self.assertEqual(last, (self.folder.name, "new"))
        # With it there is a folder at every instant.
        is_folder = replace == files.replace_directory
        self.assertEqual(exchange.called, is_folder and is_there)

    @parameterized.product(replace=REPLACE, is_there=[True, False])
    def test_exception(self, replace, is_there):
        if is_there:
            self.make(replace)
        with self.assertRaises(Interrupted):
            with replace(self.path) as new:
                fill(new, "half of the ne")
                with replace(self.path) as second:
                    fill(second, "by another")
                raise Interrupted
        self.assert_holds("by another")

    def test_full_disk_is_named(self):
        with disks.full(10), self.assertRaisesRegex(OSError, "csv: .*large"):
            files.write_csv(self.path, [["more than ten bytes"]])
        self.assertEmpty(self.names())

    def test_failed_replacement(self):
        """The old folder is restored if the new one cannot be moved."""
        self.make(files.replace_directory)
        self.enterContext(
            mock.patch.object(
                files, "exchange", lambda new, path: shutil.rmtree(new)
            )
        )
        with self.assertRaises(FileNotFoundError):
            with files.replace_directory(self.path) as new:
                fill(new, "new")
        self.assert_holds("old")

    def test_killed_where_the_system_cannot_exchange(self):
        """The old folder is kept under another name."""
        self.make(files.replace_directory)
        rename = pathlib.Path.rename

        def die(path, target):
            if target == self.path:
                raise KeyboardInterrupt
            return rename(path, target)

        with (
            mock.patch.object(files, "exchange", return_value=False),
            mock.patch.object(pathlib.Path, "rename", die),
            self.assertRaises(KeyboardInterrupt),
            files.replace_directory(self.path) as new,
        ):
            fill(new, "new")
        with files.replace_file(self.folder / "other"):
            pass
        (old,) = self.folder.rglob("old")
        self.assertEqual(old.read_text(), "old")

    def test_many_files(self):
        """All files are replaced, or none."""
        folder = self.folder / "a" / "b"
        with self.assertRaises(Interrupted):
            with files.replace_files(folder) as new:
                (new / "1").write_text("new")
                raise Interrupted
        self.assertEmpty(self.names())
        folder.mkdir(parents=True)
        for name in ("1", "other"):
            (folder / name).write_text("old")
        with self.synced(lambda: (folder / "1").read_text()) as synced:
            with files.replace_files(str(folder)) as new:
                for name in ("1", "2"):
                    (new / name).write_text("new")
                self.assertEqual((folder / "1").read_text(), "old")
        expected = [("1", "old"), ("2", "old"), (folder.name, "new")]
        self.assertEqual(synced, expected)
        content = {path.name: path.read_text() for path in folder.iterdir()}
        self.assertEqual(content, {"1": "new", "2": "new", "other": "old"})

    @over_both
    def test_symlink_is_replaced_itself(self, replace):
        target = self.folder / "target"
        target.write_text("theirs")
        target.chmod(0o400)
        self.path.symlink_to(target)
        with replace(self.path) as new:
            fill(new, "new")
        self.assertFalse(self.path.is_symlink())
        self.assertEqual(self.content(), "new")
        self.assertEqual(target.read_text(), "theirs")
        mode = stat.S_IMODE(self.path.stat().st_mode)
        self.assertNotEqual(mode, 0o400)  # Nor are its rights the link's.

    @parameterized.product(replace=REPLACE, umask=[0o077, 0o002])
    def test_whom_it_may_be_read_by(self, replace, umask):
        self.addCleanup(os.umask, os.umask(umask))
        with replace(self.path) as new:
            fill(new, "new")
            if new.is_dir():
                (new / "inside").chmod(0o700)  # As TensorFlow does.
        for path in (self.path, *self.path.glob("inside")):
            mode = 0o777 if path.is_dir() else 0o666
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), mode & ~umask)
        if replace == files.replace_file:  # What the user has set stays.
            self.path.chmod(0o604)
            with replace(self.path) as new:
                fill(new, "new")
            with files.replace_files(self.folder) as new:
                (new / self.path.name).touch()
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o604)


class LeftoverTest(FilesTestCase):
    """Tests what a process leaves if it is killed while it writes."""

    @parameterized.product(left=REPLACE, written=REPLACE)
    def test_is_removed_after_a_day(self, left, written):
        with (
            contextlib.suppress(Interrupted),
            left(self.folder / "other.csv") as new,
        ):
            fill(new, "half")
            aside = new.rename(self.folder / "aside")
            raise Interrupted
        aside.rename(new)
        for hours, kept in ((23, [new.name]), (25, [])):
            then = time.time() - hours * 3600
            os.utime(new, (then, then))
            with written(self.path):
                pass
            self.assertEqual(self.names(), [*kept, "table.csv"])

    def test_what_others_have_put_there(self):
        with files.replace_file(self.path) as new:
            name = new.name
        target = self.folder / "target"
        target.write_text("theirs")
        for other in (".table.new-1.csv", "table.csv.new", name[1:]):
            (self.folder / other).touch()
        before = self.names()
        (self.folder / f"{name}1").symlink_to(target)
        for path in self.folder.iterdir():
            os.utime(path, (0, 0), follow_symlinks=False)
        with files.replace_file(self.path):
            pass
        self.assertEqual(target.read_text(), "theirs")
        self.assertEqual(self.names(), before)


class FoldersTest(FilesTestCase):
    def test_what_cannot_be_written_through(self):
        """Some file systems cannot sync folders."""
        files.sync("/proc")
        with self.assertRaises(OSError):
            files.sync("/dev/null")
        error = OSError(errno.EIO, "Input/output error")
        with mock.patch.object(os, "fsync", side_effect=error):
            self.assertRaises(OSError, files.sync, self.folder)

    def test_new_folders(self):
        path = self.folder / "a" / "b" / "c"
        (self.folder / "a").mkdir()
        for expected in (["a", "b"], []):
            with self.synced(self.names) as synced:
                files.make_directory(path)
            self.assertTrue(path.is_dir())
            self.assertCountEqual([name for name, _ in synced], expected)

    @parameterized.parameters("a/b/c", f"a/b/{'c' * 300}")
    def test_goes_again(self, path):
        with contextlib.suppress(OSError), files.created(self.folder / path):
            self.assertTrue((self.folder / path).is_dir())
        self.assertEmpty(self.names())


class TensorFlowTest(tf.test.TestCase):
    def test_paths(self):
        for path in ("-a", "ü ñ", "two\nlines", "$a_b$", "{a}]", "/a/b:/c"):
            self.assertIsNone(files.why_tensorflow_cannot(path))
        for path, reason in (
            *((path, path[1]) for path in ("a*/b", "a?", "a[b]", "a\\b")),
            ("a\udcffb", r"\udcff"),
            ("gs://bucket/runs", "gs:/"),
            (pathlib.Path("s3://bucket"), "s3:/"),
        ):
            self.assertIn(reason, files.why_tensorflow_cannot(path))
