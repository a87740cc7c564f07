"""Reads JSON files whose fields are checked, so that a damaged one ends in one sentence."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.atomic_files import load_json

NUMBER = int | float
_WORDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", NUMBER: "a number"}
_ABSENT = object()


def load_object(
    path: Path, fields: Mapping[str, Any], optional: Mapping[str, Any] | None = None, *, advice: str
) -> dict[str, Any]:
    """Read the object in a JSON file. Fields that are not named may have any value.

    Args:
        fields: name -> shape: `str`, `int`, `NUMBER` or `object` (any value); `[shape]` for a list; `{name: shape}` for
            an object with these fields; `{str: shape}` for one with any names.
        optional: the same of fields that may be absent.
        advice: what to do if the file is not as expected.

    Raises:
        ValueError: the file is not JSON, or a field is absent or of another shape.
    """
    try:
        value = load_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}. {advice}") from None
    present = {name: shape for name, shape in (optional or {}).items() if isinstance(value, dict) and name in value}
    for problem in _problems(value, {**fields, **present}, ""):
        raise ValueError(f"{path}: {problem}. {advice}")
    return dict(value)


def _problems(value: Any, shape: Any, field: str) -> Iterator[str]:
    """A sentence for each value that does not have its shape, in the order of the fields."""
    kind: Any = type(shape) if isinstance(shape, dict | list) else shape
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
        got = "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)[:60]
        yield f"{field}: expected {_WORDS[kind]}, got {got}".removeprefix(": ")
    elif isinstance(shape, list):
        for i, item in enumerate(value):
            yield from _problems(item, shape[0], f"{field}[{i}]")
    elif isinstance(shape, dict) and isinstance(value, dict):
        for name in value if str in shape else shape:
            inner = shape[str] if str in shape else shape[name]
            yield from _problems(value.get(name, _ABSENT), inner, f"{field}.{name}".removeprefix("."))
