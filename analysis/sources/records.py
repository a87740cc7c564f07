"""The return value of every source: a lazy table of records, one row for each instruction pair read."""

import copy
import lzma
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field

import polars as pl
from polars.io.plugins import register_io_source

RECORD_SCHEMA = pl.Schema(
    {
        "source": pl.String(),
        "task": pl.String(),
        "split": pl.String(),
        "prompt": pl.String(),
        "completion": pl.String(),
        "licence": pl.String(),
        "origin": pl.String(),
    }
)
"""Columns of a record. `prompt` and `completion` are "" if empty, never null. Empty labels are null. The cleaning step
adds `document_id` and `language`, and fills a missing `split`."""

KEEP_BYTES = 256_000_000
"""Up to this many bytes of a source stay in memory. Larger sources are read again, block by block."""


class SourceError(ValueError):
    """A source cannot be read. The message names the place, what was found there, and what to do."""

    def at(self, place: str) -> "SourceError":
        """The same error, with the place before its message."""
        error = copy.copy(self)
        error.args = (f"{place}: {self}",)
        return error


class SettingError(SourceError):
    """A source can be read once a setting says how; the message names it: roles, splits, encoding, or a dialect of CSV.

    Settings of a source are arguments of `FilesSource` and entries of a run configuration.
    """


class MissingColumnsError(SourceError):
    """No row of a table has the needed columns. A piece of a file may lack columns that other pieces have.

    Attributes:
        names: all columns of the table.
        found: the mapped columns among them, see `FilesSource.columns`.
    """

    def __init__(self, text: str, names: Sequence[str] = (), found: Set[str] = frozenset()) -> None:
        super().__init__(text)
        self.names, self.found = tuple(names), frozenset(found)


DAMAGED = (EOFError, lzma.LZMAError)
"""What Python's decoder of xz raises on a file that is cut off or damaged."""
READ_ERRORS = (
    *(OSError, ValueError, TypeError, ArithmeticError, RuntimeError, LookupError),
    *(pl.exceptions.PolarsError, *DAMAGED),
)
"""Exceptions that a reader may raise on unexpected data. They are converted to SourceError."""


def said_by(error: Exception) -> str:
    """The text of a reader's exception. If it is not worded for users, its type comes first."""
    is_worded = isinstance(error, SourceError | OSError | UnicodeError)
    return str(error) if is_worded else f"{type(error).__name__}: {error}"


class UnreachableError(SourceError):
    """The hub did not respond, so a retry may succeed."""


@dataclass
class Notes:
    """Notes for the user about a source that could be read."""

    texts: dict[str, None] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Add a note. Equal notes are kept once."""
        self.texts.setdefault(text)


@dataclass(frozen=True)
class SourceRecords:
    """A source that was read once, from beginning to end.

    Attributes:
        records: table with the columns of `RECORD_SCHEMA`.
        n_bytes: size in memory; 0 if `records` reads the source again.
        notes: notes, in the order in which they were found.
    """

    records: pl.LazyFrame
    n_bytes: int
    notes: tuple[str, ...]


Blocks = Callable[[Notes], Iterator[pl.DataFrame]]
"""A function that reads a source and yields tables with the columns of `RECORD_SCHEMA`."""


def read_blocks(blocks: Blocks, keep_bytes: int = KEEP_BYTES) -> SourceRecords:
    """Read everything once, so that every error is raised now. Small tables stay in memory.

    Args:
        blocks: function that reads the source. It is called once, and again for each later pass if the records are not
            kept.
        keep_bytes: size of the largest table that stays in memory.

    Raises:
        SourceError: `blocks` raised it, or there is no record.
    """
    notes, n_bytes, n_records = Notes(), 0, 0
    kept: list[pl.DataFrame] | None = []
    for block in blocks(notes):
        n_records += len(block)
        n_bytes += int(block.estimated_size())
        if kept is not None and n_bytes <= keep_bytes:
            kept.append(block)
        else:
            kept = None
    if not n_records:
        raise SourceError("no records: nothing but a header or empty lines was found")
    if kept is None:
        return SourceRecords(_lazy(blocks), 0, tuple(notes.texts))
    return SourceRecords(pl.concat(kept).lazy(), n_bytes, tuple(notes.texts))


def _lazy(blocks: Blocks) -> pl.LazyFrame:
    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for block in blocks(Notes()):
            chosen = block if left is None else block.head(left)
            left = None if left is None else left - len(chosen)
            chosen = chosen if with_columns is None else chosen.select(with_columns)
            yield chosen if predicate is None else chosen.filter(predicate)
            if left == 0:
                return

    return register_io_source(batches, schema=RECORD_SCHEMA)
