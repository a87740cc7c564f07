"""Tables of held-out losses with confidence intervals."""

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments
    from hydralora.evaluation import DocumentLosses

BASE = "base"
"""Name of the base model in tables of methods."""


def evaluation_table(losses: dict[str, "DocumentLosses"], seed: int, resamples: int) -> pl.DataFrame:
    """Losses with 95% intervals.

    Columns: `method, seed, group_kind, group, loss, loss_low, loss_high, n_documents, n_tokens`.
    """
    from hydralora.evaluation import bootstrap_interval

    rows = []
    for method, of_method in losses.items():
        for (kind, group), part in of_method.groups().items():
            low, high = bootstrap_interval(part, num_resamples=resamples)
            sizes = (len(part.sources), int(part.token_counts.sum()))
            rows.append((method, seed, kind, group, part.mean, low, high, *sizes))
    columns = ("method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high", "n_documents", "n_tokens")
    return pl.DataFrame(rows, schema=columns, orient="row")


def paired_table(losses: dict[str, "DocumentLosses"], method: str, resamples: int) -> pl.DataFrame:
    """Losses of `method` minus those of each other method on the same documents. Negative: `method` is better."""
    from hydralora.evaluation import paired_bootstrap

    rows = []
    ours = losses[method].groups()
    for baseline in (name for name in losses if name != method):
        for (kind, group), theirs in losses[baseline].groups().items():
            paired = paired_bootstrap(ours[kind, group], theirs, num_resamples=resamples)
            rows.append((method, baseline, kind, group, paired.difference, paired.low, paired.high))
    columns = ("method", "baseline", "group_kind", "group", "difference", "low", "high")
    return pl.DataFrame(rows, schema=columns, orient="row")


def loss_table(losses: dict[str, "DocumentLosses"], documents: "TokenisedDocuments") -> pl.DataFrame:
    """One row for each method and document. `loss` is summed over the `n_tokens` tokens of the answer."""
    return pl.concat(
        pl.DataFrame(
            {
                "method": [method] * len(documents),
                "document_id": documents.column("document_id"),
                "source": of_method.sources,
                "cluster": of_method.clusters,
                "loss": of_method.loss_sums,
                "n_tokens": of_method.token_counts,
            }
        )
        for method, of_method in losses.items()
    )
