"""What the program says: messages, warnings, and progress."""

import contextlib
import functools
import io
import sys

import tqdm

_SECONDS_BETWEEN_LINES = 30.0
_BAR = (
    "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps"
    "{postfix}, {remaining} left"
)
_LINE = "{desc}: {n_fmt}/{total_fmt} steps{postfix}, {remaining} left"


def say(message: object) -> None:
    """Prints a message on standard output and flushes it."""
    print(printable(message), flush=True)


def warn(message: object) -> None:
    """Prints a warning on standard error."""
    print(printable(f"warning: {message}"), file=sys.stderr)


def printable(text: object) -> str:
    """Returns a text with non-printable characters escaped.

    File names may contain any characters, even terminal control sequences. Line
    breaks are kept.

    Args:
      text: A message.
    """
    return "".join(
        c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in str(text)
    )


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 image", "2,000 classes".

    Args:
      number: The number.
      noun: The noun in the singular.
    """
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


class Progress(contextlib.AbstractContextManager):
    """Progress of one pass over a data set, on standard output.

    On a terminal, it is a bar that disappears at the end of the pass. Elsewhere
    it is an occasional line, and one at the end.
    """

    def __init__(self, title: str, num_steps: int, disable: bool = False):
        """Starts the display.

        Args:
          title: Title of the pass, such as `epoch 3/50`.
          num_steps: Number of batches in the pass.
          disable: Whether to show nothing.
        """
        self._num_images = 0
        # A replacement of `sys.stdout` may have no such method.
        self._is_bar = getattr(sys.stdout, "isatty", bool)()
        self._format = _BAR if self._is_bar else _LINE
        self._bar = tqdm.tqdm(
            desc=title,
            total=num_steps,
            bar_format=self._format,
            file=sys.stdout if self._is_bar else io.StringIO(),
            mininterval=0.1 if self._is_bar else _SECONDS_BETWEEN_LINES,
            miniters=1,
            smoothing=0.3 if self._is_bar else 0.0,
            leave=False,
            dynamic_ncols=True,
            disable=disable,
        )

    def __exit__(self, *unused_exception):
        self._bar.close()

    def update(
        self,
        num_steps: int,
        num_images: int,
        loss: str | None = None,
        left: float | None = None,
    ) -> None:
        """Reports that more batches are done.

        Args:
          num_steps: Number of batches.
          num_images: Number of images in them.
          loss: Mean loss of the pass so far, with its unit; optional.
          left: Seconds to the end of all passes. Default: those of this one.
        """
        self._num_images += num_images
        seconds = max(self._bar.format_dict["elapsed"], 1e-9)
        status = f"{self._num_images / seconds:,.0f} images/s"
        if loss is not None:
            status = f"{loss}, {status}"
        if left is not None:
            text = self._bar.format_interval(max(0.0, left))
            self._bar.bar_format = self._format.replace("{remaining}", text)
        self._bar.set_postfix_str(status, refresh=False)
        is_due = self._bar.update(num_steps)
        if not self._is_bar and (is_due or self._bar.n == self._bar.total):
            say(self._bar)


Silent = functools.partial(Progress, disable=True)
