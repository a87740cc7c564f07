"""`python -m tests.chaos`: everything that can go wrong with a store, many times; figures as JSON.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python -m tests.chaos [--short] [--only kills] [--output FILE]

The long form takes an hour or two on two cores. With `--folder` it can be stopped and called again: it goes on where it
was, and `--summary` tells what there is so far. As root it also fills small disks and mounts a store read-only; with
PostgreSQL's server programs it runs a private cluster. What cannot be tried is said in the figures.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos import concurrency, damage, full_disk, homes, kills, pool, read_only
from tests.chaos.job import load_libraries
from tests.chaos.progress import Part, Progress

RESULT = Path("benchmarks/results/chaos.json")
PARTS = {
    "kills": Part(kills.tries, kills.summary),
    "damages": Part(damage.tries, damage.summary),
    "read_only": Part(read_only.tries, read_only.summary),
    "concurrency": Part(concurrency.tries, concurrency.summary),
    "disks": Part(full_disk.tries, full_disk.summary),
    "homes": Part(homes.tries, homes.summary),
    "pool": Part(pool.tries, pool.summary),
}


def main() -> None:
    """Try all, or the named parts, and write what came out after each."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute's worth")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="where to work and to keep what was tried; else a temporary one")
    parser.add_argument("--summary", action="store_true", help="try nothing: only write the figures of what was tried")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        progress = Progress(folder / "progress.jsonl")
        if not given.summary:
            load_libraries()
        figures: dict[str, Any] = json.loads(given.output.read_text()) if given.output.exists() else {}
        for name in given.only:
            if not given.summary:
                progress.make(name, PARTS[name].tries(folder, given.short))
            if outcomes := list(progress.outcomes(name).values()):
                figures[name] = PARTS[name].summary(outcomes)
                given.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
