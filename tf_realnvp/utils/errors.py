"""The errors of the package that are meant for its users.

The message of each says what is wrong and what to do about it; a command prints
it on standard error and ends with the error's exit code.
"""

import re

_NO_TRACE = "<stack traces unavailable>"


class Error(Exception):
    """Base class of these errors.

    Attributes:
      exit_code: What a command that meets the error exits with.
    """

    exit_code = 1


class FailureError(Error):
    """Something that went wrong on the way."""


class UsageError(Error):
    """Something that the user has to change."""

    exit_code = 2


class DataError(UsageError):
    """A data set that cannot be had; the message may have several lines."""


class ImageError(UsageError):
    """An image file that cannot be read."""


class ModelError(UsageError):
    """A folder that holds no model of this package."""


class DivergedError(FailureError):
    """Training that gives no finite numbers any more."""


def reason(error: BaseException) -> str:
    """Returns what an error says, in a line.

    Args:
      error: If it is one of TensorFlow's, its message may begin with where in
        the graph it arose, and end with the nodes that it went through.
    """
    text = str(error)
    if hasattr(error, "message"):
        text = error.message.split("\n\t [[")[0].strip().split("\n\n")[-1]
        text = re.sub(r"\{\{.*\}\} ?| \[Op:.*", "", text.split(_NO_TRACE)[-1])
    return (text.strip().splitlines() or [type(error).__name__])[0]
