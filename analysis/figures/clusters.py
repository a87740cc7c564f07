"""Figures of the corpus and its clusters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.figures.palette import color, marker
from analysis.figures.style import HEAT_MAP, Picture, integer_ticks, plain_text, styled, subplots


@styled
def elbow(sweep: pl.DataFrame, choice: Mapping[str, Any]) -> Picture:
    """The SSE of K-means against K, with the K at the elbow and its interval.

    Args:
        sweep: n_clusters, inertia.
        choice: `num_clusters`, or `value` where edits or a tail changed that; and `interval` if it is known.
    """
    n_clusters = int(choice.get("value", choice["num_clusters"]))
    figure, (axes,) = subplots(width=5.2, height=2.6)
    ks, inertia = sweep["n_clusters"].to_list(), sweep["inertia"].to_numpy()
    relative = 100 * inertia / (inertia[0] or 1.0)  # a single document has an SSE of zero
    low, high = choice.get("interval") or (n_clusters, n_clusters)
    axes.axvspan(low - 0.4, high + 0.4, color=color(1), alpha=0.2, linewidth=0)
    axes.plot(ks, relative, color=color(0), marker="o")
    chosen = float(relative[ks.index(n_clusters)]) if n_clusters in ks else float("nan")
    axes.plot([n_clusters], [chosen], "o", markersize=9, markerfacecolor="none", markeredgecolor=color(5), linewidth=2)
    axes.annotate(
        f"elbow: {n_clusters}", (n_clusters, chosen), xytext=(8, 8), textcoords="offset points", weight="bold"
    )
    axes.set(xlabel="clusters K", ylabel=f"SSE, % of K = {ks[0]}", ylim=(0, 105))
    integer_ticks(axes, ks, n_clusters)
    axes.grid(axis="y")
    explained = f"{abs(100 - chosen):.0f}% of the squared distance to the centre is explained at K = {n_clusters}"
    return Picture(
        "elbow",
        figure,
        "Sum of squared errors (SSE) of K-means against the number of clusters. Circle: the number at the elbow; "
        f"band: numbers about as well supported ({low} to {high}). {explained}.",
        f"Line falling from 100% at K = {ks[0]} to {relative[-1]:.0f}% at K = {ks[-1]}; {explained}.",
    )


@styled
def composition(table: pl.DataFrame) -> Picture:
    """Share of each cluster's documents that comes from each source, as a heat map.

    Args:
        table: cluster, source, n_documents.
    """
    wide = table.pivot("source", index="cluster", values="n_documents", aggregate_function="sum", sort_columns=True)
    wide = wide.sort("cluster").fill_null(0)
    counts = wide.drop("cluster").to_numpy().astype(float)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    clusters, sources = wide["cluster"].to_list(), wide.columns[1:]
    size = max(2.0, 0.3 * len(clusters) + 1.3)
    figure, (axes,) = subplots(width=min(6.6, 2.6 + 0.55 * len(sources)), height=size)
    heat_map(figure, axes, shares, sources, [f"cluster {c}" for c in clusters], "documents, %", limits=(0, 100))
    purest = int(shares.max(axis=1).argmax())
    return Picture(
        "composition",
        figure,
        "Where the documents of each cluster come from; each row adds up to 100%.",
        f"Heat map of {len(clusters)} clusters by {len(sources)} sources. The purest is cluster {clusters[purest]}: "
        f"{shares[purest].max():.0f}% {sources[int(shares[purest].argmax())]}.",
    )


def heat_map(
    figure: Any,
    axes: Any,
    values: np.ndarray,
    columns: list[str],
    rows: list[str],
    label: str,
    *,
    limits: tuple[float, float],
) -> None:
    """Draw a labelled heat map. With at most 150 cells, and room for it, each cell shows its number."""
    image = axes.imshow(values, cmap=HEAT_MAP, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    columns, rows = [plain_text(name) for name in columns], [plain_text(name) for name in rows]
    step = max(1, -(-len(rows) // 36))
    axes.set_yticks(range(0, len(rows), step), rows[::step])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)
    _column_names(figure, axes, columns)
    digits = 0 if limits[1] > 10 else 2
    words = {place: f"{round(value, digits) + 0.0:.{digits}f}" for place, value in np.ndenumerate(values)}
    if values.size <= 150 and _cell_width(figure, axes, len(columns)) > 5.2 * max(map(len, words.values())):
        middle = sum(limits) / 2
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                # Light cells get near-black text instead of the theme's text colour, because cells keep their colour in
                # dark mode.
                ink = "#101418" if value > middle else "white"
                axes.text(j, i, words[i, j], ha="center", va="center", color=ink, fontsize=8)


def _cell_width(figure: Any, axes: Any, n_columns: int) -> float:
    """Width of a column of a heat map in points, as it is laid out now."""
    figure.draw_without_rendering()
    return float(axes.get_window_extent().width * 72 / figure.dpi / n_columns)


def _column_names(figure: Any, axes: Any, names: list[str]) -> None:
    """Names below a heat map: flat if short, slanted if long, upright where slanted ones would lie on each other."""
    places = range(len(names))
    if max(map(len, names)) <= 3:
        axes.set_xticks(places, names)
        return
    axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
    if _cell_width(figure, axes, len(names)) > 13:  # points: a line of text is 8 high, so 8 / sin(40 degrees) wide
        return
    names = [plain_text(name, 20) for name in names]
    axes.set_xticks(places, names, rotation=90, ha="center", rotation_mode="default")
    step = int(np.ceil(9 / _cell_width(figure, axes, len(names))))
    axes.set_xticks(places[::step], names[::step])


@styled
def cluster_map(points: pl.DataFrame, projection: str) -> Picture:
    """Documents in the plane, coloured by cluster.

    Args:
        points: x, y, cluster.
        projection: name of the method that computed x and y: "PCA", "UMAP" or "t-SNE".
    """
    figure, (axes,) = subplots(width=5.2, height=4.2)
    clusters = draw_map(axes, points, rasterized=True)
    axes.set(xlabel=f"{projection} 1", ylabel=f"{projection} 2")
    return Picture(
        "cluster_map",
        figure,
        f"{len(points):,} documents in two dimensions ({projection}), coloured by cluster; the number marks a "
        "cluster's median. Distances between far groups mean little.",
        f"Scatter of {len(points):,} documents in {len(clusters)} clusters.",
    )


def apart(places: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Places [n, 2], pushed away from each other until hardly two are nearer than `gap`."""
    places = places + np.arange(len(places))[:, None] * 1e-3 * gap  # two equal places have no direction
    for _ in range(100):
        between = places[:, None] - places
        far = np.linalg.norm(between, axis=2)
        np.fill_diagonal(far, np.inf)
        missing = np.maximum(gap - far, 0)
        if not missing.any():
            break
        places = places + (between * (missing / far / 2)[..., None]).sum(axis=1)
    return places


def _label_width(axes: Any, points: pl.DataFrame) -> float:
    """Width of the circle around a number, in the units of x and y, whose scale is the same."""
    box = axes.get_window_extent()
    places = points.select("x", "y").drop_nulls().to_numpy().astype(float)
    spans = np.maximum(np.ptp(places, axis=0), 1e-9) if len(places) else np.ones(2)
    pixels = 1.8 * float(axes.xaxis.label.get_fontsize()) * float(axes.figure.dpi) / 72
    return pixels / float(min(box.width / spans[0], box.height / spans[1]))


def draw_map(axes: Any, points: pl.DataFrame, *, rasterized: bool = False) -> list[int]:
    """Draw documents in the plane, with the number of each cluster at its median.

    Args:
        points: x, y, cluster.
        rasterized: whether vector formats get an image of the dots instead of each dot.

    Returns:
        The clusters.
    """
    clusters: list[int] = points["cluster"].unique().sort().to_list()
    for cluster in clusters:
        rows = points.filter(pl.col("cluster") == cluster)
        axes.scatter(
            rows["x"], rows["y"], s=6, color=color(cluster), marker=marker(cluster), linewidths=0, alpha=0.6,
            label=str(cluster), rasterized=rasterized,
        )  # fmt: skip
    middles = points.group_by("cluster").agg(pl.col("x", "y").median()).sort("cluster").select("x", "y").to_numpy()
    for cluster, (x, y) in zip(clusters, apart(middles, _label_width(axes, points)), strict=True):
        axes.text(
            x, y, str(cluster), weight="bold", color="#101418",
            ha="center", va="center", bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": "#101418"},
        )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    return clusters
