"""Work that is shared out among processes: the flag `--shard`.

It is for arrays of jobs, as of Slurm or Kubernetes, whose tasks know only
their number.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from tf_realnvp.cli import arguments
from tf_realnvp.cli.arguments import Argument
from tf_realnvp.utils import files
from tf_realnvp.utils.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several parts of equal size.

    Attributes:
      index: From 1 to `count`.
      count: The number of parts.
    """

    index: int
    count: int

    def __str__(self):
        return f"shard {self.index}/{self.count}"

    def part(self, n: int) -> slice:
        """Returns which items of a work are of this part.

        Args:
          n: Number of items of the work.

        Raises:
          UsageError: If there are fewer items than parts.
        """
        if n < self.count:
            raise UsageError(
                f"argument --shard: there is work for {n} shards at most"
            )
        start, stop = self.index - 1, self.index
        return slice(n * start // self.count, n * stop // self.count)

    def path(self, path: str) -> str:
        """Returns the file of this part, such as a-00001-of-00010.csv.

        Args:
          path: The file of all parts.
        """
        stem, suffix = os.path.splitext(path)
        return f"{stem}-{self.index:05d}-of-{self.count:05d}{suffix}"


class _Shards:
    """Range of shards; see `utils.checks`."""

    metavar = "I/N"

    def parse(self, text):
        index, count = map(int, text.split("/"))
        return Shard(index, count)

    def __str__(self):
        return "one of 1/N, 2/N to N/N"

    def __contains__(self, shard):
        return 1 <= shard.index <= shard.count


def argument(text: str) -> Argument:
    """Declares the flag `--shard`.

    Args:
      text: What it does.
    """
    return arguments.argument("--shard", text, _Shards())


def open_tables(path: str, count: int) -> tuple[list[str], list[Iterator[Any]]]:
    """Opens the CSV files that all shards have written.

    Args:
      path: The file of all parts.
      count: The number of shards.

    Returns:
      The header, and the rows of each shard.

    Raises:
      OSError: If a file is missing.
      UsageError: If the columns differ.
    """
    paths = [Shard(n + 1, count).path(path) for n in range(count)]
    tables = [files.read_csv(path) for path in paths]
    header, *others = [next(table, []) for table in tables]
    if any(other != header for other in others):
        raise UsageError(f"{paths[0]} and others have different columns")
    return header, tables
