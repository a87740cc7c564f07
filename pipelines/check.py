"""`python -m pipelines.check CONFIG.yaml --job hydralora`: is a run configuration right? Nothing is computed.

Prints everything that is wrong, a sentence each, and then ends with 1.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pipelines.run_configuration import ConfigurationError, read_configuration


def main() -> None:
    """Check a file."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.check", description=__doc__)
    parser.add_argument("config", type=Path, help="run configuration")
    parser.add_argument("--job", default="hydralora", help="job that it is for (default: hydralora)")
    parser.add_argument("--partition", help="of the job one_run: method, seed and learning rate")
    arguments = parser.parse_args()
    if wrong := wrong_with(arguments.config, arguments.job, arguments.partition):
        raise SystemExit(wrong)
    print(f"{arguments.config}: nothing is wrong with it.", file=sys.stderr)


def wrong_with(path: Path, job: str, partition: str | None = None) -> str:
    """All that is wrong with a file, a sentence a line; empty for nothing.

    Args:
        partition: key of the run's partition.
    """
    from pipelines.jobs import JOBS

    names = [one.name for one in JOBS]
    if job not in names:
        return f"--job: expected one of {', '.join(names)}, got {job!r}."
    try:
        configuration = read_configuration(path)
    except ConfigurationError as error:
        return str(error)
    return wrong_values(configuration, job, partition)


def wrong_values(configuration: dict[str, Any], job: str, partition: str | None = None) -> str:
    """`wrong_with` for a configuration that was read."""
    from pipelines.checks import problems_of, report
    from pipelines.definitions import defs

    problems = problems_of(defs.resolve_job_def(job), configuration, partition)
    return report(problems) if problems else ""


if __name__ == "__main__":
    main()
