"""A learning rate for each cell of the study: its method, domain and N. Each run has the whole budget."""

from collections.abc import Mapping, Sequence

import polars as pl

from analysis.methods.rates import best_rate, is_bracketed, next_rates
from pipelines.study.experiments import Cell
from pipelines.study.planning import Planner
from pipelines.study.running.run import Setup, mean_loss
from pipelines.study.running.run_documents import VALIDATION
from pipelines.study.running.runs import build_runs
from pipelines.training.adapters import Log
from pipelines.training.launcher import Launcher

RATES_SCHEMA = {
    "domain": pl.String,
    "method": pl.String,
    "num_experts": pl.Int64,
    "learning_rate": pl.Float64,
    "loss": pl.Float64,
    "chosen": pl.Boolean,
    "bracketed": pl.Boolean,
}
Tried = Mapping[Cell, Mapping[float, float]]
"""Cell -> rate -> validation loss."""


def tune(
    cells: Sequence[Cell],
    start: Mapping[str, Sequence[float]],
    setups: Mapping[str, Setup],
    planner: Planner,
    seed: int,
    launcher: Launcher,
    log: Log,
) -> Tried:
    """Train the cells of the methods in `start` at its rates, and further until the best one is bracketed."""
    tried: dict[Cell, dict[float, float]] = {cell: {} for cell in cells if cell.method in start}
    while asked := [(cell, rate) for cell, of in tried.items() for rate in next_rates(of, start[cell.method])]:
        runs = [(setups[cell.domain], planner.run(cell, seed, rate)) for cell, rate in asked]
        for (cell, rate), artifact in zip(asked, build_runs(runs, launcher, log), strict=True):
            tried[cell][rate] = mean_loss(artifact, VALIDATION)
    return tried


def rates_table(tried: Tried) -> pl.DataFrame:
    """One row for each cell and rate: `domain, method, num_experts, learning_rate, loss, chosen, bracketed`."""
    rows = [
        (cell.domain, cell.method, cell.num_experts, rate, loss, rate == best_rate(losses), is_bracketed(losses))
        for cell, losses in tried.items()
        for rate, loss in sorted(losses.items())
    ]
    return pl.DataFrame(rows, schema=RATES_SCHEMA, orient="row")
