"""The counts behind the data card. Those of the parts of a corpus add up to those of the whole."""

from collections.abc import Sequence
from typing import Any

import polars as pl

COUNT_SCHEMA = pl.Schema(
    {
        "kind": pl.String(),
        **{name: pl.String() for name in ("source", "task", "split", "licence", "language", "reason", "detail")},
        "value": pl.Int64(),
        "n": pl.Int64(),
    }
)
"""`kind`: `rows`, a kind of duplicate (`detail`: the source that was kept), or a column whose values are counted."""
KEYS = [name for name in COUNT_SCHEMA.names() if name != "n"]


def card_counts(index: pl.DataFrame, duplicates: pl.DataFrame) -> pl.DataFrame:
    """Count the records of a corpus, or of a part of it: a table with `COUNT_SCHEMA`.

    Args:
        index: one row per record read: source, task, split, licence, language, prompt_characters,
            completion_characters, n_bytes, reason (null for kept records), detail.
        duplicates: one row per duplicate: its `source` and `kind`, and the `kept_source` of the document it repeats.
    """
    leak = pl.when(pl.col("reason") == "contaminated").then("detail")
    kept = index.filter(pl.col("reason").is_null())
    lengths = [
        _counted(kept.select("source"), kind=pl.lit(name), value=kept[name].cast(pl.Int64))
        for name in ("prompt_characters", "completion_characters", "n_bytes")
    ]
    pairs = duplicates.select("source", "kind", detail="kept_source")
    return summed([_counted(index, kind=pl.lit("rows"), detail=leak), *lengths, _counted(pairs)])


def summed(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Add up `n` of equal rows."""
    return pl.concat(tables).group_by(KEYS).agg(pl.col("n").sum()).sort(KEYS, nulls_last=True)


def _counted(table: pl.DataFrame, **columns: Any) -> pl.DataFrame:
    given = table.with_columns(**columns)
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in COUNT_SCHEMA.items() if name not in given.columns]
    return given.with_columns(missing).group_by(KEYS).agg(n=pl.len().cast(pl.Int64)).select(COUNT_SCHEMA.names())
