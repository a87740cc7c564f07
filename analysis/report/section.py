"""One section of a report: pictures, tables and texts."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.figures import Picture
from analysis.report.words import head

MOST_ROWS = 400


@dataclass(frozen=True)
class Table:
    """A table for display: text is left aligned, numbers are right aligned."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    folded: bool = True

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers, and so is right aligned."""
        return tuple(any(isinstance(value, int | float) for value in column) for column in zip(*self.rows, strict=True))


@dataclass(frozen=True)
class Section:
    """One section. If it has nothing to show, `missing` gives the reason."""

    name: str
    title: str
    lead: str = ""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    notices: tuple[tuple[str, str], ...] = ()
    missing: str = ""
    words: tuple[tuple[str, str], ...] = ()


def table(frame: pl.DataFrame, caption: str, *, folded: bool = True) -> Table:
    """A data frame as a table. It is cut after `MOST_ROWS`, which the caption then states."""
    if len(frame) > MOST_ROWS:
        caption = f"{caption} (first {MOST_ROWS} of {len(frame):,} rows)"
    columns = tuple(map(head, frame.columns))
    return Table(caption, columns, tuple(frame.head(MOST_ROWS).iter_rows()), folded)
