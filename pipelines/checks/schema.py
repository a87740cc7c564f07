"""Turns Dagster's errors about a configuration into problems; finds wrong values that Dagster accepts."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal, listed

_WORDS = {"Int": "a whole number", "Float": "a number", "Bool": "true or false", "String": "text"}


def schema_problems(error: dg.DagsterInvalidConfigError) -> list[AnyProblem]:
    """One problem for each unknown field, missing field and value of a wrong type."""
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
    """A value that Dagster has already formatted."""

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
    """Names of the known fields, parsed from Dagster's message: those at the first level of its braces."""
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


def unreadable_values(values: Any, field: str = "") -> list[AnyProblem]:
    """Names and numbers that Dagster does not expect, wherever they are.

    YAML reads the names `1`, `yes` and `null` as other things than text. No library takes larger whole numbers.
    """
    if isinstance(values, Mapping):
        found: list[AnyProblem] = []
        for name, value in values.items():
            if isinstance(name, str):
                found += unreadable_values(value, f"{field}.{name}" if field else name)
            else:
                advice = "Put it in quotes if it is a name."
                found.append(Problem(field or "configuration", "text as the name of a field", name, advice))
        return found
    if isinstance(values, list):
        return [problem for i, value in enumerate(values) for problem in unreadable_values(value, f"{field}[{i}]")]
    if isinstance(values, int) and not -(2**63) <= values < 2**63:
        return [Problem(field, "a number of at most 64 bits", values)]
    return []


def execution_problems(run_config: Mapping[str, Any]) -> Iterator[AnyProblem]:
    """Problems in `execution` and `loggers`: values with which Dagster waits forever, or which it ignores."""
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
