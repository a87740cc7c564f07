"""Reads prompt and completion from every row of a block."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import polars as pl

from analysis.sources.chat import Chat, Turn, history_turns, pair, prompt_of
from analysis.sources.formats.blocks import Block, Values
from analysis.sources.messages import content_of, json_or_text
from analysis.sources.records import SourceError
from analysis.sources.shapes import CONTEXT_COLUMNS, Shape, mapped_shape, shapes_of_block
from analysis.sources.values import OddValueError, text_series, texts


class TextReader:
    """Reads the texts of one table.

    Attributes:
        found: the mapped columns that exist.
    """

    def __init__(self, columns: Mapping[str, str], chat: Chat) -> None:
        self.columns, self.chat = columns, chat
        self.found: set[str] = set()

    def pairs(self, block: Block) -> tuple[pl.Series, pl.Series]:
        """Prompts and completions; null if a text is missing.

        Each row uses the first shape with both texts, else the first with one.
        """
        shapes = [mapped_shape(self.columns)] if self.columns else shapes_of_block(block.names)
        if not shapes:
            return _nothing(block.n_rows), _nothing(block.n_rows)
        prompt, completion = self._shape(block, shapes[0])
        for shape in shapes[1:]:
            holes = (_is_empty(prompt) | _is_empty(completion)).arg_true()
            if holes.is_empty():
                break
            other_prompt, other_completion = self._shape(block.take(holes.to_list()), shape)
            full = ~(_is_empty(other_prompt) | _is_empty(other_completion))
            taken = full | (_is_empty(prompt) & _is_empty(completion)).gather(holes)  # one text is better than none
            prompt = prompt.scatter(holes.filter(taken), other_prompt.filter(taken))
            completion = completion.scatter(holes.filter(taken), other_completion.filter(taken))
        return prompt, completion

    def column(self, block: Block, path: str) -> pl.Series:
        """A column, or a field inside an object, as text.

        Raises:
            SourceError: a value is not text.
        """
        return texts(self._values(block, path), path, block.place)

    def _values(self, block: Block, path: str) -> Values:
        """A column, or a field inside an object; nulls where it is missing."""
        if path in block.columns:
            self.found.add(path)
            return block.columns[path]
        head, *fields = path.split(".")
        if head not in block.columns or not fields:
            return [None] * block.n_rows
        values = block.columns[head]
        inner = [_inside(value, fields) for value in (values.to_list() if isinstance(values, pl.Series) else values)]
        if any(exists for exists, _ in inner):
            self.found.add(path)
        return [value for _, value in inner]

    def _shape(self, block: Block, shape: Shape) -> tuple[pl.Series, pl.Series]:
        systems = [self._each_text(column, block) for column in self._context(block, "system")]
        history = next(iter(self._context(block, "history")), None)
        before = _together(systems) if systems else None
        if shape.messages:
            return self._conversations(block, shape.messages, before, history)
        inputs = _together([self.column(block, name) for name in shape.inputs]) if shape.inputs else None
        if (messages := self._as_conversations(block, shape)) is not None:
            joined = replace(block, columns={**block.columns, shape.prompt: messages})
            prompt, completion = self._conversations(joined, shape.prompt, before, history)
            return prompt if inputs is None else _joined(prompt, inputs), completion
        prompt = self.column(block, shape.prompt)
        if inputs is not None:
            prompt = _joined(prompt, inputs)
        if history is not None:
            prompt = self._with_history(block, prompt, before, history)
        elif before is not None:
            prompt = _joined(before.set(_is_empty(prompt), None), prompt)  # system alone is no question
        return prompt, self.column(block, shape.completion)

    def _as_conversations(self, block: Block, shape: Shape) -> Values | None:
        """If prompts or completions are lists of messages: both of each row as one conversation; else None.

        A list may be JSON text, as in a CSV file.
        """
        prompts, completions = self._values(block, shape.prompt), self._values(block, shape.completion)
        if not (_may_hold_lists(prompts) or _may_hold_lists(completions)):
            return None
        pairs = [
            (one := _listed(prompt), _listed(completion) if _is_objects(one) else completion)
            for prompt, completion in zip(_python(prompts), _python(completions), strict=True)
        ]
        if not any(_is_objects(prompt) or _is_messages(completion) for prompt, completion in pairs):
            return None
        return [
            _one_conversation(_as_messages(prompt, "user"), _as_messages(completion, "assistant"))
            for prompt, completion in pairs
        ]

    def _context(self, block: Block, role: str) -> list[tuple[str, Values]]:
        """Names and values of the context columns with this role."""
        if self.columns:
            return [(path, self._values(block, path)) for path in (self.columns.get(role),) if path is not None]
        return [(name, block.columns[name]) for name in CONTEXT_COLUMNS[role] if name in block.columns]

    def _each_text(self, column: tuple[str, Values], block: Block) -> pl.Series:
        name, values = column
        if not isinstance(values, pl.Series):  # a list of objects is a text in parts
            values = [content_of(value) if _is_objects(value) else value for value in values]
        return texts(values, name, block.place)

    def _conversations(
        self, block: Block, path: str, system: pl.Series | None, history: tuple[str, Values] | None
    ) -> tuple[pl.Series, pl.Series]:
        before = self._turns_before(block, system, history)
        prompts: list[str | None] = []
        completions: list[str | None] = []
        for row, value in enumerate(_python(self._values(block, path))):
            try:
                turns = self.chat.turns(value, partial(_place, block, row, path))
            except OddValueError as error:
                raise SourceError(f"{block.place(row)}, column {path!r}: {error}") from error
            first = before[row] if before else []
            if first and turns and _same(turns[0], first[0]):
                first = first[1:]
            prompt, completion = pair([*first, *turns]) if turns else (None, None)
            prompts.append(prompt)
            completions.append(completion)
        return text_series(prompts), text_series(completions)

    def _with_history(
        self, block: Block, prompt: pl.Series, system: pl.Series | None, history: tuple[str, Values]
    ) -> pl.Series:
        before = self._turns_before(block, system, history)
        return text_series(
            [
                prompt_of([*turns, ("user", text)]) if turns and text and text.strip() else text
                for text, turns in zip(prompt.to_list(), before, strict=True)
            ]
        )

    def _turns_before(
        self, block: Block, system: pl.Series | None, history: tuple[str, Values] | None
    ) -> Sequence[list[Turn]]:
        """System text and earlier turns of each row; empty if there are no such columns."""
        if system is None and history is None:
            return []
        turns: list[list[Turn]] = [
            [("system", text)] if text and text.strip() else []
            for text in (system if system is not None else [None] * block.n_rows)
        ]
        if history is not None:
            name, values = history
            for row, value in enumerate(_python(values)):
                try:
                    turns[row].extend(history_turns(value))
                except OddValueError as error:
                    raise SourceError(
                        f"{block.place(row)}, column {name!r}: {error}. If it is something else, name the columns to "
                        f"read under `columns`"
                    ) from error
        return turns


def _same(turn: Turn, other: Turn) -> bool:
    return turn[0] == other[0] and turn[1].strip() == other[1].strip()


def _place(block: Block, row: int, path: str) -> str:
    return f"{block.place(row)}, column {path!r}"


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, Mapping) for message in value)


def _is_messages(value: Any) -> bool:
    return _is_objects(value) and all({"role", "from"} & message.keys() for message in value)


def _may_hold_lists(values: Values) -> bool:
    """Whether a value may be a list, or JSON text of one."""
    if isinstance(values, pl.Series):
        return values.dtype == pl.String and bool(values.str.starts_with("[").any())
    return any(isinstance(value, list) or (isinstance(value, str) and value.startswith("[")) for value in values)


def _listed(value: Any) -> Any:
    """The messages in a JSON text; any other value as it is."""
    found = json_or_text(value) if isinstance(value, str) and value.startswith("[") else value
    return found if _is_messages(found) else value


def _one_conversation(prompt: list[Any], completion: list[Any]) -> list[Any]:
    """Prompt and completion; a completion that begins with the prompt is already the whole conversation."""
    return completion if completion[: len(prompt)] == prompt else [*prompt, *completion]


def _as_messages(value: Any, role: str) -> list[Any]:
    if _is_objects(value):
        return list(value)
    return [] if value is None or value == "" else [{"role": role, "content": value}]


def _inside(value: Any, fields: Sequence[str]) -> tuple[bool, Any]:
    """Whether an object has a field, and its value."""
    for field in fields:
        if not isinstance(value, Mapping) or field not in value:
            return False, None
        value = value[field]
    return True, value


def _python(values: Values) -> Sequence[Any]:
    return values.to_list() if isinstance(values, pl.Series) else values


def _nothing(n_rows: int) -> pl.Series:
    return pl.Series([None] * n_rows, dtype=pl.String)


def _is_empty(series: pl.Series) -> pl.Series:
    return series.is_null() | (series.str.strip_chars() == "").fill_null(False)


def _together(columns: Sequence[pl.Series]) -> pl.Series:
    """The texts of several columns, one after the other; a copy of the first column's text is left out."""
    first, *others = columns
    return reduce(_joined, (text.set(text.eq_missing(first), None) for text in others), first)


def _joined(first: pl.Series, second: pl.Series) -> pl.Series:
    """Two texts with a blank line between them; if one is empty, only the other."""
    one, other = pl.lit(first), pl.lit(second)
    both = pl.concat_str(one, other, separator="\n\n")
    blank = (other.str.strip_chars() == "").fill_null(True)
    none = (one.str.strip_chars() == "").fill_null(True)
    return pl.select(pl.when(blank).then(one).when(none).then(other).otherwise(both)).to_series()
