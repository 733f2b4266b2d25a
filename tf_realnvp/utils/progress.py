"""Progress displays of loops over batches: a bar, or lines."""

import sys
import time

import tqdm

from tf_realnvp.utils.messages import say

_SECONDS_BETWEEN_LINES = 30.0
_BAR = (
    "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps"
    "{postfix}, {remaining} left"
)


class Progress:
    """Progress of one pass over a data set, on standard output.

    On a terminal, it is a bar that disappears at the end of the pass. Elsewhere
    it is an occasional line, and one at the end.
    """

    def __init__(self, title: str, num_steps: int):
        """Starts the display.

        Args:
          title: Title of the pass, such as `epoch 3/50`.
          num_steps: Number of batches in the pass.
        """
        self._title = title
        self._num_steps = num_steps
        self._num_images = 0
        self._step = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm.tqdm(
            desc=title,
            total=num_steps,
            bar_format=_BAR,
            file=sys.stdout,
            leave=False,
            dynamic_ncols=True,
            # A replacement of `sys.stdout` may have no such method.
            disable=not getattr(sys.stdout, "isatty", bool)(),
        )

    def __enter__(self):
        return self

    def __exit__(self, *unused_exception):
        self._bar.close()

    def update(
        self, num_steps: int, num_images: int, loss: str | None = None
    ) -> None:
        """Reports that more batches are done.

        Args:
          num_steps: Number of batches.
          num_images: Number of images in them.
          loss: Mean loss of the pass so far, with its unit; optional.
        """
        self._step += num_steps
        self._num_images += num_images
        now = time.monotonic()
        rate = self._num_images / max(now - self._start, 1e-9)
        status = f"{rate:,.0f} images/s"
        if loss is not None:
            status = f"{loss}, {status}"
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(num_steps)
        is_due = now - self._last_line >= _SECONDS_BETWEEN_LINES
        if self._bar.disable and (is_due or self._step == self._num_steps):
            self._last_line = now
            left = (now - self._start) * (self._num_steps / self._step - 1)
            say(
                f"{self._title}: {self._step}/{self._num_steps} steps, "
                f"{status}, {tqdm.tqdm.format_interval(left)} left"
            )


class Silent(Progress):
    """Shows nothing."""

    def __init__(self, *unused_arguments):
        self._bar = tqdm.tqdm(disable=True)

    def update(self, *unused_arguments):
        pass
