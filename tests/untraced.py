"""Tests that trace no functions."""

import warnings

import tensorflow as tf


class UntracedTestCase(tf.test.TestCase):
    """Tests of what networks compute, as they are written.

    To trace them for each size of batch takes nearly all of the time of small
    ones. That they are the same traced is for `networks_test` and others.
    """

    def setUp(self):
        super().setUp()
        tf.config.run_functions_eagerly(True)
        self.addCleanup(tf.config.run_functions_eagerly, False)
        # Those of `tf.data` are traced all the same, and it says so.
        self.enterContext(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Even though the `tf.config")
