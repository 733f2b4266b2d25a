"""Tests for runs."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from unittest import mock

import disks
import folders
from absl.testing import parameterized

from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.errors import UsageError
from tf_realnvp.training import runs
from tf_realnvp.utils import files

CONFIG = TrainingConfig(dataset="digits", seed=3, lr=0.5, precision="float32")
DATA = DataDescription((8, 8, 1), 17, 1437, 360, "digits")
METADATA = {"dataset": "digits", "source": "digits"}
STORED = {
    "program": "tf_realnvp",
    "format": 3,
    "config": dataclasses.asdict(CONFIG),
    "data": dataclasses.asdict(DATA),
    "metadata": METADATA,
    "frozen": [],
    "finished": False,
}


class RunsTestCase(folders.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "runs" / "digits"

    def open(self, resume=True, path=None):
        return runs.open_run(path or self.path, resume)

    def make_run(self, finished, path=None):
        with self.open(False, path) as run:
            run.begin(CONFIG, DATA, METADATA, [])
            (run.path / "checkpoints").mkdir()
            (run.path / "checkpoints" / "ckpt-1.index").write_text("x")
            if finished:
                run.finish()

    def assert_cannot_open(self, *messages, path=None, resume=True):
        """Asserts what the message says, and that no file changes."""
        before = folders.contents(self.folder)
        with self.assertRaises(UsageError) as raised:
            with self.open(resume, path):
                self.fail("It is open.")
        for expected in messages:
            self.assertIn(expected, str(raised.exception))
        self.assertEqual(folders.contents(self.folder), before)


class OpenRunTest(RunsTestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_new(self, resume):
        """A start that was killed early is no obstacle."""
        for _ in range(2):
            with self.open(resume) as run:
                self.assertEqual(run.path, self.path)
                self.assertIsNone(run.config)
                self.assertFalse(run.finished)
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "lock").touch()
        with files.replace_file(self.path / "run.json"):
            self.assertLen(os.listdir(self.path), 2)
            with self.open(resume) as run:
                self.assertIsNone(run.config)

    def test_nothing_is_left_if_it_does_not_begin(self):
        with self.open():
            self.assertTrue((self.path / "lock").exists())
        self.assertEmpty(os.listdir(self.folder))
        # What was there before stays, and what is not of the run.
        with self.open(path=self.folder / "new" / "run"):
            (self.folder / "new" / "notes.txt").touch()
        self.assertEqual(os.listdir(self.folder / "new"), ["notes.txt"])
        self.path.mkdir(parents=True)
        with self.open():
            pass
        self.assertEmpty(os.listdir(self.path))
        self.make_run(finished=False)
        before = folders.contents(self.path)
        with self.open(), disks.full(50), self.assertRaises(OSError):
            with self.open(path=self.path.with_name("other")) as run:
                run.begin(CONFIG, DATA, METADATA, [])
        self.assertEqual(folders.contents(self.path), before)
        self.assert_cannot_open("`resume`", "`run_dir`", resume=False)

    def test_state_is_kept(self):
        self.make_run(finished=True)
        stored = json.loads((self.path / "run.json").read_text())
        expected = json.loads(json.dumps(STORED | {"finished": True}))
        self.assertEqual(stored, expected)
        changed = dataclasses.replace(CONFIG, lr=0.25)
        with self.open() as run:
            self.assertTrue(run.finished)
            self.assertEqual(
                (run.config, run.data, run.metadata), (CONFIG, DATA, METADATA)
            )
            run.begin(changed, DATA, METADATA, [])
        with self.open() as run:
            self.assertFalse(run.finished)
            self.assertEqual(run.config, changed)

    @parameterized.parameters("digits", "link", "digits/")
    def test_finished_is_moved_aside(self, name):
        """The target of a link is moved."""
        (self.folder / "runs").mkdir()
        (self.folder / "runs" / "link").symlink_to("digits")
        (self.folder / "runs" / "digits.2").symlink_to("nowhere")
        self.make_run(finished=True)
        old = folders.contents(self.path)
        self.enterContext(contextlib.chdir(self.folder / "runs"))
        for aside in ("digits.1", "digits.3"):
            with self.assertRaises(KeyboardInterrupt):
                with self.open(False, pathlib.Path(name)):
                    self.assertEqual(os.listdir(self.path), ["lock"])
                    raise KeyboardInterrupt
            self.assertFalse(self.path.exists())
            self.assertEqual(folders.contents(aside), old)
            # The next one finds nothing in its way.
            with self.open(False, pathlib.Path(name)) as run:
                run.begin(CONFIG, DATA, METADATA, [])
                self.assert_cannot_open("another process")
                run.finish()
            self.assertEqual(folders.contents(aside), old)
            old = folders.contents(self.path)
        self.assertEqual(os.readlink("link"), "digits")

    def test_folder_that_cannot_be_made(self):
        (self.folder / "file").write_text("")
        (self.folder / "link").symlink_to(self.folder / "link")
        for name in ("file/run", "link", "x" * 300, "what?"):
            path = self.folder / name
            self.assert_cannot_open("argument `run_dir`: ", path=path)

    @parameterized.product(
        resume=(False, True),
        case=(
            ("run.txt", "precious", "something else"),
            ("run.json", "", "damaged, or of another program"),
            ("run.json", {"program": "other"}, "or of another program"),
            *(
                ("run.json", {"config": config}, "damaged")
                for config in ({}, [])
            ),
            ("run.json", {"data": {}}, "damaged"),
            ("run.json", {"format": 1}, "or version (its format is not 3)"),
            (
                "run.json",
                {"format": 2, "config": STORED["config"] | {"observe": "mask"}},
                "or version (its format is not 3)",
            ),
        ),
    )
    def test_something_else_or_damaged(self, resume, case):
        name, content, message = case
        if isinstance(content, dict):
            content = json.dumps(STORED | content)
        self.path.mkdir(parents=True)
        (self.path / name).write_text(content)
        messages = "`run_dir`", str(self.path), message
        self.assert_cannot_open(*messages, resume=resume)


class LockTest(RunsTestCase):
    def test_file_system_without_locks(self):
        self.make_run(finished=False)
        error = OSError(37, "No locks available")
        with mock.patch.object(fcntl, "flock", side_effect=error):
            self.assert_cannot_open("`run_dir`", "No locks available")
