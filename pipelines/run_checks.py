"""Everything that is wrong with a run configuration, said before the first asset computes."""

import sys
from types import TracebackType
from typing import Any

import dagster as dg

from pipelines.store.run_values import FIXED_TAG, JOB_TAG, configuration_of, digest

_CHECKED: set[str] = set()
"""Runs whose configuration this process has looked at."""


class RunChecks(dg.ConfigurableResource):
    """Looks at the whole configuration of a run, once."""

    enabled: bool = True
    """Off: each asset finds out by itself, after those before it have computed."""

    def check(self, context: Any) -> None:
        """Refuse a run with a wrong configuration before its first asset computes.

        Args:
            context: of the step that is about to compute, a `dagster.AssetExecutionContext`.

        Raises:
            dagster.Failure: all that is wrong, a sentence each.
        """
        run = context.run
        if not self.enabled or run.run_id in _CHECKED:
            return
        if not _has_computed(context.instance, run.run_id):
            from pipelines.checks import problems_of, report

            _refuse_another(run, context.job_def)
            values = configuration_of(run, context.job_def)
            if problems := problems_of(context.job_def, values, run.tags.get("dagster/partition")):
                raise dg.Failure(report(problems), allow_retries=False)
        _CHECKED.add(run.run_id)


def _refuse_another(run: dg.DagsterRun, job: dg.JobDefinition) -> None:
    """A job with a configuration of its own takes no other: Dagster would fill what that leaves out with its own.

    Raises:
        dagster.Failure: the run's configuration is another one.
    """
    fixed = run.tags.get(FIXED_TAG)
    if fixed and run.run_config and digest(run.run_config) != fixed:
        general = run.tags.get(JOB_TAG, "hydralora")
        raise dg.Failure(
            f"The job {job.name} has one complete configuration, got another. Change the file that its `defs.yaml` "
            f"names and reload, or launch the job {general} with your own.",
            allow_retries=False,
        )


def explain_invalid_configurations() -> None:
    """Let this process end with sentences, and no stack trace, where Dagster refuses a run configuration.

    `dagster job execute` resolves the configuration before a logger or a step of ours exists, and leaves the error to
    the interpreter's last handler. Other errors keep theirs.
    """
    before = sys.excepthook

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, dg.DagsterInvalidConfigError):
            before(kind, error, trace)
            return
        from pipelines.checks import report
        from pipelines.checks.schema import schema_problems

        print(report(schema_problems(error)), file=sys.stderr)

    sys.excepthook = explain


def _has_computed(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a step of the run ended well: then another process has looked at the configuration."""
    return bool(instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS, limit=1).records)
