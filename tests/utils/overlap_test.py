"""Tests of batches that are computed two at a time."""

import itertools
import threading

import tensorflow as tf

from tf_realnvp.utils.overlap import overlapped


class OverlappedTest(tf.test.TestCase):
    """Results are those of `map`, and work goes on beside other work."""

    def test_order(self):
        def late_if_even(number):
            threading.Event().wait(0.02 * (number % 2 == 0))
            return number

        self.assertEqual(list(overlapped(late_if_even, range(7))), [*range(7)])
        self.assertEqual(list(overlapped(late_if_even, [])), [])

    def test_two_at_once(self):
        both_are_here = threading.Barrier(2, timeout=30.0)

        def meet(number):
            both_are_here.wait()
            return number

        self.assertEqual(list(overlapped(meet, range(4))), [*range(4)])

    def test_takes_few_inputs_ahead(self):
        taken = []
        inputs = (taken.append(number) or number for number in range(100))
        results = overlapped(abs, inputs)
        for index, result in enumerate(itertools.islice(results, 50)):
            self.assertEqual(result, index)
            self.assertLess(taken[-1], index + 4)
        results.close()

    def test_errors(self):
        def reciprocal(number):
            return 1.0 / number

        results = overlapped(reciprocal, [2, 1, 0, 1])
        self.assertEqual([next(results), next(results)], [0.5, 1.0])
        with self.assertRaises(ZeroDivisionError):
            next(results)

        def one_then_error():
            yield 1
            raise OSError("no more")

        with self.assertRaisesRegex(OSError, "no more"):
            list(overlapped(reciprocal, one_then_error()))

    def test_stops_when_closed(self):
        called = []
        results = overlapped(called.append, range(100))
        next(results)
        results.close()
        self.assertLess(len(called), 5)
        self.assertEmpty(list(results))


if __name__ == "__main__":
    tf.test.main()
