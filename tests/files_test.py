"""Tests for files."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import stat
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import files

REPOSITORY = pathlib.Path(__file__).parents[1]
REPLACE = ("replace_file", "replace_directory")


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

    def set_umask(self, umask):
        self.addCleanup(os.umask, os.umask(umask))

    @contextlib.contextmanager
    def another_process(self, function, path):
        """Gives a process that has begun to replace a file or folder."""
        script = (
            "import sys, time\n"
            "from tf_realnvp import files\n"
            f"with files.{function}(sys.argv[1]) as new:\n"
            "    print('begun', flush=True)\n"
            "    time.sleep(600)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        ) as process:
            self.assertEqual(process.stdout.readline(), b"begun\n")
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def synced(self, state):
        """Gives a list of what is written through to the disk: its name, and
        what `state` returned then."""
        synced = []

        def fsync(descriptor):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            synced.append((os.path.basename(path), state()))

        with mock.patch.object(os, "fsync", fsync):
            yield synced


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
        with files.replace_file(self.path):
            pass
        self.assertEqual(self.names(), ["table.csv"])
        self.assertEqual(self.path.read_text(), "")

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

    def test_two_write(self):
        with files.replace_file(self.path) as first:
            first.write_text("first")
            with files.replace_file(self.path) as second:
                second.write_text("second")
            self.assertEqual(self.path.read_text(), "second")
        self.assertEqual(self.path.read_text(), "first")
        self.assertEqual(self.names(), ["table.csv"])

    def test_name_is_new_every_time(self):
        """So nobody can lay a symlink there before."""
        names = set()
        for _ in range(3):
            with files.replace_file(self.path) as new:
                names.add(new.name)
                self.assertNotIn(str(os.getpid()), new.name)
        self.assertLen(names, 3)

    def test_name_that_is_taken_after_all(self):
        target = self.folder / "target"
        target.write_text("theirs")
        tokens = mock.patch.object(secrets, "token_hex", return_value="0")
        with tokens, files.replace_file(self.path) as new:
            name = new.name
        (self.folder / name).symlink_to(target)
        leftovers = mock.patch.object(files, "_remove_leftovers")
        with tokens, leftovers, self.assertRaises(FileExistsError):
            with files.replace_file(self.path) as new:
                self.fail("It would be written through the link.")
        self.assertEqual(target.read_text(), "theirs")

    def test_symlink_is_replaced_itself(self):
        target = self.folder / "target"
        target.write_text("theirs")
        self.path.symlink_to(target)
        with files.replace_file(self.path) as new:
            new.write_text("new")
        self.assertEqual(self.path.read_text(), "new")
        self.assertEqual(target.read_text(), "theirs")

    @parameterized.parameters(0o077, 0o022, 0o002)
    def test_umask(self, umask):
        self.set_umask(umask)
        with files.replace_file(self.path) as new:
            mode = stat.S_IMODE(new.stat().st_mode)
            self.assertEqual(mode, 0o666 & ~umask)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), mode)

    def test_is_on_the_disk_when_it_is_done(self):
        with self.synced(self.names) as synced:
            with files.replace_file(self.path) as new:
                name = new.name
        self.assertEqual(
            synced,
            [(name, [name]), (self.folder.name, ["table.csv"])],
        )


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

    def test_two_write(self):
        with files.replace_directory(self.path) as first:
            self.fill(first, "first")
            with files.replace_directory(self.path) as second:
                self.fill(second, "second")
        self.assert_filled("first")

    @parameterized.parameters(True, False)
    def test_symlink_is_replaced_itself(self, is_dangling):
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder, "target")
            if not is_dangling:
                self.fill(target, "theirs")
            self.path.symlink_to(target)
            with files.replace_directory(self.path) as new:
                self.fill(new, "new")
            self.assert_filled("new")
            self.assertFalse(self.path.is_symlink())
            self.assertEqual(os.listdir(folder), ["target"] * (not is_dangling))
            if not is_dangling:
                self.assertEqual(os.listdir(target / "inside"), ["theirs"])

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

    @parameterized.parameters(0o077, 0o022, 0o002)
    def test_umask(self, umask):
        self.set_umask(umask)
        with files.replace_directory(self.path) as new:
            (new / "inside").mkdir()
            (new / "inside").chmod(0o700)  # As others' code may.
        for path in (self.path, self.path / "inside"):
            mode = stat.S_IMODE(path.stat().st_mode)
            self.assertEqual(mode, 0o777 & ~umask)

    @parameterized.parameters(True, False)
    def test_is_on_the_disk_when_it_is_done(self, can_exchange):
        self.fill(self.path, "old")
        if not can_exchange:
            self.enterContext(
                mock.patch.object(files, "_exchange", return_value=False)
            )

        def content():
            return os.listdir(self.path / "inside")

        with self.synced(content) as synced:
            with files.replace_directory(self.path) as new:
                self.fill(new, "new")
                (new / "more").touch()
                name = new.name
        *inside, last = synced
        self.assertCountEqual(
            inside,
            [(what, ["old"]) for what in (name, "inside", "more", "new")],
        )
        self.assertEqual(last, (self.folder.name, ["new"]))

    def test_no_such_folder(self):
        with self.assertRaises(FileNotFoundError):
            with files.replace_directory(self.folder / "nowhere" / "model"):
                self.fail("There is nothing to fill.")
        self.assertEmpty(self.names())


class LeftoverTest(FilesTestCase, parameterized.TestCase):
    @parameterized.product(left=REPLACE, written=REPLACE)
    def test_of_a_process_that_was_killed(self, left, written):
        """It goes, whatever is written there next."""
        with self.another_process(left, self.folder / "left.csv"):
            (name,) = self.names()
        self.assertEqual(self.names(), [name])
        self.assertTrue(files.is_leftover(name))
        with getattr(files, written)(self.folder / "new.csv"):
            self.assertNotIn(name, self.names())
        self.assertEqual(self.names(), ["new.csv"])

    @parameterized.product(left=REPLACE, written=REPLACE)
    def test_process_that_lives(self, left, written):
        with self.another_process(left, self.folder / "left.csv"):
            (name,) = self.names()
            with getattr(files, written)(self.folder / "new.csv"):
                pass
            self.assertEqual(self.names(), [name, "new.csv"])

    def test_what_others_have_put_there(self):
        with files.replace_file(self.folder / "table.csv") as new:
            name = new.name
        target = self.folder / "target"
        target.write_text("theirs")
        for other in (".table.new-1.csv", "table.csv.new", name[1:]):
            (self.folder / other).touch()
        before = self.names()
        (self.folder / f"{name}1").symlink_to(target)
        os.mkfifo(self.folder / f"{name}2")  # Whoever opens it may wait.
        with files.replace_file(self.folder / "table.csv"):
            pass
        self.assertEqual(target.read_text(), "theirs")
        self.assertContainsSubset(before, self.names())


class SyncTest(FilesTestCase, parameterized.TestCase):
    def fail(self, number):
        error = OSError(number, os.strerror(number))
        return mock.patch.object(os, "fsync", side_effect=error)

    @parameterized.parameters(errno.EINVAL, errno.EBADF)
    def test_file_system_that_does_not_sync_folders(self, number):
        (self.folder / "file").touch()
        with self.fail(number):
            files.sync(self.folder)
            with self.assertRaises(OSError):
                files.sync(self.folder / "file")

    @parameterized.parameters(errno.EIO, errno.ENOSPC)
    def test_disk_that_fails(self, number):
        with self.fail(number), self.assertRaises(OSError):
            files.sync(self.folder)

    def test_folder_that_may_not_be_read(self):
        (self.folder / "file").touch()
        with mock.patch.object(os, "open", side_effect=PermissionError):
            files.sync(self.folder)
            with self.assertRaises(PermissionError):
                files.sync(self.folder / "file")

    def test_new_folders(self):
        path = self.folder / "a" / "b" / "c"
        (self.folder / "a").mkdir()
        for expected in (["a", "b"], []):
            with self.synced(self.names) as synced:
                files.make_directory(path)
            self.assertTrue(path.is_dir())
            self.assertCountEqual([name for name, _ in synced], expected)


if __name__ == "__main__":
    tf.test.main()
