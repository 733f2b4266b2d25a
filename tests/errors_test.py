"""Tests for errors and messages."""

import contextlib
import io

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import errors
from tf_realnvp.utils import console


class ErrorsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        "{}\nThe error could be from a previous operation.",
        "{{{{function_node __wrapped__x}}}} {} [Op:IteratorGetNext] name: ",
        "Graph execution error:\n\nDetected at node a/b defined at (most "
        "recent call last):\n<stack traces unavailable>\n{}\n\t "
        "[[{{{{node a/b}}}}]] [Op:__inference_steps_1]",
        "Graph execution error:\n\nDetected at node a/b defined at (most "
        'recent call last):\n  File "x.py", line 3\n\n  File "x.py", line 1\n\n'
        "{}\n\t [[{{{{node a/b}}}}]]\n\t [[c/d]] [Op:__inference_steps_1]",
    )
    def test_reason_of_tensorflow(self, message):
        reason = "OOM when allocating tensor with shape[9]"
        error = tf.errors.OpError(None, None, message.format(reason), 8)
        self.assertEqual(errors.reason(error), reason)

    def test_reason(self):
        self.assertEqual(errors.reason(ValueError("one\ntwo")), "one")
        self.assertEqual(errors.reason(MemoryError()), "MemoryError")
        error = tf.errors.UnknownError(None, None, "")
        self.assertEqual(errors.reason(error), "UnknownError")

    def test_printable(self):
        name = "a b.png 日本\n\x1b\udcff"
        shown = "a b.png 日本\n\\x1b\\udcff"
        self.assertEqual(console.printable(name), shown)
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout):
            console.say(name)
        with contextlib.redirect_stderr(stderr):
            console.warn(name)
        self.assertEqual(stdout.getvalue(), f"{shown}\n")
        self.assertEqual(stderr.getvalue(), f"warning: {shown}\n")
