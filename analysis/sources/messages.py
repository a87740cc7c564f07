"""Reads messages in the forms that publishers use: lists, JSON text, content in parts, tool calls."""

import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from analysis.sources.values import Number, OddValueError, decoded, describe, text_of

Message = Mapping[str, Any]
CONTENT_FIELDS = ("content", "value", "tool_calls", "function_call")
READ_FIELDS = ("role", "from", *CONTENT_FIELDS)
TRAINED = ("train", "training", "trainable", "loss")
"""Message fields that are false if the message must not be trained on."""
PLAIN_FIELDS = ("name", "id", "type", "weight", "tool_call_id", "tool_calls_id", "index", "channel", *TRAINED)
"""Message fields that carry no content of the conversation."""
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts with a model's reasoning. They are not read."""
ARGUMENTS = ("arguments", "args", "parameters", "input")
"""Names that publishers give to the arguments of a tool call."""
EXPECTED = "expected a list of messages with role and content, or from and value"


def as_list(value: Any) -> list[Message]:
    """A conversation as a list of messages.

    Args:
        value: a list of objects, JSON text of one, an object of lists (`{role: [..], content: [..]}`), or None.

    Raises:
        OddValueError: the value is none of these. The message says what was found.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str) and not isinstance(value, Number):
        try:
            value = decoded(value)
        except ValueError as error:
            raise OddValueError(f"found {describe(value)}; {EXPECTED}, also as JSON text") from error
    if isinstance(value, Mapping):
        value = _transposed(value)
    if not isinstance(value, list):
        raise OddValueError(f"found {describe(value)}; {EXPECTED}")
    odd = next((message for message in value if not isinstance(message, Mapping)), value)
    if odd is not value:
        raise OddValueError(f"found {describe(odd)} among the messages; {EXPECTED}")
    return value


def _transposed(columns: Mapping[str, Any]) -> list[Message]:
    lists = {name: column for name, column in columns.items() if column is not None}
    lengths = {len(column) if isinstance(column, list) else -1 for column in lists.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise OddValueError(f"found {describe(columns)}; {EXPECTED}")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def content_of(content: Any, unused: MutableMapping[str, None] | None = None) -> str:
    """The text of a message: text, a number, parts of text, or nothing.

    Args:
        unused: receives the parts that are not read, such as a model's thoughts.

    Raises:
        OddValueError: a part is not text, such as a picture or a sound.
    """
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        return text_of(content) or ""
    return "\n".join(text for part in content if (text := _part(part, {} if unused is None else unused)))


def is_result(part: Any) -> bool:
    """Whether a part of a message is the result of a tool, which some publishers write into the user's message."""
    return isinstance(part, Mapping) and part.get("type") == "tool_result"


def result_of(content: Any) -> Any:
    """What a tool returned: its content in parts as it is, any other object or list as JSON text."""
    items = content if isinstance(content, list) else [content]
    is_data = isinstance(content, Mapping | list) and not all(
        isinstance(item, Mapping) and item.keys() & {"type", "text"} for item in items
    )
    return as_json(content) if is_data else content


def _part(part: Any, unused: MutableMapping[str, None]) -> str:
    if not isinstance(part, Mapping):
        return text_of(part) or ""
    text = part.get("text")
    kind = part.get("type") or (None if text is None else "text")
    if isinstance(text, Mapping) and "value" in text:  # as OpenAI's Assistants write it
        if text.get("annotations"):
            unused.setdefault("annotations of texts")
        text = text["value"]
    is_empty = text is None and all(value in (None, "", [], {}) for name, value in part.items() if name != "type")
    if kind in TEXT_PARTS and (isinstance(text, str) or is_empty):
        return str(text or "")
    if kind == "tool_use":
        return call_text(part.get("name"), part.get("input"))
    if kind == "tool_result":
        return content_of(result_of(part.get("content")), unused)
    if kind in THOUGHTS:
        unused.setdefault(f"parts of type {kind}")
        return ""
    raise OddValueError(
        f"found a content part of type {kind!r} with the fields {list(part)}; only text can be read. Remove such rows"
    )


def own_calls(message: Message, unused: MutableMapping[str, None]) -> Iterator[str]:
    """The tool calls of a message, each as text. Fields that are not read are added to `unused`.

    A call without a tool name has no effect and is not read.
    """
    calls = message.get("tool_calls") or []
    if isinstance(calls, str):
        calls = json_or_text(calls)
    for call in (*(calls if isinstance(calls, list) else [calls]), message.get("function_call")):
        if not call:
            continue
        text = _call(call)
        if text is None:
            unused.setdefault("tool_calls without a name")
        else:
            yield text
    for name, value in message.items():
        if name not in READ_FIELDS and name not in PLAIN_FIELDS and value not in (None, "", [], {}):
            unused.setdefault(name)


def untrained(message: Message) -> bool:
    """Whether a message says that it must not be trained on: its weight or one of `TRAINED` is 0 or false."""
    return any(str(message.get(name)).casefold() in ("false", "0", "0.0") for name in ("weight", *TRAINED))


def is_thought(message: Message) -> bool:
    """Whether a message is a model's reasoning, by its channel."""
    return bool(message.get("channel") == "analysis")


def json_or_text(text: str) -> Any:
    """The value of JSON text, or the text itself."""
    try:
        return decoded(text)
    except ValueError:
        return text


def _call(call: Any) -> str | None:
    made = json_or_text(call) if isinstance(call, str) else call
    if not isinstance(made, Mapping):
        return call_text(None, call)
    function = made.get("function") or made.get("custom")
    function = json_or_text(function) if isinstance(function, str) else function
    made = function if isinstance(function, Mapping) else made
    name = made.get("name") or made.get("tool_name") or (function if isinstance(function, str) else None)
    if not name:
        return call_text(None, call) if isinstance(call, str) else None
    return call_text(name, next((made[field] for field in ARGUMENTS if made.get(field) is not None), None))


def call_text(name: Any, arguments: Any) -> str:
    """A tool call in the form that most open models use: a JSON object between `<tool_call>` tags.

    Args:
        name: name of the tool. None if the call is only a text.
        arguments: an object, its JSON text, which is not changed, or any other text.
    """
    is_text = isinstance(arguments, str) and bool(arguments.strip())
    is_json = is_text and json_or_text(arguments) is not arguments
    given = arguments if is_json or (is_text and name is None) else as_json(arguments or {})
    inner = given if name is None else f'{{"name": {as_json(name)}, "arguments": {given}}}'
    return f"<tool_call>\n{inner}\n</tool_call>"


def as_json(value: Any) -> str:
    """JSON text of a value. Numbers keep the digits of the file."""
    match value:
        case Number():
            return str(value)
        case Mapping():
            return "{" + ", ".join(f"{as_json(str(name))}: {as_json(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(as_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
