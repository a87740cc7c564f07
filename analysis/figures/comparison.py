"""Comparison of methods: losses with intervals, and sizes."""

import polars as pl

from analysis.figures.palette import color
from analysis.figures.style import Picture, intervals, plain_text, styled, subplots


@styled
def compared_methods(table: pl.DataFrame, reference: str) -> Picture:
    """Held-out loss of each method and its paired difference from a reference, with 95% intervals.

    Args:
        table: table from `analysis.methods.comparison.compare_losses`, with `n_parameters` (null for the base model).
        reference: method whose loss is subtracted.
    """
    table = table.sort("loss")
    figure, axes = subplots(1, 2, width=7.6, height=1.0 + 0.24 * len(table), share_y=True)
    names = [plain_text(name) + _size(n) for name, n in table.select("method", "n_parameters").iter_rows()]
    labels = {"loss": "held-out loss", "difference": f"minus {plain_text(reference)}"}
    for i, (ax, (column, label)) in enumerate(zip(axes, labels.items(), strict=True)):
        shown = table.with_row_index("y").drop_nulls(column)
        intervals(ax, shown, column, shown["y"].to_numpy(), 0, color=color(i))
        ax.set_xlabel(f"{label}, nats per token")
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes[1].axvline(0, color=color(6), linewidth=0.8)
    axes[0].set_yticks(range(len(table)), names)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    best, *_ = table["method"]
    return Picture(
        "comparison",
        figure,
        f"Mean loss of an answer token on held-out documents, averaged over sources, and its difference to {reference} "
        "on the same documents (95% bootstrap intervals; less is better). In brackets: trainable parameters. The axes "
        "do not start at zero.",
        f"Dot plot of {len(table)} methods, best first; the best is {best}. The numbers are in the table.",
    )


def _size(n: int | None) -> str:
    """The number of parameters in brackets; empty for the base model, which has no trainable parameters."""
    if n is None:
        return ""
    return f" ({n / 1e6:.3g} M)" if n >= 1e6 else f" ({n / 1e3:.3g} k)"
