"""Human-readable output: messages and warnings."""

import sys


def say(message: object) -> None:
    """Prints a message on standard output, at once."""
    print(printable(message), flush=True)


def warn(message: object) -> None:
    """Prints a warning on standard error."""
    print(printable(f"warning: {message}"), file=sys.stderr)


def printable(text: object) -> str:
    """Returns text in which characters that cannot be printed are escaped.

    Names of files may hold anything, such as the control sequences of a
    terminal. Line breaks stay.

    Args:
      text: A message.
    """
    return "".join(
        c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in str(text)
    )


def counted(number: int, noun: str) -> str:
    """Returns a number of things: "1 image", "2,000 classes".

    Args:
      number: How many there are.
      noun: What one of them is called.
    """
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
