"""Each asset is killed at a random moment of its work; the run that follows must give the same bytes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.chaos.job import assets_in_order, contents, differences, leftovers, run, setup, start, wait, wait_for


def kill_everywhere(folder: Path, job: str, *, trials: int, seed: int = 0) -> dict[str, Any]:
    """In each trial every asset of the job is killed once, one after the other, on one store."""
    draw = random.Random(seed)
    reference = setup(folder, job, folder / "reference")
    if not reference.store.exists():
        assert run(reference, folder / "reference.log") == 0, (folder / "reference.log").read_text()[-3000:]
    expected, order = contents(reference.store), assets_in_order(reference.store)
    kills: dict[str, int] = {}
    failed, wrong, partial = [], [], 0
    for trial in range(trials):
        work = setup(folder, job, folder / f"killed-{trial}")
        log = folder / f"killed-{trial}.log"
        for asset, seconds in order:
            killed = kill_in(work, log, asset, draw.random() * seconds)
            kills[asset] = kills.get(asset, 0) + killed
            partial += bool(leftovers(work.store))
        if run(work, log) != 0:
            failed.append({"trial": trial, "log": log.read_text()[-2000:]})
        found = differences(expected, contents(work.store)) + leftovers(work.store)
        wrong += [{"trial": trial, "differences": found}] if found else []
        if not found and work.store.exists():
            shutil.rmtree(work.store)
        print(
            f"{job}: trial {trial}, {sum(kills.values())} kills, wrong {len(wrong)}, failed {len(failed)}", flush=True
        )
    return {
        "job": job,
        "trials": trials,
        "kills": sum(kills.values()),
        "kills_by_asset": kills,
        "kills_with_leftovers": partial,
        "files_compared": len(expected),
        "runs_that_failed": failed,
        "trials_with_differences": wrong,
    }


def kill_in(work: Any, log: Path, asset: str, after: float) -> bool:
    """Kill a run with its children so long after it began to build an asset; False if it ended first."""
    process = start(work, log)
    building = wait_for(
        lambda: any((work.store / asset).glob("*.partial")) and os.path.isdir(work.store), seconds=300, process=process
    )
    if building:
        time.sleep(after)
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(process, signal.SIGKILL)
    return wait(process) == -signal.SIGKILL
