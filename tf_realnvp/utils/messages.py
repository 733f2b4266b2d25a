"""Human-readable output: messages and warnings."""

import sys


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
