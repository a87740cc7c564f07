"""The steps and documents of a run, and whether they suffice for a verdict."""

from dataclasses import dataclass

import polars as pl

from analysis.report.inputs import ReportInputs

LEAST_STEPS = 200
"""Steps of training below which the report gives no verdict. Losses still fall fast then, so a method that only starts
faster would win."""

LEAST_HELD_OUT_DOCUMENTS = 200
"""Held-out documents below which the report gives no verdict: the interval is estimated from them."""

LEAST_SEEDS = 3
"""Seeds below which the report gives no verdict, because the interval over documents does not include the effect of a
seed."""


@dataclass(frozen=True)
class Spent:
    """The budget of a run's training and evaluation; None for a number that is not in its tables.

    Attributes:
        steps: of the shortest training among the reported method and its baseline.
        tokens: of the reported method's training.
        seeds: that were trained with both.
        held_out_documents: that were measured.
    """

    steps: int | None
    tokens: int | None
    seeds: int | None
    seconds: float | None
    held_out_documents: int | None

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """The numbers that are too small for a verdict, each as "14 of at least 200 steps"."""
        needed = (
            (self.steps, LEAST_STEPS, "steps"),
            (self.held_out_documents, LEAST_HELD_OUT_DOCUMENTS, "held-out documents"),
            (self.seeds, LEAST_SEEDS, "seeds"),
        )
        return tuple(
            f"{'an unknown number' if found is None else f'{found:,}'} of at least {least} {what}"
            for found, least, what in needed
            if found is None or found < least
        )


def spent(inputs: ReportInputs) -> Spent:
    """The budget of a run, from its tables."""
    pair = pl.col("method").is_in([inputs.method, inputs.matched_baseline])
    steps = tokens = seeds = seconds = documents = None
    if inputs.curves is not None and len(rows := inputs.curves.filter(pair)):
        last = rows.group_by("method", "seed").agg(pl.col("step").max(), pl.col("tokens").max())
        steps = int(last["step"].to_numpy().min())
        ours = last.filter(pl.col("method") == inputs.method)["tokens"]
        tokens = int(ours.to_numpy().max()) if len(ours) else None
    if inputs.energy is not None and len(inputs.energy):
        seconds = float(inputs.energy["seconds"].to_numpy().sum())
    if inputs.evaluation is not None:
        rows = inputs.evaluation.filter(pair & (pl.col("group_kind") == "all"))
        of = [set(rows.filter(pl.col("method") == name)["seed"]) for name in (inputs.method, inputs.matched_baseline)]
        seeds = len(of[0] & of[1])
        if "n_documents" in rows.columns and len(rows):
            documents = int(rows["n_documents"].to_numpy().min())
    return Spent(steps, tokens, seeds, seconds, documents)
