"""Part of a file or data set, column by column, before it becomes records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

Values = Sequence[Any] | pl.Series
"""One value a row: Python values, or a series of a plain type."""


@dataclass(frozen=True)
class Block:
    """Some rows of a table.

    Attributes:
        n_rows: all columns have so many values.
        names: of all columns that the table is known to have, also of those that were not read.
        columns: the wanted ones that the table has.
        place: where row i stands, for errors: `line 7`.
    """

    n_rows: int
    names: Sequence[str]
    columns: Mapping[str, Values]
    place: Callable[[int], str]

    def take(self, rows: Sequence[int]) -> "Block":
        """The block with the given rows alone."""
        columns = {
            name: values.gather(list(rows)) if isinstance(values, pl.Series) else [values[i] for i in rows]
            for name, values in self.columns.items()
        }
        return Block(len(rows), self.names, columns, lambda i: self.place(rows[i]))


@dataclass(frozen=True)
class Wanted:
    """Names of the columns to read.

    Attributes:
        texts: those that make a table one of instruction pairs.
        others: labels and context.
    """

    texts: frozenset[str]
    others: frozenset[str]

    def of(self, names: Sequence[str]) -> list[str]:
        """The wanted names among those found, in their order."""
        return [name for name in names if name in self.texts or name in self.others]


class Table(Protocol):
    """A file or data set that can be read more than once."""

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows in their order; only the wanted columns are read.

        Raises:
            SourceError: it cannot be read as what it claims to be; names the line or row.
        """


BLOCK_ROWS = 16_384
