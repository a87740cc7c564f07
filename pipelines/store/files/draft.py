"""The folder in which an artifact is built: each file replaces an older one in one step, synced to disk."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.store.files.manifest import sync

MADE_FROM = "hydralora"
"""Key in the metadata of each Parquet table and PNG. Its value names the file's artifact and that artifact's inputs."""
UMASK = os.umask(0)
os.umask(UMASK)


def without_nan(value: Any) -> Any:
    """`value` with None for every number that JSON cannot represent (NaN, infinity)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


@dataclass(frozen=True)
class Draft:
    """The folder in which an artifact is built. Files are replaced atomically, so a resumed build can trust them.

    Attributes:
        made_from: asset and fingerprint of the artifact and of its inputs; written into the metadata of every table.
    """

    asset: str
    fingerprint: str
    folder: Path
    made_from: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary path that is renamed to `name` if the block ends without an error."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            yield temporary

    def write_table(self, name: str, frame: pl.DataFrame | pl.LazyFrame) -> None:
        """Write `<name>.parquet`; a LazyFrame is streamed."""
        metadata = {MADE_FROM: json.dumps(self.made_from, sort_keys=True)}
        with self.writing(f"{name}.parquet") as path:
            if isinstance(frame, pl.LazyFrame):
                frame.sink_parquet(path, metadata=metadata)
            else:
                frame.write_parquet(path, metadata=metadata)

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path, private to this process, that replaces `path` if the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~UMASK)  # mkstemp gives access to the owner only
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
