"""Tests for files."""

import contextlib
import errno
import os
import pathlib
import secrets
import stat
import sys
import tempfile
import unittest
from unittest import mock

import command_lines
import folders
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import files, system

REPLACE = ("replace_file", "replace_directory")

over_both = parameterized.parameters(*REPLACE)


class Interrupted(Exception):
    """What the tests raise in the middle of writing."""


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

    def make(self, function):
        """Makes what `function` replaces."""
        if function == "replace_directory":
            self.path.mkdir()
        fill(self.path, "old")

    def content(self):
        """Returns what was filled in, and nothing else is there."""
        if not self.path.is_dir():
            return self.path.read_text()
        (path,) = [path for path in self.path.rglob("*") if path.is_file()]
        self.assertEqual(path.read_text(), path.name)
        return path.name

    def assert_holds(self, content):
        """Asserts what is there, and that nothing is left beside it."""
        self.assertEqual(self.names(), [self.path.name])
        self.assertEqual(self.content(), content)

    def set_exchange(self, can_exchange):
        """Says whether the system can exchange two folders at once."""
        if not can_exchange:
            self.enterContext(
                mock.patch.object(system, "exchange", return_value=False)
            )

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


class ReplaceTest(FilesTestCase):
    @over_both
    def test_makes_what_is_not_there(self, function):
        with getattr(files, function)(self.path) as new:
            # A rename must not copy.
            self.assertEqual(new.parent, self.folder)
            fill(new, "new")
            self.assertFalse(self.path.exists())
        self.assert_holds("new")

    @parameterized.product(function=REPLACE, can_exchange=[True, False])
    def test_replaces_when_it_is_complete(self, function, can_exchange):
        self.set_exchange(can_exchange)
        self.make(function)
        with getattr(files, function)(str(self.path)) as new:
            fill(new, "new")
            self.assertEqual(self.content(), "old")
        self.assert_holds("new")

    @parameterized.product(function=REPLACE, is_there=[True, False])
    def test_exception(self, function, is_there):
        if is_there:
            self.make(function)
        with self.assertRaises(Interrupted):
            with getattr(files, function)(self.path) as new:
                fill(new, "half of the ne")
                raise Interrupted
        if is_there:
            self.assert_holds("old")
        else:
            self.assertEmpty(self.names())

    @over_both
    def test_failed_replacement(self, function):
        self.set_exchange(False)
        self.make(function)
        rename = os.rename

        def fail(path, target):
            # What is new can't take its place; the old one can move.
            is_new = files.is_leftover(pathlib.Path(path).name)
            if is_new and pathlib.Path(target) == self.path:
                raise OSError("Input/output error")
            rename(path, target)

        with (
            mock.patch.object(os, "rename", fail),
            mock.patch.object(os, "replace", fail),
            self.assertRaisesRegex(OSError, "Input/output error"),
            getattr(files, function)(self.path) as new,
        ):
            fill(new, "new")
        self.assert_holds("old")

    def test_killed_where_the_system_cannot_exchange(self):
        """The old one is in another place then, and no leftover."""
        self.set_exchange(False)
        self.make("replace_directory")
        rename = pathlib.Path.rename

        def die(path, target):
            if target == self.path:
                raise KeyboardInterrupt
            return rename(path, target)

        with (
            mock.patch.object(pathlib.Path, "rename", die),
            self.assertRaises(KeyboardInterrupt),
            files.replace_directory(self.path) as new,
        ):
            fill(new, "new")
        with files.replace_file(self.folder / "other"):
            pass
        (old,) = self.folder.rglob("old")
        self.assertEqual(old.read_text(), "old")

    @unittest.skipUnless(sys.platform == "linux", "Linux can exchange.")
    def test_there_is_a_folder_at_every_instant(self):
        self.make("replace_directory")
        error = AssertionError("a gap")
        with mock.patch.object(pathlib.Path, "rename", side_effect=error):
            with files.replace_directory(self.path) as new:
                fill(new, "new")
        self.assert_holds("new")

    @over_both
    def test_two_write(self, function):
        with getattr(files, function)(self.path) as first:
            fill(first, "first")
            with getattr(files, function)(self.path) as second:
                fill(second, "second")
            self.assertEqual(self.content(), "second")
        self.assert_holds("first")

    @over_both
    def test_name(self, function):
        """New every time, so nobody can lay a symlink there before.

        That of a file has the suffix, which what writes a picture goes by.
        """
        names = set()
        for _ in range(3):
            with getattr(files, function)(self.folder / "a.b.png") as new:
                names.add(new.name)
                self.assertTrue(files.is_leftover(new.name))
                self.assertNotIn(str(os.getpid()), new.name)
                if function == "replace_file":
                    self.assertEqual(new.suffix, ".png")
        self.assertLen(names, 3)

    def test_many_files(self):
        """All of them, or none."""
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
        with self.assertRaises(IsADirectoryError):
            with files.replace_files(folder) as new:
                (new / "1").write_text("newer")
                (new / "in").write_text("newer")
                (folder / "in").mkdir()
        (folder / "in").rmdir()
        content = {path.name: path.read_text() for path in folder.iterdir()}
        self.assertEqual(content, {"1": "new", "2": "new", "other": "old"})

    def test_name_that_is_taken_after_all(self):
        target = self.folder / "target"
        target.write_text("theirs")
        tokens = mock.patch.object(secrets, "token_hex", return_value="0")
        with tokens, files.replace_file(self.path) as new:
            name = new.name
        (self.folder / name).symlink_to(target)
        with tokens, self.assertRaises(FileExistsError):
            with files.replace_file(self.path):
                self.fail("It would be written through the link.")
        self.assertEqual(target.read_text(), "theirs")

    @parameterized.product(function=REPLACE, is_dangling=[True, False])
    def test_symlink_is_replaced_itself(self, function, is_dangling):
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder, "target")
            self.path.symlink_to(target)
            if not is_dangling:
                target.write_text("theirs")
            with getattr(files, function)(self.path) as new:
                fill(new, "new")
            self.assertFalse(self.path.is_symlink())
            self.assert_holds("new")
            self.assertEqual(target.exists(), not is_dangling)
            if not is_dangling:
                self.assertEqual(target.read_text(), "theirs")

    @parameterized.product(function=REPLACE, umask=[0o077, 0o022, 0o002])
    def test_umask(self, function, umask):
        self.addCleanup(os.umask, os.umask(umask))
        with getattr(files, function)(self.path) as new:
            fill(new, "new")
            if new.is_dir():
                (new / "inside").chmod(0o700)  # As others' code may.
        for path in (self.path, *self.path.glob("inside")):
            mode = 0o777 if path.is_dir() else 0o666
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), mode & ~umask)

    def test_whom_it_may_be_read_by(self):
        self.path.touch()
        self.path.chmod(0o600)
        with files.replace_file(self.path) as new:
            fill(new, "new")
        with files.replace_files(self.folder) as new:
            (new / self.path.name).touch()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    @parameterized.product(function=REPLACE, can_exchange=[True, False])
    def test_is_on_the_disk_when_it_is_done(self, function, can_exchange):
        self.set_exchange(can_exchange)
        self.make(function)
        with self.synced(self.content) as synced:
            with getattr(files, function)(self.path) as new:
                fill(new, "new")
                parts = [new.name]
                if new.is_dir():
                    parts += ["inside", "new"]
        *before, after = synced
        self.assertCountEqual(before, [(part, "old") for part in parts])
        self.assertEqual(after, (self.folder.name, "new"))

    @over_both
    def test_no_such_folder(self, function):
        with self.assertRaises(FileNotFoundError):
            with getattr(files, function)(self.folder / "nowhere" / "model"):
                self.fail("There is nothing to fill.")
        self.assertEmpty(self.names())


class LockTest(FilesTestCase):
    def another_process(self, function):
        """Gives the name of what another process has begun to write."""
        script = (
            "import sys, time\n"
            "from tf_realnvp.utils import files\n"
            f"with files.{function}(sys.argv[1]) as new:\n"
            "    print(new.name, flush=True)\n"
            "    time.sleep(600)\n"
        )
        return command_lines.sleeping(script, self.folder / "other.csv")

    @parameterized.product(left=REPLACE, written=REPLACE)
    def test_leftover_of_another_process(self, left, written):
        """It stays while that lives, and goes when it was killed."""
        with self.another_process(left) as name:
            self.assertEqual(self.names(), [name])
            with getattr(files, written)(self.path):
                pass
            self.assertEqual(self.names(), [name, "table.csv"])
        self.assertEqual(self.names(), [name, "table.csv"])
        with getattr(files, written)(self.path):
            self.assertNotIn(name, self.names())
        self.assertEqual(self.names(), ["table.csv"])

    @parameterized.parameters((os, "open"), (system, "lock"))
    def test_taken_for_a_leftover_before_it_is_locked(self, module, step):
        original = getattr(module, step)
        removed = []

        def remove(*arguments, **options):
            if not removed:
                (name,) = self.names()
                removed.append(name)
                (self.folder / name).rmdir()
            return original(*arguments, **options)

        with mock.patch.object(module, step, remove):
            with files.replace_directory(self.path) as new:
                self.assertNotEqual([new.name], removed)
                fill(new, "new")
        self.assert_holds("new")

    def test_file_system_without_locks(self):
        error = OSError(errno.ENOLCK, "No locks available")
        with mock.patch.object(system, "lock", side_effect=error):
            with files.replace_directory(self.path) as new:
                fill(new, "new")
                with files.replace_directory(self.path) as second:
                    fill(second, "second")
        self.assert_holds("new")

    def test_system_that_opens_no_folders(self):
        """As Windows does not."""
        error = PermissionError(errno.EACCES, "Permission denied")
        with mock.patch.object(os, "open", side_effect=error):
            new, lock = files._make_locked(self.path, is_folder=True)
        self.assertIsNone(lock)
        new.rmdir()

    def test_system_without_locks(self):
        """As Windows is, which has no `fcntl`; nothing else is missing."""
        package = command_lines.REPOSITORY / "tf_realnvp"
        users = [
            path.name
            for path in package.rglob("*.py")
            if "fcntl" in path.read_text()
        ]
        self.assertEqual(users, ["system.py"])
        script = """
import pathlib
import sys

sys.modules["fcntl"] = None
from tf_realnvp.utils import files, system
from tf_realnvp.training import runs

assert not system.has_locks()
for _ in range(2):
    with files.replace_file("file") as new:
        new.write_text("new")
    with files.replace_directory("folder") as new:
        # Of which nothing tells whether it is another process's.
        with files.replace_directory("folder") as second:
            (second / "second").touch()
        (new / "new").touch()
    with runs.open_run(pathlib.Path("run"), resume=False) as run:
        assert not run.config
"""
        result = command_lines.run(self.folder, "-c", script)
        self.assertEqual(result, (0, "", ""))
        self.assertEqual(self.names(), ["file", "folder"])
        self.assertEqual(os.listdir(self.folder / "folder"), ["new"])

    def test_what_others_have_put_there(self):
        with files.replace_file(self.path) as new:
            name = new.name
        target = self.folder / "target"
        target.write_text("theirs")
        for other in (".table.new-1.csv", "table.csv.new", name[1:]):
            (self.folder / other).touch()
        before = self.names()
        (self.folder / f"{name}1").symlink_to(target)
        os.mkfifo(self.folder / f"{name}2")  # Whoever opens it may wait.
        with files.replace_file(self.path):
            pass
        self.assertEqual(target.read_text(), "theirs")
        self.assertContainsSubset(before, self.names())


class SyncTest(FilesTestCase):
    @parameterized.parameters(
        # An error, and whether it is let be where a folder has it: there are
        # file systems that do not write folders through.
        (errno.EINVAL, True),
        (errno.EBADF, True),
        (errno.EIO, False),
        (errno.ENOSPC, False),
    )
    def test_error(self, number, is_let_be):
        self.path.touch()
        error = OSError(number, os.strerror(number))
        with mock.patch.object(os, "fsync", side_effect=error):
            with contextlib.ExitStack() as stack:
                if not is_let_be:
                    stack.enter_context(self.assertRaises(OSError))
                files.sync(self.folder)
            with self.assertRaises(OSError):
                files.sync(self.path)

    def test_folder_that_may_not_be_read(self):
        self.path.touch()
        with mock.patch.object(os, "open", side_effect=PermissionError):
            files.sync(self.folder)
            with self.assertRaises(PermissionError):
                files.sync(self.path)

    def test_new_folders(self):
        path = self.folder / "a" / "b" / "c"
        (self.folder / "a").mkdir()
        for expected in (["a", "b"], []):
            with self.synced(self.names) as synced:
                files.make_directory(path)
            self.assertTrue(path.is_dir())
            self.assertCountEqual([name for name, _ in synced], expected)


class MadeTest(FilesTestCase):
    @parameterized.parameters("a/b/c", f"a/b/{'c' * 300}")
    def test_goes_again(self, path):
        """Also the parents of what could not be made."""
        with contextlib.suppress(OSError), files.made(self.folder / path):
            self.assertTrue((self.folder / path).is_dir())
        self.assertEmpty(os.listdir(self.folder))


class TensorFlowTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("-a", "ü ñ", "two\nlines", "$a_b$", "{a}]")
    def test_what_it_can(self, path):
        self.assertIsNone(files.why_tensorflow_cannot(path))

    @parameterized.parameters(
        ("a\udcffb", "UTF-8"),
        *((path, path[1]) for path in ("a*/b", "a?", "a[b]", "a\\b\n")),
        ("gs://bucket/runs", "gs:/… is no path on this machine"),
        (pathlib.Path("s3://bucket"), "s3:/… is no path"),
    )
    def test_what_it_cannot(self, path, reason):
        message = files.why_tensorflow_cannot(path)
        self.assertIn(reason, message)
        self.assertTrue(message.isprintable())


if __name__ == "__main__":
    tf.test.main()
