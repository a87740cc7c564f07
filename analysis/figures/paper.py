"""Figures 2 and 5 of the paper, with our values."""

import polars as pl

from analysis.figures.palette import color, marker
from analysis.figures.style import Picture, integer_ticks, intervals, plain_text, styled, subplots


@styled
def heterogeneity_gaps(table: pl.DataFrame) -> Picture:
    """Loss differences against the heterogeneity of the training corpus (Figure 2).

    Args:
        table: `domain, index, method, difference, difference_low, difference_high`, where the loss of LoRA is
            subtracted.
    """
    parts = table.partition_by("method", maintain_order=True)
    figure, axes = subplots(1, len(parts), width=7.2, height=3.0)
    for i, (ax, part) in enumerate(zip(axes, parts, strict=True)):
        intervals(ax, part, "difference", part["index"].to_numpy(), i, upright=True)
        for domain, x, y in part.select("domain", "index", "difference").iter_rows():
            ax.annotate(plain_text(domain), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
        ax.axhline(0, color=color(6), linewidth=0.8)
        ax.set(title=f"{plain_text(part['method'][0])} minus LoRA", xlabel="heterogeneity index")
    axes[0].set_ylabel("loss difference, nats per token")
    return Picture(
        "figure_2",
        figure,
        "Held-out loss minus that of the plain LoRA of the same size as HydraLoRA, by the heterogeneity of the corpus "
        "trained on (95% intervals; below zero: better than LoRA).",
        "Dot plot; the numbers are in the table.",
    )


@styled
def clusters_and_losses(sweep: pl.DataFrame, losses: pl.DataFrame) -> Picture:
    """The SSE of K-means against K, beside the held-out loss of HydraLoRA against N (Figure 5).

    Args:
        sweep: `n_clusters, inertia`.
        losses: `num_experts, difference, difference_low, difference_high`; differences are null for the reference N.
    """
    figure, axes = subplots(1, 2, width=6.6, height=2.8)
    axes[0].plot(sweep["n_clusters"], sweep["inertia"], marker(0), linestyle="-", color=color(0))
    axes[0].set(xlabel="K", ylabel="sum of squared errors")
    integer_ticks(axes[0], sweep["n_clusters"].to_list())
    n = losses["num_experts"].to_numpy()
    intervals(axes[1], losses.fill_null(0.0), "difference", n, 1, upright=True)
    axes[1].axhline(0, color=color(6), linewidth=0.8)
    axes[1].set(xlabel="N", ylabel=f"held-out loss minus that of N = {n[0]}")
    integer_ticks(axes[1], n.tolist())
    return Picture(
        "figure_5",
        figure,
        "Left: the SSE curve whose elbow chooses K. Right: held-out loss of HydraLoRA by its number of experts N, "
        f"minus that of N = {n[0]} (N = 1 is plain LoRA of its rank), with 95% intervals of seeds, tasks, documents.",
        "Two panels; the numbers are in the table.",
    )
