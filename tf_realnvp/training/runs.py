"""The folder of a training run, from which it can be resumed."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.utils import checks, files, system
from tf_realnvp.utils.errors import UsageError
from tf_realnvp.utils.messages import say

FORMAT = 2  # Of `run.json`.

_RUN_FILE = "run.json"
_LOCK_FILE = "lock"
_PROGRAM = "tf_realnvp"


class Run:
    """The folder of a run: its settings, checkpoints and metrics.

    Attributes:
      path: The folder.
      config: The settings that the run was last started with; `None` for a new
        run.
      data: What the run is trained on; `None` for a new run.
      metadata: What a model of the run says of its data.
      finished: Whether the results of the run were written.
    """

    def __init__(self, path: pathlib.Path):
        """Reads what is in the folder.

        Args:
          path: The folder, which `open_run` has locked.

        Raises:
          UsageError: If it is the folder of something else, or its state is
            damaged.
        """
        self.path = path
        self.config: TrainingConfig | None = None
        self.data: DataDescription | None = None
        self.metadata: Mapping[str, Any] = {}
        self.finished = False
        try:
            content = json.loads((path / _RUN_FILE).read_bytes())
            is_ours = content["program"] == _PROGRAM
        except FileNotFoundError:
            # A kill may leave the new file without its name.
            others = {file.name for file in path.iterdir()} - {_LOCK_FILE}
            if all(map(files.is_leftover, others)):
                return
            is_ours = False
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise UsageError(
                f"{path} holds something else than a run of this program: give "
                "another `run_dir`"
            )
        if (version := content.get("format")) != FORMAT:
            raise UsageError(
                f"{path} is of another version of this program (format "
                f"{checks.short(version)}, not {FORMAT}): resume it with that "
                "version, or give another `run_dir`"
            )
        try:
            self.config = TrainingConfig.from_json(content["config"])
            self.data = DataDescription.from_json(content["data"])
            self.metadata = dict(content["metadata"])
            self.finished = bool(content["finished"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path / _RUN_FILE} is damaged ({error}): give another "
                "`run_dir`"
            ) from error

    def check_same_settings(self, config: TrainingConfig) -> None:
        """Makes sure that the run can be resumed with these settings.

        Args:
          config: The settings.

        Raises:
          UsageError: If it cannot; the message names what differs.
        """
        differences = config.differences(self.config) if self.config else []
        if differences:
            raise UsageError(
                f"the run in {self.path} cannot be resumed with other "
                f"settings: {', '.join(differences)}"
            )

    def check_same_images(self, data: DataDescription, name: str) -> None:
        """Makes sure that the run is resumed with its own images.

        Args:
          data: The images.
          name: Of their data set.

        Raises:
          UsageError: If they are others; the message names what differs.
        """
        differences = data.differences(self.data) if self.data else []
        if differences:
            raise UsageError(
                f"the images of {name} are not those that the run in "
                f"{self.path} was started with: {', '.join(differences)}. Put "
                "them back, or start anew with another `run_dir`"
            )

    def begin(
        self,
        config: TrainingConfig,
        data: DataDescription,
        metadata: Mapping[str, Any],
    ) -> None:
        """Notes that the run starts, or is resumed.

        Args:
          config: Its settings.
          data: What it is trained on.
          metadata: What its model says of that: `ImageDataset.metadata`.
        """
        self._write(config, data, metadata, finished=False)

    def finish(self) -> None:
        """Notes that the results are written."""
        self._write(self.config, self.data, self.metadata, finished=True)

    def _write(self, config, data, metadata, finished):
        self.config, self.data = config, data
        self.metadata, self.finished = metadata, finished
        content = {
            "program": _PROGRAM,
            "format": FORMAT,
            "config": dataclasses.asdict(config),
            "data": dataclasses.asdict(data),
            "metadata": metadata,
            "finished": finished,
        }
        with files.replace_file(self.path / _RUN_FILE) as new:
            new.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def open_run(path: pathlib.Path, resume: bool) -> Iterator[Run]:
    """Locks the folder of a run, which is made if it is missing.

    What was made goes again if the run does not begin.

    Without `resume` a finished run that is there already is moved aside, to the
    first free name of `path.1`, `path.2` and so on, and back if the new one
    does not begin. If `path` is a link, that is done where it leads to: the
    link goes on leading to the new run.

    Args:
      path: The folder.
      resume: Whether to go on with the run that is there.

    Yields:
      The run. The lock goes with the process, however that ends.

    Raises:
      UsageError: If the folder cannot be used: it is in use, another program's,
        not writable, or the folder of an unfinished run and not to be resumed;
        or if it cannot be moved aside.
    """
    if reason := files.why_tensorflow_cannot(path):
        # It would write what it cannot read.
        raise UsageError(f"argument `run_dir`: {reason}: give another folder")
    if os.path.isdir(path):
        Run(path)  # Not even a lock is put into another program's folder.
    with contextlib.ExitStack() as locks:
        locks.enter_context(_lock(path))
        run = Run(path)
        if run.config is not None and not resume:
            if not run.finished:
                raise UsageError(
                    f"{path} holds an unfinished run: `resume` goes on with "
                    "it, another `run_dir` starts a new one"
                )
            locks.enter_context(_moved_aside(path))
            locks.enter_context(_lock(path))
            run = Run(path)
        yield run


@contextlib.contextmanager
def _moved_aside(path):
    """Renames the folder of a finished run, to make room for a new one."""
    target = pathlib.Path(os.path.realpath(path))
    names = (f"{target.name}.{number}" for number in itertools.count(1))
    aside = next(
        free
        for free in map(target.with_name, names)
        if not os.path.lexists(free)
    )
    try:
        if pathlib.Path.cwd().is_relative_to(target):
            # All relative paths would lead elsewhere.
            raise OSError(errno.EBUSY, "the current folder is in it")
        target.rename(aside)
    except OSError as error:
        raise UsageError(
            f"argument `run_dir`: cannot move the finished run of {path} "
            f"aside: {error.strerror}; give another folder, or go on with it "
            "by `resume`"
        ) from error
    try:
        shown = aside if path.is_absolute() else os.path.relpath(aside)
        say(f"the finished run of {path} is now in {shown}")
        yield
    finally:
        # By now a new run that has not begun has left nothing.
        if not os.path.lexists(target):
            with contextlib.suppress(OSError):
                aside.rename(target)
                say(f"the finished run of {path} is back there")


@contextlib.contextmanager
def _lock(path):
    """Makes and locks a folder; takes back what it made if no run begins."""
    # A link may lead to a folder that is still to be made.
    folder = pathlib.Path(os.path.realpath(path))
    lock = folder / _LOCK_FILE
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.made(folder))
            makes_lock = not lock.exists()
            file = open(lock, "a", opener=system.open_no_link)
            stack.enter_context(file)
            # The system drops it when the process ends, even by a kill.
            system.lock(file.fileno(), wait=False)
        except BlockingIOError as error:
            raise UsageError(
                f"another process trains in {path}: give another `run_dir`"
            ) from error
        except OSError as error:
            raise UsageError(
                f"argument `run_dir`: cannot lock {path}: {error.strerror}"
            ) from error
        if not _is_at(file, lock):
            # The other one has removed it in the meantime.
            raise UsageError(f"another process used {path} just now: try again")
        try:
            yield
        finally:
            # While it is locked. It may have been moved aside.
            has_begun = (folder / _RUN_FILE).exists()
            if makes_lock and not has_begun and _is_at(file, lock):
                lock.unlink()


def _is_at(file, path):
    """Returns whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
