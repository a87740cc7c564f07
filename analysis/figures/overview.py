"""The picture at the head of the report: the documents beside the losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from analysis.figures.clusters import draw_map
from analysis.figures.palette import method_numbers
from analysis.figures.style import Picture, intervals, plain_text, styled, subplots

MOST_DOTS = 1_200
"""Dots of the small map: enough to see the clusters, few enough to be drawn one by one in the page's colours."""


@styled
def overview(
    points: pl.DataFrame | None,
    evaluation: pl.DataFrame | None,
    numbers: Mapping[str, int],
    sources: Sequence[str] = (),
) -> Picture:
    """The map of documents, and the held-out loss of each method over all documents.

    Args:
        points: x, y, cluster, source; None leaves the map out.
        evaluation: evaluation table; None leaves the losses out.
        numbers: method -> its colour and shape in the whole report.
        sources: the source of each expert, if experts stand for sources; the map then shows these, not clusters.

    Raises:
        ValueError: there is neither.
    """
    panels = [panel for panel in (points, evaluation) if panel is not None]
    if not panels:
        raise ValueError("overview: expected the documents, the losses or both, got neither")
    figure, axes = subplots(1, len(panels), width=7.8 if len(panels) == 2 else 4.4, height=2.05)
    words = []
    if points is not None:
        words.append(_map(axes[0], points, sources))
    if evaluation is not None:
        words.append(_losses(axes[-1], evaluation, numbers))
    caption = " ".join(caption for caption, _ in words)
    return Picture("overview", figure, caption, " ".join(alt for _, alt in words))


def _map(axes: Any, points: pl.DataFrame, sources: Sequence[str]) -> tuple[str, str]:
    shown = points.sample(MOST_DOTS, seed=0) if len(points) > MOST_DOTS else points
    kind, names = "cluster", ""
    if sources:
        expert = pl.col("source").replace_strict(list(sources), range(len(sources)), default=None)
        shown = shown.with_columns(cluster=expert).drop_nulls("cluster")
        kind, names = "source", ": " + ", ".join(f"{i} {plain_text(name, 20)}" for i, name in enumerate(sources))
    groups = draw_map(axes, shown)
    axes.set_title(f"Documents by {kind}")
    caption = f"Documents in the plane; colour, shape and number are the {kind}{names or f' ({len(groups)})'}."
    return caption, f"Scatter of {len(shown):,} documents in {len(groups)} {kind}s."


def _losses(axes: Any, evaluation: pl.DataFrame, numbers: Mapping[str, int]) -> tuple[str, str]:
    table = evaluation.filter(pl.col("group_kind") == "all").sort("loss")
    methods = table["method"].unique(maintain_order=True).to_list()

    for y, method in enumerate(methods):
        of_method = method_numbers(methods, numbers)[method]
        rows = table.filter(pl.col("method") == method)
        intervals(axes, rows, "loss", [y] * len(rows), of_method, markersize=5, elinewidth=1.2)
    axes.set_yticks(range(len(methods)), [plain_text(method, 20) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_title("Held-out loss by method")
    axes.set_xlabel("nats per answer token, less is better")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    best = table.row(0, named=True)
    alt = f"Dot plot of {len(methods)} methods; the least loss is {best['loss']:.3f} of {best['method']}."
    return "Loss with its 95% interval over documents; the axis does not start at zero.", alt
