"""Training documents that share text with an evaluation set, across shards; rules of `analysis.corpus.decontamination`.

Every worker holds the n-grams of all evaluation texts: 16 bytes for each of their words. So a large corpus needs a
small share of held-out documents.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.corpus.cleaning import BATCH_ROWS
from analysis.corpus.decontamination import MAX_DOCUMENTS, known_ngrams, ngrams_of, slots_of
from analysis.corpus.deduplication import TEXT
from analysis.engine.files import parquet_bytes, read_table, row_groups_of
from analysis.engine.stages import Output
from analysis.shards.reading import Ref, shard_records, texts_of

NGRAMS = "ngrams.parquet"
HITS = "hits.parquet"
PLACES = "places.parquet"
MOST_NGRAMS = 500_000_000


def held_out_ngrams(records: Ref, dropped: Ref, owner: int) -> Output:
    """The n-grams of a shard's own test documents: `ngrams.parquet` with `ngram`, `owner`."""
    return _ngrams(ngrams_of({"": texts_of(records, dropped, pl.col("split") == "test")})[0], owner)


def evaluation_ngrams(shard: Mapping[str, Any], source: Mapping[str, Any], owner: int) -> Output:
    """The n-grams of a shard of an evaluation set: `ngrams.parquet`."""
    records, _, lacking = shard_records(shard, source)
    texts = (batch.select("prompt", TEXT) for batch in records.iter_slices(BATCH_ROWS))
    return Output({"lacking": lacking}, _ngrams(ngrams_of({"": texts})[0], owner).files)


def merged_ngrams(files: Sequence[Ref]) -> Output:
    """Distinct n-grams, sorted, each with the first set that has it.

    Raises:
        ValueError: there are more than `MOST_NGRAMS`.
    """
    tables = pl.concat([read_table(file["url"]) for file in files])
    merged = tables.group_by("ngram").agg(pl.col("owner").min()).sort("ngram")
    if len(merged) > MOST_NGRAMS:
        raise ValueError(
            f"expected at most {MOST_NGRAMS:,} n-grams in the evaluation texts, got {len(merged):,}: every worker "
            f"holds them. Lower test_fraction, or set decontaminate to false"
        )
    return Output(len(merged), {NGRAMS: parquet_bytes(row_groups_of(merged))})


def shard_hits(records: Ref, dropped: Ref, ngrams: Ref) -> Output:
    """Where n-grams of evaluation sets occur in training documents.

    Returns:
        `hits.parquet` with `row`, `place` (of the n-gram), without n-grams that are too frequent in this shard alone;
        `places.parquet` with `place`, `n` (documents, up to `MAX_DOCUMENTS` + 1).
    """
    known, filled = _known(ngrams["url"])
    rows, places = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for batch in texts_of(records, dropped, pl.col("split") != "test"):
        row, place = known_ngrams(batch, known, filled)
        rows.append(row)
        places.append(place)
    hits = pl.DataFrame({"row": np.concatenate(rows), "place": np.concatenate(places)})
    counts = _summed(hits.group_by("place").agg(n=pl.len().cast(pl.Int64)))
    rare = counts.filter(pl.col("n") <= MAX_DOCUMENTS)
    hits = hits.join(rare, on="place", how="semi", maintain_order="left")
    return Output(files={HITS: parquet_bytes(row_groups_of(hits)), PLACES: parquet_bytes(row_groups_of(counts))})


@lru_cache(maxsize=1)
def _known(url: str) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The n-grams of a file, and their slots. A worker keeps them, or each of its shards would read them again."""
    ngrams = read_table(url, ["ngram"])["ngram"].to_numpy()
    return ngrams, slots_of(ngrams)


def merged_places(files: Sequence[Ref]) -> Output:
    """The sum of counts of places, up to `MAX_DOCUMENTS` + 1."""
    merged = _summed(pl.concat([read_table(file["url"]) for file in files]))
    return Output(files={PLACES: parquet_bytes(row_groups_of(merged))})


def contaminated_rows(hits: Ref, places: Ref, ngrams: Ref, names: Sequence[str]) -> pl.DataFrame:
    """Rows of a shard that share an n-gram, and the first set that has one: `row`, `evaluation_set`."""
    found = read_table(hits["url"])
    rare = read_table(places["url"]).filter(pl.col("n") <= MAX_DOCUMENTS)
    found = found.join(rare, on="place", how="semi")
    owners = read_table(ngrams["url"], ["owner"])["owner"]
    found = found.with_columns(owner=owners.gather(found["place"]))
    first = found.group_by("row").agg(pl.col("owner").min()).sort("row")
    return first.select("row", evaluation_set=pl.Series(list(names), dtype=pl.String).gather(first["owner"]))


def _summed(counts: pl.DataFrame) -> pl.DataFrame:
    total = pl.col("n").sum().clip(upper_bound=MAX_DOCUMENTS + 1)
    return counts.group_by("place").agg(total).sort("place")


def _ngrams(values: NDArray[np.uint64], owner: int) -> Output:
    table = pl.DataFrame({"ngram": values, "owner": np.full(len(values), owner, np.uint32)})
    return Output(len(table), {NGRAMS: parquet_bytes(row_groups_of(table))})
