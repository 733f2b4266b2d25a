"""Tests for progress."""

import contextlib
import io
import types
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp.utils.console import Progress, Silent


class Terminal(io.StringIO):
    """A standard output that says that it is a terminal."""

    def isatty(self):
        return True


class ProgressTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.now = 1000.0

        def clock():
            return self.now

        # tqdm draws a bar again only when some time has passed.
        self.enterContext(mock.patch("tqdm.std.time", clock))

    def show(self, stdout, seconds, num_images, kind=Progress):
        """Runs a pass with these images in its steps of so many seconds."""
        num_steps = len(num_images)
        with contextlib.redirect_stdout(stdout):
            with kind("epoch 3/50", num_steps) as display:
                for step, count in enumerate(num_images):
                    self.now += seconds
                    display.update(1, count, f"{4.0 - step / 8:.3f} bits/dim")
        return stdout

    @parameterized.parameters(
        (2.0, [64] * 4, ["4/4 steps, 3.625 bits/dim, 32 images/s, 00:00"]),
        (
            20.0,
            [30_000] * 5,
            [
                "2/5 steps, 3.875 bits/dim, 1,500 images/s, 01:00",
                "4/5 steps, 3.625 bits/dim, 1,500 images/s, 00:20",
                "5/5 steps, 3.500 bits/dim, 1,500 images/s, 00:00",
            ],
        ),
        # The last batch of an evaluation is smaller than the others.
        (1.0, [64, 16], ["2/2 steps, 3.875 bits/dim, 40 images/s, 00:00"]),
    )
    def test_lines(self, seconds, num_images, expected):
        output = io.StringIO()
        # As programs put in its place that write it to two.
        tee = types.SimpleNamespace(write=output.write, flush=output.flush)
        self.show(tee, seconds, num_images)
        self.assertEqual(
            output.getvalue().splitlines(),
            [f"epoch 3/50: {line} left" for line in expected],
        )

    def test_bar_on_a_terminal(self):
        output = self.show(Terminal(), 2.0, [64] * 4)
        self.assertNotIn("\n", output.getvalue())
        drawn = [line.rstrip() for line in output.getvalue().split("\r")]
        half = next(line for line in drawn if "2/4" in line)
        self.assertRegex(
            half,
            r"^epoch 3/50  50% \|.+\| 2/4 steps, "
            r"3.875 bits/dim, 32 images/s, 00:04 left$",
        )
        # It goes away, also where the pass is interrupted.
        self.assertEqual(drawn[-2:], ["", ""])
        output = Terminal()
        with self.assertRaises(TypeError):
            self.show(output, 2.0, [64, None])
        *_, last, blank, end = output.getvalue().split("\r")
        self.assertIn("1/2 steps", last)
        self.assertEqual(blank.strip() + end, "")

    def test_time_of_more_than_the_pass(self):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            with Progress("epoch 3/50", 1) as display:
                display.update(1, 64, left=125.4)
        self.assertEndsWith(output.getvalue(), ", 02:05 left\n")

    def test_silent(self):
        output = self.show(Terminal(), 40.0, [64] * 2, Silent)
        self.assertEqual(output.getvalue(), "")
