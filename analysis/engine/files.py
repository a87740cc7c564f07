"""Files behind URLs: a path, `file://`, `s3://`, `gs://`, or any other file system of fsspec.

A write replaces the whole file at once: a reader finds the old file, the new one, or none.
"""

import hashlib
import io
import json
import posixpath
import uuid
from collections.abc import Sequence
from typing import Any

import fsspec
import polars as pl
import pyarrow.parquet as pq

ROWS_OF_GROUP = 32_768


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path within it.

    Raises:
        ValueError: the library for this kind of URL is missing.
    """
    try:
        found: tuple[fsspec.AbstractFileSystem, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {error}; for s3: pip install 'hydralora[ray]'; for gs: 'hydralora[gcs]'") from None
    except ValueError as error:
        raise ValueError(f"{url}: expected a path, or a URL that fsspec knows (file, s3, gs): {error}") from None
    return found


def is_local(system: fsspec.AbstractFileSystem) -> bool:
    """Whether the files are on a disk of this machine."""
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def join(url: str, *names: str) -> str:
    """A URL below another one."""
    return posixpath.join(url.rstrip("/"), *names)


def matching(pattern: str) -> list[str]:
    """Files that a URL or glob matches, sorted, as URLs of the same kind. An existing file is never a glob."""
    system, path = open_url(pattern)
    found = [path] if system.isfile(path) else [name for name in system.glob(path) if system.isfile(name)]
    return sorted(system.unstrip_protocol(name) if "://" in pattern else str(name) for name in found)


def size_of(url: str) -> int | None:
    """Bytes of a file; None if there is no such file."""
    system, path = open_url(url)
    system.invalidate_cache()
    try:
        return int(system.size(path))
    except FileNotFoundError:
        return None


def read_bytes(url: str) -> bytes:
    """The content of a file."""
    system, path = open_url(url)
    return system.cat_file(path)


def read_ranges(urls: Sequence[str], starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
    """Bytes from a start to a stop of each file. An object store gets many requests at a time.

    Raises:
        OSError: a file cannot be read.
    """
    # S3 refuses an empty range.
    wanted = [place for place, (start, stop) in enumerate(zip(starts, stops, strict=True)) if start < stop]
    content = [b""] * len(urls)
    if wanted:
        system = open_url(urls[0])[0]
        paths = [open_url(urls[place])[1] for place in wanted]
        found = system.cat_ranges(paths, [starts[p] for p in wanted], [stops[p] for p in wanted], on_error="raise")
        for place, part in zip(wanted, found, strict=True):
            content[place] = part
    return content


def write_bytes(url: str, content: bytes) -> None:
    """Replace a file at once; makes its folder if it is missing."""
    system, path = open_url(url)
    if not is_local(system):
        system.pipe_file(path, content)  # object stores show an object when it is complete
        return
    system.makedirs(posixpath.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        system.pipe_file(temporary, content)
        system.mv(temporary, path)
    finally:
        if system.exists(temporary):
            system.rm_file(temporary)


def read_json(url: str) -> Any:
    """The value in a JSON file."""
    return json.loads(read_bytes(url))


def write_json(url: str, value: Any) -> None:
    """Replace a JSON file."""
    write_bytes(url, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def parquet_bytes(groups: Sequence[pl.DataFrame]) -> bytes:
    """A Parquet file. The bytes depend on the rows alone.

    Args:
        groups: tables with one schema. Each becomes a row group, also an empty one.
    """
    file = io.BytesIO()
    schema = groups[0].to_arrow().schema
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in groups:
            # Batches of the input would show in the pages of the file.
            writer.write_table(group.rechunk().to_arrow().combine_chunks(), row_group_size=max(len(group), 1))
    return file.getvalue()


def row_groups_of(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """A table in parts of at most `ROWS_OF_GROUP` rows; one empty part if it is empty."""
    return list(frame.iter_slices(ROWS_OF_GROUP)) or [frame]


def read_table(url: str, columns: Sequence[str] | None = None, group: int | None = None) -> pl.DataFrame:
    """Read some columns of a Parquet file: one row group, or all of them if `group` is None."""
    system, path = open_url(url)
    wanted = None if columns is None else list(columns)
    with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
        table = parquet.read(wanted) if group is None else parquet.read_row_group(group, wanted)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def digest(content: bytes) -> str:
    """16 hex digits of a content."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()
