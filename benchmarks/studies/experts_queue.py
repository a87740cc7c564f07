"""Runs of a study, several beside each other on the GPUs of one machine, the most important first, until time is up."""

import json
import math
import multiprocessing
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from experts_runs import Run, execute, warm_up
from run_records import read_records, rewrite, run_beside

# Seconds of a run among eight on one H100, before the first has ended.
FIRST_GUESS = 40.0

# Records so far -> all runs that are wanted, the most important first, whether or not they have a record.
Plan = Callable[[Mapping[str, Mapping[str, Any]]], Sequence[Run]]


def add_arguments(parser: ArgumentParser) -> None:
    """Those of `run_all`."""
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=12, help="runs beside each other, dealt out to the GPUs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--memory", type=float, default=0.9, help="share of a GPU's memory that its workers may take")


def run_all(
    plan: Plan,
    state: Path,
    arguments: Namespace,
    *,
    budget: Any,
    base: str = "embedded",
    execute: Callable[..., dict[str, Any]] = execute,
    warm_up: Callable[[Path, str, str], None] = warm_up,
) -> None:
    """Execute what the plan asks for and STATE/runs.jsonl does not have, until the time is nearly over.

    The groups of the mixes come from STATE/mixes. A line is written after each run, so that a rerun goes on. The plan
    is asked again whenever a worker is free, with all records so far. See `run_beside` for runs that fail. `arguments`
    are those of `add_arguments`. Another study passes its own `execute`, with a budget of its own, and `warm_up`.
    """
    end = time.monotonic() + 60 * float(arguments.minutes)
    results = state / "runs.jsonl"
    records = read_records(results)
    rewrite(results, records)
    took: dict[str, list[float]] = {}
    for record in records.values():
        took.setdefault(record["mix"], []).append(record["seconds"])
    context = multiprocessing.get_context("spawn")
    import torch

    gpus = max(1, torch.cuda.device_count())
    share = arguments.memory / math.ceil(arguments.workers / gpus) if arguments.device == "cuda" else None

    def start(number: int) -> ProcessPoolExecutor:
        warm = (state / "mixes", arguments.device, base)
        return ProcessPoolExecutor(1, context, _start, (number % gpus, share, warm_up, *warm))

    def wanted() -> list[Run]:
        return [run for run in plan(records) if run.key not in records]

    def startable(run: Run) -> bool:
        recent = took.get(run.mix, [])[-8:]
        return time.monotonic() + (max(recent) * 1.1 if recent else FIRST_GUESS) < end

    def finished(record: dict[str, Any]) -> None:
        records[record["key"]] = record
        took.setdefault(record["mix"], []).append(record["seconds"])
        _print(record)

    job = partial(_executed, execute, folder=state / "mixes", device=arguments.device, budget=budget)
    run_beside(results, arguments.workers, wanted, startable, start, job, finished)
    print(f"{len(wanted())} runs are left", flush=True)


def _start(gpu: int, share: float | None, warm_up: Callable[..., None], *warm: Any) -> None:
    """Take a GPU, before CUDA starts in this process, and this share of its memory; load what every run needs."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = listed.split(",")[gpu] if listed else str(gpu)
    if share is not None:
        import torch

        torch.cuda.set_per_process_memory_fraction(share)
    warm_up(*warm)


def _executed(
    execute: Callable[..., dict[str, Any]], run: Run, folder: Path, device: str, budget: Any
) -> dict[str, Any]:
    """The record of a run, with the GPU memory it took; memory that it no longer needs goes back to the GPU."""
    import torch

    record = execute(run, folder, device, budget)
    if device == "cuda":
        record["gpu_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return record


def _print(record: dict[str, Any]) -> None:
    losses = {
        name or "-": {part: [round(loss["macro"], 4), round(loss["token"], 4)] for part, loss in parts.items()}
        for name, parts in record["loss"].items()
    }
    print(f"{record['seconds']:6.1f} s  {record['key']}  {record['trainable']}  {json.dumps(losses)}", flush=True)
