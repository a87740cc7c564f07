"""`python -m pipelines.home`: make DAGSTER_HOME ready for a run.

Dagster initialises its storage on first use, and two first runs at once break it for good. Here the first one does it
under a lock and the others wait. Runs that dead processes left are ended, so that they block no pool.
"""

import argparse
import os
import shutil
from pathlib import Path

import dagster as dg
import filelock
import yaml
from sqlalchemy.exc import SQLAlchemyError

from pipelines.sensors.dead_runs import end_dead_runs
from pipelines.store.files.disk import is_disk_full

SETTINGS = Path(__file__).parent / "configs" / "dagster.yaml"
GPU = "gpu"
_TIMEOUT_SECONDS = 300.0


class HomeError(RuntimeError):
    """DAGSTER_HOME cannot be used; the message says what to do."""


def prepare(home: Path, *, any_host: bool = False) -> list[str]:
    """Make the folder, its `dagster.yaml` and its storage if they are missing, and end runs without a process.

    Args:
        any_host: also end runs that other hosts began, see `pipelines.sensors.dead_runs.end_dead_runs`.

    Returns:
        The ids of the runs that were ended.

    Raises:
        HomeError: another process holds the home for five minutes, or Dagster cannot read what is there.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = home / ".prepare.lock"
    try:
        held = filelock.FileLock(lock).acquire(timeout=_TIMEOUT_SECONDS)
    except filelock.Timeout:
        raise HomeError(f"Waited {_TIMEOUT_SECONDS:.0f} s for {lock}. End the process that holds it.") from None
    try:
        with held, _instance(home) as instance:
            _limit_gpu(instance)
            return end_dead_runs(instance, any_host=any_host)
    except (dg.DagsterError, SQLAlchemyError, yaml.YAMLError) as error:
        if is_disk_full(error, home):
            raise
        got = " ".join(str(error).split())[:200].rstrip(".")
        raise HomeError(
            f"{home}: expected settings and storage of Dagster {dg.__version__}, got: {got}. Correct its dagster.yaml, "
            "or set DAGSTER_HOME to a new folder."
        ) from error


def _instance(home: Path) -> dg.DagsterInstance:
    settings = home / "dagster.yaml"
    if not settings.exists():
        unfinished = home / ".dagster.yaml.tmp"
        shutil.copyfile(SETTINGS, unfinished)
        os.replace(unfinished, settings)
    instance = dg.DagsterInstance.from_config(str(home))
    instance.get_runs(limit=1)  # each storage is initialised when it is first asked
    instance.event_log_storage.get_concurrency_keys()
    instance.all_instigator_state()
    return instance


def _limit_gpu(instance: dg.DagsterInstance) -> None:
    """Give the pool its default limit now, so that it shows before the first run; a limit that was set stays."""
    storage = instance.event_log_storage
    if GPU not in storage.get_concurrency_keys():
        storage.initialize_concurrency_limit_to_default(GPU)


def main() -> None:
    """Prepare the folder that DAGSTER_HOME names."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.home", description=__doc__)
    parser.add_argument(
        "--any-host", action="store_true", help="also end runs that other hosts began: they must be gone"
    )
    arguments = parser.parse_args()
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise SystemExit("DAGSTER_HOME: expected an absolute path, found nothing. Set it, as the Makefile does.")
    try:
        ended = prepare(Path(home).resolve(), any_host=arguments.any_host)
    except (HomeError, OSError) as error:
        raise SystemExit(str(error)) from error
    for run_id in ended:
        print(f"Run {run_id} had no living process: reported as failed, its pool slots are free.")


if __name__ == "__main__":
    main()
