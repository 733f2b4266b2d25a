"""Exceptions that are meant for users of the package.

The message of an exception says what is wrong and how to fix it. A command
prints the message on standard error and exits with the exception's exit code.
"""

import re

_NO_TRACE = "<stack traces unavailable>"


class Error(Exception):
    """Base class of the package's exceptions.

    Attributes:
      exit_code: Exit code of a command that fails with the exception.
    """

    exit_code = 1


class FailureError(Error):
    """A failure at run time."""


class UsageError(Error):
    """Settings or inputs that the user has to change."""

    exit_code = 2


class DataError(UsageError):
    """A data set that cannot be loaded; the message may have several lines."""


class ImageError(UsageError):
    """An image file that cannot be read."""


class ModelError(UsageError):
    """A folder without a model of this package that can be loaded."""


class DivergedError(FailureError):
    """Training whose loss or gradient is no longer finite."""


def reason(error: BaseException) -> str:
    """Returns the message of an exception in one line.

    Args:
      error: The exception. TensorFlow's messages may begin with the location in
        the graph and end with a list of nodes.
    """
    text = str(error)
    if hasattr(error, "message"):
        text = error.message.split("\n\t [[")[0].strip().split("\n\n")[-1]
        text = re.sub(r"\{\{.*\}\} ?| \[Op:.*", "", text.split(_NO_TRACE)[-1])
    return (text.strip().splitlines() or [type(error).__name__])[0]
