"""`python -m tests.chaos`: everything that can go wrong with a store, many times; figures as JSON.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python -m tests.chaos [--short] [--only kills] [--output FILE]

The long form takes an hour or two on two cores. As root it also fills small disks and mounts a store read-only; with
PostgreSQL's server programs it runs a private cluster. What cannot be tried is said in the figures.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.home import prepare
from tests.chaos import postgres
from tests.chaos.concurrency import runs_at_once
from tests.chaos.damage import damage_everywhere
from tests.chaos.full_disk import can_mount, disks_full
from tests.chaos.homes import first_runs_at_once
from tests.chaos.job import load_libraries
from tests.chaos.kills import kill_everywhere
from tests.chaos.read_only import finished_store_of_another_user, finished_store_read_only

RESULT = Path("benchmarks/results/chaos.json")
NOT_ROOT = {"not_tried": "needs root: it mounts small disks"}
CORPUS_SIZES = (4, 12, 24, 40, 60, 80, 100, 130, 160, 200)
"""Kilobytes; the corpus job fills about 250."""
TRAINING_SIZES = (300, 360, 420, 500, 600, 700, 800, 1000, 1200, 1500)


def kills(folder: Path, short: bool) -> dict[str, Any]:
    if short:
        return {"corpus": kill_everywhere(_made(folder, "corpus"), "corpus", trials=1)}
    return {
        job: kill_everywhere(_made(folder, job), job, trials=trials)
        for job, trials in (("corpus", 10), ("hydralora", 8))
    }


def damages(folder: Path, short: bool) -> dict[str, Any]:
    jobs = ("corpus",) if short else ("corpus", "hydralora")
    return {job: damage_everywhere(_made(folder, f"damage-{job}"), job) for job in jobs}


def disks(folder: Path, short: bool) -> dict[str, Any]:
    if not can_mount():
        return NOT_ROOT
    if short:
        return {"corpus": disks_full(_made(folder, "corpus"), "corpus", CORPUS_SIZES[::4])}
    return {
        "corpus": disks_full(_made(folder, "corpus"), "corpus", CORPUS_SIZES),
        "hydralora": disks_full(_made(folder, "hydralora"), "hydralora", TRAINING_SIZES),
    }


def read_only(folder: Path, short: bool) -> dict[str, Any]:
    job = "corpus" if short else "hydralora"
    result = {"read_only": finished_store_read_only(_made(folder, job), job)}
    if can_mount():
        result["another_user"] = finished_store_of_another_user(_made(folder, job), job)
    return result


def concurrency(folder: Path, short: bool) -> dict[str, Any]:
    runs, repetitions = (3, 1) if short else (8, 3)
    home = folder / "home-sqlite"
    prepare(home)
    result = {"sqlite": runs_at_once(folder / "crowd", home, repetitions=repetitions, runs=runs)}
    if short:
        return result
    if postgres.programs() is None:
        return result | {"postgresql": {"not_tried": "no PostgreSQL here (Debian: apt-get install postgresql)"}}
    with postgres.cluster() as url:
        home = _made(folder, "home-postgresql")
        (home / "dagster.yaml").write_text(f"storage:\n  postgres:\n    postgres_url: {url}\n")
        prepare(home)
        return result | {"postgresql": runs_at_once(folder / "crowd", home, repetitions=repetitions, runs=runs)}


def homes(folder: Path, short: bool) -> dict[str, Any]:
    return first_runs_at_once(folder, homes=1 if short else 8, processes=4)


PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "kills": kills,
    "damages": damages,
    "disks": disks,
    "read_only": read_only,
    "concurrency": concurrency,
    "homes": homes,
}


def main() -> None:
    """Try all, or the named parts, and write what came out after each."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute's worth")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    load_libraries()
    figures: dict[str, Any] = json.loads(given.output.read_text()) if given.output.exists() else {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        for part in given.only:
            figures[part] = PARTS[part](Path(folder), given.short)
            given.output.write_text(json.dumps(figures, indent=1) + "\n")


def _made(folder: Path, name: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name


if __name__ == "__main__":
    main()
