"""What Dagster says of a configuration that does not fit a job, as problems."""

import re
from typing import Any

import dagster as dg

from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal, listed

_WORDS = {"Int": "a whole number", "Float": "a number", "Bool": "true or false", "String": "text"}


def schema_problems(error: dg.DagsterInvalidConfigError) -> list[AnyProblem]:
    """Unknown and missing fields and values of a wrong type, a problem each."""
    return [problem for item in error.errors for problem in _problems(item)]


def _problems(item: Any) -> list[AnyProblem]:
    path, data = _path(item.stack), item.error_data
    match item.reason.name:
        case "FIELD_NOT_DEFINED":
            return [_unknown(path, data.field_name, item)]
        case "FIELDS_NOT_DEFINED":
            return [_unknown(path, name, item) for name in data.field_names]
        case "MISSING_REQUIRED_FIELD":
            return [Problem(_joined(path, data.field_name), "a value", MISSING, "The run needs it.")]
        case "MISSING_REQUIRED_FIELDS":
            return [Problem(_joined(path, name), "a value", MISSING, "The run needs it.") for name in data.field_names]
        case "RUNTIME_TYPE_MISMATCH":
            return [Problem(path, _expected(data.config_type_snap), _Shown(data.value_rep), _as_number(data.value_rep))]
        case "SELECTOR_FIELD_ERROR":
            names = [field.name for field in data.config_type_snap.fields]
            return [Problem(path, f"exactly one of {listed(names)}", data.incoming_fields)]
        case "FAILED_POST_PROCESSING" if found := re.search(r'environment variable "([^"]+)"', item.message):
            return [Problem(path, "a variable of the environment that is set", found[1], "Set it, or write the value.")]
    return [Refusal(path, item.message.partition(" Expected: ")[0])]


def _as_number(shown: str) -> str:
    """Advice for a text that looks like a number."""
    text = shown.strip("'\"")
    try:
        float(text)
    except ValueError:
        return ""
    if shown == text:
        return ""
    return f"YAML reads {text} as text: write it without quotes, with a point before an exponent (1.0e-3)."


class _Shown(str):
    """A value that Dagster has written out already."""

    def __repr__(self) -> str:
        return str(self)


def _unknown(path: str, name: str, item: Any) -> Problem:
    import difflib

    snap = item.error_data
    known = _field_names(item)
    near = difflib.get_close_matches(snap.field_name if hasattr(snap, "field_name") else name, known, 1)
    advice = f"Did you mean {near[0]}?" if near else "Remove it, correct its name, or take the job that has it."
    return Problem(_joined(path, name), f"one of {listed(known)}" if known else "no field of this name", name, advice)


def _field_names(item: Any) -> list[str]:
    """The fields there are, read off Dagster's sentence: names at the first level of its braces."""
    text = item.message.partition('Expected: "')[2]
    depth, names = 0, []
    for token in re.findall(r"[{}\[\]()]|[A-Za-z_0-9]+\??:", text):
        if token in "{[(":
            depth += 1
        elif token in "}])":
            depth -= 1
        elif depth == 1:
            names.append(token.rstrip("?:"))
    return names


def _path(stack: Any) -> str:
    path = ""
    for entry in stack.entries:
        if hasattr(entry, "field_name"):
            path = _joined(path, entry.field_name)
        elif hasattr(entry, "list_index"):
            path += f"[{entry.list_index}]"
        elif hasattr(entry, "map_key"):
            path = _joined(path, entry.map_key)
    return path or "configuration"


def _joined(path: str, name: str) -> str:
    return name if path in ("", "configuration") else f"{path}.{name}"


def _expected(snap: Any) -> str:
    if snap.enum_values:
        return f"one of {listed(value.value for value in snap.enum_values)}"
    if snap.kind.name in ("ARRAY", "NONEABLE_ARRAY"):
        return "a list"
    return _WORDS.get(snap.given_name or "", "a mapping of fields" if snap.fields else "another type")
