"""A file of each artifact is damaged; the next run must say which, and build it again."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.job import STORE, contents, differences, finished, reference, run, setup, unlisted
from tests.chaos.progress import Outcome, Try

KINDS = ("truncated", "flipped", "emptied", "deleted")


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """For each kind of damage and repetition: one file of every artifact of a finished store at once, then a run."""
    for job, repetitions in ({"corpus": 1} if short else {"hydralora": 1, "corpus": 2}).items():
        for repetition in range(repetitions):
            for kind in KINDS:
                yield Try(f"{job} {kind} {repetition}", partial(damaged_store, folder / job, job, kind, repetition))


def damaged_store(folder: Path, job: str, kind: str, repetition: int) -> Outcome:
    """Damage a copy of the finished store at the place of its first use, and run again."""
    draw = random.Random(f"{job} {kind} {repetition}")
    expected = reference(folder, job)
    work, log = setup(folder, job, folder / STORE), folder / f"damaged-{kind}-{repetition}.log"
    finished(folder)
    damaged = []
    for record in sorted(work.store.glob("*/*/artifact.json")):
        files = sorted(path for path in record.parent.rglob("*") if path.is_file() and path.stat().st_size)
        damaged.append(draw.choice(files))
        harm(damaged[-1], kind, draw)
    code = run(work, log)
    said = log.read_text()
    return {
        "job": job,
        "damages": [str(path.relative_to(work.store)) for path in damaged],
        "not_named": [str(path) for path in damaged if str(path) not in said],
        "failure": said[-2000:] if code else "",
        "differ": differences(expected, contents(work.store)) + unlisted(work.store),
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


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures for each job."""
    found = {}
    for job in sorted({one["job"] for one in outcomes}):
        of = [one for one in outcomes if one["job"] == job]
        files = [name for one in of for name in one["damages"]]
        found[job] = {
            "damages": len(files),
            "of_adapters": sum(name.endswith("adapter_model.safetensors") for name in files),
            "not_reported_by_path": [name for one in of for name in one["not_named"]],
            "runs_that_failed": [one["failure"] for one in of if one["failure"]],
            "files_that_differ_afterwards": [name for one in of for name in one["differ"]],
        }
    return found
