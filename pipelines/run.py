"""`python -m pipelines.run CONFIG.yaml --job hydralora`: check a configuration, run the job, say what each stage made.

The job runs in this process, is recorded in DAGSTER_HOME as any other run, and is shown by the web UI. Ends with 1, and
one sentence, where something is wrong.
"""

import logging
import sys
import warnings
from typing import Any

from pipelines.check import checked_arguments
from pipelines.run_configuration import read_configuration

CONSOLE = {"console": {"config": {"log_level": "INFO"}}}


def main() -> None:
    """Check and run a file."""
    arguments = checked_arguments("python -m pipelines.run", __doc__)
    values = read_configuration(arguments.config)
    if not run(values, arguments.job, arguments.partition, file=str(arguments.config)):
        raise SystemExit(1)


def run(configuration: dict[str, Any], job: str, partition: str | None = None, *, file: str | None = None) -> bool:
    """Execute a job; whether it succeeded.

    Args:
        configuration: of the run.
        job: its name.
        partition: key of the run's partition.
        file: the configuration's file, which the report names.
    """
    import dagster as dg

    from pipelines.definitions import defs
    from pipelines.report_commands import FILE_TAG

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    values = {"loggers": CONSOLE, **configuration}
    values["execution"] = {"config": {"in_process": {}}}
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def(job).execute_in_process(
            run_config=values,
            instance=instance,
            raise_on_error=False,
            partition_key=partition,
            tags={} if file is None else {FILE_TAG: file},
        )
    if not result.success:
        print(f"Run {result.run_id} failed. The web UI (make ui) has its log.", file=sys.stderr)
    return result.success


if __name__ == "__main__":
    main()
