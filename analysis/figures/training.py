"""Figures of training curves, losses, parameters and energy."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from analysis.figures.palette import PARTS, color, marker, method_numbers
from analysis.figures.style import (
    Picture,
    at_end_of_bar,
    group_name,
    intervals,
    legend_below,
    ordered_groups,
    plain_text,
    styled,
    subplots,
)


@styled
def curves(table: pl.DataFrame, numbers: Mapping[str, int] | None = None) -> Picture:
    """Smoothed training loss of every run against tokens, with held-out losses as markers.

    Args:
        table: method, seed, step, tokens, loss, eval_loss (null if not measured).
        numbers: method -> its colour and shape in the whole report; see `palette.method_numbers`.
    """
    from matplotlib.ticker import EngFormatter

    figure, (axes,) = subplots(width=6.6, height=3.2)
    methods = table["method"].unique(maintain_order=True).to_list()
    for method, i in _numbered(methods, numbers):
        for n, run in enumerate(table.filter(pl.col("method") == method).partition_by("seed", maintain_order=True)):
            run = run.sort("step")
            smooth = run["loss"].ewm_mean(half_life=max(1.0, len(run) / 40))
            axes.plot(run["tokens"], smooth, color=color(i), label=plain_text(method) if n == 0 else None, alpha=0.9)
            if "eval_loss" in run.columns:
                seen = run.drop_nulls("eval_loss")
                axes.plot(seen["tokens"], seen["eval_loss"], marker(i), color=color(i), markersize=5)
    axes.set(xlabel="training tokens", ylabel="answer loss, nats per token")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y")
    legend_below(figure, len(methods))
    last = table.sort("step").group_by("method", maintain_order=True).agg(pl.col("loss").last()).to_dicts()
    ends = ", ".join(f"{row['method']} {row['loss']:.2f}" for row in sorted(last, key=lambda row: row["method"]))
    return Picture(
        "training_curves",
        figure,
        "Training loss against tokens seen (exponentially smoothed); marks: held-out loss. The axis does not start at "
        "zero.",
        f"Falling loss curves. Last training loss: {ends}.",
    )


@styled
def losses(evaluation: pl.DataFrame, group_kind: str, numbers: Mapping[str, int] | None = None) -> Picture:
    """Held-out loss of each method within each group, with 95% intervals.

    Args:
        evaluation: evaluation table. Each seed of a method is a separate marker.
        group_kind: "source" or "cluster". The group of all documents comes first.
        numbers: method -> its colour and shape in the whole report.
    """
    table = evaluation.filter(pl.col("group_kind").is_in(["all", group_kind]))
    groups = ordered_groups(table["group"])
    methods = table["method"].unique(maintain_order=True).to_list()
    height = 1.2 + max(0.3, 0.16 * len(methods)) * len(groups)
    figure, (axes,) = subplots(width=6.6, height=min(height, 9.0))
    spread = 0.7 / max(1, len(methods))
    for place, (method, i) in enumerate(_numbered(methods, numbers)):
        for n, run in enumerate(table.filter(pl.col("method") == method).partition_by("seed", maintain_order=True)):
            y = np.array([groups.index(g) for g in run["group"]]) + (place - (len(methods) - 1) / 2) * spread
            intervals(axes, run, "loss", y, i, markersize=4.5, label=plain_text(method) if n == 0 else None)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(groups)), [group_name(group_kind, group) for group in groups])
    axes.set_xlabel("held-out loss, nats per token (less is better)", loc="right")  # long names leave a phone no room
    legend_below(figure, len(methods))
    return Picture(
        f"losses_by_{group_kind}",
        figure,
        "Mean loss of an answer token on held-out documents, with 95% bootstrap intervals over documents; seeds are "
        "separate marks. The axis does not start at zero.",
        f"Dot plot of {len(methods)} methods in {len(groups)} groups; the numbers are in the table below it.",
    )


def _numbered(methods: Sequence[str], numbers: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """The methods with their colours and shapes."""
    return [(method, method_numbers(methods, numbers)[method]) for method in methods]


@styled
def parameters(table: pl.DataFrame) -> Picture:
    """Trainable parameters of each method by part.

    Args:
        table: method, part, n_parameters.
    """
    from matplotlib.ticker import EngFormatter

    parts = table["part"].unique(maintain_order=True).to_list()
    methods = table["method"].unique(maintain_order=True).to_list()
    figure, (axes,) = subplots(width=6.6, height=1.2 + 0.3 * len(methods))
    left = np.zeros(len(methods))
    for i, part in enumerate(parts):
        counts = dict(table.filter(pl.col("part") == part).select("method", "n_parameters").iter_rows())
        widths = np.array([counts.get(method, 0) for method in methods], float)
        axes.barh(
            range(len(methods)), widths, left=left, color=color(PARTS.get(part, i)), label=plain_text(part), height=0.65
        )
        left += widths
    axes.set_yticks(range(len(methods)), [plain_text(name) for name in methods])
    for y, total in enumerate(left):
        at_end_of_bar(axes, total, y, f"{total:,.0f}")
    axes.set(xlabel="trainable parameters", xlim=(0, 1.18 * left.max()))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    legend_below(figure, len(parts))
    totals = ", ".join(f"{method} {total:,.0f}" for method, total in zip(methods, left, strict=True))
    return Picture(
        "parameters", figure, "Trainable parameters by part; the number is the total.", f"Stacked bars: {totals}."
    )


@styled
def energy(table: pl.DataFrame, numbers: Mapping[str, int] | None = None) -> Picture:
    """Energy and time of each run.

    Args:
        table: method, seed, energy_kwh, seconds. A run without energy has no bar; without any energy there is no panel.
        numbers: method -> its colour in the whole report.
    """
    means = table.group_by("method", maintain_order=True).agg(pl.col("energy_kwh", "seconds").mean())
    panels = {"energy_kwh": ("energy, Wh", 1e3), "seconds": ("time, s", 1.0)}
    colors = [color(i) for _, i in _numbered(means["method"].to_list(), numbers)]
    shown = [column for column in panels if means[column].is_not_null().any()]
    figure, axes = subplots(1, len(shown), width=6.6, height=0.9 + 0.3 * len(means), share_y=True)
    for ax, column in zip(axes, shown, strict=True):
        label, scale = panels[column]
        values = means[column].fill_null(float("nan")).to_numpy() * scale
        ax.barh(range(len(means)), values, color=colors, height=0.6)
        for y, value in enumerate(values):
            at_end_of_bar(ax, np.nan_to_num(value), y, f"{value:,.0f}" if value >= 100 else f"{value:,.3g}")
        ax.set(xlabel=label, xlim=(0, 1.2 * float(np.nanmax(values) or 1)))
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(means)), [plain_text(name) for name in means["method"]])
    axes[0].invert_yaxis()
    return Picture(
        "energy",
        figure,
        "Energy and wall time of training, mean over seeds." if len(shown) == 2 else "Wall time of training.",
        "Bars; the numbers are in the table.",
    )
