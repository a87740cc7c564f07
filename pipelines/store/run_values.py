"""The configuration of a run, which its job may define."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines.store.artifacts import fingerprint_of

JOB_TAG = "hydralora/job"
"""Tag of a configured job: the general job that it configures."""
FIXED_TAG = "hydralora/fixed"
"""Tag of a configured job: `digest` of its configuration, the only one that it accepts."""
HOW_RUN = ("execution", "loggers")
"""Parts of a run configuration that do not change results."""


def configuration_of(run: dg.DagsterRun, job: dg.JobDefinition) -> Mapping[str, Any]:
    """The run's own configuration, else its job's."""
    return run.run_config or job.run_config or {}


def without_how(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a run configuration that results depend on."""
    return {name: value for name, value in values.items() if name not in HOW_RUN}


def digest(values: Mapping[str, Any]) -> str:
    """Hash (16 hex digits) of the parts that results depend on."""
    return fingerprint_of(without_how(values))
