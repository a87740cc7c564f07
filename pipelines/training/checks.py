"""Metadata and asset checks for trained adapters."""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from pipelines.store.assets import Check
from pipelines.store.metadata import markdown_table
from pipelines.training.adapters import read_curve

BLOCKING = {
    "loss_finite": "The loss of every step is a number.",
    "base_weights_unchanged": "All adapters were trained on the same base weights, which training left as they were.",
    "reload_equal": "The adapter read back from its files gives the same logits.",
}
WARNINGS = {"loss_falls": "The loss is lower at the end than at the start, where there are steps enough to tell."}
COMPARED_STEPS = 3
"""First and last steps whose mean losses are compared."""


def curve_checks(folders: dict[str, Path]) -> list[Check]:
    """Results of the checks in `BLOCKING` and `WARNINGS`.

    Args:
        folders: name -> folder of each adapter.
    """
    losses = {name: read_curve(folder)["loss"].drop_nulls().to_list() for name, folder in folders.items()}
    long = {name: values for name, values in losses.items() if len(values) >= 2 * COMPARED_STEPS}
    rising = [
        name for name, values in long.items() if fmean(values[-COMPARED_STEPS:]) >= fmean(values[:COMPARED_STEPS])
    ]
    infinite = [name for name, values in losses.items() if not all(math.isfinite(value) for value in values)]
    # `train` writes no record if training changed the hash of the base weights. Adapters that are compared must also
    # have started from the same weights.
    records = {name: json.loads((folder / "run.json").read_text()) for name, folder in folders.items()}
    bases = {record["base_model"]["weights"] for record in records.values()}
    reloaded = {name: record["reload_difference"] for name, record in records.items()}
    # None: a whole model, which is not reloaded. On GPUs, kernels may sum in another order.
    different = [name for name, difference in reloaded.items() if difference is not None and difference > 1e-3]
    return [
        Check(
            "loss_finite",
            not infinite,
            ", ".join(infinite) or "every step's loss is a number",
            {"adapters_without": len(infinite)},
        ),
        Check(
            "base_weights_unchanged",
            len(bases) == 1,
            f"hashes of the base weights: {', '.join(sorted(bases))}",
            {"base_weights": len(bases)},
        ),
        Check(
            "reload_equal",
            not different,
            ", ".join(different) or "the files give the same logits",
            {"largest_difference": max((d for d in reloaded.values() if d is not None), default=0.0)},
        ),
        Check(
            "loss_falls",
            not rising,
            f"loss does not fall: {', '.join(rising)}" if rising else "loss falls",
            {"adapters_that_do_not": len(rising)},
        ),
    ]


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """The most important numbers of a run."""
    return {
        "trainable_parameters": record["parameters"]["trainable"],
        "steps": record["steps"],
        "tokens": record["tokens"],
        "seconds": record["seconds"],
    }


def adapter_table(folders: dict[str, Path]) -> dict[str, Any]:
    """The most important numbers of several adapters, as Dagster metadata."""
    rows = [
        {"adapter": name, **shown(json.loads((folder / "run.json").read_text()))} for name, folder in folders.items()
    ]
    return {"adapters": markdown_table(pl.DataFrame(rows), rows=100)}
