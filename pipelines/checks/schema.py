"""What Dagster says of a configuration that does not fit a job, as problems; and wrong values that Dagster takes."""

import logging
import re
from collections.abc import Iterator, Mapping
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


def unreadable_values(run_config: Mapping[str, Any]) -> list[AnyProblem]:
    """Names and numbers that Dagster does not expect."""
    return [*_fields_without_name(run_config, ""), *_numbers_too_large(run_config, "")]


def _fields_without_name(values: Any, field: str) -> Iterator[AnyProblem]:
    """Keys that are no text, which Dagster does not expect: YAML reads `1`, `yes` and `null` as other things."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            if not isinstance(name, str):
                advice = "Put it in quotes if it is a name."
                yield Problem(field or "configuration", "text as the name of a field", name, advice)
            else:
                yield from _fields_without_name(value, f"{field}.{name}" if field else name)
    elif isinstance(values, list):
        for i, value in enumerate(values):
            yield from _fields_without_name(value, f"{field}[{i}]")


def _numbers_too_large(values: Any, field: str) -> Iterator[AnyProblem]:
    """Whole numbers that no library takes, wherever they stand."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _numbers_too_large(value, f"{field}.{name}" if field else name)
    elif isinstance(values, list):
        for i, value in enumerate(values):
            yield from _numbers_too_large(value, f"{field}[{i}]")
    elif isinstance(values, int) and not -(2**63) <= values < 2**63:
        yield Problem(field, "a number of at most 64 bits", values)


def execution_problems(run_config: Mapping[str, Any]) -> Iterator[AnyProblem]:
    """Of the sections `execution` and `loggers`: values that Dagster takes and then waits for ever, or ignores."""
    steps = _section(run_config, "execution", "config", "multiprocess").get("max_concurrent")
    if isinstance(steps, int) and steps < 0:
        field = "execution.config.multiprocess.max_concurrent"
        yield Problem(field, "at least 1 step at a time, or 0 for one on each core", steps)
    limits = _section(run_config, "execution", "config", "multiprocess").get("tag_concurrency_limits")
    for i, limit in enumerate(limits if isinstance(limits, list) else []):
        if isinstance(limit, Mapping) and isinstance(limit.get("limit"), int) and limit["limit"] < 1:
            field = f"execution.config.multiprocess.tag_concurrency_limits[{i}].limit"
            yield Problem(field, "at least 1: no step would ever start", limit["limit"])
    level = _section(run_config, "loggers", "console", "config").get("log_level")
    if isinstance(level, str) and level.upper() not in logging.getLevelNamesMapping():
        yield Problem("loggers.console.config.log_level", f"one of {listed(logging.getLevelNamesMapping())}", level)


def _section(values: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}
