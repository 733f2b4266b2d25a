"""The folder of a training run, from which it can be resumed."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.errors import UsageError
from tf_realnvp.utils import files
from tf_realnvp.utils.console import say

FORMAT = 3  # Version of the format of `run.json`.
_OF_0_1 = 2

_RUN_FILE = "run.json"
_LOCK_FILE = "lock"
_PROGRAM = "tf_realnvp"


class Run:
    """The folder of a run: its settings, checkpoints and metrics.

    Attributes:
      path: The folder.
      config: The settings that the run was last started with; `None` for a new
        run.
      data: Description of the images; `None` for a new run.
      metadata: Metadata of the data set, for models of the run.
      frozen: `RealNVP.frozen` of the model; `None` for a new run.
      finished: Whether the results of the run were written.
    """

    def __init__(self, path: pathlib.Path):
        """Reads the state of a run.

        Args:
          path: The folder, which need not exist.

        Raises:
          UsageError: If the folder holds anything but a run, or if its state is
            damaged.
        """
        self.path = path
        self.config: TrainingConfig | None = None
        self.data: DataDescription | None = None
        self.metadata: Mapping[str, Any] = {}
        self.frozen: list[int] | None = None
        self.finished = False
        file = path / _RUN_FILE
        if not file.exists():
            # A kill may leave the lock, and a hidden, incomplete `run.json`.
            if {file.name for file in path.glob("[!.]*")} - {_LOCK_FILE}:
                raise UsageError(
                    f"{path} holds something else than a run of this program: "
                    "give another `run_dir`"
                )
            return
        try:
            content = json.loads(file.read_bytes())
            self.config = TrainingConfig(**content["config"])
            # Couplings of 0.1.0 saw visible pixels among the others.
            is_of_masks = self.config.observe == "mask"
            formats = [FORMAT] if is_of_masks else [FORMAT, _OF_0_1]
            if (
                content["program"] != _PROGRAM
                or content["format"] not in formats
            ):
                raise ValueError(f"its format is not {FORMAT}")
            self.data = DataDescription(**content["data"])
            self.metadata = dict(content["metadata"])
            self.frozen = content.get("frozen")  # Not of 0.1.0.
            self.finished = bool(content["finished"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file} is damaged, or of another program or version "
                f"({error}): give another `run_dir`"
            ) from error

    def check_frozen(self, frozen: list[int]) -> None:
        """Checks that the parts of a model that were frozen still are.

        Args:
          frozen: `RealNVP.frozen` of the model.

        Raises:
          UsageError: If others are frozen.
        """
        if self.frozen not in (None, frozen):
            raise UsageError(
                f"other parts of the model were frozen in {self.path}: freeze "
                "the same ones, or start anew with another `run_dir`"
            )

    def check_same(self, config: TrainingConfig, data: DataDescription) -> None:
        """Checks that the run can be resumed with some settings and images.

        Args:
          config: The settings.
          data: Description of the images.

        Raises:
          UsageError: If it cannot be resumed; the message names the
            differences.
        """
        if self.config is None or self.data is None:
            return
        differences = config.differences(self.config)
        differences += data.differences(self.data)
        if differences:
            raise UsageError(
                f"the run in {self.path} cannot be resumed with other settings "
                f"or images: {', '.join(differences)}. Put them back, or start "
                "anew with another `run_dir`"
            )

    def begin(
        self,
        config: TrainingConfig,
        data: DataDescription,
        metadata: Mapping[str, Any],
        frozen: list[int],
    ) -> None:
        """Records that the run starts or is resumed.

        Args:
          config: The settings.
          data: Description of the images.
          metadata: `ImageDataset.metadata` of the data set.
          frozen: `RealNVP.frozen` of the model.
        """
        self.config, self.data = config, data
        self.metadata, self.frozen = metadata, frozen
        self._write(finished=False)

    def finish(self) -> None:
        """Records that the results have been written."""
        self._write(finished=True)

    def _write(self, finished):
        assert self.config is not None and self.data is not None
        self.finished = finished
        content = {
            "program": _PROGRAM,
            "format": FORMAT,
            "config": dataclasses.asdict(self.config),
            "data": dataclasses.asdict(self.data),
            "metadata": self.metadata,
            "frozen": self.frozen,
            "finished": finished,
        }
        with files.replace_file(self.path / _RUN_FILE) as new:
            new.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def open_run(path: pathlib.Path, resume: bool) -> Iterator[Run]:
    """Creates the folder of a run if necessary, and locks it.

    A folder that was created is removed again if the run does not begin.

    Without `resume`, an existing finished run is moved to the first free name
    among `path.1`, `path.2` and so on, which is printed. If `path` is a
    symbolic link, its target is moved, and the link then points to the new run.

    Args:
      path: The folder.
      resume: Whether to resume an existing run.

    Yields:
      The run. The lock is released when the process ends, even by a kill.

    Raises:
      UsageError: If the folder is in use, belongs to another program, is not
        writable, or cannot be moved; or if it holds an unfinished run and
        `resume` is false.
    """
    if reason := files.why_tensorflow_cannot(path):
        # TensorFlow would write files that it cannot read.
        raise UsageError(f"argument `run_dir`: {reason}: give another folder")
    if os.path.isdir(path):
        Run(path)  # Before a lock file is created in another program's folder.
    with _lock(path):
        run = Run(path)
        if resume or run.config is None:
            yield run
            return
        if not run.finished:
            raise UsageError(
                f"{path} holds an unfinished run: `resume` goes on with it, "
                "another `run_dir` starts a new one"
            )
        _move_aside(path)
    with _lock(path):
        yield Run(path)


def _move_aside(path):
    """Renames the folder of a finished run, to make room for a new one."""
    target = pathlib.Path(os.path.realpath(path))
    names = (f"{target}.{number}" for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    target.rename(aside)
    shown = aside if path.is_absolute() else os.path.relpath(aside)
    say(f"the finished run of {path} is now in {shown}")


@contextlib.contextmanager
def _lock(path):
    """Creates and locks a folder; reverts this if no run begins."""
    # A link may point to a folder that does not exist yet.
    folder = pathlib.Path(os.path.realpath(path))
    lock = folder / _LOCK_FILE
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.created(folder))
            makes_lock = not lock.exists()
            file = stack.enter_context(lock.open("a"))
            # The system releases it when the process ends, even by a kill.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process trains in {path}: give another `run_dir`"
            ) from error
        except OSError as error:
            raise UsageError(
                f"argument `run_dir`: cannot lock {path}: {error.strerror}"
            ) from error
        try:
            yield
        finally:
            # While still locked.
            if makes_lock and not (folder / _RUN_FILE).exists():
                lock.unlink(missing_ok=True)
