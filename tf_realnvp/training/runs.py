"""The folder of a training run, from which it can go on."""

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
from tf_realnvp.utils.messages import printable

FORMAT = 2  # Of `run.json`. What had no number was before all releases.

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
        self.config, self.data, self.metadata, self.finished = self._read()

    @property
    def file(self) -> pathlib.Path:
        """The file of the run's state."""
        return self.path / _RUN_FILE

    def _read(self):
        try:
            if self.file.exists() and not self.file.is_file():
                # To read a pipe would wait for ever.
                raise OSError(errno.EINVAL, "it is no file")
            content = json.loads(self.file.read_bytes())
            is_ours = content["program"] == _PROGRAM
        except FileNotFoundError:
            names = {path.name for path in self.path.iterdir()}
            names.discard(_LOCK_FILE)
            # A kill may leave the new file without its name.
            if all(map(files.is_leftover, names)):
                return None, None, {}, False
            is_ours = False
        except (ValueError, KeyError, TypeError, RecursionError):
            is_ours = False
        except OSError as error:
            raise UsageError(
                f"cannot read {printable(self.file)}: {error.strerror}"
            ) from error
        if not is_ours:
            raise UsageError(
                f"{printable(self.path)} holds something else than a run of "
                "this program: give another `run_dir`"
            )
        return self._parse(content)

    def _parse(self, content):
        version = content.get("format")
        if version != FORMAT:
            raise UsageError(
                f"{printable(self.file)} is of another version of this program "
                f"(format {checks.short(version)}, not {FORMAT}): go on with "
                "that version, or give another `run_dir`"
            )
        metadata, finished = content.get("metadata"), content.get("finished")
        try:
            config = TrainingConfig.from_json(content.get("config"))
            data = DataDescription.from_json(content.get("data"))
            if not isinstance(finished, bool):
                raise ValueError(f"finished is {checks.short(finished)}")
            if not isinstance(metadata, dict):
                raise ValueError(f"metadata are {checks.short(metadata)}")
            return config, data, metadata, finished
        except ValueError as error:
            raise UsageError(
                printable(
                    f"{self.file} makes no sense ({error}): give another "
                    "`run_dir`"
                )
            ) from error

    @property
    def exists(self) -> bool:
        """Whether a run was started here before."""
        return self.config is not None

    def check_same_settings(self, config: TrainingConfig) -> None:
        """Makes sure that a run can go on with these settings.

        Args:
          config: The settings.

        Raises:
          UsageError: If it cannot; the message names what differs.
        """
        differences = config.differences(self.config) if self.config else []
        if differences:
            raise UsageError(
                printable(
                    f"the run in {self.path} cannot be resumed with other "
                    f"settings: {', '.join(differences)}"
                )
            )

    def check_same_images(self, data: DataDescription, name: str) -> None:
        """Makes sure that a run goes on with the images that it began with.

        Args:
          data: The images.
          name: Of their data set.

        Raises:
          UsageError: If they are others; the message names what differs.
        """
        differences = data.differences(self.data) if self.data else []
        if differences:
            raise UsageError(
                printable(
                    f"the images of {name} have changed since the run in "
                    f"{self.path} was started: {', '.join(differences)}. Put "
                    "them back, or start anew with another `run_dir`"
                )
            )

    def begin(
        self,
        config: TrainingConfig,
        data: DataDescription,
        metadata: Mapping[str, Any],
    ) -> None:
        """Notes that the run starts, or goes on.

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
        with files.replace_file(self.file) as new:
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
    with contextlib.ExitStack() as locks:
        if os.path.isdir(path):
            Run(path)  # Not even a lock is put into another program's folder.
        locks.enter_context(_lock(path))
        run = Run(path)
        if run.exists and not resume:
            if not run.finished:
                raise UsageError(
                    f"{printable(path)} holds an unfinished run: `resume` "
                    "goes on with it, another `run_dir` starts a new one"
                )
            locks.enter_context(_moved_aside(path))
            locks.enter_context(_lock(path))
            run = Run(path)
        yield run


@contextlib.contextmanager
def _moved_aside(path):
    """Renames the folder of a finished run, to make room for a new one."""
    target = pathlib.Path(os.path.realpath(path))
    current = pathlib.Path.cwd()
    try:
        if current.is_relative_to(target):
            # All relative paths would lead elsewhere.
            raise OSError(errno.EBUSY, "the current folder is in it")
        aside = _free_name(target)
        target.rename(aside)
    except OSError as error:
        raise UsageError(
            f"argument `run_dir`: cannot move the finished run of "
            f"{printable(path)} aside: {error.strerror}; give another folder, "
            "or go on with it by `resume`"
        ) from error
    try:
        shown = aside if path.is_absolute() else os.path.relpath(aside)
        print(
            f"the finished run of {printable(path)} is now in "
            f"{printable(shown)}",
            flush=True,
        )
        yield
    finally:
        # By now a new run that has not begun has left nothing.
        if not os.path.lexists(target):
            with contextlib.suppress(OSError):
                aside.rename(target)
                print(f"the finished run of {printable(path)} is back there")


@contextlib.contextmanager
def _lock(path):
    # A link may lead to a folder that is still to be made.
    folder = pathlib.Path(os.path.realpath(path))
    lock = folder / _LOCK_FILE
    with contextlib.ExitStack() as stack:
        try:
            makes_lock = not lock.exists()
            stack.enter_context(files.made(folder))
            file = stack.enter_context(
                open(lock, "a", opener=system.open_no_link)
            )
        except OSError as error:
            raise UsageError(
                f"argument `run_dir`: cannot write to {printable(path)}: "
                f"{error.strerror}"
            ) from error
        try:
            # The system drops it when the process ends, even by a kill.
            system.lock(file.fileno(), wait=False)
        except BlockingIOError as error:
            raise UsageError(
                f"another process trains in {printable(path)}: give another "
                "`run_dir`"
            ) from error
        except OSError as error:
            raise UsageError(
                f"argument `run_dir`: cannot lock {printable(path)}: "
                f"{error.strerror}"
            ) from error
        if not _is_at(file, lock):
            # The other one has removed it in the meantime.
            raise UsageError(
                f"another process used {printable(path)} just now: try again"
            )
        try:
            yield
        finally:
            # While it is locked. It may have been moved aside.
            if not (folder / _RUN_FILE).exists() and _is_at(file, lock):
                if makes_lock:
                    lock.unlink()


def _is_at(file, path):
    """Returns whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _free_name(path):
    names = (f"{path.name}.{number}" for number in itertools.count(1))
    candidates = map(path.with_name, names)
    return next(free for free in candidates if not os.path.lexists(free))
