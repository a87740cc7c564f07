"""First runs at once on a DAGSTER_HOME that does not exist yet."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg


def first_runs_at_once(folder: Path, *, homes: int, processes: int) -> dict[str, Any]:
    """So many processes prepare each home at the same time; afterwards it must open."""
    failed, broken = [], []
    for number in range(homes):
        home = folder / f"first-{number}"
        environment = {**os.environ, "DAGSTER_HOME": str(home)}
        command = [sys.executable, "-m", "pipelines.home"]
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(processes)
        ]
        for process in started:
            said, _ = process.communicate()
            failed += [said[-500:]] if process.returncode else []
        try:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                instance.get_runs(limit=1)
        except Exception as error:  # whatever it is, the home is broken
            broken.append(str(error)[:300])
    return {"homes": homes, "processes": homes * processes, "failed": failed, "broken": broken}
