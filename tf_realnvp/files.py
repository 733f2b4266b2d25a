"""Files and folders that are replaced as a whole, or stay as they were."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a file to write that takes the place of `path` when it is done.

    Args:
      path: The file to replace, there already or not.

    Yields:
      Path of a new file in the same folder and with the same suffix. If the
      body raises it is removed, and `path` stays as it was.
    """
    path = pathlib.Path(path)
    new = path.with_name(f".{path.stem}.new-{os.getpid()}{path.suffix}")
    try:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a folder to fill that takes the place of `path` when it is done.

    Args:
      path: The folder to replace, there already or not.

    Yields:
      Path of a new folder beside it. If the body raises it is removed, and
      `path` stays as it was.
    """
    path = pathlib.Path(path)
    new = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent)
    )
    new.chmod(0o755)  # `mkdtemp` keeps others out.
    old = new.with_name(f"{new.name}.old")
    try:
        yield new
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
