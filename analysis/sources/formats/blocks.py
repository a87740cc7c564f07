"""Blocks of rows of a file or data set, as columns, before they become records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

Values = Sequence[Any] | pl.Series
"""One value per row: a sequence of Python values, or a series of a plain type."""


@dataclass(frozen=True)
class Block:
    """Some rows of a table.

    Attributes:
        n_rows: number of values in every column.
        names: names of all columns of the table known so far, including those that were not read.
        columns: the wanted columns that the table has.
        place: function from a row index to its place in the file, for error messages: `line 7`.
    """

    n_rows: int
    names: Sequence[str]
    columns: Mapping[str, Values]
    place: Callable[[int], str]

    def take(self, rows: Sequence[int]) -> "Block":
        """The block with only the given rows."""
        columns = {
            name: values.gather(list(rows)) if isinstance(values, pl.Series) else [values[i] for i in rows]
            for name, values in self.columns.items()
        }
        return Block(len(rows), self.names, columns, lambda i: self.place(rows[i]))


@dataclass(frozen=True)
class Wanted:
    """Names of the columns to read.

    Attributes:
        texts: columns with the texts of instruction pairs.
        others: columns with labels and context.
        marks: columns that are read only to find records that must be refused.
    """

    texts: frozenset[str]
    others: frozenset[str]
    marks: frozenset[str] = frozenset()

    def of(self, names: Sequence[str]) -> list[str]:
        """The wanted names among those found, in their order."""
        return [name for name in names if name in self.texts or name in self.others or name in self.marks]


class Table(Protocol):
    """A file or data set that can be read more than once."""

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows in their order; only the wanted columns are read.

        Raises:
            SourceError: the data is not in the expected format. The message names the line or row.
        """


BLOCK_ROWS = 16_384
