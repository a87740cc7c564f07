"""Content-addressed artifacts: a finished folder for each (code, configuration, inputs), and nothing half-written.

An artifact lives in `<directory>/<asset>/<fingerprint>/`. It is built in `<fingerprint>.partial/` beside it and renamed
when complete, so a folder under its final name is always whole. A killed build leaves its partial folder: the next
build of the same fingerprint starts in it, which is how training resumes from its checkpoints. This module knows
nothing of Dagster.
"""

import dataclasses
import errno
import hashlib
import importlib.util
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

RECORD = "artifact.json"
SOURCE_SUFFIXES = (".py", ".j2", ".css", ".js")


class ArtifactError(RuntimeError):
    """An artifact that cannot be read or written, with the way out."""


def fingerprint_of(value: Any) -> str:
    """16 hex digits of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def without_nan(value: Any) -> Any:
    """`value` with None for every number that JSON cannot write."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def source_version(*modules: str) -> str:
    """8 hex digits over the source files of modules or packages, without importing them.

    An artifact belongs to the code that made it. A version bumped by hand is forgotten sooner or later, and then an
    old result is taken for a new one; a needless rebuild is the cheaper mistake.
    """
    digest = hashlib.blake2b(digest_size=4)
    for module in sorted(modules):
        for path in _source_files(module):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _source_files(module: str) -> list[Path]:
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)  # of a submodule, this would import the packages around it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"source_version: no module named {package!r}")
    path = Path(spec.origin).parent.joinpath(*parts) if spec.submodule_search_locations else Path(spec.origin)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in SOURCE_SUFFIXES)
    if not path.with_suffix(".py").is_file():
        raise ModuleNotFoundError(f"source_version: no module named {module!r}")
    return [path.with_suffix(".py")]


def file_digest(path: Path) -> str:
    """blake2b of a file's bytes, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished folder. `reused` says that this run found it done."""

    asset: str
    fingerprint: str
    folder: Path
    reused: bool = False

    def path(self, name: str) -> Path:
        """Path of a file inside; raises `ArtifactError` when it is missing."""
        path = self.folder / name
        if not path.exists():
            raise ArtifactError(
                f"{self.asset}: expected {name} in {self.folder}, which has {sorted(os.listdir(self.folder))}. "
                f"The folder was changed by hand: delete it and run the asset again."
            )
        return path

    def scan(self, table: str) -> pl.LazyFrame:
        """A table of the artifact, lazily."""
        return pl.scan_parquet(self.path(f"{table}.parquet"))

    def read(self, table: str) -> pl.DataFrame:
        """A table of the artifact."""
        return pl.read_parquet(self.path(f"{table}.parquet"))

    def json(self, name: str) -> Any:
        """A JSON file of the artifact."""
        return json.loads(self.path(f"{name}.json").read_text())

    def array(self, name: str) -> np.ndarray:
        """An array of the artifact, memory-mapped."""
        array: np.ndarray = np.load(self.path(f"{name}.npy"), mmap_mode="r", allow_pickle=False)
        return array

    @property
    def record(self) -> dict[str, Any]:
        """What made it: fingerprint, code version, configuration, inputs, seconds."""
        record: dict[str, Any] = json.loads(self.path(RECORD).read_text())
        return record


@dataclasses.dataclass(frozen=True)
class Draft:
    """The folder an artifact is built in. Single files are replaced atomically, so a resumed build can trust them."""

    asset: str
    fingerprint: str
    folder: Path

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary path that takes the name `name` when the block ends without an error."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def write_table(self, name: str, frame: pl.DataFrame | pl.LazyFrame) -> None:
        """Write `<name>.parquet`; a LazyFrame is streamed."""
        with self.writing(f"{name}.parquet") as path:
            if isinstance(frame, pl.LazyFrame):
                frame.sink_parquet(path)
            else:
                frame.write_parquet(path)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self.writing(name) as path:
            path.write_bytes(content)

    def write_json(self, name: str, value: Any) -> None:
        """Write `<name>.json`."""
        with self.writing(f"{name}.json") as path:
            path.write_text(json.dumps(without_nan(value), indent=2, default=str, allow_nan=False) + "\n")

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write `<name>.npy`, never pickled."""
        with self.writing(f"{name}.npy") as path, path.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def build_artifact(
    directory: Path,
    asset: str,
    *,
    code_version: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    build: Callable[[Draft], None],
) -> Artifact:
    """Return the artifact of this code, configuration and inputs, building it if it is not there.

    Args:
        directory: root of the store.
        asset: name of the asset; its artifacts share a folder.
        code_version: version of the code that computes it, see `source_version`.
        config: everything that changes the result and is not an input; must be JSON-serialisable.
        inputs: the artifacts it is computed from.
        build: writes the files into the draft; may find the remains of a killed build there.

    Raises:
        ArtifactError: the disk is full, or another process holds the same artifact for too long.
    """
    import filelock  # loaded here: reading artifacts must stay cheap

    if found := find_artifact(directory, asset, code_version=code_version, config=config, inputs=inputs):
        return found
    identity = _identity(asset, code_version, config, inputs)
    fingerprint = fingerprint_of(identity)
    folder = directory / asset / fingerprint
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if folder.exists():  # another process built it while this one waited
            return Artifact(asset, fingerprint, folder, reused=True)
        draft = Draft(asset, fingerprint, folder.with_suffix(".partial"))
        draft.folder.mkdir(exist_ok=True)
        started, cpu = time.time(), time.process_time()
        with _clear_disk_errors(draft.folder):
            build(draft)
            seconds = {"wall_seconds": time.time() - started, "cpu_seconds": time.process_time() - cpu}
            draft.write_json(RECORD.removesuffix(".json"), {"fingerprint": fingerprint, **identity, **seconds})
            os.rename(draft.folder, folder)
    return Artifact(asset, fingerprint, folder)


def find_artifact(
    directory: Path, asset: str, *, code_version: str, config: Mapping[str, Any], inputs: Mapping[str, Artifact]
) -> Artifact | None:
    """The artifact that `build_artifact` would return without building anything, None where it would build."""
    fingerprint = fingerprint_of(_identity(asset, code_version, config, inputs))
    folder = directory / asset / fingerprint
    return Artifact(asset, fingerprint, folder, reused=True) if folder.exists() else None


def _identity(
    asset: str, code_version: str, config: Mapping[str, Any], inputs: Mapping[str, Artifact]
) -> dict[str, Any]:
    return {
        "asset": asset,
        "code_version": code_version,
        "config": dict(config),
        "inputs": {name: artifact.fingerprint for name, artifact in sorted(inputs.items())},
    }


@contextmanager
def _clear_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free
        raise ArtifactError(
            f"No space left on the device while writing {folder} ({free / 1e6:.0f} MB free). Free some space, or set "
            f"resources.store.config.directory to a larger disk; the next run continues from what is there."
        ) from error
