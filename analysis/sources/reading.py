"""Turns the blocks of a table into records."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

from analysis.sources.chat import Chat
from analysis.sources.formats.blocks import Block, Table
from analysis.sources.pairs import TextReader
from analysis.sources.records import RECORD_SCHEMA, Notes, SettingError, SourceError
from analysis.sources.shapes import (
    LABEL_COLUMNS,
    LIKED,
    Columns,
    check_columns,
    shapes_in,
    unread,
    wanted,
)
from analysis.sources.splits import HOW, check_sides, named_side, sides

REPLACED = "\ufffd"
SURROGATE = re.compile(r"\\ud[89a-f]")
LOST_BYTES = (
    "U+FFFD, which stands for bytes that were lost",
    "If it is a text file of another encoding than UTF-8, name that in the configuration "
    "of the source: encoding: latin-1 (Western Europe), gbk (Chinese) or shift_jis (Japanese)",
)
HALF_PAIR = (
    "half of a surrogate pair, such as \\ud83d without its second half",
    "Write the whole character, for example cut the texts between characters, not between UTF-16 units",
)


@dataclass(frozen=True)
class Reading:
    """The part of a source's configuration that describes its columns.

    Attributes:
        columns: role -> column. If empty, any known shape is accepted.
        task, licence: values for records that have none of their own.
        split: split of every record; overrides the table.
        roles: meaning of uncommon role names: `{narrator: user}`.
        splits: meaning of uncommon split names: `{extra: train}`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    split: str | None = None
    licence: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.columns:
            Columns(self.columns)
        Chat(self.roles)
        check_sides(self.splits)
        if self.split is not None:
            named_side(self.split, self.splits)


def table_records(table: Table, source: str, reading: Reading, origin: str, notes: Notes) -> Iterator[pl.DataFrame]:
    """The records of one table, block by block.

    Args:
        origin: origin of records that name none.
        notes: collects notes for the user.

    Raises:
        SourceError: the table cannot be read. The message has the place, the column, what was found and what to do.
    """
    reader = _Reader(source, reading, origin, notes)
    for block in table.blocks(wanted(reading.columns)):
        yield reader.records(block)
    reader.finish()


class _Reader:
    """Reads one table, and collects problems that are only known at its end."""

    def __init__(self, source: str, reading: Reading, origin: str, notes: Notes) -> None:
        self.source, self.reading, self.origin, self.notes = source, reading, origin, notes
        self.texts = TextReader(reading.columns, Chat(reading.roles))
        self.names: dict[str, None] = {}
        self.odd_splits: dict[str, str] = {}
        self.replaced: dict[bool, list[str]] = {False: [], True: []}  # whether it is half of a surrogate pair -> places

    def records(self, block: Block) -> pl.DataFrame:
        self.names |= dict.fromkeys(block.names)
        self._check_liked(block)
        prompt, completion = self.texts.pairs(block)
        defaults = {"task": self.reading.task, "licence": self.reading.licence, "origin": self.origin}
        found = {role: self._labels(block, role) for role in defaults}
        labels = {f"{role} {i}": values for role, columns in found.items() for i, values in enumerate(columns)}
        split = self._split(block)
        table = pl.DataFrame({"prompt": prompt, "completion": completion, "split": split, **labels})

        def label(role: str) -> pl.Expr:
            own = (pl.col(f"{role} {i}") for i in range(len(found[role])))
            filled = (pl.when(column.str.strip_chars() != "").then(column) for column in own)
            return pl.coalesce(*filled, pl.lit(defaults[role], pl.String))

        pair = pl.col("prompt", "completion")
        records = table.select(
            source=pl.lit(self.source),
            task=label("task"),
            split="split",
            prompt=pl.col("prompt").fill_null(""),
            completion=pl.col("completion").fill_null(""),
            licence=label("licence"),
            origin=label("origin"),
            replaced=pl.any_horizontal(pair.str.contains(REPLACED, literal=True).fill_null(False)),
        )
        self._count_replaced(records["replaced"], block)
        return records.select(RECORD_SCHEMA.names())

    def finish(self) -> None:
        """Report what is known only after the whole table was read.

        Raises:
            MissingColumnsError: a mapped column is missing, or the table has no known shape.
            SourceError: a role or split name is unknown.
        """
        self.texts.chat.check()
        if self.odd_splits:
            place = next(iter(self.odd_splits.values()))
            raise SettingError(
                f"{place}: unknown names of splits: {sorted(self.odd_splits)}; expected train, test, validation or "
                f"another common name. {HOW}, or give one split to the whole source"
            )
        check_columns(self.reading.columns, list(self.names), self.texts.found)
        self._add_notes()

    def _add_notes(self) -> None:
        mapped = {path.split(".")[0] for path in self.reading.columns.values()}
        first, *rest = (shape.columns for shape in shapes_in(list(self.names))) if not mapped else [mapped]
        others = set().union(*rest) - first
        for name in unread(list(self.names), first | others, mapped=bool(mapped)):
            self.notes.add(f"column {name!r} is not read")
        if others:
            self.notes.add(f"columns {sorted(others)} are read only where {sorted(first)} are empty")
        if places := self.texts.chat.unanswered:
            self.notes.add(
                f"conversations that end with a question: {len(places)} (the first: {places[0]}); what follows the "
                "last answer is not read"
            )
        if self.texts.chat.unused:
            self.notes.add(f"these fields of messages are not read: {sorted(self.texts.chat.unused)}")
        for is_half, places in self.replaced.items():
            if places:
                what, way_out = HALF_PAIR if is_half else LOST_BYTES
                self.notes.add(
                    f"rows with {what}: {len(places)} (the first: {places[0]}); cleaning drops them. {way_out}"
                )

    def _count_replaced(self, replaced: pl.Series, block: Block) -> None:
        for row in replaced.arg_true():
            values = (column[row] for column in block.columns.values())
            is_half = any(SURROGATE.search(ascii(value)) for value in values)
            self.replaced[is_half].append(block.place(row) if not self.replaced[is_half] else "")

    def _check_liked(self, block: Block) -> None:
        """Refuse preference data with bad completions, which would be trained on like the good ones."""
        for row, value in enumerate(block.columns.get(LIKED, ()) if not self.reading.columns else ()):
            if value is False or (isinstance(value, str) and value.strip().casefold() == "false"):
                raise SourceError(
                    f"{block.place(row)}, column {LIKED!r}: found false, as preference data marks bad answers. Leave "
                    "such rows out; or name the columns to read under `columns`, if it means something else"
                )

    # ---- labels

    def _labels(self, block: Block, role: str) -> list[pl.Series]:
        """The columns that may hold a label, in order of preference.

        An unreadable column that was only guessed is skipped with a note. But an unreadable split is an error, because
        otherwise test documents would be trained on.
        """
        if role in self.reading.columns:
            return [self.texts.column(block, self.reading.columns[role])]
        found = []
        for name in LABEL_COLUMNS[role]:
            if name in block.columns:
                try:
                    found.append(self.texts.column(block, name))
                except SourceError as error:
                    if role == "split":
                        raise
                    self.notes.add(f"{role} is not taken from column {name!r}: {error}")
        return found

    def _split(self, block: Block) -> pl.Series:
        reading = self.reading
        if reading.split is not None:
            return pl.Series([named_side(reading.split, reading.splits)] * block.n_rows, dtype=pl.String)
        for names in self._labels(block, "split"):
            side, unknown = sides(names, reading.splits)
            for name in unknown:
                self.odd_splits.setdefault(name, block.place((names == name).arg_true()[0]))
            return side
        return pl.Series([None] * block.n_rows, dtype=pl.String)
