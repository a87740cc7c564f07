"""Turns pydantic's errors into problems; checks limits of resources, which Dagster would report one at a time."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import ValidationError

from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal, listed
from pipelines.store.configuration import limits_of, limits_text

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "missing": "a value",
}


def read_config(
    cls: type[dg.Config], values: Mapping[str, Any], field: str
) -> tuple[dg.Config | None, list[AnyProblem]]:
    """The configuration of an asset, or what is wrong with it.

    Args:
        field: path of `values` in the YAML.
    """
    try:
        return cls(**values), []
    except dg.Failure as refused:  # raised by a validator: two sources have the same name
        name = next((name for name in ("evaluation_sets", "sources") if name in cls.model_fields), "")
        return None, [Refusal(f"{field}.{name}", str(refused.description).removeprefix("sources: "))]
    except ValidationError as error:
        return None, [_problem(details, field) for details in error.errors(include_url=False)]


def check_limits(cls: type[dg.ConfigurableResource], values: Mapping[str, Any], field: str) -> Iterator[AnyProblem]:
    """Values of a resource outside the limits of its fields."""
    for name, value in values.items():
        info = cls.model_fields.get(name)
        limits = {} if info is None else limits_of(info)
        items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        for item in items:
            if isinstance(item, int | float) and not isinstance(item, bool) and not _within(item, limits):
                yield Problem(f"{field}.{name}", limits_text(limits) or "a finite number", value)
                break


def _within(value: float, limits: Mapping[str, float]) -> bool:
    return math.isfinite(value) and all(
        {"ge": value >= limit, "gt": value > limit, "le": value <= limit, "lt": value < limit}[name]
        for name, limit in limits.items()
    )


def dotted(field: str, parts: tuple[Any, ...]) -> str:
    """Append parts to a path: names after a dot, list indices in brackets."""
    for part in parts:
        field += f"[{part}]" if isinstance(part, int) else f".{part}"
    return field


def _problem(details: Any, field: str) -> AnyProblem:
    path, kind, got = dotted(field, details["loc"]), details["type"], details["input"]
    context = details.get("ctx", {})
    limits = {name: context[name] for name in ("ge", "gt", "le", "lt") if name in context}
    if kind == "extra_forbidden":
        return Problem(path, "no field of this name", got, "Remove it, or correct its name.")
    if kind == "value_error":
        return Refusal(path, f"{context['error']}.")
    if kind == "literal_error":
        return Problem(path, f"one of {context['expected'].replace(' or ', ', ')}", got)
    if kind in ("too_short", "string_too_short"):
        return Problem(path, f"at least {context['min_length']} entry" if kind == "too_short" else "text", got)
    expected = limits_text(limits) or _EXPECTED.get(kind) or details["msg"]
    return Problem(path, expected, MISSING if kind == "missing" else got)


def unknown_names(field: str, what: str, names: list[str], known: Any) -> Iterator[AnyProblem]:
    """Problems of unknown names (with the nearest known one) and of repeated names."""
    import difflib

    for name in dict.fromkeys(names):
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 1)
            yield Problem(field, f"one of {listed(known)}", name, f"Did you mean {near[0]}?" if near else "")
        elif names.count(name) > 1:
            yield Problem(field, f"each {what} once", names, f"{name} is there {names.count(name)} times.")
