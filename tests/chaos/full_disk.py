"""A store on a disk that is too small: a clear text, and the right bytes once it has grown."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.job import STORE, contents, differences, reference, run, setup
from tests.chaos.progress import Outcome, Try

CLEAR = "No space left on the device while writing"
SIZES = {
    "corpus": (4, 12, 24, 40, 60, 80, 100, 130, 160, 200),
    "hydralora": (300, 360, 420, 500, 600, 700, 800, 1000, 1200, 1500),
}
"""Kilobytes; the job `corpus` fills about 250."""


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


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """A run on each size in kilobytes, then the same after the disk has grown."""
    if not can_mount():
        return
    for job, sizes in ({"corpus": SIZES["corpus"][::4]} if short else SIZES).items():
        for size in sizes:
            yield Try(f"{job} {size}", partial(full_disk, folder / job, job, size))


def full_disk(folder: Path, job: str, size: int) -> Outcome:
    """A run on a disk of so many kilobytes, which then grows."""
    expected = reference(folder, job)
    disk, log = folder / STORE, folder / f"disk-{size}.log"
    log.unlink(missing_ok=True)
    shutil.rmtree(disk, ignore_errors=True)
    work = setup(folder, job, disk)
    with small_disk(disk, size):
        code, said = run(work, log), log.read_text()
        grow(disk)
        again = run(work, log.with_suffix(".again.log"))
        differ = differences(expected, contents(work.store))
    return {
        "job": job,
        "kilobytes": size,
        "full": code != 0,
        "clear": CLEAR in said,
        "said": "" if code == 0 or CLEAR in said else said[-2000:],
        "again": again,
        "differ": differ,
    }


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures for each job."""
    if not outcomes:
        return {"not_tried": "needs root: it mounts small disks"}
    found: dict[str, Any] = {}
    for job in sorted({one["job"] for one in outcomes}):
        of = [one for one in outcomes if one["job"] == job]
        found[job] = {
            "sizes": len(of),
            "full": sum(one["full"] for one in of),
            "full_and_clear": sum(one["full"] and one["clear"] for one in of),
            "right_after_growing": sum(one["again"] == 0 and not one["differ"] for one in of),
            "outcomes": of,
        }
    return found
