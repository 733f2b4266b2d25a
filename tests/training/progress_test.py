"""Tests for progress."""

import contextlib
import io
import types
from unittest import mock

import tensorflow as tf

from tf_realnvp.training import progress
from tf_realnvp.training.progress import Progress, Silent


class Terminal(io.StringIO):
    """A standard output that says that it is a terminal."""

    def isatty(self):
        return True

    def screen(self):
        """The lines that a person sees in the end, without trailing blanks."""
        lines = []
        for line in self.getvalue().split("\n"):
            cells, column = [], 0
            for character in line:
                if character == "\r":
                    column = 0
                    continue
                cells[column : column + 1] = [character]
                column += 1
            lines.append("".join(cells).rstrip())
        return lines


class ProgressTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.now = 1000.0

        def clock():
            return self.now

        fake = types.SimpleNamespace(monotonic=clock)
        self.enterContext(mock.patch.object(progress, "time", fake))
        # tqdm draws a bar again only when some time has passed.
        self.enterContext(mock.patch("tqdm.std.time", clock))

    def show(self, stdout, num_steps, seconds, num_images=64):
        """Runs a pass whose steps take `seconds` each."""
        with contextlib.redirect_stdout(stdout):
            with Progress("epoch 3/50", num_steps) as display:
                for step in range(num_steps):
                    self.now += seconds
                    display.update(1, num_images, 4.0 - step / 8)
        return stdout

    def test_output_that_is_no_file(self):
        """As programs put in its place that write it to two."""
        output = io.StringIO()
        tee = types.SimpleNamespace(write=output.write, flush=output.flush)
        self.show(tee, num_steps=4, seconds=2.0)
        self.assertIn("epoch 3/50: 4/4 steps", output.getvalue())

    def test_one_line_where_there_is_no_terminal(self):
        output = self.show(io.StringIO(), num_steps=4, seconds=2.0)
        self.assertEqual(
            output.getvalue(),
            "epoch 3/50: 4/4 steps, 3.625 bits/dim, 32 images/s, 00:00 left\n",
        )

    def test_a_line_now_and_then_in_a_long_pass(self):
        output = self.show(
            io.StringIO(), num_steps=5, seconds=20.0, num_images=30_000
        )
        self.assertEqual(
            output.getvalue().splitlines(),
            [
                "epoch 3/50: 2/5 steps, 3.875 bits/dim, 1,500 images/s, "
                "01:00 left",
                "epoch 3/50: 4/5 steps, 3.625 bits/dim, 1,500 images/s, "
                "00:20 left",
                "epoch 3/50: 5/5 steps, 3.500 bits/dim, 1,500 images/s, "
                "00:00 left",
            ],
        )

    def test_images_are_counted(self):
        # The last batch of the test images is smaller than the others.
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            with Progress("test", 2) as display:
                for num_images in (64, 16):
                    self.now += 1.0
                    display.update(1, num_images, 1.0)
        self.assertIn(" 40 images/s", output.getvalue())

    def test_clock_that_stands_still(self):
        output = self.show(io.StringIO(), num_steps=1, seconds=0.0)
        self.assertIn("1/1 steps", output.getvalue())

    def test_pass_that_fails_prints_nothing(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            with self.assertRaises(KeyboardInterrupt):
                with Progress("test", 2) as display:
                    display.update(1, 64, 1.0)
                    raise KeyboardInterrupt
        self.assertEqual(output.getvalue(), "")

    def test_bar_on_a_terminal(self):
        output = self.show(Terminal(), num_steps=4, seconds=2.0)
        self.assertNotIn("\n", output.getvalue())
        drawn = [line.rstrip() for line in output.getvalue().split("\r")]
        half = next(line for line in drawn if "2/4" in line)
        self.assertRegex(
            half,
            r"^epoch 3/50  50% \|.+\| 2/4 steps, "
            r"3.875 bits/dim, 32 images/s, 00:04 left$",
        )

    def test_bar_goes_away(self):
        output = self.show(Terminal(), num_steps=4, seconds=2.0)
        print("epoch 3/50: done", file=output)
        self.assertEqual(output.screen(), ["epoch 3/50: done", ""])

    def test_bar_goes_away_when_a_pass_fails(self):
        output = Terminal()
        with contextlib.redirect_stdout(output):
            with self.assertRaises(KeyboardInterrupt):
                with Progress("test", 2) as display:
                    self.now += 2.0
                    display.update(1, 64, 1.0)
                    self.assertIn("1/2 steps", output.screen()[-1])
                    raise KeyboardInterrupt
        self.assertEqual(output.screen(), [""])


class SilentTest(tf.test.TestCase):
    def test_shows_nothing(self):
        output = Terminal()
        with contextlib.redirect_stdout(output):
            with Silent("test", 2) as display:
                display.update(1, 64, 1.0)
        self.assertEqual(output.getvalue(), "")


if __name__ == "__main__":
    tf.test.main()
