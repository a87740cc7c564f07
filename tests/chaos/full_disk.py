"""A store on a disk that is too small: a clear text, and the right bytes once it has grown."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.job import contents, differences, run, setup

CLEAR = "No space left on the device while writing"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A tmpfs of so many kilobytes at a folder; needs root."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=512m", str(folder)], check=True)


def can_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["mount", "--version"], capture_output=True).returncode == 0


def disks_full(folder: Path, job: str, sizes: Sequence[int]) -> dict[str, Any]:
    """A run on each size in kilobytes, then the same after the disk has grown."""
    reference = setup(folder, job, folder / "reference")
    if not reference.store.exists():
        assert run(reference, folder / "reference.log") == 0, (folder / "reference.log").read_text()[-3000:]
    expected = contents(reference.store)
    outcomes: list[dict[str, Any]] = []
    for size in sizes:
        disk, log = folder / f"disk-{size}", folder / f"disk-{size}.log"
        work = setup(folder, job, disk / "store")
        with small_disk(disk, size):
            code, said = run(work, log), log.read_text()
            grow(disk)
            again = run(work, log.with_suffix(".again.log"))
            found = differences(expected, contents(work.store))
        clear = CLEAR in said
        outcomes.append({"kilobytes": size, "full": code != 0, "clear": clear, "again": again, "differ": found})
        print(outcomes[-1], flush=True)
    return {
        "job": job,
        "sizes": len(outcomes),
        "full": sum(o["full"] for o in outcomes),
        "full_and_clear": sum(o["full"] and o["clear"] for o in outcomes),
        "right_after_growing": sum(o["again"] == 0 and not o["differ"] for o in outcomes),
        "outcomes": outcomes,
    }
