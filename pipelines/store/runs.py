"""Records what each run made, in `<directory>/runs/<run id>/<asset>.json`: for people, later runs and the clean-up.

A step never chooses its inputs from these records. Within a run, it takes what its upstream step returned. A run that
starts in the middle of the graph takes what its configuration names.

Each record says when it was made. Times of files would not do: a copy of the store, or a clean-up, changes them. A
record is never older than those before it, so the order of runs also holds where the clock was set back.
"""

import json
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.store.artifacts import Artifact, ArtifactError, artifact_of
from pipelines.store.files.draft import replacing

RUNS = "runs"
_SHOWN = 5
_LONGEST_NAME = 150  # bytes; file systems allow 255, and the name of a temporary file is longer


def record_run(directory: Path, run_id: str, artifact: Artifact, partition: str | None = None) -> None:
    """Record that a run built or reused an artifact."""
    folder = directory / RUNS / run_id
    folder.mkdir(parents=True, exist_ok=True)
    made = max([time.time(), *(_made(other) + 1e-3 for other in run_folders(directory)[:1])])
    record = {"asset": artifact.asset, "fingerprint": artifact.fingerprint, "made": made}
    name = artifact.asset if partition is None else f"{artifact.asset}@{_file_name(partition)}"
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(record) + "\n")


def _file_name(partition: str) -> str:
    """The key of a partition as part of a file's name."""
    name = quote(partition, safe=":=, ")
    digest = blake2b(partition.encode(), digest_size=8).hexdigest()
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{digest}"


def made_by(directory: Path, run_id: str) -> dict[str, str]:
    """Asset -> fingerprint of the artifacts of a run.

    Args:
        run_id: id of the run, or its first digits.

    Raises:
        ArtifactError: no run or several runs have this id.
    """
    found = [folder for folder in run_folders(directory) if folder.name.startswith(run_id)]
    if len(found) != 1:
        what = f"{len(found)} runs" if found else "none"
        raise ArtifactError(f"Expected one run {run_id!r} in {directory.resolve()}, got {what}. {newest(directory)}")
    return read_run(found[0])


def read_run(folder: Path) -> dict[str, str]:
    """Asset -> fingerprint of the artifacts that a run's folder records.

    Raises:
        ArtifactError: a record is damaged, so what the run made is unknown.
    """
    return {record["asset"]: record["fingerprint"] for record in map(_read, sorted(folder.glob("*.json")))}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        return {"asset": record["asset"], "fingerprint": record["fingerprint"], "made": record.get("made")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(
            f"{path}: expected the record of an artifact that a run made, got a damaged file. Delete {path.parent}, "
            f"and run its configuration again: what is built is reused."
        ) from None


def run_folders(directory: Path) -> list[Path]:
    """Folders of the recorded runs, newest first."""
    root = directory / RUNS
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(folders, key=lambda path: (_made(path), path.name), reverse=True)


def _made(folder: Path) -> float:
    """When a run made its newest artifact. Damaged records, and those of earlier versions, have the time of a file."""
    return max((_made_at(path) for path in folder.glob("*.json")), default=folder.stat().st_mtime)


def _made_at(path: Path) -> float:
    try:
        made = _read(path)["made"]
    except ArtifactError:
        made = None
    return float(made) if isinstance(made, int | float) else path.stat().st_mtime


def newest(directory: Path) -> str:
    """A sentence with the newest runs of a store and the assets that each made."""
    runs = [f"{folder.name} ({', '.join(read_run(folder))})" for folder in run_folders(directory)[:_SHOWN]]
    return f"The newest runs there: {'; '.join(runs)}." if runs else "No run is recorded there."


def last_made(directory: Path, asset: str) -> Artifact:
    """The artifact from the newest run that made this asset. For people who look at results, never for a step.

    Raises:
        ArtifactError: no run made the asset, or its files are missing or damaged.
    """
    for folder in run_folders(directory):
        if fingerprint := read_run(folder).get(asset):
            return artifact_of(directory, asset, fingerprint)
    raise ArtifactError(
        f"Expected {asset!r} in {directory.resolve()}, which no run made. Run the configuration first "
        f"(`hydralora run`), or set resources.store.config.directory to the folder of an earlier run."
    )
