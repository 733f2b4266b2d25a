"""Runs command lines in this process and as a user does."""

import contextlib
import functools
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import folders

from tf_realnvp import detection, significance
from tf_realnvp.cli import arguments

REPOSITORY = pathlib.Path(__file__).parents[1]


def call(main: Callable[[list[str]], int], *argv) -> tuple[int, str, str]:
    """Runs a command in this process.

    Args:
      main: The command.
      *argv: Its flags, as anything that `str` makes words of.

    Returns:
      Its exit code, and what it wrote to standard output and standard error.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as error:
            code = error.code
    return code, stdout.getvalue(), stderr.getvalue()


def environment(**variables: str) -> dict[str, str]:
    """Returns variables as a user has them, with no settings of these tests.

    Args:
      **variables: Some more of them.
    """
    users = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TF_", "PYTHON"))
    }
    return users | {"PYTHONPATH": str(REPOSITORY)} | variables


def run(
    folder: str | os.PathLike, *arguments, **variables: str
) -> tuple[int, str, str]:
    """Runs Python as a user does.

    Args:
      folder: The folder to be in.
      *arguments: Those of Python, as anything that `str` makes words of.
      **variables: As for `environment`.

    Returns:
      As `call`.
    """
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def tf_config(
    index: int, kind: str = "worker", **cluster: list[str]
) -> dict[str, str]:
    """Returns the variable that makes a process one of several workers.

    Args:
      index: Its number.
      kind: What it is.
      **cluster: The addresses of all workers of each kind.
    """
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def free_ports(number: int) -> list[int]:
    """Returns ports of this machine that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("", 0)))
            for _ in range(number)
        ]
        return [free.getsockname()[1] for free in sockets]


class CommandTestCase(folders.FolderTestCase):
    """Tests of a command, each in an empty folder of its own.

    Attributes:
      name: What the messages of the command begin with: a regular expression.
      folder: The folder, which is the current one.
    """

    name: str

    def setUp(self):
        super().setUp()
        self.enterContext(contextlib.chdir(self.folder))

    def use(self, model, measure=None) -> mock.Mock:
        """Lets the commands load a model.

        Args:
          model: What they open.
          measure: What measures images by it. Default: they make it.

        Returns:
          The mock of the function that opens it.
        """
        if measure is not None:
            self.enterContext(
                mock.patch.object(detection, "Measurer", return_value=measure)
            )
        return self.enterContext(
            mock.patch.object(arguments, "open_model", return_value=model)
        )

    def use_fewer_draws(self) -> None:
        """Lets intervals be drawn from few draws, as many take a while."""
        fewer = functools.partial(significance.compare, num_draws=50)
        self.enterContext(mock.patch.object(significance, "compare", fewer))

    def assert_usage_error(
        self, result: tuple[int, str, str], *messages: str
    ) -> None:
        """Asserts that there was one line on standard error, and no other.

        Args:
          result: What `call` returned.
          *messages: What is in the line.
        """
        code, stdout, stderr = result
        self.assertEqual(code, 2, stderr)
        self.assertEqual(stdout, "")
        self.assertRegex(stderr, rf"^{self.name}: error: .*\n$")
        self.assertEqual(stderr.count("\n"), 1, stderr)
        for message in messages:
            self.assertIn(message, stderr)
