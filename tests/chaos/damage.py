"""A file of each artifact is damaged in four ways; the next run must say which, and build it again."""

import random
from pathlib import Path
from typing import Any

from tests.chaos.job import contents, differences, run, setup

KINDS = ("truncated", "flipped", "emptied", "deleted")


def damage_everywhere(folder: Path, job: str, *, seed: int = 0) -> dict[str, Any]:
    """For each kind of damage, one file of every artifact of a finished store at once, then a run."""
    draw = random.Random(seed)
    work = setup(folder, job, folder / "reference")
    if not work.store.exists():
        assert run(work, folder / "reference.log") == 0, (folder / "reference.log").read_text()[-3000:]
    expected = contents(work.store)
    done, unreported, wrong, failed = 0, [], [], []
    for kind in KINDS:
        log = folder / f"{kind}.log"
        log.unlink(missing_ok=True)
        damaged = []
        for record in sorted(work.store.glob("*/*/artifact.json")):
            if record.parent.suffix:
                continue
            files = sorted(path for path in record.parent.rglob("*") if path.is_file() and path.stat().st_size)
            path = draw.choice(files)
            harm(path, kind, draw)
            damaged.append(path)
        done += len(damaged)
        if run(work, log) != 0:
            failed.append({"kind": kind, "log": log.read_text()[-2000:]})
        said = log.read_text()
        unreported += [f"{kind} {path}" for path in damaged if str(path) not in said]
        found = differences(expected, contents(work.store))
        wrong += [f"{kind} {name}" for name in found]
        print(f"{job}: {kind}: {len(damaged)} damaged, unreported {len(unreported)}, wrong {len(wrong)}", flush=True)
    return {
        "job": job,
        "damages": done,
        "not_reported_by_path": unreported,
        "runs_that_failed": failed,
        "files_that_differ_afterwards": wrong,
    }


def harm(path: Path, kind: str, draw: random.Random) -> None:
    """Damage a file."""
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
        return
    if kind == "truncated":
        content = content[: draw.randrange(len(content))]
    elif kind == "emptied":
        content = bytearray()
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
