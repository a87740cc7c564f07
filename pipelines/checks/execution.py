"""How Dagster runs the steps, and what it prints: values that it takes and then waits for ever, or ignores."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.checks.problem import AnyProblem, Problem, listed


def problems(run_config: Mapping[str, Any]) -> Iterator[AnyProblem]:
    """Of the sections `execution` and `loggers`."""
    steps = _at(run_config, "execution", "config", "multiprocess").get("max_concurrent")
    if isinstance(steps, int) and steps < 0:
        field = "execution.config.multiprocess.max_concurrent"
        yield Problem(field, "at least 1 step at a time, or 0 for one on each core", steps)
    limits = _at(run_config, "execution", "config", "multiprocess").get("tag_concurrency_limits")
    for i, limit in enumerate(limits if isinstance(limits, list) else []):
        if isinstance(limit, Mapping) and isinstance(limit.get("limit"), int) and limit["limit"] < 1:
            field = f"execution.config.multiprocess.tag_concurrency_limits[{i}].limit"
            yield Problem(field, "at least 1: no step would ever start", limit["limit"])
    level = _at(run_config, "loggers", "console", "config").get("log_level")
    if isinstance(level, str) and level.upper() not in logging.getLevelNamesMapping():
        yield Problem("loggers.console.config.log_level", f"one of {listed(logging.getLevelNamesMapping())}", level)


def _at(values: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}
