"""Records of a study's runs as JSON lines, and runs beside each other in a pool of processes."""

import json
import os
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

Records = Mapping[str, Mapping[str, Any]]
FAILURES_IN_A_ROW = 5


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Records by key. A last line that was cut short is left out."""
    records = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records[record["key"]] = record
    return records


def rewrite(path: Path, records: Records) -> None:
    """Without a line that was cut short, which the next one would be appended to."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records.values()))
    os.replace(temporary, path)


def run_beside(
    results: Path,
    workers: int,
    wanted: Callable[[], Sequence[Any]],
    startable: Callable[[Any], bool],
    start: Callable[[int], Executor],
    execute: Callable[[Any], dict[str, Any]],
    finished: Callable[[dict[str, Any]], None],
) -> None:
    """Keep `workers` runs going until none is left.

    A failed run may leave its process without a usable GPU, so the process is replaced. The run is tried once more when
    no other run waits.

    Args:
        results: a line is appended after each run.
        workers: runs at a time.
        wanted: all runs without a record, the most important first.
        startable: whether there is still time for a run.
        start: makes the pool of one process for the worker of this number.
        execute: called in such a pool with a run.
        finished: called with each record.

    Raises:
        RuntimeError: more than `FAILURES_IN_A_ROW` runs, beyond one for each worker, failed one after another.
    """
    pools = [start(number) for number in range(workers)]
    pending: dict[Future[dict[str, Any]], tuple[int, Any]] = {}
    failures: Counter[str] = Counter()
    in_a_row: list[BaseException] = []
    try:
        while True:
            stopped = len(in_a_row) > workers + FAILURES_IN_A_ROW
            busy = {run.key for _, run in pending.values()}
            waiting = [run for run in wanted() if run.key not in busy and failures[run.key] < 2]
            waiting.sort(key=lambda run: failures[run.key])
            free = set(range(workers)) - {number for number, _ in pending.values()}
            for number, run in zip(free, () if stopped else filter(startable, waiting), strict=False):
                pending[pools[number].submit(execute, run)] = number, run
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                number, run = pending.pop(future)
                if error := future.exception():
                    print(f"failed: {run.key}\n{''.join(traceback.format_exception(error))[-3000:]}", flush=True)
                    failures[run.key] += 1
                    in_a_row.append(error)
                    pools[number].shutdown()
                    pools[number] = start(number)
                    continue
                in_a_row.clear()
                record = future.result()
                with results.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                finished(record)
    finally:
        for pool in pools:
            pool.shutdown()
    if stopped:
        raise RuntimeError(f"{len(in_a_row)} runs failed one after another; the last one is the cause") from in_a_row[
            -1
        ]
