"""Work that is shared out among processes: the flag `--shard`.

It is for arrays of jobs, as of Slurm or Kubernetes, whose tasks know only
their number.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tf_realnvp.errors import UsageError
from tf_realnvp.utils import files


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


class Shards:
    """Range of shards; see `utils.ranges`."""

    metavar = "I/N"

    def parse(self, text):
        index, count = map(int, text.split("/"))
        return Shard(index, count)

    def __str__(self):
        return "one of 1/N, 2/N to N/N"

    def __contains__(self, shard):
        return 1 <= shard.index <= shard.count


class Table(NamedTuple):
    """The CSV file of a shard.

    Attributes:
      path: The file.
      work: Its first row: what it is a shard of, by name.
      rows: The names of the columns, and the rows that follow.
    """

    path: str
    work: dict[str, Any]
    rows: Iterator[list[str]]


def open_tables(path: str, count: int) -> list[Table]:
    """Opens the CSV files that all shards have written.

    Args:
      path: The file of all parts.
      count: The number of shards.

    Raises:
      OSError: If a file is missing.
      UsageError: If a file is none of a shard.
    """
    tables = []
    for number in range(count):
        part = Shard(number + 1, count).path(path)
        rows = files.read_csv(part)
        try:
            work = dict(json.loads(next(rows)[0]))
        except (LookupError, StopIteration, TypeError, ValueError) as error:
            raise UsageError(f"{part} is not of a shard") from error
        tables.append(Table(part, work, rows))
    return tables


def check_same(tables: Iterable[Table], work: Mapping[str, Any]) -> None:
    """Checks that tables are of shards of the same work.

    Raises:
      UsageError: If one is of another.
    """
    for table in tables:
        if others := [n for n in work if work[n] != table.work.get(n)]:
            raise UsageError(
                f"argument --merge: {table.path} is of another "
                f"{', '.join(others)}: score it again, or merge with the flags "
                "that it had"
            )
