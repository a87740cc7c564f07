"""CSV and TSV as a table. The dialect is given by the user or detected, and is then applied strictly."""

import csv
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from analysis.sources.formats.blocks import BLOCK_ROWS, Block, Wanted
from analysis.sources.formats.encodings import open_text
from analysis.sources.records import SettingError, SourceError

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')
CHUNK_ROWS = 500
"""Number of rows split at a time; see `analysis.sources.formats.json_table`."""
ESCAPED = re.compile(r'\\["\\]')
REASONS = {"unexpected end of data": "a quote is opened here and never closed"}
WAY_OUT = 'Write a quote inside a quoted field twice (""), or name the dialect: separator, quote, escape'

BLANKS = " \t\ufeff"
"""Around names of columns; a second byte order mark is among them."""
NO_HEADER = "Remove the lines before the names of the columns, or name the separator"


@dataclass(frozen=True)
class Dialect:
    """How a file writes its fields.

    Attributes:
        separator: character between two fields.
        quote: character around fields that contain separators or line ends. None: no field is quoted.
        escape: character before a quote inside a field. None: such quotes are doubled.
        skip_blank: whether to ignore a space after a separator.
        skip_lines: number of lines before the header.
    """

    separator: str = ","
    quote: str | None = '"'
    escape: str | None = None
    skip_blank: bool = False
    skip_lines: int = 0

    def reader(self, file: TextIO) -> Any:
        """Python's strict CSV reader. The file must be at its start. Blank lines give empty rows."""
        csv.field_size_limit(sys.maxsize)
        for _ in range(self.skip_lines):
            next(file)
        return csv.reader(
            file,
            delimiter=self.separator,
            quotechar=self.quote,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape,
            skipinitialspace=self.skip_blank,
            strict=True,
        )


@dataclass(frozen=True)
class CsvTable:
    """A CSV or TSV file with a header.

    Args:
        separator: field separator. None takes the first of `SEPARATORS` with which the header has the wanted columns.
        quote: quote character; "" if no field is quoted.
        escape: escape character. None means no escape, or a backslash if the file cannot be read otherwise.
        default: separator to try first.
    """

    path: Path
    encoding: str | None = None
    separator: str | None = None
    quote: str = '"'
    escape: str | None = None
    default: str = ","

    def __post_init__(self) -> None:
        for name in ("separator", "quote", "escape"):
            value = getattr(self, name)
            if value is not None and len(value) != 1 and not (name == "quote" and not value):
                raise SourceError(f"{name}: expected one character, got {value!r}")
            if value in ("\n", "\r"):
                raise SourceError(f"{name}: expected another character than a line end, got {value!r}")
        if self.separator is not None and self.separator in (self.quote, self.escape):
            raise SourceError(f"separator: expected another character than quote and escape, got {self.separator!r}")

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows below the header; see `Table`."""
        yield from self._read(self._dialect(wanted), wanted)

    def _open(self) -> TextIO:
        return open_text(self.path, self.encoding, newline="")

    def _read(self, dialect: Dialect, wanted: Wanted) -> Iterator[Block]:
        with self._open() as file:
            reader = dialect.reader(file)
            header = self._header(reader, dialect)
            chosen = {name: header.index(name) for name in wanted.of(header)}
            twice = sorted(name for name in chosen if header.count(name) > 1)
            if twice:
                raise SourceError(f"the header names {twice} more than once; expected each column once")
            n_before, n_rows = 0, 0
            columns: dict[str, list[str]] = {name: [] for name in chosen}
            while batch := self._batch(reader, CHUNK_ROWS, dialect):
                rows = batch if all(batch) else [row for row in batch if row]
                if set(map(len, rows)) - {len(header)}:
                    raise self._fault(dialect) or SourceError("rows of different lengths")
                self._refuse_repeated(header, rows, dialect, n_before + n_rows)
                for name, place in chosen.items():
                    columns[name].extend([row[place] for row in rows])
                n_rows += len(rows)
                if n_rows >= BLOCK_ROWS:
                    yield Block(n_rows, header, columns, self._places(dialect, n_before))
                    n_before, n_rows, columns = n_before + n_rows, 0, {name: [] for name in chosen}
            yield Block(n_rows, header, columns, self._places(dialect, n_before))

    def _refuse_repeated(self, header: list[str], rows: list[list[str]], dialect: Dialect, n_before: int) -> None:
        for row, fields in enumerate(rows):
            if fields[-1].strip() == header[-1] and [name.strip(BLANKS) for name in fields] == header:
                place = self._places(dialect, n_before)(row)
                raise SourceError(f"{place}: the header again, as in files that were put together. Remove the line")

    def _header(self, reader: Any, dialect: Dialect) -> list[str]:
        """Column names, from the first row that is not blank."""
        while batch := self._batch(reader, 1, dialect):
            if batch[0]:
                return [name.strip(BLANKS) for name in batch[0]]
        return []

    def _batch(self, reader: Any, n_rows: int, dialect: Dialect) -> list[list[str]]:
        try:
            return list(islice(reader, n_rows))
        except csv.Error as error:
            raise self._fault(dialect) or SourceError(str(error)) from error

    def _places(self, dialect: Dialect, n_before: int) -> Callable[[int], str]:
        """Line numbers are computed only for error messages, because fields may contain line ends."""

        def place(row: int) -> str:
            with self._open() as file:
                lines = (line for line, fields in _numbered(dialect, file) if fields)
                return f"line {next(islice(lines, 1 + n_before + row, None))}"

        return place

    def _fault(self, dialect: Dialect) -> SourceError | None:
        """An error for the first row that the dialect cannot read; None if all rows can be read."""
        width = 0
        try:
            with self._open() as file:
                for line, fields in _numbered(dialect, file):
                    width = width or len(fields)
                    if fields and len(fields) != width:
                        way_out = WAY_OUT if width > 1 else NO_HEADER
                        return SettingError(
                            f"line {line}: {len(fields)} fields where the header has {width}. {way_out}"
                        )
        except _RowError as error:
            return SettingError(f"line {error.line}: {error.reason}. {WAY_OUT}")
        return None

    # ---- the dialect of a file

    def _dialect(self, wanted: Wanted) -> Dialect:
        plain = Dialect(quote=self.quote or None, escape=self.escape)
        plain = self._with_separator(plain, wanted)
        with self._open() as file:
            header: list[str] = next(filter(None, replace(plain, quote=None).reader(file)), [])
        if "".join(header[:1]).startswith(('{"', '[{"')):
            raise SourceError("the file begins as JSON does, not as CSV. Rename it: .jsonl or .json")
        plain = replace(plain, skip_blank=len(header) > 1 and all(name.startswith(" ") for name in header[1:]))
        if self.escape is None and self.quote and self._escapes_quotes() and self._fault(plain):
            escaped = replace(plain, escape="\\")
            return plain if self._fault(escaped) else escaped
        return plain

    def _with_separator(self, dialect: Dialect, wanted: Wanted) -> Dialect:
        with self._open() as file:
            named = SEPARATOR_LINE.fullmatch(file.readline())
        if named:
            dialect = replace(dialect, skip_lines=1, separator=named[1])
        if self.separator is not None:
            return replace(dialect, separator=self.separator)
        if named:
            return dialect
        order = sorted(SEPARATORS, key=lambda separator: separator != self.default)
        return max((replace(dialect, separator=separator) for separator in order), key=lambda d: self._fit(d, wanted))

    def _fit(self, dialect: Dialect, wanted: Wanted) -> tuple[int, int]:
        """The number of wanted columns in the header, and the number of all its columns."""
        with self._open() as file:
            try:
                header = [name.strip(BLANKS) for name in next(filter(None, dialect.reader(file)), [])]
            except csv.Error:
                return 0, 0
        return len(wanted.texts.intersection(header)), len(header)

    def _escapes_quotes(self) -> bool:
        """Whether backslashes occur before quotes, and only before quotes and backslashes."""
        found = False
        with self._open() as file:
            for line in file:
                if "\\" in line:
                    found = found or '\\"' in line
                    if "\\" in ESCAPED.sub("", line):
                        return False
        return found


class _RowError(Exception):
    """A row that the CSV reader refuses."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason


def _numbered(dialect: Dialect, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of its first line."""
    reader = dialect.reader(file)
    while True:
        line = dialect.skip_lines + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _RowError(line, REASONS.get(str(error), f"a quote ends before the field does ({error})")) from error
        yield line, fields
