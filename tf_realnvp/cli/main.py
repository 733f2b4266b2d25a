"""The command-line program `tf-realnvp`."""

import atexit
import gc
import re
import sys

from tf_realnvp.cli import arguments, signals, train, usage
from tf_realnvp.errors import Error, reason
from tf_realnvp.utils.console import printable


def main(argv: list[str] | None = None, prog: str = "tf-realnvp") -> int:
    """Runs a command.

    Args:
      argv: The command and its flags. Default: `sys.argv[1:]`.
      prog: Name of the program, for messages.

    Returns:
      The exit code, as for `run`.
    """
    parser = arguments.Parser(
        prog=prog,
        description="RealNVP for images: trains a model, and puts it to use.",
        epilog=f"{prog} COMMAND --help tells more, with an example.",
    )
    subparsers = parser.add_subparsers(
        metavar="COMMAND", title="commands", required=True
    )
    training = subparsers.add_parser("train", help="train a model on images")
    train.add_flags(training)
    for add in usage.COMMANDS:
        add(subparsers)
    return run(parser, argv)


def train_main(argv: list[str] | None = None) -> int:
    """Runs the command `train` as a separate program.

    Args:
      argv: The flags. Default: `sys.argv[1:]`.

    Returns:
      The exit code, as for `run`.
    """
    parser = arguments.Parser(prog="run.py")
    train.add_flags(parser)
    return run(parser, argv)


def run(parser: arguments.Parser, argv: list[str] | None = None) -> int:
    """Parses a command line and runs the command.

    Args:
      parser: Parser whose namespace holds the flags, the function `run`, and
        the name `prog` of the command.
      argv: The command line. Default: `sys.argv[1:]`.

    Returns:
      The exit code: 0 on success; 1 if the command failed; 2 if the user has
      to change something, with a line on standard error that says what; 129,
      130 or 143 if interrupted by SIGHUP, SIGINT or SIGTERM.
    """
    flags = parser.parse_args(argv)
    # Collections take a tenth of the time in which TensorFlow is imported and a
    # model is built, and at the end a second.
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
    try:
        with signals.raised():
            flags.run(flags)
        return 0
    except signals.Interrupted as interrupted:
        print(f"\n{flags.prog}: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    except Exception as error:
        # By name, to avoid importing TensorFlow.
        is_memory = type(error).__name__ == "ResourceExhaustedError"
        if is_memory or isinstance(error, MemoryError):
            message = f"out of memory: {reason(error)}"
            if "accumulate" in flags:
                message += "; `accumulate` 4 takes less, or `recompute` as well"
            elif "batch_size" in flags:
                message += "; a smaller `batch_size` takes less"
        elif isinstance(error, (OSError, Error)):
            message = str(error)
        else:
            raise
        # Messages name Python arguments: replace these names by flags.
        message = re.sub(
            r"`(\w+)`",
            lambda name: f"--{name[1]}" if name[1] in flags else name[0],
            message,
        )
        print(printable(f"{flags.prog}: error: {message}"), file=sys.stderr)
        return getattr(error, "exit_code", Error.exit_code)
