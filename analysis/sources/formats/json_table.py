"""JSON lines and JSON documents as a table. Numbers keep the digits of the file."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from analysis.sources.formats.blocks import BLOCK_ROWS, Block, Wanted
from analysis.sources.formats.encodings import open_text
from analysis.sources.records import SettingError, SourceError
from analysis.sources.values import describe, json_decoder

CHUNK_CHARACTERS = 100_000
"""Number of objects decoded at a time. A small number stays in the CPU cache and avoids garbage collection."""
NOT_BLANK = re.compile(r"[^\s\ufeff]")
BINARY = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f]")
Row = dict[str, Any]


class _TwiceError(ValueError):
    """An object has a field twice."""


def _object(fields: list[tuple[str, Any]]) -> Row:
    row = dict(fields)
    if len(row) < len(fields):
        raise _TwiceError
    return row


STRICT = json_decoder(_object)
LAST, FIRST = json_decoder(), json_decoder(lambda fields: dict(reversed(fields)))
"""If an object has a field twice, these decoders keep its last or its first value."""


@dataclass(frozen=True)
class JsonTable:
    """A file of JSON lines, an array of objects, concatenated objects, or an object that contains one list of objects.

    The content decides which of these it is, not the suffix.

    Args:
        is_lines: whether the file is known to be JSON lines, even if it has a single one.
    """

    path: Path
    encoding: str | None = None
    is_lines: bool = False

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All objects; see `Table`."""
        yield from self._lines(wanted) if self.is_lines or self._has_lines() else self._document(wanted)

    def _has_lines(self) -> bool:
        with open_text(self.path, self.encoding) as file:
            start = list(islice((line for line in file if line.strip()), 2))
        return len(start) > 1 and is_object(start[0].lstrip("\ufeff"))

    def _lines(self, wanted: Wanted) -> Iterator[Block]:
        number, part = 1, _Part(wanted)
        with open_text(self.path, self.encoding) as file:
            while lines := file.readlines(CHUNK_CHARACTERS):
                part.add(*decoded_lines(lines, number, wanted))
                number += len(lines)
                if len(part.numbers) >= BLOCK_ROWS:
                    yield part.block("line")
                    part = _Part(wanted, part.names)
        yield part.block("line")

    def _document(self, wanted: Wanted) -> Iterator[Block]:
        with open_text(self.path, self.encoding) as file:
            text = file.read()
        try:
            rows = _rows(list(_values(text, STRICT)), wanted)
        except _TwiceError:
            rows, first = (_rows(list(_values(text, decoder)), wanted) for decoder in (LAST, FIRST))
            for number, pair in enumerate(zip(rows, first, strict=True), start=1):
                _check_fields(f"record {number}", *pair, wanted)
        part = _Part(wanted)
        for start in range(0, len(rows), BLOCK_ROWS):
            part = _Part(wanted, part.names)
            part.add(rows[start : start + BLOCK_ROWS], range(start + 1, len(rows) + 1)[:BLOCK_ROWS])
            yield part.block("record")


class _Part:
    """Collects the wanted columns of objects until they form a block.

    Attributes:
        names: the fields of all objects of the file so far.
        numbers: line or record number of each object.
    """

    def __init__(self, wanted: Wanted, names: Iterable[str] = ()) -> None:
        self.wanted, self.names = wanted, dict.fromkeys(names)
        self.numbers: list[int] = []
        self.columns: dict[str, list[Any]] = {name: [] for name in wanted.of(list(names))}

    def add(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        """Add some objects. A new field is null in all earlier objects."""
        for row in rows:
            if not row.keys() <= self.names.keys():
                self.names.update(dict.fromkeys(row))
        for name in self.wanted.of(list(self.names)):
            column = self.columns.setdefault(name, [None] * len(self.numbers))
            column.extend([row.get(name) for row in rows])
        self.numbers.extend(numbers)

    def block(self, unit: str) -> Block:
        """The collected block. `unit` is what the numbers count, such as `line`."""
        numbers = self.numbers
        return Block(len(numbers), list(self.names), self.columns, lambda row: f"{unit} {numbers[row]}")


def decoded_lines(lines: Sequence[str], first: int, wanted: Wanted) -> tuple[list[Row], Sequence[int]]:
    """The objects of all lines that are not blank, and their line numbers.

    Args:
        lines: lines, including their line ends.
        first: number of the first line.
        wanted: the columns in which no object may have a field twice.

    Raises:
        SourceError: a line is not a JSON object, or has a field twice. The message names the line.
    """
    try:
        decode = STRICT.raw_decode
        found = [decode(line) for line in lines]
    except (ValueError, RecursionError):
        return _line_by_line(lines, first, wanted)
    rows = [row for row, _ in found]
    plain = [end for _, end in found] == [len(line) - 1 for line in lines]
    if not plain or set(map(type, rows)) - {dict}:
        return _line_by_line(lines, first, wanted)
    return rows, range(first, first + len(lines))


def _line_by_line(lines: Sequence[str], first: int, wanted: Wanted) -> tuple[list[Row], Sequence[int]]:
    rows, numbers = [], []
    for number, line in enumerate(lines, start=first):
        line = line.lstrip("\ufeff")  # of files that were put together
        if not line.strip():
            continue
        try:
            row = LAST.decode(line)
        except json.JSONDecodeError as error:
            raise _not_json(number, error, line) from error
        except RecursionError as error:
            raise SourceError(f"line {number}: the JSON is nested too deep to be read") from error
        if not isinstance(row, dict):
            raise SourceError(f"line {number}: expected a JSON object, got {describe(row)}")
        _check_fields(f"line {number}", row, FIRST.decode(line), wanted)
        rows.append(row)
        numbers.append(number)
    return rows, numbers


def _check_fields(place: str, last: Row, first: Row, wanted: Wanted) -> None:
    for name in wanted.of(list(last)):
        if last[name] != first[name]:
            raise SourceError(f"{place}, column {name!r}: an object has a field twice, with two values. Keep one")


def _not_json(number: int, error: json.JSONDecodeError, line: str) -> SourceError:
    message = error.msg.removesuffix(" starting at")
    kind = SettingError if "\ufffd" in line and not BINARY.search(line) else SourceError
    return kind(f"line {number} is not JSON: {message} at character {error.colno}{_way_out(line, error)}")


def _way_out(line: str, error: json.JSONDecodeError) -> str:
    """What to do about a line that is not JSON."""
    before, rest = line[: error.colno - 1].rstrip(), line[error.colno - 1 :].lstrip()
    if BINARY.search(line):
        return ". It has control characters, as binary files do; expected text"
    if "\ufffd" in line:
        return ". The line has bytes that are not in the file's encoding: name it under `encoding`"
    if rest.startswith(("#", "//", "/*")):
        return ". JSON has no comments: remove it"
    if rest.startswith("'"):
        return ". JSON has double quotes, as json.dumps writes them"
    if rest.startswith(("None", "True", "False")):
        return ". JSON writes null, true and false, as json.dumps does"
    if not error.msg.startswith("Expecting"):
        return ""
    return ". Remove the comma before it" if before.endswith(",") else ". Remove the comma" if rest[:1] == "," else ""


def is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(LAST.decode(line), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def _values(text: str, decoder: json.JSONDecoder) -> Iterator[Any]:
    """Concatenated JSON values; line breaks may be anywhere."""
    place = _next(text, 0)
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            line = text.split("\n")[error.lineno - 1]
            raise _not_json(error.lineno, error, line) from error
        except RecursionError as error:
            raise SourceError("the JSON is nested too deep to be read") from error
        yield value
        place = _next(text, end)


def _next(text: str, place: int) -> int:
    """The index of the first character that is not blank, from `place` on."""
    found = NOT_BLANK.search(text, place)
    return found.start() if found else len(text)


def _rows(values: Sequence[Any], wanted: Wanted) -> Sequence[Row]:
    """The objects of a document.

    Raises:
        SourceError: the document has no objects, or also other values.
    """
    match values:
        case []:
            raise SourceError("no records: the file holds nothing but blanks")
        case [list() as rows]:
            return _objects(rows)
        case [dict() as value]:
            return _unwrapped(value, wanted)
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise SourceError(f"value {number} of the file: expected a JSON object, got {describe(value)}")
    return values


def _objects(rows: list[Any]) -> Sequence[Row]:
    if not rows:
        raise SourceError("no records: the JSON array is empty")
    odd = next((i for i, row in enumerate(rows) if not isinstance(row, dict)), None)
    if odd is not None:
        raise SourceError(f"record {odd + 1}: expected a JSON array of objects, got {describe(rows[odd])} in it")
    return rows


def _unwrapped(value: Row, wanted: Wanted) -> Sequence[Row]:
    """One record, or the records that an object wraps: `{"version": 1, "data": [..]}`."""
    known = [name for name in value if name in wanted.texts]
    lists = [name for name, inner in value.items() if isinstance(inner, list) and _all_objects(inner)]
    if len(known) > 1 and all(isinstance(value[name], dict | list) and name not in lists for name in known):
        raise SourceError(
            "the file is an object of columns, expected an array of objects, or one object a line. With pandas: "
            'to_json(path, orient="records")'
        )
    is_chat = len(lists) == 1 and all({"role", "from"} & message.keys() for message in value[lists[0]])
    if known or not lists or is_chat:
        return [value]
    if len(lists) > 1:
        raise SourceError(f"the file is an object with several lists of objects {lists}; expected one list in a file")
    return _objects(value[lists[0]])


def _all_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)
