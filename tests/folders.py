"""Tests that need a folder."""

import functools
import pathlib
import tempfile

import tensorflow as tf


class FolderTestCase(tf.test.TestCase):
    """Tests that have an empty folder each, which goes with them."""

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        """The folder, which is made when it is asked for."""
        return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
