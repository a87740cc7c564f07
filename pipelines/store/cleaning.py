"""Removes what a store does not need: remains of killed or damaged builds, and artifacts of no recorded run.

Nothing that a living process holds is removed: the lock of an artifact is taken first, and artifacts stay while any
build runs in the store. Items made or used within the last hour stay too, because a run may not have recorded them yet.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.store.artifacts import Artifact, ArtifactError, lineage
from pipelines.store.runs import RUNS, read_run, run_folders

REST_SECONDS = 3600.0


@dataclass(frozen=True)
class Item:
    """One thing that can go.

    Attributes:
        size: bytes.
        kept: why it must stay; None if it can be removed.
    """

    path: Path
    why: str
    size: int
    kept: str | None = None


def clean(
    directory: Path, *, delete: bool = False, keep_runs: int | None = None, rest_seconds: float = REST_SECONDS
) -> list[Item]:
    """List what the store does not need, and remove it.

    Args:
        delete: whether to remove items instead of only listing them.
        keep_runs: number of newest runs whose records are kept; None keeps all.
        rest_seconds: items made or used within this time stay.

    Raises:
        ArtifactError: the directory is no store, or a record of a run cannot be read.
    """
    if not any(directory.glob("*/*/artifact.json")) and not (directory / RUNS).is_dir():
        raise ArtifactError(
            f"{directory.resolve()}: expected a store (artifacts, or the folder {RUNS!r}), found neither."
        )
    forgotten = [] if keep_runs is None else run_folders(directory)[keep_runs:]
    records = [(folder, "record of an old run") for folder in forgotten]
    found = [*_leftovers(directory), *_unreferenced(directory, forgotten), *records]
    building = _builds_going_on(directory)
    items = []
    for path, why in found:
        with _held(_lock_of(path)) as free:
            size = _size(path)
            kept = _kept(path, why, free, building, rest_seconds)
            if delete and kept is None:
                _remove(path)
            items.append(Item(path, why, size, kept))
    return items


def referenced(directory: Path, runs: list[Path]) -> set[tuple[str, str]]:
    """Asset and fingerprint of everything that runs made, and of all its inputs.

    Raises:
        ArtifactError: a record cannot be read, so what is still needed is unknown.
    """
    found: set[tuple[str, str]] = set()
    for folder in runs:
        for asset, fingerprint in read_run(folder).items():
            artifact = Artifact(asset, fingerprint, directory / asset / fingerprint)
            found.add((asset, fingerprint))
            if artifact.folder.is_dir():
                found.update(lineage(artifact).items())
    return found


def _leftovers(directory: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(directory.glob("*/*")):
        if path.name.startswith(".") and path.suffix == ".tmp":
            yield path, "unfinished file"
        elif path.suffix == ".partial":
            yield path, "unfinished build (the next run with this configuration would continue it)"
        elif path.suffix.startswith(".damaged-"):
            yield path, "damaged artifact, built again since"
        elif path.suffix == ".lock" or path.name.endswith(".lock.owner"):
            yield path, "lock"
    for path in sorted((directory / RUNS).glob("*/.*.tmp")):
        yield path, "unfinished file"


def _unreferenced(directory: Path, forgotten: list[Path]) -> Iterator[tuple[Path, str]]:
    runs = [folder for folder in run_folders(directory) if folder not in forgotten]
    needed = referenced(directory, runs)
    for record in sorted(directory.glob("*/*/artifact.json")):
        folder = record.parent
        if not folder.suffix and (folder.parent.name, folder.name) not in needed:
            yield folder, "artifact that no recorded run refers to"


def _kept(path: Path, why: str, free: bool, building: list[Path], rest_seconds: float) -> str | None:
    """Why something stays, None if it can go."""
    if not free:
        return "a living process holds it"
    whole = why.startswith(("artifact", "record"))
    if whole and building:
        return f"{building[0]} is being built and may need it"
    if (whole or path.suffix == ".tmp") and time.time() - path.stat().st_mtime < rest_seconds:
        return f"it was made or used less than {rest_seconds / 60:.0f} minutes ago"
    return None


def _builds_going_on(directory: Path) -> list[Path]:
    held = []
    for path in sorted(directory.glob("*/*.lock")):
        with _held(path) as free:
            held += [] if free else [path.with_suffix("")]
    return held


def _lock_of(path: Path) -> Path | None:
    """The lock that guards something in an asset's folder; records and unfinished single files have none."""
    if path.parent.name == RUNS or path.name.startswith("."):
        return None
    return path.with_name(f"{path.name.partition('.')[0]}.lock")


@contextmanager
def _held(lock: Path | None) -> Iterator[bool]:
    """Whether the lock is free; if so, it is held within the block. A missing lock file is not created."""
    import filelock

    if lock is None or not lock.exists():
        yield True
        return
    try:
        acquired = filelock.FileLock(lock).acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    with acquired:
        yield True


def _size(path: Path) -> int:
    if not path.exists():
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir() or file.is_symlink())


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    if not path.suffix and path.parent.name != RUNS:  # an artifact: under its name it is complete or missing
        doomed = path.with_suffix(f".damaged-{time.time_ns()}")
        path.rename(doomed)
        path = doomed
    shutil.rmtree(path)
