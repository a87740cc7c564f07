"""What is checked of a run configuration before anything is computed, a module for each room. No asset imports this."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from pipelines.checks import corpus, results, sources, store, study, training
from pipelines.checks.configured_run import configured_run
from pipelines.checks.problem import AnyProblem, Problem, report
from pipelines.checks.schema import schema_problems

ROOMS = (store, sources, corpus, training, results, study)


def problems_of(job: dg.JobDefinition, run_config: Mapping[str, Any], partition: str | None = None) -> list[AnyProblem]:
    """Everything that is wrong with the configuration of a run; nothing is computed.

    Args:
        job: with the assets that the run makes.
        run_config: as in the YAML.
        partition: key of the run's partition.
    """
    if not isinstance(run_config, Mapping):
        return [Problem("configuration", "a mapping of resources and ops", run_config)]
    if unnamed := list(_fields_without_name(run_config, "")):
        return unnamed
    try:
        resolved = dg.validate_run_config(job, dict(run_config))
    except dg.DagsterInvalidConfigError as error:
        return schema_problems(error)
    except Exception as error:  # a variable of the environment that is not set; Dagster has no class of its own for it
        return [Problem("configuration", "values that Dagster can resolve", advice=str(error))]
    run, problems = configured_run(job, resolved, partition)
    return [*problems, *(problem for room in ROOMS for problem in room.problems(run))]


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


__all__ = ["problems_of", "report"]
