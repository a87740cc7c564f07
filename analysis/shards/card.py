"""The data card of a sharded corpus, from counts; equal to that of `analysis.corpus.data_card`."""

from typing import Any

import numpy as np
import polars as pl

from analysis.corpus.data_card import BYTES_PER_TOKEN


def card_of(counts: pl.DataFrame, sources: list[str], kinds: tuple[str, ...]) -> dict[str, Any]:
    """The data card.

    Args:
        counts: table with `CARD_SCHEMA`.
        sources: names in the order of the configuration.
        kinds: kinds of duplicates that were looked for.
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
            for kind in kinds
            for row in _counts(counts.filter(pl.col("kind") == kind), "source", "detail")
        ],
        "contamination": [{"source": r["source"], "evaluation_set": r["detail"], "n": r["n"]} for r in leaks],
        "languages": _counts(kept, "source", "language"),
        "licences": _counts(kept, "source", "licence"),
    }


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
