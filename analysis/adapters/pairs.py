"""Comparison of two heads: their subspaces, angles and distances."""

from typing import Any

import numpy as np
import polars as pl

from analysis.adapters.parts import Submodule
from analysis.adapters.subspace import (
    cosine,
    linear_cka,
    orthonormal_rows,
    principal_cosines,
    relative_distance,
    subspace_similarity,
)

Starts = dict[int, dict[tuple[int, str], Submodule]]
PAIR_SCHEMA = {
    "relation": pl.String,
    "head_a": pl.String,
    "head_b": pl.String,
    "layer": pl.Int64,
    "module": pl.String,
    "matrix": pl.String,
    "subspace_similarity": pl.Float64,
    "mean_angle": pl.Float64,
    "largest_angle": pl.Float64,
    "cka": pl.Float64,
    "cosine": pl.Float64,
    "relative_distance": pl.Float64,
    "update_cosine": pl.Float64,
    "chance": pl.Float64,
}


def compare(a: Submodule, b: Submodule, start_a: Submodule | None, start_b: Submodule | None) -> dict[str, Any]:
    """Row of `PAIR_SCHEMA`, without its relation, for two matrices of one place and their values before training."""
    cosines = principal_cosines(orthonormal_rows(a.rows), orthonormal_rows(b.rows))
    angles = np.degrees(np.arccos(cosines))
    same_shape = a.rows.shape == b.rows.shape
    update: float | None = None
    if a.matrix == "B" and same_shape:
        update = cosine(a.rows, b.rows)
    elif start_a is not None and start_b is not None and same_shape:
        update = cosine(a.rows - start_a.rows, b.rows - start_b.rows)
    return {
        "head_a": a.head,
        "head_b": b.head,
        "layer": a.layer,
        "module": a.module,
        "matrix": a.matrix,
        "subspace_similarity": subspace_similarity(cosines),
        "mean_angle": float(angles.mean()) if len(angles) else float("nan"),
        "largest_angle": float(angles.max()) if len(angles) else float("nan"),
        "cka": linear_cka(a.rows, b.rows),
        "cosine": cosine(a.rows, b.rows) if same_shape else None,
        "relative_distance": relative_distance(a.rows, b.rows) if same_shape else None,
        "update_cosine": update,
        "chance": max(len(a.rows), len(b.rows)) / a.rows.shape[1],
    }
