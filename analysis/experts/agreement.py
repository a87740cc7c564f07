"""How often the group of a prompt is predicted correctly."""

from dataclasses import dataclass
from typing import Self

import polars as pl

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Agreement:
    """Agreement of predicted with true groups.

    Attributes:
        confusion: label, predicted, n_prompts: one row for every pair that occurs.
    """

    confusion: pl.DataFrame

    @classmethod
    def of(cls, labels: pl.Series, predicted: pl.Series) -> Self:
        """Count the pairs of true and predicted group; both arguments are text [n]."""
        table = pl.DataFrame({"label": labels, "predicted": predicted})
        counts = table.group_by("label", "predicted").agg(n_prompts=pl.len())
        return cls(counts.sort("label", "predicted"))

    @property
    def n_prompts(self) -> int:
        """Number of predicted prompts."""
        return int(self.confusion["n_prompts"].sum())

    @property
    def n_found(self) -> int:
        """Number of prompts whose group was predicted correctly."""
        return int(self.confusion.filter(pl.col("label") == pl.col("predicted"))["n_prompts"].sum())

    @property
    def accuracy(self) -> float:
        """Share of prompts whose group was predicted correctly; NaN without prompts."""
        return self.n_found / self.n_prompts if self.n_prompts else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy (Wilson's score interval); (0, 1) without prompts."""
        from scipy.stats import binomtest

        if not self.n_prompts:
            return 0.0, 1.0
        found = binomtest(self.n_found, self.n_prompts).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)
