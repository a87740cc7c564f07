"""Checks of a run configuration before anything is computed. No asset imports this."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines.checks import corpus, results, shards, sources, store, study, training
from pipelines.checks.configured_run import configured_run
from pipelines.checks.problem import AnyProblem, Problem, report
from pipelines.checks.schema import execution_problems, schema_problems, unreadable_values

PARTS = (store, sources, shards, corpus, training, results, study)


def problems_of(job: dg.JobDefinition, run_config: Mapping[str, Any], partition: str | None = None) -> list[AnyProblem]:
    """Find everything that is wrong with the configuration of a run, without computing anything.

    Args:
        job: the job, whose assets the run makes.
    """
    if not isinstance(run_config, Mapping):
        return [Problem("configuration", "a mapping of resources and ops", run_config)]
    if unreadable := unreadable_values(run_config):
        return unreadable
    try:
        resolved = dg.validate_run_config(job, dict(run_config))
    except dg.DagsterInvalidConfigError as error:
        return schema_problems(error)
    except Exception as error:  # an environment variable is not set; Dagster has no class for this
        return [Problem("configuration", "values that Dagster can resolve", advice=str(error))]
    if partition is not None and job.partitions_def is None:
        return [Problem("partition", "none, because this job has no partitions", partition, "Leave it out.")]
    run, problems = configured_run(job, resolved, partition)
    of_parts = (problem for part in PARTS for problem in part.problems(run))
    return [*problems, *execution_problems(run_config), *of_parts]


__all__ = ["problems_of", "report"]
