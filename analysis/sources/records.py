"""What every source returns: a lazy table of records, one row for each instruction pair read."""

import polars as pl

RECORD_SCHEMA = pl.Schema(
    {
        "source": pl.String(),
        "task": pl.String(),
        "split": pl.String(),
        "prompt": pl.String(),
        "completion": pl.String(),
        "licence": pl.String(),
        "origin": pl.String(),
    }
)
"""Columns of a record. The cleaning step adds `document_id` and `language`, and decides a missing `split`."""

HELD_OUT_SPLITS = ("test", "validation", "valid", "val", "dev", "eval")


class SourceError(ValueError):
    """A source that cannot be read; the text names the place and the way out."""


def split_expression(split: pl.Expr) -> pl.Expr:
    """`train`, `test`, or null (decided later by a hash) from the names that publishers use."""
    name = split.str.strip_chars().str.to_lowercase()
    return pl.when(name == "train").then(pl.lit("train")).when(name.is_in(HELD_OUT_SPLITS)).then(pl.lit("test"))
