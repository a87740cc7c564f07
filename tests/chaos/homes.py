"""First runs at once on a DAGSTER_HOME that does not exist yet."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from tests.chaos.progress import Outcome, Try

PROCESSES = 4


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """Homes that several processes prepare at once."""
    for number in range(1 if short else 8):
        yield Try(str(number), partial(first_runs_at_once, folder / f"first-{number}"))


def first_runs_at_once(home: Path) -> Outcome:
    """So many processes prepare the home at the same time; afterwards it must open."""
    shutil.rmtree(home, ignore_errors=True)
    command, environment = [sys.executable, "-m", "pipelines.home"], {**os.environ, "DAGSTER_HOME": str(home)}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(PROCESSES)
    ]
    said = [process.communicate()[0] for process in started]
    failed = [text[-500:] for text, process in zip(said, started, strict=True) if process.returncode]
    broken = ""
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            instance.get_runs(limit=1)
    except Exception as error:  # whatever it is, the home is broken
        broken = str(error)[:300]
    return {"failed": failed, "broken": broken}


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """How many homes were broken."""
    return {
        "homes": len(outcomes),
        "processes": len(outcomes) * PROCESSES,
        "failed": [text for one in outcomes for text in one["failed"]],
        "broken": [one["broken"] for one in outcomes if one["broken"]],
    }
