"""Records what each run made, in `<directory>/runs/<run id>/<asset>.json`: for people, later runs and the clean-up.

A step never chooses its inputs from these records. Within a run, it takes what its upstream step returned. A run that
starts in the middle of the graph takes what its configuration names.
"""

import json
from pathlib import Path

from pipelines.store.artifacts import Artifact, ArtifactError, artifact_of
from pipelines.store.files.draft import replacing

RUNS = "runs"
_SHOWN = 5


def record_run(directory: Path, run_id: str, artifact: Artifact, partition: str | None = None) -> None:
    """Record that a run built or reused an artifact."""
    folder = directory / RUNS / run_id
    folder.mkdir(parents=True, exist_ok=True)
    name = artifact.asset if partition is None else f"{artifact.asset}@{partition}"
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps({"asset": artifact.asset, "fingerprint": artifact.fingerprint}) + "\n")


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
    """Asset -> fingerprint of the artifacts that a run's folder records."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {record["asset"]: record["fingerprint"] for record in records}


def run_folders(directory: Path) -> list[Path]:
    """Folders of the recorded runs, newest first."""
    root = directory / RUNS
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(folders, key=lambda path: path.stat().st_mtime_ns, reverse=True)


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
