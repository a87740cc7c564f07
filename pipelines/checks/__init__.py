"""What is checked of a run configuration before anything is computed, a module for each room. No asset imports this."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from pipelines.checks import corpus, execution, results, shards, sources, store, study, training
from pipelines.checks.configured_run import configured_run
from pipelines.checks.problem import AnyProblem, Problem, report
from pipelines.checks.schema import schema_problems

ROOMS = (store, sources, shards, corpus, training, results, study)


def problems_of(job: dg.JobDefinition, run_config: Mapping[str, Any], partition: str | None = None) -> list[AnyProblem]:
    """Everything that is wrong with the configuration of a run; nothing is computed.

    Args:
        job: with the assets that the run makes.
        partition: key of the run's partition.
    """
    if not isinstance(run_config, Mapping):
        return [Problem("configuration", "a mapping of resources and ops", run_config)]
    if unreadable := [*_fields_without_name(run_config, ""), *_numbers_too_large(run_config, "")]:
        return unreadable
    try:
        resolved = dg.validate_run_config(job, dict(run_config))
    except dg.DagsterInvalidConfigError as error:
        return schema_problems(error)
    except Exception as error:  # a variable of the environment that is not set; Dagster has no class of its own for it
        return [Problem("configuration", "values that Dagster can resolve", advice=str(error))]
    run, problems = configured_run(job, resolved, partition)
    of_rooms = (problem for room in ROOMS for problem in room.problems(run))
    return [*problems, *execution.problems(run_config), *of_rooms]


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


__all__ = ["problems_of", "report"]
