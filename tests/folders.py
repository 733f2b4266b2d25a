"""Tests that need a folder."""

import functools
import os
import pathlib
import tempfile

import tensorflow as tf


def contents(folder: str | os.PathLike) -> dict[str, bytes]:
    """Returns what is in all files below a folder, by their paths in it."""
    paths = pathlib.Path(folder).rglob("*")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.is_file()
    }


class FolderTestCase(tf.test.TestCase):
    """Tests that have an empty folder each, which goes with them."""

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        """The folder, which is made when it is asked for."""
        return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
