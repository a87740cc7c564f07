"""The data card of a cleaned corpus: plain numbers for the report."""

from collections.abc import Mapping
from typing import Any

import polars as pl

BYTES_PER_TOKEN = 4.0
"""Rough number of UTF-8 bytes per token. SmolLM2 has 2.7 (code, arithmetic) to 4.8 (medical prose)."""


class VanishedSourceError(ValueError):
    """Cleaning kept nothing of a source. The message says why for each such source, and what to do."""


def data_card(index: pl.DataFrame, duplicates: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """The data card of a corpus. It is JSON-serialisable; every table is a list of rows.

    Args:
        index: one row per record read: source, task, split, licence, language, prompt_characters,
            completion_characters, n_bytes, reason (null for kept records), detail.
        duplicates: kind -> table with the `source` of every duplicate and the `kept_source` of the document it repeats.
    """
    kept, dropped = index.filter(pl.col("reason").is_null()), index.filter(pl.col("reason").is_not_null())
    return {
        "n_read": len(index),
        "n_kept": len(kept),
        "n_dropped": len(dropped),
        "sources": _sources(index, kept),
        "tasks": _counts(kept, "source", "task", "split"),
        "dropped": _counts(dropped, "source", "reason"),
        "duplicates": [
            {"kind": kind, **row}
            for kind, pairs in duplicates.items()
            for row in _counts(pairs, "source", "kept_source")
        ],
        "contamination": [
            {"source": row["source"], "evaluation_set": row["detail"], "n": row["n"]}
            for row in _counts(dropped.filter(pl.col("reason") == "contaminated"), "source", "detail")
        ],
        "languages": _counts(kept, "source", "language"),
        "licences": _counts(kept, "source", "licence"),
    }


def vanished_sources(card: Mapping[str, Any]) -> list[str]:
    """One sentence for each source of which cleaning kept nothing."""
    return [
        f"Nothing is left of source {row['source']!r}: of {row['n_read']} records read, cleaning dropped "
        f"{_reasons(card, row)}. Correct the source or the limits of cleaning, or leave the source out"
        for row in card["sources"]
        if not row["n_kept"]
    ]


def check_vanished(card: Mapping[str, Any]) -> None:
    """Refuse a corpus in which a source is no longer there.

    Raises:
        VanishedSourceError: cleaning kept nothing of a source.
    """
    if sentences := vanished_sources(card):
        raise VanishedSourceError(". ".join(sentences))


def halved_sources(card: Mapping[str, Any]) -> list[str]:
    """One sentence for each source that lost at least half of its records, but not all of them.

    Records above `max_documents_per_source` do not count as lost: the user chose that limit.
    """
    return [
        f"Source {row['source']!r} has lost {lost} of {row['n_read']} records: {_reasons(card, row)}"
        for row in card["sources"]
        if row["n_kept"] and 2 * (lost := _lost(card, row)) >= row["n_read"]
    ]


def _lost(card: Mapping[str, Any], source: Mapping[str, Any]) -> int:
    dropped = [row for row in card["dropped"] if row["source"] == source["source"]]
    return sum(int(row["n"]) for row in dropped if row["reason"] != "over_source_limit")


def _reasons(card: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """How many records were dropped for each reason, and what they repeat: `3 exact_duplicate (of 'a')`."""
    name = source["source"]
    repeated: dict[str, list[str]] = {}
    for row in card.get("duplicates", ()):
        if row["source"] == name:
            repeated.setdefault(row["kind"], []).append(row["kept_source"])
    repeated["contaminated"] = [row["evaluation_set"] for row in card.get("contamination", ()) if row["source"] == name]
    dropped = sorted((row for row in card["dropped"] if row["source"] == name), key=lambda row: -row["n"])
    said = {reason: f" (of {', '.join(map(repr, names))})" for reason, names in repeated.items() if names}
    return ", ".join(f"{row['n']} {row['reason']}{said.get(row['reason'], '')}" for row in dropped)


def _sources(index: pl.DataFrame, kept: pl.DataFrame) -> list[dict[str, Any]]:
    read = index.group_by("source", maintain_order=True).agg(n_read=pl.len())
    tokens = pl.col("n_bytes") / BYTES_PER_TOKEN
    sizes = kept.group_by("source").agg(
        n_kept=pl.len(),
        n_train=(pl.col("split") == "train").sum(),
        n_test=(pl.col("split") == "test").sum(),
        n_tasks=pl.col("task").n_unique(),
        prompt_characters=pl.col("prompt_characters").median(),
        completion_characters=pl.col("completion_characters").median(),
        estimated_tokens=tokens.sum().round(),
        estimated_tokens_median=tokens.median().round(),
        estimated_tokens_p95=tokens.quantile(0.95).round(),
    )
    return (
        read.join(sizes, on="source", how="left", maintain_order="left")
        .with_columns(pl.col("n_kept", "n_train", "n_test", "n_tasks", "estimated_tokens").fill_null(0))
        .to_dicts()
    )


def _counts(table: pl.DataFrame, *columns: str) -> list[dict[str, Any]]:
    return table.group_by(columns).agg(n=pl.len()).sort(columns, nulls_last=True).to_dicts()
