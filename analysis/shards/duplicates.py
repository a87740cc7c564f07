"""Exact and near duplicates across shards, with the rules of `analysis.corpus.deduplication`.

A record is known by its rank: its number in the order read, plus `TRAIN` if it is not in a test split. Of two
duplicates the one of lower rank is kept.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from analysis.corpus.deduplication import (
    COUNTER_SLOTS,
    SHINGLE_SIZE,
    Compared,
    band_keys,
    candidate_pairs,
    content_of,
    count_shingles,
)
from analysis.engine.files import parquet_bytes, read_bytes, read_table, row_groups_of
from analysis.engine.stages import Output
from analysis.shards.reading import Ref, texts_of
from analysis.text.shingles import Rows, shingles

TRAIN = 1 << 62
PAIRS = "pairs.parquet"
COUNTS = "counts.zst"
BANDS = "bands.parquet"
SHINGLES = "shingles.parquet"
PAIR_SCHEMA = pl.Schema({"kept": pl.UInt64(), "rank": pl.UInt64()})


def number_of(rank: pl.Expr) -> pl.Expr:
    """The number of a record in the order read, from its rank."""
    return rank & pl.lit(TRAIN - 1, pl.UInt64)


def exact_pairs(shards: Sequence[dict[str, Any]], part: int, n_parts: int) -> Output:
    """Records whose content occurs at a lower rank: `pairs.parquet` with `kept`, `rank`.

    Args:
        shards: `file` (records) and `first` (number of its first record) of each.
    """
    ranks, keys = _keys(shards, "content", part, n_parts)
    order = np.lexsort((ranks, keys))
    ranks, keys = ranks[order], keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    first = ranks[np.repeat(starts, np.diff(np.append(starts, len(keys))))]
    return _pairs(first[first != ranks], ranks[first != ranks])


def shingle_counts(records: Ref, dropped: Ref, first: int, step: int) -> Output:
    """In how many documents of a shard each shingle occurs, up to 255.

    Args:
        first: number of the shard's first record in the order read.
        step: see `analysis.corpus.deduplication.step_between_counted`.
    """
    counts = np.zeros(COUNTER_SLOTS, np.uint8)
    for rows, every in _shingled(records, dropped):
        count_shingles(rows.astype(np.int64) + first, every, step, counts)
    return Output(files={COUNTS: _compressed(counts)})


def summed_counts(files: Sequence[Ref]) -> Output:
    """The sum of counts, up to 255."""
    total = _counts(files[0])
    for file in files[1:]:
        more = _counts(file)
        total += np.minimum(more, 255 - total)
    return Output(files={COUNTS: _compressed(total)})


def shard_bands(records: Ref, dropped: Ref, counts: Ref, threshold: float) -> Output:
    """The key of each document in each band: `bands.parquet` with `row`, `split` and a column for each band."""
    rows, keys = band_keys(_shingled(records, dropped), _counts(counts), threshold)  # type: ignore[arg-type]
    splits = read_table(records["url"], ["row", "split"])
    table = pl.DataFrame({"row": rows, **{str(band): column for band, column in enumerate(keys.T)}})
    table = table.join(splits, on="row", how="left", maintain_order="left")
    return Output(keys.shape[1], {BANDS: parquet_bytes(row_groups_of(table))})


def band_pairs(shards: Sequence[dict[str, Any]], band: int, part: int, n_parts: int) -> Output:
    """Candidate pairs of one band: `pairs.parquet`. Arguments as in `exact_pairs`, with files of bands."""
    ranks, keys = _keys(shards, str(band), part, n_parts)
    order = np.argsort(ranks)
    ranks, places = ranks[order], np.arange(len(ranks), dtype=np.uint32)
    pairs = candidate_pairs(places, keys[order][:, None], places)
    return _pairs(ranks[pairs[:, 0]], ranks[pairs[:, 1]])


def shard_shingles(records: Ref, dropped: Ref, counts: Ref, wanted: Ref, n_parts: int) -> Output:
    """Shingles and texts of wanted documents, in a row group for each part of the pairs.

    Args:
        wanted: table with `row`, `rank` and `part`; a document may be wanted in several parts.
    """
    frequencies, table = _counts(counts), read_table(wanted["url"])
    found = []
    for batch in texts_of(records, dropped, pl.col("row").is_in(table["row"].unique().implode())):
        every = shingles(batch["text"], SHINGLE_SIZE, punctuation=True)
        content = content_of(every, frequencies)
        sets = {"whole": every, "content": content}
        columns = {name: [rows[i].tobytes() for i in range(len(rows))] for name, rows in sets.items()}
        schema = {"row": pl.UInt32, "whole": pl.Binary, "content": pl.Binary, "text": pl.String}
        found.append(pl.DataFrame({"row": batch["row"], **columns, "text": batch["text"]}, schema=schema))
    every_part = table.join(pl.concat(found), on="row", how="inner", maintain_order="left").drop("row")
    groups = [every_part.filter(pl.col("part") == part).drop("part") for part in range(n_parts)]
    return Output(files={SHINGLES: parquet_bytes(groups)})


def alike_pairs(pairs: Ref, shingles: Sequence[Ref], part: int, threshold: float) -> Output:
    """The candidate pairs of a part that are similar as a whole and in their content: `pairs.parquet`."""
    found: dict[int, Compared] = {}
    for file in shingles:
        for rank, whole, content, text in read_table(file["url"], group=part).iter_rows():
            found[rank] = Compared(np.frombuffer(whole, np.uint64), np.frombuffer(content, np.uint64), text)
    table = read_table(pairs["url"])
    alike = [found[kept].is_like(found[rank], threshold) for kept, rank in table.iter_rows()]
    chosen = table.filter(pl.Series(alike, dtype=pl.Boolean))
    return _pairs(chosen["kept"].to_numpy(), chosen["rank"].to_numpy())


def kept_ones(alike: pl.DataFrame) -> pl.DataFrame:
    """Which pairs drop a record. A record that was dropped itself drops no other."""
    dropped: set[int] = set()
    chosen = []
    for pair in alike.sort("rank", "kept").iter_rows():
        if dropped.isdisjoint(pair):
            dropped.add(pair[1])
            chosen.append(pair)
    return pl.DataFrame(chosen, schema=PAIR_SCHEMA, orient="row")


def shard_names(records: Ref, wanted: Ref) -> Output:
    """`document_id` and `source` of the wanted rows, with their `rank`: `names.parquet`."""
    names = read_table(records["url"], ["row", "document_id", "source"])
    found = read_table(wanted["url"]).join(names, on="row", how="left", maintain_order="left").drop("row")
    return Output(files={"names.parquet": parquet_bytes([found])})


def _shingled(records: Ref, dropped: Ref) -> Iterator[tuple[NDArray[np.uint32], Rows]]:
    for batch in texts_of(records, dropped):
        yield batch["row"].to_numpy(), shingles(batch["text"], SHINGLE_SIZE, punctuation=True)


def _keys(
    shards: Sequence[dict[str, Any]], column: str, part: int, n_parts: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Ranks and keys of a part of all records, in the order of the shards."""
    found = [(np.empty(0, np.uint64), np.empty(0, np.uint64))]
    for shard in shards:
        names = ["row", "split", column, *(["reason"] if column == "content" else [])]
        table = read_table(shard["file"]["url"], names)
        if column == "content":
            table = table.filter(pl.col("reason").is_null())
        table = table.filter(pl.col(column) % n_parts == part)
        rank = pl.col("row").cast(pl.UInt64) + shard["first"] + (pl.col("split") != "test").cast(pl.UInt64) * TRAIN
        found.append((table.select(rank.cast(pl.UInt64)).to_series().to_numpy(), table[column].to_numpy()))
    ranks, keys = zip(*found, strict=True)
    return np.concatenate(ranks), np.concatenate(keys)


def _pairs(kept: NDArray[np.uint64], rank: NDArray[np.uint64]) -> Output:
    table = pl.DataFrame({"kept": kept, "rank": rank}, schema=PAIR_SCHEMA)
    return Output(len(table), {PAIRS: parquet_bytes(row_groups_of(table))})


def _compressed(counts: NDArray[np.uint8]) -> bytes:
    content: bytes = pa.compress(counts, "zstd", asbytes=True)
    return content


def _counts(file: Ref) -> NDArray[np.uint8]:
    content = pa.decompress(read_bytes(file["url"]), COUNTER_SLOTS, "zstd", asbytes=True)
    return np.frombuffer(content, np.uint8).copy()
