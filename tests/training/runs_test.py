"""Tests for runs."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
from unittest import mock

import command_lines
import folders
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.training import runs
from tf_realnvp.utils import files, system
from tf_realnvp.utils.errors import UsageError

CONFIG = TrainingConfig.of_dataset(
    "digits", seed=3, lr=0.5, precision="float32"
)
DATA = DataDescription((8, 8, 1), 17, 1437, 360, "digits")
METADATA = {"dataset": "digits", "source": "digits"}
STORED = {
    "program": "tf_realnvp",
    "format": 2,
    "config": dataclasses.asdict(CONFIG),
    "data": dataclasses.asdict(DATA),
    "metadata": METADATA,
    "finished": False,
}


class RunsTestCase(folders.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "runs" / "digits"

    def make_run(self, finished):
        with runs.open_run(self.path, resume=False) as run:
            run.begin(CONFIG, DATA, METADATA)
            (run.path / "checkpoints").mkdir()
            (run.path / "checkpoints" / "ckpt-1.index").write_text("x")
            if finished:
                run.finish()

    def contents(self, path=None):
        """Returns all files below a folder, and what is in them."""
        path = path or self.path
        return {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file()
        }

    def assert_cannot_open(self, *messages, path=None, resume=True):
        """Asserts a message of one line, and that no file changes."""
        before = self.contents(self.folder)
        with self.assertRaises(UsageError) as raised:
            with runs.open_run(path or self.path, resume):
                self.fail("It is open.")
        message = str(raised.exception)
        self.assertNotIn("\n", message)
        for expected in messages:
            self.assertIn(expected, message)
        self.assertEqual(self.contents(self.folder), before)


class OpenRunTest(RunsTestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_new(self, resume):
        with runs.open_run(self.path, resume) as run:
            self.assertEqual(run.path, self.path)
            self.assertFalse(run.exists)
            self.assertFalse(run.finished)
            self.assertIsNone(run.config)
            self.assertIsNone(run.data)
            self.assertFalse((self.path / "run.json").exists())

    @parameterized.parameters(False, True)
    def test_there_is_a_folder_with_no_run(self, resume):
        """As a start leaves that was killed early."""
        self.path.mkdir(parents=True)
        (self.path / "lock").touch()
        with runs.open_run(self.path, resume) as run:
            self.assertFalse(run.exists)
        with files.replace_file(self.path / "run.json"):
            self.assertLen(os.listdir(self.path), 2)
            with runs.open_run(self.path, resume) as run:
                self.assertFalse(run.exists)

    def test_lock_is_no_link(self):
        """In a folder of many users somebody may have laid one there."""
        self.path.mkdir(parents=True)
        target = self.folder / "target"
        (self.path / "lock").symlink_to(target)
        self.assert_cannot_open(str(self.path), "symbolic link", resume=False)
        self.assertFalse(target.exists())

    def test_nothing_is_left_if_it_does_not_begin(self):
        with runs.open_run(self.path, resume=True):
            self.assertTrue((self.path / "lock").exists())
        self.assertEmpty(os.listdir(self.folder))
        # What was there before stays, ...
        self.path.mkdir(parents=True)
        with runs.open_run(self.path, resume=True):
            pass
        self.assertEmpty(os.listdir(self.path))
        (self.path / "lock").touch()
        with runs.open_run(self.path, resume=True):
            pass
        self.assertEqual(os.listdir(self.path), ["lock"])
        # ... and what is not of the run, and a run that is there already.
        with runs.open_run(self.folder / "new" / "run", resume=True):
            (self.folder / "new" / "notes.txt").touch()
        self.assertEqual(os.listdir(self.folder / "new"), ["notes.txt"])
        self.make_run(finished=False)
        before = self.contents()
        with runs.open_run(self.path, resume=True):
            pass
        self.assertEqual(self.contents(), before)

    def test_state_is_kept(self):
        self.make_run(finished=False)
        with runs.open_run(self.path, resume=True) as run:
            self.assertTrue(run.exists)
            self.assertFalse(run.finished)
            self.assertEqual(run.config, CONFIG)
            self.assertEqual(run.data, DATA)
            self.assertEqual(run.metadata, METADATA)
            run.begin(dataclasses.replace(CONFIG, lr=0.25), DATA, METADATA)
        with runs.open_run(self.path, resume=True) as run:
            self.assertEqual(run.config, dataclasses.replace(CONFIG, lr=0.25))

    def test_finished_until_it_begins_again(self):
        self.make_run(finished=True)
        with runs.open_run(self.path, resume=True) as run:
            self.assertTrue(run.finished)
            self.assertEqual(run.config, CONFIG)
            run.begin(CONFIG, DATA, METADATA)
            self.assertFalse(run.finished)
        with runs.open_run(self.path, resume=True) as run:
            self.assertFalse(run.finished)

    def test_unfinished_is_not_overwritten(self):
        self.make_run(finished=False)
        self.assert_cannot_open(
            str(self.path), "`resume`", "`run_dir`", resume=False
        )

    def test_finished_is_moved_aside(self):
        self.make_run(finished=True)
        old = self.contents()
        for number in (1, 2):
            stdout = io.StringIO()
            with (
                contextlib.redirect_stdout(stdout),
                runs.open_run(self.path, resume=False) as run,
            ):
                self.assertFalse(run.exists)
                self.assertEqual(list(self.contents()), ["lock"])
                aside = self.path.with_name(f"digits.{number}")
                self.assertEqual(self.contents(aside), old)
                self.assertIn(str(aside), stdout.getvalue())
                with self.assertRaises(UsageError):  # Locked like any other.
                    with runs.open_run(self.path, resume=True):
                        pass
            self.make_run(finished=True)
        self.assertCountEqual(
            os.listdir(self.path.parent), ["digits", "digits.1", "digits.2"]
        )

    def test_link_to_a_finished_run(self):
        """The run is moved aside, and the link leads to the new one."""
        self.make_run(finished=True)
        old = self.contents()
        self.enterContext(contextlib.chdir(self.folder))
        link, target = pathlib.Path("links", "link"), "../runs/digits"
        link.parent.mkdir()
        link.symlink_to(target)
        stdout = io.StringIO()
        with (
            contextlib.redirect_stdout(stdout),
            runs.open_run(link, resume=False) as run,
        ):
            self.assertFalse(run.exists)
            run.begin(CONFIG, DATA, METADATA)
        self.assertEndsWith(stdout.getvalue(), " is now in runs/digits.1\n")
        self.assertEqual(os.readlink(link), target)
        self.assertEqual(self.contents(self.path.with_name("digits.1")), old)
        with runs.open_run(self.path, resume=True) as run:
            self.assertFalse(run.finished)
        self.assertCountEqual(os.listdir(), ["links", "runs"])
        self.assertEqual(os.listdir("links"), ["link"])

    def test_link_to_nothing(self):
        """Its folder is made, and goes again if the run does not begin."""
        link = self.folder / "link"
        link.symlink_to(self.path)
        with runs.open_run(link, resume=True):
            self.assertEqual(os.listdir(self.path), ["lock"])
        self.assertEqual(os.listdir(self.folder), ["link"])
        with runs.open_run(link, resume=True) as run:
            run.begin(CONFIG, DATA, METADATA)
        self.assertCountEqual(os.listdir(self.path), ["lock", "run.json"])

    def test_link_to_itself(self):
        link = self.folder / "link"
        link.symlink_to(link)
        self.assert_cannot_open("`run_dir`", str(link), path=link)

    @parameterized.parameters(False, True)
    def test_finished_is_back_if_none_begins(self, is_link):
        self.make_run(finished=True)
        old, path = self.contents(), self.path
        if is_link:
            path = self.folder / "link"
            path.symlink_to(self.path)
        for error in (UsageError("no such data"), KeyboardInterrupt()):
            with self.assertRaises(type(error)):
                with runs.open_run(path, resume=False):
                    raise error
            self.assertEqual(self.contents(), old)
            self.assertEqual(os.listdir(self.path.parent), ["digits"])
        with runs.open_run(path, resume=True) as run:
            self.assertTrue(run.finished)

    def test_finished_is_back_if_it_cannot_be_locked_anew(self):
        """As on a disk that takes a folder more, and no file."""
        self.make_run(finished=True)
        old = self.contents()
        opened = [system.open_no_link, mock.Mock(side_effect=OSError(28, ""))]
        with (
            mock.patch.object(
                system, "open_no_link", lambda *args: opened.pop(0)(*args)
            ),
            self.assertRaisesRegex(UsageError, "cannot write to"),
            runs.open_run(self.path, resume=False),
        ):
            pass
        self.assertEmpty(opened)
        self.assertEqual(self.contents(), old)
        self.assertEqual(os.listdir(self.path.parent), ["digits"])

    def test_name_that_is_taken_by_a_link(self):
        self.make_run(finished=True)
        self.path.with_name("digits.1").symlink_to("nowhere")
        with runs.open_run(self.path, resume=False) as run:
            run.begin(CONFIG, DATA, METADATA)
        self.assertTrue(self.path.with_name("digits.2").is_dir())

    def test_slash_at_the_end(self):
        self.make_run(finished=True)
        path = pathlib.Path(f"{self.path}/")
        with runs.open_run(path, resume=False) as run:
            run.begin(CONFIG, DATA, METADATA)
        self.assertCountEqual(
            os.listdir(self.path.parent), ["digits", "digits.1"]
        )

    @parameterized.parameters(".", "..", "../digits", "../../runs/digits")
    def test_current_folder_is_not_moved(self, name):
        """All relative paths of the command would lead elsewhere."""
        self.make_run(finished=True)
        inside = self.path / "checkpoints" if name == ".." else self.path
        with contextlib.chdir(inside):
            self.assert_cannot_open(
                "`run_dir`",
                name,
                "current folder",
                path=pathlib.Path(name),
                resume=False,
            )
            with runs.open_run(pathlib.Path(name), resume=True) as run:
                self.assertTrue(run.finished)

    @parameterized.parameters(
        (16, "Device or resource busy"),  # A mount point.
        (30, "Read-only file system"),  # Its parent.
    )
    def test_folder_that_cannot_be_moved(self, number, text):
        self.make_run(finished=True)
        error = OSError(number, text)
        with mock.patch.object(pathlib.Path, "rename", side_effect=error):
            self.assert_cannot_open(
                "`run_dir`", str(self.path), text, resume=False
            )

    def test_name_that_is_too_long(self):
        self.assert_cannot_open(
            "`run_dir`", "File name too long", path=self.folder / ("x" * 300)
        )

    def test_messages_have_one_line(self):
        self.path = self.folder / "two\nlines"
        self.make_run(finished=False)
        self.assert_cannot_open(
            r"two\nlines holds an unfinished run", resume=False
        )

    @parameterized.parameters(
        "run.txt", "checkpoints/ckpt-1.index", "locksmith.doc", ".git/config"
    )
    def test_folder_of_something_else(self, name):
        (self.path / name).parent.mkdir(parents=True)
        (self.path / name).write_text("precious")
        for resume in (False, True):
            self.assert_cannot_open("`run_dir`", str(self.path), resume=resume)

    @parameterized.parameters(
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe\x00",
        b'{"program": "other", "flags": {"a": 1}, "finished": true}',
        b'{"program": ["tf_realnvp"]}',
        b"[" * 100_000,
        b'{"program": %s}' % (b"9" * 5000),
    )
    def test_run_file_of_something_else(self, content):
        self.path.mkdir(parents=True)
        (self.path / "run.json").write_bytes(content)
        self.assert_cannot_open("`run_dir`", "something else", str(self.path))

    @parameterized.parameters(
        ("config", None),
        ("config", {}),
        ("config", [["seed", 3]]),
        ("config", STORED["config"] | {"lr": "fast"}),
        ("config", STORED["config"] | {"dataset": ["digits"]}),
        ("config", STORED["config"] | {"two\nlines": "two\nlines"}),
        ("config", STORED["config"] | {"\udcff": "\udcff"}),
        ("finished", None),
        ("finished", 1),
        ("data", None),
        ("data", {}),
        ("data", STORED["data"] | {"image_shape": [8, 8]}),
        ("metadata", None),
        ("metadata", ["digits"]),
    )
    def test_damaged_run_file(self, name, value):
        self.write(STORED | {name: value})
        path = str(self.path / "run.json")
        self.assert_cannot_open("`run_dir`", path, "no sense")

    def write(self, content):
        self.path.mkdir(parents=True)
        (self.path / "run.json").write_text(json.dumps(content))

    @parameterized.parameters(0, 1, 3, "2", None, 2.5, "two\nlines")
    def test_run_file_of_another_format(self, number):
        self.write(STORED | {"format": number})
        self.assert_cannot_open("`run_dir`", "another version", "format")

    def test_run_file_without_a_format(self):
        """As nothing wrote since there are format numbers."""
        del (old := dict(STORED))["format"]
        self.write(old)
        self.assert_cannot_open("`run_dir`", "another version")

    def test_run_file_is_a_pipe(self):
        self.path.mkdir(parents=True)
        os.mkfifo(self.path / "run.json")
        self.assert_cannot_open("cannot read", "run.json")

    def test_run_file_is_a_folder(self):
        (self.path / "run.json").mkdir(parents=True)
        self.assert_cannot_open("cannot read", "run.json: it is no file")

    def test_below_a_file(self):
        (self.folder / "file").write_text("")
        for path in (self.folder / "file", self.folder / "file" / "run"):
            self.assert_cannot_open(
                f"`run_dir`: cannot write to {path}: ", path=path
            )


class WriteTest(RunsTestCase):
    def test_a_failure_leaves_the_file(self):
        self.make_run(finished=False)
        before = self.contents()
        error = OSError(28, "No space left on device")
        for method in ("begin", "finish"):
            with (
                runs.open_run(self.path, resume=True) as run,
                mock.patch.object(
                    pathlib.Path, "write_text", side_effect=error
                ),
            ):
                with self.assertRaises(OSError):
                    if method == "begin":
                        run.begin(CONFIG, DATA, METADATA)
                    else:
                        run.finish()
            self.assertEqual(self.contents(), before)

    def test_is_json_for_people(self):
        self.make_run(finished=True)
        text = (self.path / "run.json").read_text()
        self.assertGreater(text.count("\n"), len(STORED["config"]))
        expected = json.loads(json.dumps(STORED | {"finished": True}))
        self.assertEqual(json.loads(text), expected)


class LockTest(RunsTestCase):
    def test_second_one_is_refused(self):
        with runs.open_run(self.path, resume=True) as run:
            run.begin(CONFIG, DATA, METADATA)
            for resume in (False, True):
                self.assert_cannot_open(
                    "another process", "`run_dir`", resume=resume
                )
            with runs.open_run(self.path.with_name("other"), True):
                pass
        with runs.open_run(self.path, resume=True):
            pass

    def test_lock_that_is_removed_while_it_is_taken(self):
        """Two processes must not lock two files of one name."""
        flock = fcntl.flock

        def remove_and_lock(descriptor, operation):
            os.unlink(self.path / "lock")
            flock(descriptor, operation)

        with mock.patch.object(fcntl, "flock", remove_and_lock):
            with self.assertRaisesRegex(UsageError, "another process"):
                with runs.open_run(self.path, resume=True):
                    self.fail("It is open.")

    def test_lock_of_a_process(self):
        """It lasts as long as the process, and a kill does not leave it."""
        script = (
            "import pathlib, sys, time\n"
            "from tf_realnvp.training import runs\n"
            "from tf_realnvp.config import *\n"
            "with runs.open_run(pathlib.Path(sys.argv[1]), True) as run:\n"
            f"    run.begin({CONFIG}, {DATA}, {METADATA})\n"
            "    print('open', flush=True)\n"
            "    time.sleep(600)\n"
        )
        with command_lines.sleeping(script, self.path) as line:
            self.assertEqual(line, "open")
            self.assert_cannot_open("another process")
        self.assertTrue((self.path / "lock").exists())
        with runs.open_run(self.path, resume=True) as run:
            self.assertEqual(run.config, CONFIG)

    def test_lock_file_is_left_as_it_is(self):
        self.make_run(finished=False)
        (self.path / "lock").write_text("by someone")
        with runs.open_run(self.path, resume=True):
            pass
        self.assertEqual((self.path / "lock").read_text(), "by someone")

    def test_file_system_without_locks(self):
        self.make_run(finished=False)
        error = OSError(37, "No locks available")
        with mock.patch.object(fcntl, "flock", side_effect=error):
            self.assert_cannot_open("`run_dir`", "No locks available")


if __name__ == "__main__":
    tf.test.main()
