"""The data card of a cleaned corpus: plain numbers for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

DUPLICATES = ("exact_duplicate", "near_duplicate", "semantic_duplicate")
BYTES_PER_TOKEN = 4.0
"""Rough number of UTF-8 bytes per token. SmolLM2 has 2.7 (code, arithmetic) to 4.8 (medical prose)."""


class VanishedSourceError(ValueError):
    """Cleaning kept nothing of a source. The message says why for each such source, and what to do."""


def data_card(counts: pl.DataFrame, sources: Sequence[str]) -> dict[str, Any]:
    """The data card of a corpus. It is JSON-serialisable; every table is a list of rows.

    Args:
        counts: result of `analysis.corpus.card_counts`.
        sources: names in the order read.
    """
    rows = counts.filter(pl.col("kind") == "rows")
    kept, dropped = rows.filter(pl.col("reason").is_null()), rows.filter(pl.col("reason").is_not_null())
    leaks = _counts(dropped.filter(pl.col("reason") == "contaminated"), "source", "detail")
    return {
        "n_read": int(rows["n"].sum()),
        "n_kept": int(kept["n"].sum()),
        "n_dropped": int(dropped["n"].sum()),
        "sources": [_source(name, rows, counts) for name in sources],
        "tasks": _counts(kept, "source", "task", "split"),
        "dropped": _counts(dropped, "source", "reason"),
        "duplicates": [
            {"kind": kind, "source": row["source"], "kept_source": row["detail"], "n": row["n"]}
            for kind in DUPLICATES
            for row in _counts(counts.filter(pl.col("kind") == kind), "source", "detail")
        ],
        "contamination": [{"source": r["source"], "evaluation_set": r["detail"], "n": r["n"]} for r in leaks],
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
        if row["n_kept"] and 2 * (lost := _lost(card, row["source"])) >= row["n_read"]
    ]


def _lost(card: Mapping[str, Any], source: str) -> int:
    rows = (row for row in card["dropped"] if row["source"] == source and row["reason"] != "over_source_limit")
    return sum(int(row["n"]) for row in rows)


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


def _source(name: str, rows: pl.DataFrame, counts: pl.DataFrame) -> dict[str, Any]:
    own = rows.filter(pl.col("source") == name)
    kept = own.filter(pl.col("reason").is_null())

    def values(kind: str) -> tuple[np.ndarray, np.ndarray]:
        table = counts.filter(pl.col("kind") == kind, pl.col("source") == name).sort("value")
        return table["value"].to_numpy(), table["n"].to_numpy()

    sizes, n = values("n_bytes")
    return {
        "source": name,
        "n_read": int(own["n"].sum()),
        "n_kept": int(kept["n"].sum()),
        "n_train": int(kept.filter(pl.col("split") == "train")["n"].sum()),
        "n_test": int(kept.filter(pl.col("split") == "test")["n"].sum()),
        "n_tasks": kept["task"].n_unique(),
        "prompt_characters": _median(*values("prompt_characters")),
        "completion_characters": _median(*values("completion_characters")),
        "estimated_tokens": _rounded(float(sizes @ n) / BYTES_PER_TOKEN) if len(n) else 0.0,
        "estimated_tokens_median": _rounded(_median(sizes / BYTES_PER_TOKEN, n)),
        "estimated_tokens_p95": _rounded(_nearest(sizes / BYTES_PER_TOKEN, n, 0.95)),
    }


def _median(values: np.ndarray, n: np.ndarray) -> float | None:
    if not len(n):
        return None
    total, last = int(n.sum()), np.cumsum(n)
    lower, upper = (values[np.searchsorted(last, place, side="right")] for place in ((total - 1) // 2, total // 2))
    return float(lower + upper) / 2


def _nearest(values: np.ndarray, n: np.ndarray, share: float) -> float | None:
    """The quantile with polars' rule `nearest`."""
    if not len(n):
        return None
    place = int(np.floor(share * (int(n.sum()) - 1) + 0.5))
    return float(values[np.searchsorted(np.cumsum(n), place, side="right")])


def _rounded(value: float | None) -> float | None:
    """Round to a whole number; halves go to the even number, as in polars."""
    return None if value is None else float(np.round(value))


def _counts(table: pl.DataFrame, *columns: str) -> list[dict[str, Any]]:
    return table.group_by(columns).agg(pl.col("n").sum()).sort(columns, nulls_last=True).to_dicts()
