"""The folder of a training run, from which it can go on."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tf_realnvp import files
from tf_realnvp.arguments import UsageError

_RUN_FILE = "run.json"
_LOCK_FILE = "lock"
_PROGRAM = "tf_realnvp"


class Run:
    """The folder of a run: its flags, checkpoints and metrics.

    Attributes:
      path: The folder.
      flags: The flags that the run was last started with; empty for a new run.
    """

    def __init__(self, path: pathlib.Path):
        """Reads what is in the folder.

        Args:
          path: The folder, which `open_run` has locked.

        Raises:
          UsageError: If it is the folder of something else.
        """
        self.path = path
        self.flags, self._finished = self._read()

    def _read(self):
        file = self.path / _RUN_FILE
        try:
            content = json.loads(file.read_text())
            if content["program"] == _PROGRAM:
                return dict(content["flags"]), bool(content["finished"])
        except FileNotFoundError:
            names = {path.name for path in self.path.iterdir()}
            names.discard(_LOCK_FILE)
            # A kill may leave the new file without its name.
            if all(map(files.is_leftover, names)):
                return {}, False
        except (ValueError, KeyError, TypeError):
            pass
        except OSError as error:
            raise UsageError(
                f"argument --run_dir: cannot read {file}: {error.strerror}"
            ) from error
        raise UsageError(
            f"argument --run_dir: {self.path} holds something else than a run "
            "of this program: give another folder"
        )

    @property
    def exists(self) -> bool:
        """Whether a run was started here before."""
        return bool(self.flags)

    @property
    def finished(self) -> bool:
        """Whether the results of the run were written."""
        return self._finished

    def begin(self, flags: Mapping[str, Any]) -> None:
        """Notes that the run starts, or goes on, with these flags."""
        self._write(flags, finished=False)

    def finish(self) -> None:
        """Notes that the results are written."""
        self._write(self.flags, finished=True)

    def _write(self, flags, finished):
        self.flags, self._finished = dict(flags), finished
        content = {
            "program": _PROGRAM,
            "flags": self.flags,
            "finished": finished,
        }
        with files.replace_file(self.path / _RUN_FILE) as new:
            new.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def open_run(path: pathlib.Path, resume: bool) -> Iterator[Run]:
    """Locks the folder of a run, which is made if it is missing.

    What was made goes again if the run does not begin.

    Without `resume` a finished run that is there already is moved aside, to the
    first free name of `path.1`, `path.2` and so on.

    Args:
      path: The folder.
      resume: Whether to go on with the run that is there.

    Yields:
      The run. The lock goes with the process, however that ends.

    Raises:
      UsageError: If the folder cannot be used: it is in use, another program's,
        not writable, or the folder of an unfinished run and not to be resumed.
    """
    with contextlib.ExitStack() as locks:
        if path.is_dir():
            Run(path)  # Not even a lock is put into another program's folder.
        locks.enter_context(_lock(path))
        run = Run(path)
        if run.exists and not resume:
            if not run.finished:
                raise UsageError(
                    f"{path} holds an unfinished run: --resume goes on with "
                    "it, another --run_dir starts a new one"
                )
            aside = _free_name(path)
            path.rename(aside)
            print(f"the finished run of {path} is now in {aside}")
            locks.enter_context(_lock(path))
            run = Run(path)
        yield run


@contextlib.contextmanager
def _lock(path):
    lock = path / _LOCK_FILE
    made = files.missing(path)
    makes_lock = not lock.exists()
    try:
        files.make_directory(path)
        file = open(lock, "a", opener=_open_no_link)
    except OSError as error:
        raise UsageError(
            f"argument --run_dir: cannot write to {path}: {error.strerror}"
        ) from error
    with file:
        try:
            # The system drops it when the process ends, even by a kill.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process trains in {path}: give another --run_dir"
            ) from error
        except OSError as error:
            raise UsageError(
                f"argument --run_dir: cannot lock {path}: {error.strerror}"
            ) from error
        if not _is_at(file, lock):
            # The other one has removed it in the meantime.
            raise UsageError(f"another process used {path} just now: try again")
        try:
            yield
        finally:
            # While it is locked. It may have been moved aside.
            if not (path / _RUN_FILE).exists() and _is_at(file, lock):
                if makes_lock:
                    lock.unlink()
                files.remove_empty(made)


def _open_no_link(path, flags):
    """Opens a file, but not where a symlink leads that others may have laid."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_at(file, path):
    """Returns whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _free_name(path):
    number = 1
    while True:
        candidate = path.with_name(f"{path.name}.{number}")
        if not candidate.exists():
            return candidate
        number += 1
