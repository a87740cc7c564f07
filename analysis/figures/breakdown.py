"""Figures of the parameter breakdown: the paper's Figures 3, 6 and 7, and similarities with their controls."""

from typing import Any

import numpy as np
import polars as pl

from analysis.adapters.observation_two import RELATIONS, SAME_SEED
from analysis.adapters.parts import OUTSIDE
from analysis.figures.palette import PARTS, color, head_numbers, marker
from analysis.figures.style import INK, Picture, integer_ticks, legend_below, plain_text, styled, subplots

MOST_DOTS = 250
"""Most dots per relation, and most grey dots behind a layer. Thousands would add a megabyte but no information."""

PANELS = {"all": "All submodules", "A": "A matrices", "B": "B matrices"}


@styled
def submodule_map(embedding: pl.DataFrame, method: str) -> Picture:
    """All submodules, A only and B only (the paper's Figure 3: left, centre, right).

    Args:
        method: "t-SNE" or "UMAP".
    """
    table = embedding.filter(pl.col("method") == method)
    heads = table["head"].unique(maintain_order=True).to_list()
    figure, axes = subplots(1, 3, width=6.6, height=2.7)
    for ax, (panel, title) in zip(axes, PANELS.items(), strict=True):
        points = table.filter(pl.col("panel") == panel)
        _draw_heads(ax, points, heads, f"{title} ({len(points)})", labelled=ax is axes[0])
        ax.margins(0.08)
    legend_below(figure, len(heads))
    return Picture(
        f"submodules_{method.lower().replace('-', '')}",
        figure,
        f"{method} of the directions of all submodules, of A and of B (the paper's Figure 3). Marks of heads that lie "
        "on each other coincide; matrices of different shapes form islands. A picture, not evidence: see the "
        "similarities and their controls.",
        f"Three scatter plots of {len(heads)} heads: {', '.join(heads)}.",
    )


@styled
def layer_maps(embedding: pl.DataFrame, method: str, matrix: str, *, most: int = 8) -> Picture:
    """Submodules of single layers, in the coordinates of the whole (the paper's Figures 6 and 7).

    Args:
        method: "t-SNE" or "UMAP".
        matrix: "A" or "B".
        most: layers shown, evenly spread from the first to the last.
    """
    points = embedding.filter((pl.col("method") == method) & (pl.col("panel") == matrix))
    layers = points.filter(pl.col("layer") != OUTSIDE)["layer"].unique().sort().to_list()
    shown = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, min(most, len(layers))).round().astype(int))]
    heads = points["head"].unique(maintain_order=True).to_list()
    n_columns = min(4, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure, axes = subplots(n_rows, n_columns, width=6.6, height=1.65 * n_rows + 0.4, used=len(shown))
    grey = points.sample(min(MOST_DOTS, len(points)), seed=0)
    for ax, layer in zip(axes, shown, strict=False):
        ax.scatter(grey["x"], grey["y"], s=3, color="#999999", alpha=0.35, linewidths=0)
        _draw_heads(ax, points.filter(pl.col("layer") == layer), heads, f"layer {layer}", labelled=ax is axes[0])
    legend_below(figure, len(heads))
    return Picture(
        f"layers_{matrix.lower()}_{method.lower().replace('-', '')}",
        figure,
        f"{matrix} matrices of {len(shown)} of {len(layers)} layers, each against all layers (grey), in one {method} "
        "of the whole (the paper's Figures 6 and 7).",
        f"{len(shown)} scatter plots, one a layer, of {len(heads)} heads.",
    )


def _draw_heads(axes: Any, points: pl.DataFrame, heads: list[str], title: str, *, labelled: bool) -> None:
    """Hollow marks of different shapes and sizes: heads that coincide are all still seen."""
    numbers = head_numbers(heads)
    for i, head in enumerate(heads):
        rows = points.filter(pl.col("head") == head)
        axes.scatter(
            rows["x"], rows["y"], s=16 + 14 * (len(heads) - 1 - i), marker=marker(i), facecolors="none",
            edgecolors=color(numbers[i]), linewidths=0.8, label=plain_text(head) if labelled else None,
        )  # fmt: skip
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


@styled
def similarity_by_relation(pairs: pl.DataFrame) -> Picture:
    """Subspace similarity of A and of B for each relation of two heads: the seed controls in one picture."""
    relations = [relation for relation in RELATIONS if relation in pairs["relation"]]
    matrices = [matrix for matrix in ("A", "B") if matrix in pairs["matrix"]]
    figure, axes = subplots(1, len(matrices), width=6.6, height=1.0 + 0.36 * len(relations), share_y=True)
    generator = np.random.default_rng(0)
    words = []
    for ax, matrix in zip(axes, matrices, strict=True):
        for y, relation in enumerate(relations):
            rows = pairs.filter((pl.col("relation") == relation) & (pl.col("matrix") == matrix))
            values = rows["subspace_similarity"].to_numpy()
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            dots = values if len(values) <= MOST_DOTS else generator.choice(values, MOST_DOTS, replace=False)
            jitter = y + generator.uniform(-0.2, 0.2, len(dots))
            ax.plot(dots, jitter, ".", color=color(PARTS[matrix]), markersize=2.5, alpha=0.5)
            ax.plot([values.mean()], [y], "D", color=INK, markersize=5)
            words.append(f"{matrix}, {relation}: {values.mean():.2f}")
        chance = pairs.filter(pl.col("matrix") == matrix)["chance"].to_numpy().mean()
        ax.axvline(float(chance), color="#777777", linestyle=":", linewidth=1.2)
        ax.set(title=f"{matrix} matrices", xlabel="subspace similarity", xlim=(-0.02, 1.02))
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(relations)), relations)
    axes[0].set_ylim(len(relations) - 0.5, -0.5)
    return Picture(
        "similarity_by_relation",
        figure,
        f"Subspace similarity of pairs of heads; a dot is one pair at one place ({MOST_DOTS} of them at most), the "
        "diamond the mean of all, the dotted line what random matrices have. A converge only if other seeds are right "
        "of it.",
        f"Mean subspace similarity. {'; '.join(words)}.",
    )


@styled
def similarity_by_layer(pairs: pl.DataFrame) -> Picture:
    """Mean subspace similarity and CKA of heads of one seed by layer, A against B."""
    table = pairs.filter((pl.col("relation") == SAME_SEED) & (pl.col("layer") != OUTSIDE))
    modules = table["module"].unique().sort().to_list()
    layers = table["layer"].unique().sort().to_list()
    figure, axes = subplots(1, 2, width=6.6, height=2.9, share_y=True)
    measures = {"subspace_similarity": "subspace similarity", "cka": "linear CKA"}
    for ax, (column, label) in zip(axes, measures.items(), strict=True):
        for matrix in ("A", "B"):
            for m, module in enumerate(modules):
                rows = table.filter((pl.col("matrix") == matrix) & (pl.col("module") == module))
                rows = rows.group_by("layer").agg(pl.col(column).mean()).sort("layer")
                name = f"{matrix} {module.rsplit('.', 1)[-1]}" if ax is axes[0] else None
                style = ("-", "--", ":", "-.")[m % 4]
                ax.plot(
                    rows["layer"], rows[column], linestyle=style, color=color(PARTS[matrix]), marker=marker(m),
                    markersize=3, label=None if name is None else plain_text(name),
                )  # fmt: skip
        ax.set(xlabel="layer", ylabel=label, ylim=(-0.03, 1.03))
        ax.tick_params(labelleft=True)
        integer_ticks(ax, layers)
        ax.grid(axis="y")
    legend_below(figure, 2 * len(modules))
    return Picture(
        "similarity_by_layer",
        figure,
        "Similarity of heads of different data and one seed, by layer: mean over pairs. A is light blue, B is orange.",
        "Lines over layers for A and B of each module; the numbers are in the table.",
    )
