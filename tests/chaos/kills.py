"""Each asset is killed at a random moment of its work; the run that follows must give the same bytes."""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.job import (
    STORE,
    Setup,
    assets_in_order,
    contents,
    differences,
    leftovers,
    reference,
    run,
    setup,
    start,
    unlisted,
    wait,
    wait_for,
)
from tests.chaos.progress import Outcome, Try

TRIALS = {"hydralora": 5, "corpus": 18}


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """In each, every asset of the job is killed once, one after the other, on one store."""
    for job, trials in ({"corpus": 1} if short else TRIALS).items():
        for trial in range(trials):
            yield Try(f"{job} {trial}", partial(trial_of, folder / job, job, trial))


def trial_of(folder: Path, job: str, trial: int) -> Outcome:
    """One store that is killed in every asset, and then left in peace."""
    draw = random.Random(f"{job} {trial}")
    expected = reference(folder, job)
    work, log = setup(folder, job, folder / STORE), folder / f"killed-{trial}.log"
    shutil.rmtree(work.store, ignore_errors=True)
    kills, seen = [], 0
    for asset, seconds in assets_in_order(folder / "reference"):
        if kill_in(work, log, asset, draw.random() * seconds):
            kills.append(asset)
        seen += bool(leftovers(work.store))
    code = run(work, log)
    found = differences(expected, contents(work.store)) + leftovers(work.store) + unlisted(work.store)
    if found:
        work.store.rename(folder / f"killed-{trial}")
    failure = log.read_text()[-2000:] if code else ""
    return {
        "job": job,
        "kills": kills,
        "with_leftovers": seen,
        "files": len(expected),
        "failure": failure,
        "differ": found,
    }


def kill_in(work: Setup, log: Path, asset: str, after: float) -> bool:
    """Kill a run with its children so long after it began to build an asset, at the latest when the asset is finished.

    Returns:
        False if the run ended first.
    """
    process = start(work, log)
    building = lambda: any((work.store / asset).glob("*.partial"))  # noqa: E731
    if wait_for(building, seconds=300, process=process):
        wait_for(lambda: not building(), seconds=after, process=process)
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(process, signal.SIGKILL)
    return wait(process) == -signal.SIGKILL


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures for each job."""
    found: dict[str, Any] = {"kills": sum(len(one["kills"]) for one in outcomes)}
    for job in sorted({one["job"] for one in outcomes}):
        of = [one for one in outcomes if one["job"] == job]
        killed = [asset for one in of for asset in one["kills"]]
        found[job] = {
            "trials": len(of),
            "kills": len(killed),
            "kills_by_asset": {asset: killed.count(asset) for asset in sorted(set(killed))},
            "kills_with_leftovers": sum(one["with_leftovers"] for one in of),
            "files_compared": max(one["files"] for one in of),
            "runs_that_failed": [one["failure"] for one in of if one["failure"]],
            "trials_with_differences": [one["differ"] for one in of if one["differ"]],
        }
    return found
