"""Runs a job in this process. It is recorded in DAGSTER_HOME as any other run, and the web UI shows it."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

CONSOLE = {"console": {"config": {"log_level": "INFO"}}}


def run(
    configuration: dict[str, Any],
    job: str,
    partition: str | None = None,
    *,
    file: str | None = None,
    assets: Sequence[str] | None = None,
) -> dict[str, str] | None:
    """Execute a job. Returns asset -> fingerprint of what it made; None if it failed.

    Args:
        file: the configuration's file, which the report names.
        assets: the assets of the job that are wanted; None means all.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    import dagster as dg

    from pipelines.console import STOPPED, failure_text
    from pipelines.definitions import defs
    from pipelines.report.commands import FILE_TAG

    logging.getLogger("httpx").setLevel(logging.WARNING)
    definition = defs.resolve_job_def(job)
    values = {"loggers": CONSOLE, **configuration}
    values["loggers"] = _counting(values["loggers"], assets or [node.name for node in definition.nodes])
    values["execution"] = {"config": {"in_process": {}}}
    with dg.DagsterInstance.get() as instance:
        result = definition.execute_in_process(
            run_config=values,
            instance=instance,
            raise_on_error=False,
            partition_key=partition,
            tags={} if file is None else {FILE_TAG: file},
            asset_selection=None if assets is None else [dg.AssetKey(name) for name in assets],
        )
    if not result.success:
        failures = [event.job_failure_data.error for event in result.all_events if event.is_job_failure]
        if any(failure_text(error) == STOPPED for error in failures):
            raise KeyboardInterrupt
        print(
            f"Run {result.run_id} failed. The same command goes on from what is finished; the web UI has the log.",
            file=sys.stderr,
        )
        return None
    made = [event.materialization for event in result.get_asset_materialization_events()]
    return {one.asset_key.path[-1]: (one.tags or {})["dagster/data_version"] for one in made}


def _counting(loggers: Any, stages: Sequence[str]) -> Any:
    """The loggers, with the stages for ours."""
    if not isinstance(loggers, dict) or "console" not in loggers:
        return loggers
    console = loggers["console"] or {}
    return {**loggers, "console": {"config": {**(console.get("config") or {}), "stages": list(stages)}}}
