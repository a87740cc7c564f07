"""From a table with its publisher's column names to records: a given mapping, or one of the known shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis.sources.records import RECORD_SCHEMA, SourceError, split_expression

TEXT_ROLES = ("prompt", "input", "completion")
ROLES = (*TEXT_ROLES, "messages", "task", "split", "licence", "origin")

PAIR_SHAPES = (  # prompt, completion
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("input", "target"),
)
INPUT_COLUMNS = ("input", "context")
"""Appended to the prompt after a blank line, where a table has one beside its prompt."""
CHAT_COLUMNS = ("messages", "conversations")
LABEL_COLUMNS = {
    "task": ("task", "category"),
    "split": ("split",),
    "licence": ("licence", "license"),
    "origin": ("origin", "source_url", "url"),
}
# (role, content) of a chat message, and the names of its three speakers
CHAT_FIELDS = (("role", "content"), ("from", "value"))
ASSISTANT_NAMES = ("assistant", "gpt", "model", "bot")
SYSTEM_NAMES = ("system",)


@dataclass(frozen=True)
class Columns:
    """Which column plays which role, as given by the user or found by `detect_columns`."""

    by_role: Mapping[str, str]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.by_role) - set(ROLES))
        if unknown:
            raise SourceError(f"unknown roles {unknown} in the column mapping; expected some of {list(ROLES)}")
        if "messages" not in self.by_role and not {"prompt", "completion"} <= set(self.by_role):
            raise SourceError(
                f"the column mapping names {sorted(self.by_role)}; expected `prompt` and `completion`, or `messages`"
            )


def detect_columns(found: Sequence[str]) -> Columns:
    """Roles by the names that publishers use: pairs, Alpaca, question/answer, chat.

    Raises:
        SourceError: no known shape fits; lists the columns found and how to map them.
    """
    for chat in CHAT_COLUMNS:
        if chat in found:
            return Columns({"messages": chat})
    for prompt, completion in PAIR_SHAPES:
        if prompt in found and completion in found:
            extra = next((name for name in INPUT_COLUMNS if name in found and name != prompt), None)
            return Columns({"prompt": prompt, "completion": completion} | ({"input": extra} if extra else {}))
    shapes = ", ".join(f"{prompt}/{completion}" for prompt, completion in PAIR_SHAPES)
    raise SourceError(
        f"no known shape in the columns {list(found)}. Known: {shapes}, {', '.join(CHAT_COLUMNS)}. Map them yourself, "
        f"for example columns: {{prompt: <column>, completion: <column>}}"
    )


def _detect_labels(found: Sequence[str]) -> dict[str, str]:
    labels = {role: next((name for name in names if name in found), None) for role, names in LABEL_COLUMNS.items()}
    return {role: name for role, name in labels.items() if name is not None}


def to_records(
    table: pl.LazyFrame,
    source: str,
    columns: Mapping[str, str] | None,
    *,
    origin: pl.Expr,
    task: str | None = None,
    split: str | None = None,
    licence: str | None = None,
) -> pl.LazyFrame:
    """Lazily rename and combine the columns of `table` into records.

    Args:
        table: any columns; a dotted name in the mapping reaches into a struct (`context.text`).
        columns: role -> column; None or empty detects a known shape. Labels are detected in either case.
        origin: where no column plays that role.
        task, licence: for every record, where no column plays that role.
        split: for every record, whatever the table says.

    Raises:
        SourceError: a named column is missing, or is neither text, number nor list of text.
    """
    schema = table.collect_schema()
    texts = Columns(columns) if columns else detect_columns(schema.names())
    roles = {**_detect_labels(schema.names()), **texts.by_role}
    if "messages" in roles:
        prompt, completion = _chat_expressions(schema, roles["messages"])
    else:
        prompt, completion = _pair_expressions(schema, roles)

    def label(role: str, value: str | None) -> pl.Expr:
        return _text_column(schema, roles[role]) if role in roles else pl.lit(value, dtype=pl.String)

    return table.select(
        source=pl.lit(source),
        task=label("task", task),
        split=split_expression(pl.lit(split) if split else label("split", None)),
        prompt=prompt,
        completion=completion,
        licence=label("licence", licence),
        origin=pl.coalesce(label("origin", None), origin),
    ).select(pl.col(name).cast(dtype) for name, dtype in RECORD_SCHEMA.items())


def _pair_expressions(schema: pl.Schema, roles: Mapping[str, str]) -> tuple[pl.Expr, pl.Expr]:
    prompt = _text_column(schema, roles["prompt"])
    if "input" in roles:
        extra = _text_column(schema, roles["input"]).fill_null("")
        blank = extra.str.strip_chars() == ""
        prompt = pl.when(blank).then(prompt).otherwise(pl.concat_str(prompt, extra, separator="\n\n"))
    return prompt, _text_column(schema, roles["completion"])


def _text_column(schema: pl.Schema, path: str) -> pl.Expr:
    """A column, or a field inside a struct column, as text; a list of texts is joined by line ends."""
    expression, dtype = _resolve(schema, path)
    if dtype == pl.List(pl.String):
        return expression.list.join("\n")
    if dtype.is_nested() or dtype == pl.Binary:
        raise SourceError(f"column {path!r} has type {dtype}; expected text, a number or a list of text")
    return expression.cast(pl.String)


def _resolve(schema: pl.Schema, path: str) -> tuple[pl.Expr, pl.DataType]:
    if path in schema:
        return pl.col(path), schema[path]
    head, *fields = path.split(".")
    if head not in schema:
        raise SourceError(f"no column {path!r}; found {schema.names()}. Correct the mapping under `columns`")
    expression, dtype = pl.col(head), schema[head]
    for field in fields:
        inner = dtype.to_schema() if isinstance(dtype, pl.Struct) else {}
        if field not in inner:
            raise SourceError(f"column {path!r}: no field {field!r} in {head!r}, which has type {schema[head]}")
        expression, dtype = expression.struct.field(field), pl.Schema(inner)[field]
    return expression, dtype


def _chat_expressions(schema: pl.Schema, path: str) -> tuple[pl.Expr, pl.Expr]:
    """Prompt: every message before the last answer. Completion: that answer."""
    messages, dtype = _resolve(schema, path)
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    fields = set(inner.to_schema()) if isinstance(inner, pl.Struct) else set()
    known = next((pair for pair in CHAT_FIELDS if set(pair) <= fields), None)
    if known is None:
        raise SourceError(
            f"column {path!r} has type {dtype}; expected a list of messages with the fields role and content "
            f"(or from and value)"
        )
    role, content = (pl.element().struct.field(field) for field in known)
    answers = messages.list.eval(role.is_in(ASSISTANT_NAMES))
    turns_after = answers.list.reverse().list.arg_max().cast(pl.Int64)
    last = pl.when(answers.list.any()).then(answers.list.len().cast(pl.Int64) - 1 - turns_after)
    before = messages.list.head(last.fill_null(0))
    # speakers are named only where there is more than one turn to tell apart
    speaker = pl.when(role.is_in(ASSISTANT_NAMES)).then(pl.lit("Assistant: ")).otherwise(pl.lit("User: "))
    named = pl.when(role.is_in(SYSTEM_NAMES)).then(content).otherwise(speaker + content)
    several = before.list.eval(role.is_in(ASSISTANT_NAMES)).list.any()
    turns, contents = (before.list.eval(text).list.join("\n\n") for text in (named, content))
    prompt = pl.when(several).then(turns).otherwise(contents)
    return prompt, messages.list.eval(content).list.get(last, null_on_oob=True)
