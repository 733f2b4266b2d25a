"""Tests that trace no functions."""

import contextlib
import warnings
from collections.abc import Iterator

import folders
import tensorflow as tf


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Runs functions eagerly."""
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            # Those of `tf.data` are traced all the same, and it says so.
            warnings.filterwarnings("ignore", "Even though the `tf.config")
            yield
    finally:
        tf.config.run_functions_eagerly(False)


class UntracedTestCase(folders.FolderTestCase):
    """Tests that run functions eagerly.

    To trace them for each size of batch takes nearly all of the time of small
    ones. That they are the same traced is for `networks_test` and others.
    """

    def setUp(self):
        super().setUp()
        self.enterContext(untraced())
