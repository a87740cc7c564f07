"""Runs of a study beside each other: what happens to those that fail."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.run_records import FAILURES_IN_A_ROW, read_records, run_beside


@dataclass(frozen=True)
class Run:
    key: str


def study(
    path: Path, keys: str, execute: Callable[[Run], dict[str, Any]], workers: int = 1, late: str = ""
) -> tuple[list[str], list[int]]:
    """Keys of finished runs in order, and numbers of the workers that were started."""
    done: list[str] = []
    started: list[int] = []

    def start(number: int) -> ThreadPoolExecutor:
        started.append(number)
        return ThreadPoolExecutor(1)

    def wanted() -> list[Run]:
        return [Run(key) for key in keys if key not in done]

    run_beside(
        path,
        workers,
        wanted,
        lambda run: run.key not in late,
        start,
        execute,
        lambda record: done.append(record["key"]),
    )
    return done, started


def test_a_failed_run_gets_a_new_process_and_a_second_try_at_the_end(tmp_path: Path) -> None:
    tries: list[str] = []

    def execute(run: Run) -> dict[str, Any]:
        tries.append(run.key)
        if run.key == "x" or (run.key == "b" and tries.count("b") == 1):
            raise MemoryError("CUDA out of memory")
        return {"key": run.key}

    done, started = study(tmp_path / "runs.jsonl", "abxcdl", execute, late="l")
    assert "".join(tries) == "abxcdbx"
    assert done == ["a", "c", "d", "b"] == list(read_records(tmp_path / "runs.jsonl"))
    assert started == [0] * 4


@pytest.mark.parametrize("workers", [1, 3])
def test_a_study_whose_runs_all_fail_stops_with_the_error(tmp_path: Path, workers: int) -> None:
    tries = []

    def execute(run: Run) -> dict[str, Any]:
        tries.append(run.key)
        raise MemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="one after another") as failed:
        study(tmp_path / "runs.jsonl", "abcdefghijklmnopqrstuvwxyz", execute, workers)
    assert isinstance(failed.value.__cause__, MemoryError)
    assert workers + FAILURES_IN_A_ROW < len(tries) <= 2 * workers + FAILURES_IN_A_ROW
