"""Records of a study's runs as JSON lines, and runs beside each other in a pool of processes."""

import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

Records = Mapping[str, Mapping[str, Any]]


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
    next_runs: Callable[[int], Iterable[Any]],
    submit: Callable[[Any], Future[dict[str, Any]]],
    finished: Callable[[dict[str, Any]], None],
) -> None:
    """Keep `workers` runs going until none is left; runs that fail are reported and left out.

    Args:
        results: a line is appended after each run.
        workers: runs at a time.
        next_runs: takes a number and gives at most as many runs, each once.
        submit: starts a run.
        finished: called with each record.
    """
    pending: dict[Future[dict[str, Any]], str] = {}
    while True:
        for run in next_runs(workers - len(pending)):
            pending[submit(run)] = run.key
        if not pending:
            return
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            key = pending.pop(future)
            if error := future.exception():
                print(f"failed: {key}\n{''.join(traceback.format_exception(error))[-3000:]}", flush=True)
                continue
            record = future.result()
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            finished(record)
