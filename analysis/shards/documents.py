"""The last stage of cleaning: documents and dropped records of each shard, numbers for the data card, and a sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from analysis.corpus.card_counts import card_counts, summed
from analysis.corpus.document_text import document_text
from analysis.corpus.documents import Documents, Dropped
from analysis.engine.files import parquet_bytes, read_table, row_groups_of
from analysis.engine.stages import Output
from analysis.shards.leaks import contaminated_rows
from analysis.shards.reading import Ref
from analysis.text.sampling import sample_documents

DOCUMENTS = "documents.parquet"
DROPPED = "dropped.parquet"
CARD = "card.parquet"
SAMPLE = "sample.parquet"


def shard_documents(
    records: Ref, duplicates: Ref, leaks: Mapping[str, Any] | None, text: str, sample_size: int, random_state: int
) -> Output:
    """Give every record of a shard its verdict.

    Args:
        duplicates: table with `row`, `why` (exact_duplicate, near_duplicate), `kept_id`, `kept_source`.
        leaks: arguments of `contaminated_rows`; None if leaks were not searched.
        text: which text is clustered; see `document_text`.

    Returns:
        `documents.parquet`, `dropped.parquet`; `card.parquet`, see `analysis.corpus.card_counts`; `sample.parquet`, see
        `merged_samples`. The value is the numbers of documents and of dropped records.
    """
    table = read_table(records["url"]).drop("content")
    table = table.join(read_table(duplicates["url"]), on="row", how="left", maintain_order="left")
    found = pl.DataFrame(schema={"row": pl.UInt32, "evaluation_set": pl.String})
    found = found if leaks is None else contaminated_rows(**leaks)
    table = table.join(found, on="row", how="left", maintain_order="left")
    is_leak = pl.when(pl.col("evaluation_set").is_not_null()).then(pl.lit("contaminated"))
    own = pl.col("reason").is_not_null()
    detail = pl.when(~own).then(pl.coalesce("kept_id", "evaluation_set"))
    table = table.with_columns(reason=pl.coalesce("reason", "why", is_leak), detail=detail)
    kept, dropped = table.filter(pl.col("reason").is_null()), table.filter(pl.col("reason").is_not_null())
    documents = kept.select(Documents.column_names())
    training = documents.lazy().filter(pl.col("split") == "train")
    candidates = training.select("document_id", "source", "task", text=document_text(text))
    sample = sample_documents(candidates, sample_size, random_state)
    pairs = table.filter(pl.col("why").is_not_null()).select("source", "kept_source", kind="why")
    files = {
        DOCUMENTS: parquet_bytes(row_groups_of(documents)),
        DROPPED: parquet_bytes(row_groups_of(Dropped.validate(dropped.select(Dropped.column_names()), cast=True))),
        CARD: parquet_bytes([card_counts(table, pairs)]),
        SAMPLE: parquet_bytes([sample]),
    }
    return Output({"n_documents": len(documents), "n_dropped": len(dropped)}, files)


def merged_samples(files: Sequence[Ref], sample_size: int, random_state: int) -> Output:
    """The training documents with the smallest seeded ids, in the order read: `document_id, source, task, text`."""
    every = pl.concat([read_table(file["url"]) for file in files])
    sample = sample_documents(every.lazy(), sample_size, random_state)
    return Output(len(sample), {SAMPLE: parquet_bytes([sample])})


def merged_cards(files: Sequence[Ref]) -> Output:
    """The sum of the numbers of cards."""
    return Output(files={CARD: parquet_bytes([summed([read_table(file["url"]) for file in files])])})
