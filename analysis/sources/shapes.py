"""Which columns of a table make a record: a given mapping, or one of the shapes that publishers use."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from analysis.sources.formats.blocks import Wanted
from analysis.sources.records import MissingColumnsError, SourceError

CONTEXT_ROLES = ("system", "history")
LABEL_ROLES = ("task", "split", "licence", "origin")
ROLES = ("prompt", "input", "completion", "messages", *CONTEXT_ROLES, *LABEL_ROLES)

PAIR_SHAPES = (  # prompt, completion
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("input", "target"),
)
CHAT_COLUMNS = ("messages", "conversations")
INPUT_COLUMNS = ("input", "context")
"""Columns that are appended to the prompt, each after a blank line."""
CONTEXT_COLUMNS = {"system": ("system", "system_prompt"), "history": ("history",)}
"""Columns that are placed before the prompt."""
UNREAD_COLUMNS = (
    *("tools", "functions", "choices", "options", "A", "opa", "option_a", "choice_a", "choice1", "ending0"),
    *(
        "instruction",
        "question",
        "input",
        "context",
        "passage",
        "passages",
        "article",
        "paragraph",
        "story",
        "document",
        "documents",
    ),
    *("evidence", "knowledge", "support", "hint", "table", "schema", "system_message", "chat_history"),
    *("weight", "sample_weight", "reasoning", "reasoning_content", "thinking", "thought", "thoughts", "rationale"),
    *("explanation", "chain_of_thought", "cot", "solution"),
    *("chosen", "rejected", "accepted", "preferred", "is_correct", "correct", "score", "rating", "reward"),
    *("image", "images", "audio", "audios", "video", "videos"),
    *("partition", "fold", "set", "data_split", "dataset_split", "is_train", "is_test"),
)
"""Columns that change what a record means (parts of conversations and exams, what a question is about, weights,
thoughts, verdicts, media, other names for splits). A note reports those that are not read."""
LIKED = "label"
"""Column of preference data: whether the completion is a good one."""
LABEL_COLUMNS = {
    "task": ("task", "category"),
    "split": ("split",),
    "licence": ("licence", "license"),
    "origin": ("origin", "source_url", "url"),
}


def unread(names: Sequence[str], read: Set[str], *, mapped: bool) -> Iterator[str]:
    """The columns that matter, and are not read: of known names, or of such names in another spelling (`Split`).

    Args:
        read: the columns with texts.
        mapped: whether the user named the columns, so that those with context are not read either.
    """
    labels = [name for group in LABEL_COLUMNS.values() for name in group]
    context = [name for group in CONTEXT_COLUMNS.values() for name in group]
    known = {*UNREAD_COLUMNS, *(context if mapped else ())}
    for name in names:
        plain = re.sub(r"\W+", "_", name.strip().casefold())
        is_respelled = plain != name and plain in known.union(labels, context, INPUT_COLUMNS)
        if name not in read and (name in known or is_respelled):
            yield name


@dataclass(frozen=True)
class Columns:
    """The user's mapping of roles to columns."""

    by_role: Mapping[str, str]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.by_role) - set(ROLES))
        if unknown:
            raise SourceError(f"unknown roles {unknown} in the column mapping; expected some of {list(ROLES)}")
        if "messages" not in self.by_role and not {"prompt", "completion"} <= set(self.by_role):
            raise SourceError(
                f"the column mapping names {sorted(self.by_role)}; expected `prompt` and `completion`, or `messages`"
            )
        empty = sorted(role for role, column in self.by_role.items() if not column)
        if empty:
            raise SourceError(f"the column mapping gives no column for {empty}; expected the name of a column")
        prompt = self.by_role.get("prompt")
        if prompt is not None and prompt == self.by_role.get("completion"):
            raise SourceError(f"the column mapping takes prompt and completion from {prompt!r}; expected two columns")


@dataclass(frozen=True)
class Shape:
    """Columns of one shape: `messages`, or `prompt` and `completion` with optional additions to the prompt."""

    messages: str = ""
    prompt: str = ""
    completion: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def columns(self) -> set[str]:
        """All its columns."""
        return {self.messages, self.prompt, self.completion, *self.inputs} - {""}


def shapes_in(names: Sequence[str]) -> Iterator[Shape]:
    """All known shapes whose columns are present, in the order in which they are tried."""
    for chat in CHAT_COLUMNS:
        if chat in names:
            yield Shape(messages=chat)
    yield from _pair_shapes(names, all)


def shapes_of_block(names: Sequence[str]) -> list[Shape]:
    """The shapes to try in a block. If it has none, those with one column, because later rows may have the other."""
    return list(shapes_in(names)) or list(_pair_shapes(names, any))


def _pair_shapes(names: Sequence[str], present: Callable[[Iterable[bool]], bool]) -> Iterator[Shape]:
    for prompt, completion in PAIR_SHAPES:
        if present((prompt in names, completion in names)):
            inputs = tuple(name for name in INPUT_COLUMNS if name in names and name != prompt)
            yield Shape(prompt=prompt, completion=completion, inputs=inputs)


def mapped_shape(columns: Mapping[str, str]) -> Shape:
    """The shape that a mapping defines."""
    if "messages" in columns:
        return Shape(messages=columns["messages"])
    inputs = (columns["input"],) if "input" in columns else ()
    return Shape(prompt=columns["prompt"], completion=columns["completion"], inputs=inputs)


def shown(names: Sequence[str]) -> str:
    """Names of columns, for an error message; an object whose keys are ids has thousands."""
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return f"{list(names)[:20]}{more}"


def check_columns(columns: Mapping[str, str], names: Sequence[str], found: Set[str]) -> None:
    """Refuse a table that lacks a mapped column, or, without a mapping, that has no known shape.

    Args:
        columns: role -> column; see `FilesSource`.
        names: all columns of the table.
        found: the mapped columns that it has.

    Raises:
        MissingColumnsError: the message lists the columns and explains how to map them.
    """
    for path in columns.values():
        if path not in found:
            head = path.split(".")[0]
            is_inside = head in names
            what = (
                f"column {path!r}: no such field in {head!r}"
                if is_inside
                else f"no column {path!r}; found {shown(names)}"
            )
            raise MissingColumnsError(f"{what}. Correct the mapping under `columns`", names, found)
    if not columns and not any(shapes_in(names)):
        raise MissingColumnsError(_no_shape(names), names, found)


def _no_shape(names: Sequence[str]) -> str:
    pairs = ", ".join(f"{prompt}/{completion}" for prompt, completion in PAIR_SHAPES)
    ways = "columns: {prompt: <column>, completion: <column>}, or columns: {messages: <column>} for conversations"
    if "chosen" in names:
        ways = "columns: {messages: chosen} for conversations, or columns: {prompt: <column>, completion: chosen}"
    return (
        f"no known shape in the columns {shown(names)}. Known: {pairs}, {', '.join(CHAT_COLUMNS)}. Map them yourself, "
        f"for example {ways} (as options of a command: --column prompt=NAME --column completion=NAME)"
    )


def wanted(columns: Mapping[str, str]) -> Wanted:
    """The columns to read for a mapping, or for any known shape. `context.text` also needs `context`."""
    labels = {name for names in LABEL_COLUMNS.values() for name in names}
    if columns:
        paths = set(columns.values())
        heads = {path.split(".")[0] for path in paths}
        texts = {columns[role] for role in ("prompt", "completion", "messages") if role in columns}
        return Wanted(
            frozenset(texts | {text.split(".")[0] for text in texts}), frozenset(paths | heads | labels) - texts
        )
    texts = {*CHAT_COLUMNS, *(name for shape in PAIR_SHAPES for name in shape)}
    context = {name for names in CONTEXT_COLUMNS.values() for name in names}
    return Wanted(frozenset(texts), frozenset({*INPUT_COLUMNS, *context, *labels}) - texts, frozenset({LIKED}))
