"""How long the parts of a training take, and when all of it is done."""

import collections
import contextlib
import time
from collections.abc import Iterator

SECONDS_PER_CALL = 0.5
_NUM_COMPILED = 2  # Calls until TensorFlow and oneDNN have compiled all.
_NUM_RECENT = 50  # Calls that an estimate is from.


class Clock:
    """Times training and evaluation steps, and the ends of epochs.

    Attributes:
      num_held_out: Number of evaluation steps after each epoch.
      num_last: Number of evaluation steps after the last one, beyond these.
      end_of_epoch: Seconds of the last evaluation, with its samples and
        checkpoint; 0 before the first.
    """

    num_held_out = num_last = end_of_epoch = 0.0
    _end: float | None = None

    def __init__(
        self, started: float | None = None, results_per_trace: float = 0.0
    ):
        """Starts the clock.

        Args:
          started: When the command began, of `time.monotonic`. Default: now.
          results_per_trace: Time of what follows the training, relative to
            `traced`.
        """
        self._started = time.monotonic() if started is None else started
        self._results_per_trace = results_per_trace
        self._calls: dict[str, list] = collections.defaultdict(list)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning of the command."""
        return time.monotonic() - self._started

    @property
    def traced(self) -> float:
        """Seconds of the first calls, most of which is tracing."""
        return sum(calls[0][1] for calls in self._calls.values() if calls)

    def calls(
        self, kind: str, num_steps: int, maximum: int | None
    ) -> Iterator[int]:
        """Groups steps into calls, so that a fast device is not idle between.

        Args:
          kind: Of what `timing` times: "train" or "test".
          num_steps: Total number of steps.
          maximum: Largest number of steps per call; `None` for no limit.

        Yields:
          The number of steps of the next call: one at first, then as many as
          take about `SECONDS_PER_CALL`.
        """
        size = 1
        while num_steps > 0:
            size = min(size, num_steps, maximum or num_steps)
            yield size
            num_steps -= size
            seconds = self._calls[kind][-1][1] / size
            # At most doubled: the timing of the first call includes tracing.
            size = max(1, min(2 * size, int(SECONDS_PER_CALL / seconds)))

    @contextlib.contextmanager
    def timing(self, kind: str, size: int) -> Iterator[None]:
        """Context manager that times a call of so many steps."""
        start = time.perf_counter()
        yield
        self._calls[kind].append((size, time.perf_counter() - start))

    def is_compiled(self) -> bool:
        """Returns whether there was a training step without compiling."""
        return len(self._calls["train"]) > _NUM_COMPILED

    def seconds_for(self, num_steps: int, steps_per_epoch: int) -> float:
        """Returns the time of training steps, and of all that follows them."""
        each, rest = self._estimates(steps_per_epoch)
        return num_steps * each + rest

    def expect(self, num_steps: int, steps_per_epoch: int) -> None:
        """Estimates `left` anew, if training steps are compiled."""
        if self.is_compiled():
            left = self.seconds_for(num_steps, steps_per_epoch)
            self._end = self.elapsed + left

    @property
    def left(self) -> float | None:
        """Seconds to the end of the command; `None` before they are known."""
        return None if self._end is None else max(0.0, self._end - self.elapsed)

    def steps_within(self, seconds: float, steps_per_epoch: int) -> int:
        """Returns the number of steps of which this is the time, at least 1."""
        each, rest = self._estimates(steps_per_epoch)
        return max(1, int((seconds - rest) / each))

    def _estimates(self, steps_per_epoch):
        """Returns the time of a step with its share of an epoch's end; rest."""
        step = self._step("train")
        # Without gradients.
        test = self._step("test") if self._calls["test"] else step / 3.0
        end = self.end_of_epoch or self.num_held_out * test
        rest = (
            end + self.num_last * test + self._results_per_trace * self.traced
        )
        return step + end / steps_per_epoch, rest

    def _step(self, kind):
        calls = self._calls[kind]
        first = max(_NUM_COMPILED, len(calls) - _NUM_RECENT)
        recent = calls[first:] or calls or [(1, 0.0)]
        sizes, seconds = zip(*recent, strict=True)
        return sum(seconds) / sum(sizes)
