"""Cuts the files of sources into shards of about equal size."""

import codecs
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from analysis.engine.files import matching, open_url
from analysis.sources import FilesSource, SourceError
from analysis.sources.formats.json_table import is_object

LARGEST_FILE = 2 << 30
"""Largest size in bytes of a file whose format cannot be cut."""

HEAD = 100_000
"""Bytes of a file that tell whether it can be cut."""

Part = dict[str, Any]
"""A file or a piece of it: `url`; `kind` (whole, row_groups or bytes); `start`, `stop`; `size`; `version`."""


def plan(sources: Mapping[str, FilesSource], shard_bytes: int) -> list[dict[str, Any]]:
    """Shards in the order of the sources and of their paths.

    Consecutive small files share a shard. Parquet files are cut between row groups, and JSON lines between lines.

    Args:
        sources: name -> files; a path may be a URL or a glob of any file system of fsspec.
        shard_bytes: size of a shard, about.

    Returns:
        For each shard its `source` and its `parts`, see `Part`.

    Raises:
        SourceError: no file matches a path, or a file that cannot be cut is too large.
    """
    shards: list[dict[str, Any]] = []
    for name, source in sources.items():
        parts: list[Part] = []
        for part in (piece for url in _files(name, source) for piece in _pieces(url, source, shard_bytes)):
            if parts and sum(other["size"] for other in parts) + part["size"] > shard_bytes:
                shards.append({"source": name, "parts": parts})
                parts = []
            parts.append(part)
        shards.append({"source": name, "parts": parts})
    return shards


def label(shard: Mapping[str, Any]) -> str:
    """The name of a shard in errors: its file, or the first of its files."""
    first, *others = shard["parts"]
    more = f" and {len(others)} more files" if others else ""
    piece = "" if first["kind"] == "whole" else f" ({first['kind'].replace('_', ' ')} {first['start']}-{first['stop']})"
    return f"{first['url']}{piece}{more}"


def _files(name: str, source: FilesSource) -> list[str]:
    found: set[str] = set()
    for pattern in source.paths:
        files = matching(pattern)
        if not files:
            raise SourceError(f"source {name!r}: no file matches {pattern!r}")
        found.update(files)
    return sorted(found)


def _pieces(url: str, source: FilesSource, shard_bytes: int) -> Iterator[Part]:
    system, path = open_url(url)
    info = system.info(path)
    version = str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created"))
    size, suffix = int(info["size"]), url.rsplit(".", 1)[-1].lower()
    common = {"url": url, "version": version, "file_size": size}
    if size > shard_bytes and suffix == "parquet":
        groups = _row_groups(system, path, url)
        scale = size / max(sum(groups), 1)
        for start, stop in _runs([group * scale for group in groups], shard_bytes):
            yield common | {"kind": "row_groups", "start": start, "stop": stop, "size": sum(groups[start:stop]) * scale}
    elif size > shard_bytes and suffix in ("jsonl", "ndjson") and source.encoding is None and _has_lines(system, path):
        for start in range(0, size, shard_bytes):
            stop = min(start + shard_bytes, size)
            yield common | {"kind": "bytes", "start": start, "stop": stop, "size": stop - start}
    elif size > LARGEST_FILE:
        raise SourceError(
            f"{url}: expected at most {LARGEST_FILE:,} bytes of a format that cannot be cut into shards, got {size:,}. "
            f"Write it as Parquet or JSON lines"
        )
    else:
        yield common | {"kind": "whole", "start": 0, "stop": size, "size": size}


def _runs(sizes: list[float], most: int) -> Iterator[tuple[int, int]]:
    """Runs of consecutive entries whose sum is at most `most`, or single entries."""
    start, total = 0, 0.0
    for i, size in enumerate(sizes):
        if i > start and total + size > most:
            yield start, i
            start, total = i, 0.0
        total += size
    yield start, len(sizes)


def _row_groups(system: Any, path: str, url: str) -> list[int]:
    """Bytes of each row group, uncompressed."""
    try:
        with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            return [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups)]
    except (OSError, ValueError) as error:
        raise SourceError(f"{url}: expected a Parquet file, got {error}. Write the file again") from error


def _has_lines(system: Any, path: str) -> bool:
    """Whether a file begins as one JSON object a line does, so that it can be cut between lines.

    It does not if it is packed, an array, pretty-printed, or in UTF-16 or UTF-32.
    """
    head: bytes = system.cat_file(path, start=0, end=HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    line, line_end, _ = head.partition(b"\n")
    if line_end:
        return is_object(line.decode("utf-8", "replace"))
    return line.startswith(b"{") and line[1:2] not in (b"", b"\0")
