"""Figures 2 and 5 of the paper, with our values."""

import polars as pl

from analysis.figures.style import Picture, color, integer_ticks, legend_below, marker, styled, subplots


@styled
def heterogeneity_gaps(table: pl.DataFrame) -> Picture:
    """Differences of losses against the heterogeneity of what was trained on (Figure 2).

    Args:
        table: `domain, index, method, difference, difference_low, difference_high`; differences are to LoRA.
    """
    figure, (axes,) = subplots(width=6.6, height=3.2)
    for i, part in enumerate(table.partition_by("method", maintain_order=True)):
        value, low, high = (part[f"difference{end}"].to_numpy() for end in ("", "_low", "_high"))
        axes.errorbar(
            part["index"].to_numpy(),
            value,
            yerr=[(value - low).clip(0), (high - value).clip(0)],
            fmt=marker(i),
            color=color(i),
            elinewidth=1,
            label=f"{part['method'][0]} minus LoRA of HydraLoRA's size",
        )
    for domain, index in table.select("domain", "index").unique().sort("domain").iter_rows():
        axes.annotate(domain, (index, 1), xycoords=("data", "axes fraction"), rotation=45, fontsize=7)
    axes.axhline(0, color=color(6), linewidth=0.8)
    axes.set(xlabel="heterogeneity index of the training documents", ylabel="loss difference, nats per token")
    legend_below(figure, table["method"].n_unique())
    return Picture(
        "figure_2",
        figure,
        "Held-out loss minus that of the plain LoRA of the same size as HydraLoRA, by the heterogeneity of the corpus "
        "trained on (95% intervals; below zero: better than LoRA).",
        "Dot plot; the numbers are in the table.",
    )


@styled
def clusters_and_losses(sweep: pl.DataFrame, losses: pl.DataFrame) -> Picture:
    """The SSE of K-means by K beside the held-out loss of HydraLoRA by N (Figure 5).

    Args:
        sweep: `n_clusters, inertia`.
        losses: `num_experts, loss, loss_low, loss_high`.
    """
    figure, axes = subplots(1, 2, width=6.6, height=2.8)
    axes[0].plot(sweep["n_clusters"], sweep["inertia"], marker(0), linestyle="-", color=color(0))
    axes[0].set(xlabel="K", ylabel="sum of squared errors")
    integer_ticks(axes[0], sweep["n_clusters"].to_list())
    value, low, high = (losses[name].to_numpy() for name in ("loss", "loss_low", "loss_high"))
    n = losses["num_experts"].to_numpy()
    axes[1].errorbar(
        n, value, yerr=[(value - low).clip(0), (high - value).clip(0)], fmt=marker(1), color=color(1), elinewidth=1
    )
    axes[1].set(xlabel="N", ylabel="held-out loss, nats per token")
    integer_ticks(axes[1], n.tolist())
    return Picture(
        "figure_5",
        figure,
        "Left: the SSE curve whose elbow chooses K. Right: held-out loss of HydraLoRA with N experts (N = 1 is plain "
        "LoRA of its rank), with 95% intervals over documents.",
        "Two panels; the numbers are in the table.",
    )
