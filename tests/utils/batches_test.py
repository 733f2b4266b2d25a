"""Tests of batches that are computed two at a time."""

import threading

import tensorflow as tf

from tf_realnvp.utils.batches import overlapped


class OverlappedTest(tf.test.TestCase):
    """Results are the same as with `map`."""

    def test_two_at_once(self):
        both_are_here = threading.Barrier(2, timeout=30.0)

        def meet(number):
            both_are_here.wait()
            threading.Event().wait(0.02 * (number % 2 == 0))
            return number

        self.assertEqual(list(overlapped(meet, range(6))), [*range(6)])
        self.assertEqual(list(overlapped(meet, [])), [])

    def test_errors(self):
        results = overlapped(lambda number: 1.0 / number, [2, 1, 0, 1])
        self.assertEqual([next(results), next(results)], [0.5, 1.0])
        with self.assertRaises(ZeroDivisionError):
            next(results)

        def one_then_error():
            yield 1
            raise OSError("no more")

        with self.assertRaisesRegex(OSError, "no more"):
            list(overlapped(abs, one_then_error()))

    def test_closes_without_waiting(self):
        may_end, ended = threading.Event(), []

        def work(number):
            may_end.wait(10.0 * (number > 0))
            ended.append(number)

        results = overlapped(work, range(3))
        next(results)
        results.close()
        self.assertEqual(ended, [0])
        may_end.set()
