"""Losses of held-out answers, and confidence intervals of their differences. Imports `data`."""

from hydralora.evaluation.held_out import (
    DocumentLosses,
    PairedDifference,
    bootstrap_interval,
    evaluate_documents,
    length_batches,
    paired_bootstrap,
)

__all__ = [
    "DocumentLosses",
    "PairedDifference",
    "bootstrap_interval",
    "evaluate_documents",
    "length_batches",
    "paired_bootstrap",
]
