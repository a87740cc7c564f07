"""Figures of the routing: use of the experts, entropy of the gates, and whether gates follow the corpus."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from analysis.figures.clusters import heat_map
from analysis.figures.palette import color, marker
from analysis.figures.style import (
    HEAT_MAP,
    Picture,
    group_name,
    integer_ticks,
    legend_below,
    ordered_groups,
    plain_text,
    short_names,
    styled,
    subplots,
)

LONGEST_TITLE = 15
"""Characters that fit above one of four panels."""


@styled
def gates_by_layer(gates: pl.DataFrame, group_kind: str) -> Picture:
    """Mean gates: one row per adapted module (by layer), one column per expert, one panel per group.

    Modules are not averaged, because expert 0 of one module is unrelated to expert 0 of another.

    Args:
        gates: layer, module, expert, group_kind, group, gate.
        group_kind: "all", "source", "task" or "cluster".
    """
    table = gates.filter(pl.col("group_kind") == group_kind)
    groups, experts = ordered_groups(table["group"]), table["expert"].unique().sort().to_list()
    places = table.select("layer", "module").unique().sort("layer", "module").rows()
    row_of = {place: row for row, place in enumerate(places)}
    values = np.full((len(groups), len(places), len(experts)), np.nan)
    for layer, module, group, expert, gate in table.select("layer", "module", "group", "expert", "gate").iter_rows():
        values[groups.index(group), row_of[layer, module], experts.index(expert)] = gate
    n_columns = min(len(groups), 4)
    n_rows = -(-len(groups) // n_columns)
    height = n_rows * min(max(1.6, 0.05 * len(places) + 0.8), 4.5)
    figure, axes = subplots(n_rows, n_columns, width=6.6, height=height, share_y=True, used=len(groups))
    first_rows = [row for row, place in enumerate(places) if row == 0 or place[0] != places[row - 1][0]]
    firsts = first_rows[:: max(1, -(-len(first_rows) // 8))]
    limit = max(float(np.nanmax(values)), 1.5 / len(experts))
    titles = short_names([group_name(group_kind, group) for group in groups], LONGEST_TITLE)
    for ax, title, matrix in zip(axes, titles, values, strict=False):
        image = ax.imshow(matrix, cmap=HEAT_MAP, vmin=0, vmax=limit, aspect="auto", interpolation="nearest")
        ax.set_title(title, fontsize=8)
        integer_ticks(ax, experts, most=8)
        ax.set_yticks(firsts, [str(places[row][0]) for row in firsts])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    for row in range(n_rows):
        axes[row * n_columns].set_ylabel("layer")
    figure.supxlabel("expert", fontsize=8)
    bar = figure.colorbar(image, ax=axes, label="mean gate", fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)
    return Picture(
        f"gates_by_{group_kind}",
        figure,
        f"Mean gate of each expert in each module (by layer, downwards), for each {group_kind}. Panels that look alike "
        f"are routed alike; "
        f"{1 / len(experts):.2f} everywhere would be an inert router.",
        f"{len(groups)} heat maps of {len(places)} modules by {len(experts)} experts; gates from "
        f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f}.",
    )


@styled
def entropy_and_usage(entropy: pl.DataFrame, usage: pl.DataFrame) -> Picture:
    """Normalised entropy by layer, and the use of every expert in each module."""
    figure, axes = subplots(1, 2, width=6.6, height=2.5)
    modules = entropy["module"].unique().sort().to_list()
    for m, module in enumerate(modules):
        rows = entropy.filter(pl.col("module") == module).sort("layer")
        axes[0].plot(
            rows["layer"], rows["entropy"], color=color(m), marker=marker(m), markersize=3,
            label=plain_text(module.rsplit(".", 1)[-1]),
        )  # fmt: skip
    axes[0].set(xlabel="layer", ylabel="entropy / log N", ylim=(-0.03, 1.03))
    integer_ticks(axes[0], entropy["layer"].unique().sort().to_list())
    axes[0].grid(axis="y")
    legend_below(figure, len(modules))
    experts = usage["expert"].unique().sort().to_list()
    per_expert = [usage.filter(pl.col("expert") == e)["usage"].to_numpy() for e in experts]
    for i, values in enumerate(per_expert):
        spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
        axes[1].plot(i + spread, values, ".", color=color(i), markersize=4, alpha=0.7)
        axes[1].plot([i - 0.3, i + 0.3], [values.mean()] * 2, color=color(i), linewidth=2)
    axes[1].axhline(1 / len(experts), color="#777777", linestyle=":", linewidth=1.2)
    axes[1].set(xlabel="expert", ylabel="mean gate", ylim=(0, 1.1 * float(usage["usage"].to_numpy().max())))
    integer_ticks(axes[1], experts)
    axes[1].grid(axis="y")
    mean = float(entropy["entropy"].to_numpy().mean())
    return Picture(
        "entropy_and_usage",
        figure,
        "Left: entropy of a token's gates over its greatest value (1: all experts alike; 0: one expert). Right: use of "
        "each expert, a dot a module, bar the mean; dotted: equal use.",
        f"Mean normalised entropy {mean:.3f}; mean use of experts {', '.join(f'{v.mean():.2f}' for v in per_expert)}.",
    )


@styled
def association(table: pl.DataFrame) -> Picture:
    """Share of the gates' variance that each grouping explains, by layer."""
    rows = table.drop_nulls("layer")
    kinds = rows["group_kind"].unique(maintain_order=True).to_list()
    figure, (axes,) = subplots(width=5.2, height=2.4)
    for i, kind in enumerate(kinds):
        by_layer = rows.filter(pl.col("group_kind") == kind).group_by("layer").agg(
            pl.col("variance_explained", "variance_null").mean()
        ).sort("layer")  # fmt: skip
        axes.plot(
            by_layer["layer"], by_layer["variance_explained"], color=color(i), marker=marker(i), label=plain_text(kind)
        )
        axes.plot(by_layer["layer"], by_layer["variance_null"], color=color(i), linestyle=":", linewidth=1)
    axes.set(xlabel="layer", ylabel="variance of gates explained", ylim=(0, 1))
    integer_ticks(axes, rows["layer"].unique().sort().to_list())
    axes.grid(axis="y")
    axes.legend(loc="upper left", ncols=len(kinds))
    return Picture(
        "gate_association",
        figure,
        "Share of the variance of documents' gates that their group explains, by layer; dotted: groups permuted.",
        "Lines over layers; the numbers are in the table.",
    )


@styled
def expert_similarity(table: pl.DataFrame, groups: Sequence[str] = ()) -> Picture:
    """Mean cosine between the experts' B over modules, as a heat map."""
    means = table.group_by("expert_a", "expert_b").agg(pl.col("b_cosine").mean()).drop_nulls()
    n_experts = int(means["expert_b"].to_numpy().max()) + 1
    values = np.eye(n_experts)
    for a, b, value in means.iter_rows():
        values[a, b] = values[b, a] = value
    names = short_names(groups, 18) if len(groups) == n_experts else [str(e) for e in range(n_experts)]
    figure, (axes,) = subplots(width=6.0 if groups else 3.6, height=min(1.6 + 0.28 * n_experts, 7.5))
    heat_map(figure, axes, values, names, names, "cosine of B", limits=(min(0.0, float(values.min())), 1.0))
    axes.set(xlabel="expert", ylabel="expert")
    off = values[~np.eye(n_experts, dtype=bool)]
    return Picture(
        "expert_similarity",
        figure,
        "Cosine between the B matrices of experts, mean over modules. Near 1: the experts are the same.",
        f"Heat map of {n_experts} experts; cosines between different experts from {off.min():.2f} to {off.max():.2f}.",
    )


@styled
def cross_losses(matrix: pl.DataFrame) -> Picture:
    """Loss of every expert on every group, against the group's own expert, as a heat map."""
    groups = ordered_groups([*matrix["group"], *matrix["expert"]])
    values = np.full((len(groups), len(groups)), np.nan)
    for group, expert, difference in matrix.select("group", "expert", "difference").iter_rows():
        values[groups.index(group), groups.index(expert)] = difference
    names = short_names(groups, 18)
    figure, (axes,) = subplots(width=6.0, height=min(1.6 + 0.28 * len(groups), 7.5))
    found = values[np.isfinite(values)]
    limits = (min(0.0, float(found.min())), max(0.01, float(found.max())))
    heat_map(figure, axes, values, names, names, "loss minus own, nats per token", limits=limits)
    axes.set(xlabel="expert of", ylabel="documents of")
    off = values[~np.eye(len(groups), dtype=bool)]
    better = int((off[np.isfinite(off)] < 0).sum())
    return Picture(
        "cross_losses",
        figure,
        "Held-out loss of every expert on every group, minus that of the group's own expert. Above zero: the own "
        "expert is better.",
        f"Heat map of {len(groups)} groups by {len(groups)} experts; another expert is better in {better} cells.",
    )
