"""Runs of a study, several beside each other on the GPUs of one machine, the most important first, until time is up."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from experts_runs import Run, execute, warm_up
from run_records import read_records, rewrite, run_beside

# Seconds of a run among eight on one H100, before the first has ended.
FIRST_GUESS = 40.0

# Records so far -> all runs that are wanted, the most important first, whether or not they have a record.
Plan = Callable[[Mapping[str, Mapping[str, Any]]], Sequence[Run]]


def run_all(
    plan: Plan,
    state: Path,
    *,
    minutes: float,
    workers: int,
    device: str,
    budget: Any,
    base: str = "embedded",
    execute: Callable[..., dict[str, Any]] = execute,
    warm_up: Callable[[Path, str, str], None] = warm_up,
) -> None:
    """Execute what the plan asks for and STATE/runs.jsonl does not have, until `minutes` are nearly over.

    The groups of the mixes come from STATE/mixes. A line is written after each run, so that a rerun goes on. The plan
    is asked again whenever a worker is free, with all records so far. A run that failed is not tried again. Another
    study passes its own `execute`, with a budget of its own, and `warm_up`.
    """
    end = time.monotonic() + 60 * minutes
    results = state / "runs.jsonl"
    records = read_records(results)
    rewrite(results, records)
    begun: set[str] = set()
    took: dict[str, list[float]] = {}
    for record in records.values():
        took.setdefault(record["mix"], []).append(record["seconds"])
    context = multiprocessing.get_context("spawn")
    import torch

    gpus = context.Queue()
    for slot in range(workers):
        gpus.put(str(slot % max(1, torch.cuda.device_count())))
    with ProcessPoolExecutor(workers, context, _start, (warm_up, gpus, state / "mixes", device, base)) as pool:

        def chosen(number: int) -> list[Run]:
            waiting = [run for run in plan(records) if run.key not in records and run.key not in begun]
            runs = _startable(waiting, took, end, number)
            begun.update(run.key for run in runs)
            return runs

        def finished(record: dict[str, Any]) -> None:
            records[record["key"]] = record
            took.setdefault(record["mix"], []).append(record["seconds"])
            _print(record)

        run_beside(
            results, workers, chosen, lambda run: pool.submit(execute, run, state / "mixes", device, budget), finished
        )
    print(f"{sum(run.key not in records for run in plan(records))} runs are left", flush=True)


def _start(warm_up: Callable[..., None], gpus: Any, *warm: Any) -> None:
    """Take a GPU, before CUDA starts in this process, and load what every run needs."""
    number = gpus.get()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = listed.split(",")[int(number)] if listed else number
    warm_up(*warm)


def _startable(waiting: Sequence[Run], took: dict[str, list[float]], end: float, number: int) -> list[Run]:
    """The first runs that will end in time."""
    left = end - time.monotonic()
    chosen = []
    for run in waiting:
        recent = took.get(run.mix, [])[-8:]
        expected = max(recent) * 1.1 if recent else FIRST_GUESS
        if expected < left and len(chosen) < number:
            chosen.append(run)
    return chosen


def _print(record: dict[str, Any]) -> None:
    losses = {
        name or "-": {part: [round(loss["macro"], 4), round(loss["token"], 4)] for part, loss in parts.items()}
        for name, parts in record["loss"].items()
    }
    print(f"{record['seconds']:6.1f} s  {record['key']}  {record['trainable']}  {json.dumps(losses)}", flush=True)
