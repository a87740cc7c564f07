"""Is the expert of a group better on that group than the other experts are?

If gates are given, documents go to the expert of their group by construction. So gates that follow the groups show
nothing. The losses of every expert on every group do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

COLUMNS = ("document_id", "group", "expert", "loss", "n_tokens")


@dataclass(frozen=True)
class CrossExperts:
    """Conclusions from the losses of every expert on every group.

    Attributes:
        by_group: group, own (loss of its expert), others (mean loss of the other experts), best (the expert with the
            least loss), n_documents. Losses are nats per token.
        matrix: group, expert, difference (loss minus that of the group's own expert).
        difference: mean over documents of the own expert's loss minus the mean loss of the others; negative is better.
        low, high: 95% t interval of `difference` over documents; nan with fewer than two documents.
    """

    by_group: pl.DataFrame
    matrix: pl.DataFrame
    difference: float
    low: float
    high: float
    n_documents: int

    @property
    def n_best(self) -> int:
        """Groups whose own expert has the least loss."""
        return int((self.by_group["best"] == self.by_group["group"]).sum())


def cross_experts(losses: pl.DataFrame) -> CrossExperts | None:
    """Compare each group's own expert with the others; None with fewer than two experts.

    Args:
        losses: document_id, group (of the document), expert (named by its group), loss (sum over the answer in nats),
            n_tokens.

    Raises:
        ValueError: a column is missing.
    """
    if missing := [column for column in COLUMNS if column not in losses.columns]:
        raise ValueError(f"losses: expected columns {', '.join(COLUMNS)}; got no {', '.join(missing)}")
    losses = losses.filter((pl.col("n_tokens") > 0) & pl.col("group").is_in(losses["expert"].unique().to_list()))
    if losses["expert"].n_unique() < 2:
        return None
    is_own = pl.col("expert") == pl.col("group")
    per_token = pl.col("loss") / pl.col("n_tokens")
    documents = losses.group_by("document_id", maintain_order=True).agg(
        difference=per_token.filter(is_own).mean() - per_token.filter(~is_own).mean()
    )
    differences = documents["difference"].drop_nulls().to_numpy()
    mean, half = mean_interval(differences)
    cells = losses.group_by("group", "expert").agg(
        loss=pl.col("loss").sum() / pl.col("n_tokens").sum(), n_documents=pl.len()
    )
    own = cells.filter(is_own).select("group", own="loss")
    matrix = cells.join(own, on="group").with_columns(difference=pl.col("loss") - pl.col("own"))
    by_group = matrix.group_by("group").agg(
        pl.col("own").first(),
        others=pl.col("loss").filter(~is_own).mean(),
        best=pl.col("expert").sort_by("loss", ~is_own).first(),
        n_documents=pl.col("n_documents").first(),
    )
    return CrossExperts(
        by_group=by_group.sort("group"),
        matrix=matrix.select("group", "expert", "difference").sort("group", "expert"),
        difference=mean,
        low=mean - half,
        high=mean + half,
        n_documents=len(differences),
    )


def mean_interval(values: "np.ndarray[Any, Any]") -> tuple[float, float]:
    """The mean, and half the width of its 95% t interval."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return (float(values.mean()) if n else float("nan")), float("nan")
    return float(values.mean()), float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
