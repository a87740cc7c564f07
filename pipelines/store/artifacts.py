"""Content-addressed artifacts: one finished folder for each (code, configuration, inputs), never half-written.

An artifact lives in `<directory>/<asset>/<fingerprint>/`. It is built in `<fingerprint>.partial/` and renamed when it
is complete and synced to disk, so a folder with its final name is complete. A killed build leaves its partial folder.
The next build of the same fingerprint starts in that folder, so training resumes from its checkpoints.

`artifact.json` records what made the artifact and lists its files with sizes and hashes. Sizes are checked on every
use, hashes once per process. A damaged artifact is moved aside and rebuilt. This module does not import Dagster.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.store.files.disk import clear_disk_errors
from pipelines.store.files.draft import MADE_FROM, UMASK, without_nan
from pipelines.store.files.draft import Draft as Draft  # offered here too, beside build_artifact
from pipelines.store.files.locks import exclusive
from pipelines.store.files.manifest import Manifest, damage, sync, sync_tree, write_manifest
from pipelines.store.files.pictures import mark_png

RECORD = "artifact.json"
logger = logging.getLogger(__name__)
Log = Callable[[str], object]


class ArtifactError(RuntimeError):
    """An artifact cannot be read or written. The message says what to do."""


def fingerprint_of(value: Any) -> str:
    """16 hex digits of the canonical JSON of `value`.

    >>> fingerprint_of({"seed": 0, "k": [1, 2]}) == fingerprint_of({"k": [1, 2], "seed": 0})
    True
    >>> len(fingerprint_of({}))
    16
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished folder. `reused` is True if this run found it already built."""

    asset: str
    fingerprint: str
    folder: Path
    reused: bool = False

    def path(self, name: str) -> Path:
        """Path of a file or folder in the artifact.

        Raises:
            ArtifactError: the file or folder is missing.
        """
        path = self.folder / name
        if not path.exists():
            raise ArtifactError(
                f"{self.asset}: expected {name} in {self.folder}, which has {sorted(os.listdir(self.folder))}. "
                f"The folder was changed by hand: delete it and run the asset again."
            )
        return path

    def scan(self, table: str) -> pl.LazyFrame:
        """A table of the artifact as a LazyFrame."""
        return pl.scan_parquet(self.path(f"{table}.parquet"))

    def read(self, table: str) -> pl.DataFrame:
        """A table of the artifact as a DataFrame."""
        return pl.read_parquet(self.path(f"{table}.parquet"))

    def json(self, name: str) -> Any:
        """A JSON file of the artifact."""
        return json.loads(self.path(f"{name}.json").read_text())

    def array(self, name: str) -> np.ndarray:
        """An array of the artifact, memory-mapped."""
        return np.load(self.path(f"{name}.npy"), mmap_mode="r", allow_pickle=False)

    @property
    def record(self) -> dict[str, Any]:
        """The record of what made the artifact: fingerprint, code version, configuration, inputs, seconds, files.

        Raises:
            ArtifactError: the record is not valid JSON.
        """
        path = self.path(RECORD)
        try:
            record: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ArtifactError(f"{path}: expected JSON, got {error}. Delete the folder and run again.") from None
        return record

    def damage(self) -> str | None:
        """A sentence about the first damaged file, or None.

        Sizes are checked on every call. Hashes are checked once per process, because that reads every byte.
        """
        try:
            record = self.record
            files: Manifest = record["files"]
            expected, found = record["digest"], _digest(record)
        except (ArtifactError, KeyError, TypeError, AttributeError):
            return f"{self.folder / RECORD}: expected the list of the files and a digest, found none"
        if expected != found:
            return f"{self.folder / RECORD}: expected the digest {expected}, found {found}"
        stamp = (self.folder, (self.folder / RECORD).stat().st_mtime_ns)
        wrong = damage(self.folder, files, hashes=stamp not in _HASHED)
        if wrong is None:
            _HASHED.add(stamp)
        return wrong


_HASHED: set[tuple[Path, int]] = set()
"""Artifacts whose hashes this process has already checked."""


def build_artifact(
    directory: Path,
    asset: str,
    *,
    code_version: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    build: Callable[[Draft], None],
    mixes_runs: bool = False,
    log: Log = logger.info,
) -> Artifact:
    """Return the artifact of this code, configuration and inputs. Build it if it is missing or damaged.

    Args:
        asset: name of the asset, whose artifacts share a folder.
        code_version: version of the code that computes the artifact; see `pipelines.store.code.versions`.
        config: everything besides the inputs that changes the result; must be JSON-serialisable.
        build: function that writes the files into the draft. The draft may hold files of a killed build.
        mixes_runs: whether the inputs may come from different corpora, as in a comparison of two reports.
        log: logger for messages about waiting and damage.

    Raises:
        ArtifactError: the inputs were made from different artifacts of the same asset.
        DiskFullError: no space is left.
        LockError: another process has been building the same artifact for a day.
    """
    identity = _identity(asset, code_version, config, inputs)
    fingerprint = fingerprint_of(identity)
    if not mixes_runs:
        check_lineage(asset, inputs)
    if found := _find(directory, asset, fingerprint, log):
        with suppress(OSError):  # a read-only store needs no clean-up
            os.utime(found.folder)  # so that the clean-up keeps what a run reuses but has not recorded yet
        return found
    folder = directory / asset / fingerprint
    with clear_disk_errors(directory):
        folder.parent.mkdir(parents=True, exist_ok=True)
    # The lock file needs disk space as well.
    with clear_disk_errors(folder.parent), exclusive(folder.with_suffix(".lock"), log):
        # Another process may have built it while this one waited.
        if found := _find(directory, asset, fingerprint, log, repair=True):
            return found
        of_inputs = {name: artifact.fingerprint for name, artifact in sorted(inputs.items())}
        made_from = {"asset": asset, "fingerprint": fingerprint, "inputs": of_inputs}
        draft = Draft(asset, fingerprint, folder.with_suffix(".partial"), made_from)
        draft.folder.mkdir(exist_ok=True)
        started, cpu = time.monotonic(), time.process_time()
        with clear_disk_errors(draft.folder):
            build(draft)
            seconds = {"wall_seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
            _finish(draft, folder, identity | seconds)
    return Artifact(asset, fingerprint, folder)


def _finish(draft: Draft, folder: Path, record: Mapping[str, Any]) -> None:
    """Turn a draft into an artifact: sync the files to disk first, then write the record, then rename the folder."""
    for leftover in draft.folder.rglob(".*.tmp"):
        leftover.unlink()
    for picture in draft.folder.rglob("*.png"):
        mark_png(picture, MADE_FROM, draft.made_from)
    for path in draft.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~UMASK)  # safetensors gives access to the owner only
    files = write_manifest(draft.folder, without=RECORD)
    record = {"fingerprint": draft.fingerprint, **record, "files": files}
    draft.write_json(RECORD.removesuffix(".json"), record | {"digest": _digest(record)})
    sync_tree(draft.folder)
    os.rename(draft.folder, folder)
    sync(folder.parent)
    _HASHED.add((folder, (folder / RECORD).stat().st_mtime_ns))


def find_artifact(directory: Path, asset: str, **made_of: Any) -> Artifact | None:
    """The artifact that `build_artifact` would reuse for this `code_version`, `config` and `inputs`, or None."""
    return _find(directory, asset, fingerprint_of(_identity(asset, **made_of)), logger.info)


def _digest(record: Mapping[str, Any]) -> str:
    """Digest of a record's content as JSON; it reveals a changed byte in the record itself."""
    kept = json.loads(json.dumps(without_nan(record), default=str))
    return fingerprint_of({name: value for name, value in kept.items() if name != "digest"})


def _find(directory: Path, asset: str, fingerprint: str, log: Log, *, repair: bool = False) -> Artifact | None:
    """A complete artifact by its fingerprint. A damaged one counts as missing; `repair` moves it aside."""
    artifact = Artifact(asset, fingerprint, directory / asset / fingerprint, reused=True)
    if not artifact.folder.is_dir():
        return None
    wrong = artifact.damage()
    if wrong is None:
        return artifact
    if repair:
        log(f"{asset} is damaged and is built again: {wrong}")
        os.rename(artifact.folder, artifact.folder.with_suffix(f".damaged-{time.time_ns()}"))
    return None


def artifact_of(directory: Path, asset: str, fingerprint: str) -> Artifact:
    """A finished, undamaged artifact by its fingerprint.

    Raises:
        ArtifactError: the artifact is missing or damaged.
    """
    artifact = Artifact(asset, fingerprint, directory / asset / fingerprint, reused=True)
    if not artifact.folder.is_dir():
        there = sorted(path.name for path in artifact.folder.parent.glob("*") if path.is_dir() and not path.suffix)
        raise ArtifactError(
            f"Expected {asset} {fingerprint} in {directory.resolve()}, which has {', '.join(there) or 'none'}. "
            f"Materialize {asset} again."
        )
    if wrong := artifact.damage():
        raise ArtifactError(f"{asset} {fingerprint} is damaged: {wrong}. Materialize {asset} again: it is rebuilt.")
    return artifact


def check_lineage(asset: str, inputs: Mapping[str, Artifact]) -> None:
    """Check that all inputs come from the same artifact of each upstream asset.

    Raises:
        ArtifactError: two inputs come from different artifacts of one asset. The message names both paths.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, artifact in inputs.items():
        for ancestor, fingerprint in {**lineage(artifact), artifact.asset: artifact.fingerprint}.items():
            other, via = seen.setdefault(ancestor, (fingerprint, name))
            if other != fingerprint:
                raise ArtifactError(
                    f"{asset} would mix two runs: {via} was made from {ancestor} {other}, {name} from {ancestor} "
                    f"{fingerprint}. Take all inputs from one run (resources.store.config.from_run)."
                )


def lineage(artifact: Artifact) -> dict[str, str]:
    """Asset -> fingerprint of every artifact upstream of this one, direct or indirect."""
    found: dict[str, str] = {}
    waiting = dict(_inputs(artifact))
    while waiting:
        asset, fingerprint = waiting.popitem()
        if asset in found:
            continue
        found[asset] = fingerprint
        above = Artifact(asset, fingerprint, artifact.folder.parents[1] / asset / fingerprint)
        if above.folder.is_dir():
            waiting.update(_inputs(above))
    return found


def _inputs(artifact: Artifact) -> Mapping[str, str]:
    """Asset -> fingerprint of the direct inputs."""
    try:
        return {given["asset"]: given["fingerprint"] for given in artifact.record["inputs"].values()}
    except (KeyError, TypeError, AttributeError):
        raise ArtifactError(
            f"{artifact.folder / RECORD}: expected a record with inputs, got a damaged file. Delete the folder and run "
            f"again."
        ) from None


def _identity(
    asset: str, code_version: str, config: Mapping[str, Any], inputs: Mapping[str, Artifact]
) -> dict[str, Any]:
    return {
        "asset": asset,
        "code_version": code_version,
        "config": dict(config),
        "inputs": {
            name: {"asset": artifact.asset, "fingerprint": artifact.fingerprint}
            for name, artifact in sorted(inputs.items())
        },
    }
