"""The first stage: from files to normalised records with an index, one table for each shard."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from analysis.corpus.cleaning import BATCH_ROWS, CleanConfig, index_rows
from analysis.corpus.deduplication import TEXT
from analysis.corpus.documents import document_ids
from analysis.engine.files import is_local, open_url, parquet_bytes, read_table, row_groups_of
from analysis.engine.stages import Output
from analysis.sources import FilesSource, SourceError
from analysis.sources.files import file_blocks
from analysis.sources.records import RECORD_SCHEMA, MissingColumnsError, Notes
from analysis.sources.shapes import check_columns
from analysis.text.normalisation import normalised

Ref = Mapping[str, Any]
"""Reference to a file: `url`, `digest`, `bytes`."""
RECORDS = "records.parquet"
READ_AHEAD = 1 << 20


def read_shard(shard: Mapping[str, Any], source: Mapping[str, Any], clean: Mapping[str, Any]) -> Output:
    """Read a shard: `records.parquet`, with a `reason` for records that are dropped because of their own text.

    Args:
        shard: an entry of `analysis.shards.planning.plan`.
        source: fields of `FilesSource`.
        clean: fields of `CleanConfig`.
    """
    config = CleanConfig(**clean)
    records, notes, lacking = shard_records(shard, source)
    tables = []
    numbered = records.with_row_index("row")
    for batch in list(numbered.iter_slices(BATCH_ROWS)) or [numbered]:
        same_source = pl.repeat("", len(batch), eager=True)
        content = document_ids(same_source, batch["prompt"], batch["completion"])
        # polars' own hash may differ between machines.
        index = (
            index_rows(batch, config)
            .drop("detail")
            .with_columns(content=pl.Series(content.str.to_integer(base=16, dtype=pl.UInt64)))
        )
        tables.append(pl.concat([index, batch.select("prompt", "completion", "origin")], how="horizontal"))
    table = pl.concat(tables)
    value = {"n_rows": len(table), "n_candidates": table["reason"].null_count(), "notes": notes, "lacking": lacking}
    return Output(value, {RECORDS: parquet_bytes(row_groups_of(table))})


def shard_records(
    shard: Mapping[str, Any], source: Mapping[str, Any]
) -> tuple[pl.DataFrame, list[str], list[dict[str, Any]]]:
    """Normalised records of a shard, what was not read, and the pieces that lack columns; see `check_pieces`.

    Raises:
        SourceError: a file cannot be read. The message has its URL.
    """
    frames: list[pl.DataFrame] = []
    notes, lacking = [], []
    name = shard["source"]
    for part in shard["parts"]:
        with tempfile.TemporaryDirectory() as folder:
            path = _local_copy(part, Path(folder))
            is_piece = part["kind"] == "bytes" and path.stat().st_size < part["file_size"]
            if is_piece and not path.read_bytes().strip():
                lacking.append({"url": part["url"], "names": [], "found": []})
                continue  # the whole part lies within one long line, or between blank lines
            place = part["url"] if part["kind"] == "whole" else f"{part['url']} (from {part['kind']} {part['start']})"
            own = Notes()
            try:
                config = FilesSource(**{**source, "paths": (str(path),)})
                for block in file_blocks(name, config, own, is_piece=is_piece):
                    frames.append(block)  # noqa: PERF402  # because the last step may raise
            except SourceError as error:
                if not (is_piece and isinstance(error, MissingColumnsError)):
                    raise SourceError(f"source {name!r}: {error}".replace(str(path), place)) from error
                lacking.append({"url": part["url"], "names": error.names, "found": sorted(error.found)})
            notes += [text.replace(str(path), place) for text in own.texts]
    records = pl.concat(frames or [pl.DataFrame(schema=RECORD_SCHEMA)])
    # A lazy table computes the common part of the expression once.
    return records.lazy().with_columns(normalised(pl.col("prompt", "completion"))).collect(), notes, lacking


def check_pieces(
    shards: Sequence[Mapping[str, Any]], lacking: Sequence[Mapping[str, Any]], sources: Mapping[str, FilesSource]
) -> None:
    """Refuse a file of which no piece has a needed column; one that is in some pieces alone is fine.

    Args:
        shards: result of `plan`.
        lacking: the pieces that lack columns, of all shards: `url`, `names` of the columns, `found` among the mapped.

    Raises:
        SourceError: the message has the source and the URL.
    """
    parts = [(shard["source"], part["url"]) for shard in shards for part in shard["parts"]]
    for (name, url), n_pieces in Counter(parts).items():
        pieces = [piece for piece in lacking if piece["url"] == url]
        if len(pieces) == n_pieces:
            names = list(dict.fromkeys(column for piece in pieces for column in piece["names"]))
            found = {column for piece in pieces for column in piece["found"]}
            try:
                check_columns(sources[name].columns, names, found)
            except MissingColumnsError as error:
                raise SourceError(f"source {name!r}: {url}: {error}") from error


def texts_of(records: Ref, dropped: Ref, keep: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
    """Batches with `row`, `split`, `prompt` and `text` of the records that are not dropped yet.

    Args:
        dropped: table with a column `row`, of those dropped after reading.
        keep: condition on the columns of the index.
    """
    table = read_table(records["url"], ["row", "split", "reason", "prompt", "completion"])
    table = table.filter(pl.col("reason").is_null(), *([] if keep is None else [keep]))
    table = table.join(read_table(dropped["url"], ["row"]), on="row", how="anti", maintain_order="left")
    for batch in table.iter_slices(BATCH_ROWS):
        yield batch.select("row", "split", "prompt", TEXT)


def _local_copy(part: Mapping[str, Any], folder: Path) -> Path:
    """The file itself if it is local and whole, else a copy, with the file's own name."""
    system, path = open_url(part["url"])
    name = path.rsplit("/", 1)[-1]
    if part["kind"] == "whole" and is_local(system):
        return Path(path)
    copy = folder / name
    if part["kind"] == "row_groups":
        with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            pq.write_table(parquet.read_row_groups(range(part["start"], part["stop"])), copy)
    elif part["kind"] == "bytes":
        copy.write_bytes(_lines(system, path, part))
    else:
        system.get_file(path, str(copy))
    return copy


def _lines(system: Any, path: str, part: Mapping[str, Any]) -> bytes:
    """The lines that begin between `start` and `stop`."""
    start, stop = part["start"], part["stop"]
    # Start one byte earlier, because a line that begins exactly at `start` belongs here.
    content: bytes = system.cat_file(path, start=max(start - 1, 0), end=stop)
    if start:
        content = content[content.find(b"\n") + 1 :] if b"\n" in content else b""
    while content and not content.endswith(b"\n") and stop < part["file_size"]:
        more: bytes = system.cat_file(path, start=stop, end=min(stop + READ_AHEAD, part["file_size"]))
        line_end = more.find(b"\n")
        content += more if line_end < 0 else more[: line_end + 1]
        stop += len(more)
    return content
