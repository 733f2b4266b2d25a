"""Tests for errors."""

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils import errors, messages


class ErrorsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        "{}",
        "{}\n",
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

    def test_counted(self):
        for number, words in (
            (0, "0 bits"),
            (1, "1 bit"),
            (2000, "2,000 bits"),
        ):
            self.assertEqual(messages.counted(number, "bit"), words)
        self.assertEqual(messages.counted(1, "class"), "1 class")
        self.assertEqual(messages.counted(2, "class"), "2 classes")

    def test_printable(self):
        for name, shown in (
            ("a b.png", "a b.png"),
            ("日本", "日本"),
            ("a\nb\x1b", "a\n\\x1b"),
            ("\udcff", r"\udcff"),
        ):
            self.assertEqual(messages.printable(name), shown)


if __name__ == "__main__":
    tf.test.main()
