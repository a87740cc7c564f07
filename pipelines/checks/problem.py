"""One thing that is wrong with a run configuration, in one sentence."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MISSING = object()
"""Stands for the value of a missing field."""
_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """A field that is wrong.

    Attributes:
        field: its path, as in the YAML: `ops.cluster_sweep.config.n_init`.
        expected: description of a correct value.
        got: the value, or `MISSING`.
        advice: what to do, if `expected` does not say it.
    """

    field: str
    expected: str
    got: object = MISSING
    advice: str = ""

    def __str__(self) -> str:
        got = "nothing" if self.got is MISSING else shown(self.got)
        sentence = f"{self.field}: expected {self.expected}, got {got}."
        return f"{sentence} {self.advice}" if self.advice else sentence


@dataclass(frozen=True)
class Refusal:
    """A wrong field, with the reason as another module words it."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {' '.join(self.reason.split())}"


AnyProblem = Problem | Refusal


def shown(value: object) -> str:
    """Format a value for an error message: one line, shortened if it is long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def listed(values: Iterable[object]) -> str:
    """Join names with commas."""
    return ", ".join(str(value) for value in values)


def unknown_names(field: str, what: str, names: list[str], known: Any) -> Iterator[AnyProblem]:
    """Problems of unknown names (with the nearest known one) and of repeated names."""
    import difflib

    for name in dict.fromkeys(names):
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 1)
            yield Problem(field, f"one of {listed(known)}", name, f"Did you mean {near[0]}?" if near else "")
        elif names.count(name) > 1:
            yield Problem(field, f"each {what} once", names, f"{name} is there {names.count(name)} times.")


def report(problems: Iterable[AnyProblem]) -> str:
    """All problems, one per line."""
    lines = list(dict.fromkeys(str(problem) for problem in problems))
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} things are wrong with the configuration. Nothing was computed.", *lines])
