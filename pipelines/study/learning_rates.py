"""Tuned learning rates: the best rate tried, and whether it lies between other rates tried."""

from typing import Any

import polars as pl

from analysis.methods.rates import best_rate, is_bracketed
from pipelines.store.artifacts import Artifact
from pipelines.training.recipe import Recipe

SWEEP_SCHEMA = {"method": pl.String, "learning_rate": pl.Float64, "loss": pl.Float64}


def chosen_rates(sweep: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """For each method: the best rate, all rates tried, and whether the best lies between others."""
    chosen = {}
    for (method,), tried in sweep.sort("learning_rate").group_by("method", maintain_order=True):
        losses = dict(tried.select("learning_rate", "loss").iter_rows())
        chosen[str(method)] = {
            "learning_rate": best_rate(losses),
            "bracketed": is_bracketed(losses),
            "learning_rates": tried["learning_rate"].to_list(),
            "losses": tried["loss"].to_list(),
        }
    return chosen


def rate_of(method: str, learning_rates: Artifact, recipe: Recipe) -> float:
    """The tuned rate of a method if it has one, else the rate of the recipe."""
    tuned = learning_rates.json("learning_rates")["methods"].get(method)
    return float(tuned["learning_rate"]) if tuned else recipe.learning_rate_of(method)
