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
    ANSWER_AT,
    COUNTER_SLOTS,
    SHINGLE_SIZE,
    TEXT,
    Compared,
    band_keys,
    candidate_pairs,
    content_of,
    count_shingles,
    firsts_of_runs,
)
from analysis.engine.files import parquet_bytes, read_bytes, read_ranges, read_table, row_groups_of
from analysis.engine.stages import Output
from analysis.shards.reading import Ref, texts_of
from analysis.text.shingles import Rows, shingles

TRAIN = 1 << 62
PAIRS = "pairs.parquet"
COUNTS = "counts.zst"
SHINGLES = "shingles.arrow"
KEYS = "keys.bin"
COMPARED = "compared.parquet"
PAIR_SCHEMA = pl.Schema({"kept": pl.UInt64(), "rank": pl.UInt64()})
KEY = np.dtype([("key", "<u8"), ("row", "<u4")])
IS_TRAIN = np.uint32(1 << 31)  # bit of `row` in `KEY`


def number_of(rank: pl.Expr) -> pl.Expr:
    """The number of a record in the order read, from its rank."""
    return rank & pl.lit(TRAIN - 1, pl.UInt64)


def shard_contents(records: Ref, n_parts: int) -> Output:
    """The content hash of each record that is not dropped: `keys.bin`, see `_by_place`."""
    table = read_table(records["url"], ["row", "split", "content", "reason"]).filter(pl.col("reason").is_null())
    is_train = (table["split"] != "test").to_numpy()
    return Output(
        files={KEYS: _by_place(table["row"].to_numpy(), is_train, table["content"].to_numpy()[None], n_parts)}
    )


def exact_pairs(shards: Sequence[dict[str, Any]], place: int, n_places: int) -> Output:
    """Records whose content occurs at a lower rank: `pairs.parquet` with `kept`, `rank`; see `band_pairs`."""
    ranks, keys = _ranked(shards, place, n_places)
    order = np.argsort(keys, kind="stable")
    ranks, keys = ranks[order], keys[order]
    first = firsts_of_runs(keys, ranks)
    return _pairs(first[first != ranks], ranks[first != ranks])


def shingle_counts(records: Ref, dropped: Ref, first: int, step: int) -> Output:
    """In how many documents of a shard each shingle occurs, up to 255; and `shingles.arrow`, those of each document.

    Args:
        first: number of the shard's first record in the order read.
        step: see `analysis.corpus.deduplication.step_between_counted`.
    """
    counts = np.zeros(COUNTER_SLOTS, np.uint8)
    file = pa.BufferOutputStream()
    schema = pa.schema({"row": pa.uint32(), "shingles": pa.large_list(pa.uint64())})
    with pa.ipc.new_file(file, schema) as writer:
        for batch in texts_of(records, dropped):
            rows, every = batch["row"].to_numpy(), shingles(batch["text"], SHINGLE_SIZE, punctuation=True)
            count_shingles(rows.astype(np.int64) + first, every, step, counts)
            lists = pa.LargeListArray.from_arrays(every.offsets, every.values)
            writer.write(pa.record_batch([pa.array(rows), lists], schema=schema))
    return Output(files={COUNTS: _compressed(counts), SHINGLES: file.getvalue().to_pybytes()})


def summed_counts(files: Sequence[Ref]) -> Output:
    """The sum of counts, up to 255."""
    total = _counts(files[0])
    for file in files[1:]:
        more = _counts(file)
        total += np.minimum(more, 255 - total)
    return Output(files={COUNTS: _compressed(total)})


def shard_bands(records: Ref, shingled: Ref, counts: Ref, threshold: float, n_parts: int) -> Output:
    """The key of each document in each band: `keys.bin`, see `_by_place`. The value is the number of bands."""
    rows, keys = band_keys(_stored(shingled), _counts(counts), threshold)
    is_train = (read_table(records["url"], ["split"])["split"] != "test").to_numpy()
    return Output(keys.shape[1], {KEYS: _by_place(rows, is_train[rows], keys.T, n_parts)})


def band_pairs(shards: Sequence[dict[str, Any]], place: int, n_places: int) -> Output:
    """Candidate pairs of one part of one band: `pairs.parquet`.

    Args:
        shards: `file` (of keys) and `first` (number of its first record) of each.
        place: number of the part among the `n_places` parts of all bands.
    """
    ranks, keys = _ranked(shards, place, n_places)
    places = np.arange(len(ranks), dtype=np.uint32)
    pairs = candidate_pairs(places, keys[:, None], places)
    return _pairs(ranks[pairs[:, 0]], ranks[pairs[:, 1]])


def distinct_pairs(files: Sequence[Ref]) -> Output:
    """Each candidate pair once: `pairs.parquet`. Most pairs have equal keys in several bands."""
    pairs = pl.concat([read_table(file["url"]) for file in files]).unique().sort("kept", "rank")
    return _pairs(pairs["kept"].to_numpy(), pairs["rank"].to_numpy())


def compared_documents(records: Ref, shingled: Ref, counts: Ref, wanted: Ref, n_parts: int) -> Output:
    """Shingles and texts of wanted documents: `compared.parquet`, with a row group for each part of the pairs.

    Args:
        wanted: table with `row`, `rank` and `part`; a document may be wanted in several parts.
    """
    frequencies, table = _counts(counts), read_table(wanted["url"])
    wanted_rows = table["row"].unique()
    found = []
    for rows, every in _stored(shingled):
        is_wanted = np.isin(rows, wanted_rows)
        chosen = every.where(is_wanted[every.row_of_value()])
        sets = {"whole": chosen, "content": content_of(chosen, frequencies)}
        places = np.flatnonzero(is_wanted)
        columns = {name: [of[i].tobytes() for i in places.tolist()] for name, of in sets.items()}
        schema = {"row": pl.UInt32, "whole": pl.Binary, "content": pl.Binary}
        found.append(pl.DataFrame({"row": rows[places], **columns}, schema=schema))
    texts = read_table(records["url"], ["row", "prompt", "completion"]).select("row", TEXT, ANSWER_AT)
    every_part = (
        table.join(pl.concat(found), on="row", how="inner", maintain_order="left")
        .join(texts, on="row", how="inner", maintain_order="left")
        .drop("row")
    )
    groups = [every_part.filter(pl.col("part") == part).drop("part") for part in range(n_parts)]
    return Output(files={COMPARED: parquet_bytes(groups)})


def alike_pairs(pairs: Ref, documents: Sequence[Ref], part: int, threshold: float) -> Output:
    """The candidate pairs of a part that are similar as a whole and in their content: `pairs.parquet`."""
    found: dict[int, Compared] = {}
    for file in documents:
        for rank, whole, content, *text in read_table(file["url"], group=part).iter_rows():
            found[rank] = Compared(np.frombuffer(whole, np.uint64), np.frombuffer(content, np.uint64), *text)
    table = read_table(pairs["url"])
    alike = [found[kept].is_like(found[rank], threshold) for kept, rank in table.iter_rows()]
    chosen = table.filter(pl.Series(alike, dtype=pl.Boolean))
    return _pairs(chosen["kept"].to_numpy(), chosen["rank"].to_numpy())


def kept_ones(alike: pl.DataFrame) -> pl.DataFrame:
    """The pairs that drop a record. A dropped record does not drop another one."""
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


def _stored(file: Ref) -> Iterator[tuple[NDArray[np.uint32], Rows]]:
    """Row numbers and shingles of each batch of `shingles.arrow`."""
    with pa.ipc.open_file(read_bytes(file["url"])) as stored:
        for number in range(stored.num_record_batches):
            rows, lists = stored.get_batch(number).columns
            yield rows.to_numpy(), Rows(lists.values.to_numpy(), lists.offsets.to_numpy())


def _by_place(rows: NDArray[np.uint32], is_train: NDArray[np.bool_], keys: NDArray[np.uint64], n_parts: int) -> bytes:
    """`KEY`s by band and part, so that a task can read its own part alone.

    The file begins with the start of each part: int64 [n_bands * n_parts + 1].

    Args:
        keys: [n_bands, n_rows].
    """
    entries = np.empty(keys.shape, KEY)
    entries["row"] = rows | is_train * IS_TRAIN
    entries["key"] = keys
    parts = keys % np.uint64(n_parts)
    sizes = [np.bincount(part.astype(np.int64), minlength=n_parts) for part in parts]
    starts = np.concatenate([[0], *sizes]).cumsum().astype("<i8")
    ordered = np.take_along_axis(entries, np.argsort(parts, axis=1, kind="stable"), axis=1)
    return starts.tobytes() + ordered.tobytes()


def _ranked(
    shards: Sequence[dict[str, Any]], place: int, n_places: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Ranks and keys of one part of all shards, by rank."""
    found = _at_place([shard["file"]["url"] for shard in shards], place, n_places)
    numbers = [(one["row"] & ~IS_TRAIN) + np.uint64(shard["first"]) for one, shard in zip(found, shards, strict=True)]
    entries, number = np.concatenate(found), np.concatenate(numbers)
    is_train = entries["row"] >= IS_TRAIN
    by_rank = np.concatenate([np.flatnonzero(~is_train), np.flatnonzero(is_train)])  # the numbers are already in order
    return (number + is_train * np.uint64(TRAIN))[by_rank], entries["key"][by_rank]


def _at_place(urls: Sequence[str], place: int, n_places: int) -> list[NDArray[Any]]:
    """The `KEY`s of one part of one band, of each file."""
    bounds = read_ranges(urls, [8 * place] * len(urls), [8 * place + 16] * len(urls))
    places = 8 * (n_places + 1) + KEY.itemsize * np.array([np.frombuffer(two, "<i8") for two in bounds])
    return [np.frombuffer(part, KEY) for part in read_ranges(urls, *places.T.tolist())]


def _pairs(kept: NDArray[np.uint64], rank: NDArray[np.uint64]) -> Output:
    table = pl.DataFrame({"kept": kept, "rank": rank}, schema=PAIR_SCHEMA)
    return Output(len(table), {PAIRS: parquet_bytes(row_groups_of(table))})


def _compressed(counts: NDArray[np.uint8]) -> bytes:
    return pa.compress(counts, "zstd", asbytes=True)


def _counts(file: Ref) -> NDArray[np.uint8]:
    content = pa.decompress(read_bytes(file["url"]), COUNTER_SLOTS, "zstd", asbytes=True)
    return np.frombuffer(content, np.uint8).copy()
