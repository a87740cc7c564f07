"""Runs whose process is gone: Dagster keeps them STARTED for ever, with the pool slots they hold.

Dagster's own run monitoring looks only at runs that its daemon launched in a container or on another machine. Here a
run is dead when none of the processes that its engine events and its tags name lives any more: the run's own and those
of its steps. A process id that a younger process has taken does not count as alive.
"""

import socket
import time
from collections.abc import Iterator

import dagster as dg
import psutil

from pipelines.store.files.processes import HOST_TAG, start_of, tagged_processes

IN_PROGRESS = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_SECONDS_TO_START = 600.0
_CLOCK_TOLERANCE = 2.0


def end_dead_runs(instance: dg.DagsterInstance, *, any_host: bool = False) -> list[str]:
    """Report runs failed whose processes are gone, and free their pool slots.

    Args:
        any_host: also runs that another host began, which must be gone: its processes cannot be seen from here.

    Returns:
        The ids of these runs.
    """
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(IN_PROGRESS))):
        run = record.dagster_run
        reason = _why_dead(instance, record, any_host)
        if reason is None:
            continue
        instance.report_run_failed(run, f"{reason} The run is reported failed and its pool slots are free again.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run.run_id)
    return ended


@dg.sensor(name="dead_runs", minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Reports runs failed whose processes were killed, and frees their pool slots."""
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(ended)}" if ended else "every run in progress has a living process")


def _why_dead(instance: dg.DagsterInstance, record: dg.RunRecord, any_host: bool) -> str | None:
    """Why a run counts as dead, None if it may live."""
    host, here = record.dagster_run.tags.get(HOST_TAG), socket.gethostname()
    local = host == here or (host is None and _storage_is_local(instance))
    if not local:
        return f"Its host {host or '(unknown)'} was named gone." if any_host else None
    processes = {pid: (seen, "") for pid, seen in _processes(instance, record.dagster_run.run_id)}
    processes |= {pid: (seen, start) for pid, seen, start in tagged_processes(record.dagster_run)}
    if not processes:
        age = time.time() - record.create_timestamp.timestamp()
        return f"It did not start within {_SECONDS_TO_START:.0f} s." if age > _SECONDS_TO_START else None
    if any(_lives(pid, seen, start) for pid, (seen, start) in processes.items()):
        return None
    return f"Its processes are gone ({', '.join(map(str, processes))} on {here}): killed, or the host restarted."


def _processes(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[int, float]]:
    """Process id and time of the events in which the run's processes name themselves."""
    for entry in instance.all_logs(run_id, of_type={dg.DagsterEventType.ENGINE_EVENT}):
        event = entry.dagster_event
        metadata = event.engine_event_data.metadata if event is not None else {}
        value = getattr(metadata.get("pid"), "value", None)
        if value is not None and str(value).isdigit():
            yield int(value), entry.timestamp


def _lives(pid: int, seen: float, start: str = "") -> bool:
    """Whether the process that had an id at a time still runs. The clock decides only where its start is not known."""
    try:
        process = psutil.Process(pid)
        same = start_of(pid) == start if start else process.create_time() <= seen + _CLOCK_TOLERANCE
        return bool(process.status() != psutil.STATUS_ZOMBIE and same)
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def _storage_is_local(instance: dg.DagsterInstance) -> bool:
    return "sqlite" in type(instance.run_storage).__name__.lower()
