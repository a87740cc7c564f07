"""The HTML pages. Each is a single file, needs no network, and escapes corpus text."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from analysis.figures.palette import OKABE_ITO, SHAPES, color
from analysis.figures.style import Picture, svg
from analysis.report.budget import spent
from analysis.report.comparison import Comparison
from analysis.report.inputs import ReportInputs, TokenGates
from analysis.report.section import Section
from analysis.report.summary import plain
from analysis.report.verdict import verdict
from analysis.report.words import GLOSSARY

EXCERPT_CHARACTERS = 200
SCALE = 65535


def render(inputs: ReportInputs, sections: tuple[Section, ...], overview: Picture | None) -> str:
    """The report of a run as HTML."""
    pictures = [p for section in sections if section.name != "map" for p in section.pictures]
    n_experts = max((len(document.gates[0]) for document in inputs.token_gates if len(document.gates)), default=0)
    return _filled(
        "report.html.j2",
        _resource("report.js"),
        inputs=inputs,
        sections=sections,
        verdict=verdict(inputs),
        facts=facts(inputs),
        overview=overview,
        svg={p.name: _drawn(p) for p in [*pictures, *([overview] if overview else [])]},
        glossary={
            section.name: (*section.words, *GLOSSARY.get(_glossary_of(inputs, section), ())) for section in sections
        },
        map_data=Markup(_map_data(inputs.cluster_map, inputs.clusters)) if inputs.cluster_map is not None else "",
        cards=_cards(inputs),
        # Given gates are the same for every token.
        tokens=[_coloured(document) for document in inputs.token_gates] if inputs.grouping is None else [],
        experts=[{"name": f"expert {i}", **_swatch(i)} for i in range(n_experts)],
    )


def facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    """The facts of a run for the head of the page: name and value; unknown ones are left out."""
    of = spent(inputs)
    kept = None if inputs.data_card is None else inputs.data_card["n_kept"]
    values: Mapping[str, str | None] = {
        "base model": inputs.base_model or None,
        "documents": None if kept is None else f"{kept:,}",
        "training set": None if inputs.n_training_documents is None else f"{inputs.n_training_documents:,} documents",
        "steps": None if of.steps is None else f"{of.steps:,}",
        "tokens": None if of.tokens is None else f"{of.tokens:,}",
        "seeds": None if of.seeds is None else f"{of.seeds:,}",
        "held out": None if of.held_out_documents is None else f"{of.held_out_documents:,} documents",
        "training time": None if of.seconds is None else _duration(of.seconds),
    }
    return [(name, value) for name, value in values.items() if value is not None]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _drawn(picture: Picture) -> Markup:
    """The figure for a desk and the one for a phone; the page shows one of them."""
    return Markup(svg(picture) + (svg(picture, narrow=True) if picture.narrow is not None else ""))


def _glossary_of(inputs: ReportInputs, section: Section) -> str:
    return "given gates" if section.name == "routing" and inputs.grouping is not None else section.name


def _swatch(index: int) -> dict[str, Any]:
    """Colour and shape of a category in legends. The colour is a CSS variable with a light and a dark value."""
    return {"color": f"var(--c{index % len(OKABE_ITO)})", "shape": index % len(SHAPES)}


def render_comparison(comparison: Comparison, images: Sequence[tuple[str, bytes, bytes]]) -> str:
    """The comparison of two runs as HTML.

    Args:
        images: name, PNG of the first run, PNG of the second.
    """
    pairs = [(name, *(base64.b64encode(data).decode() for data in pair)) for name, *pair in images]
    return _filled(
        "comparison.html.j2",
        "",
        comparison=comparison,
        svg={p.name: _drawn(p) for section in comparison.sections for p in section.pictures},
        images=pairs,
    )


def _filled(template: str, script: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report", package_path=""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plain"] = plain
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(_resource("report.css")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        **values,
    )


def _resource(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text("utf-8")


def _map_data(points: pl.DataFrame, clusters: pl.DataFrame | None) -> str:
    """The points as JSON that is safe inside a script element: without `<` and `&`."""
    said: dict[int, str] = {}
    if clusters is not None and "name" in clusters.columns:
        said = dict(clusters.drop_nulls("name").select("cluster", "name").iter_rows())
    data: dict[str, Any] = {"document_id": points["document_id"].to_list()}
    coordinates = points.select("x", "y").to_numpy().astype(float)
    low, span = coordinates.min(axis=0), max(float(np.ptp(coordinates, axis=0).max()), 1e-12)
    middle = (span - np.ptp(coordinates, axis=0)) / 2
    for column, values in zip(("x", "y"), ((coordinates - low + middle) / span * SCALE).T, strict=True):
        data[column] = values.round().astype(int).tolist()
    for column in ("cluster", "source"):
        names = points[column].unique().sort().to_list()
        if column == "cluster":  # a cluster that the sample misses keeps its number, so the others keep their colours
            names = list(range(max(names, default=-1) + 1))
        numbers = {name: i for i, name in enumerate(names)}
        data[f"{column}s"] = [
            f"{name}: {said[name]}" if column == "cluster" and name in said else str(name) for name in names
        ]
        data[column] = [numbers[name] for name in points[column]]
    data["excerpt"] = [_excerpt(text) for text in points["excerpt"]]
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EXCERPT_CHARACTERS else flat[: EXCERPT_CHARACTERS - 1] + "…"


def _cards(inputs: ReportInputs) -> list[dict[str, Any]]:
    if inputs.clusters is None:
        return []
    cards = []
    for row in inputs.clusters.sort("cluster").iter_rows(named=True):
        documents = _of_cluster(inputs.representatives, row["cluster"])
        sources = sorted(_of_cluster(inputs.composition, row["cluster"]), key=lambda source: -source["n_documents"])
        total = sum(source["n_documents"] for source in sources) or 1
        shares = [f"{100 * source['n_documents'] / total:.0f}% {source['source']}" for source in sources[:3]]
        card = {"name": None, **row, **_swatch(int(row["cluster"]))}
        cards.append({**card, "documents": documents, "composition": ", ".join(shares)})
    return cards


def _of_cluster(table: pl.DataFrame | None, cluster: int) -> list[dict[str, Any]]:
    return [] if table is None else table.filter(pl.col("cluster") == cluster).to_dicts()


def _coloured(document: TokenGates) -> dict[str, Any]:
    """Tokens with a background in the colour of their strongest expert. A larger gate gives a stronger colour."""
    tokens = []
    for text, gates in zip(document.tokens, document.gates, strict=True):
        n_experts, strongest = len(gates), int(np.argmax(gates))
        sure = (gates[strongest] - 1 / n_experts) / (1 - 1 / n_experts) if n_experts > 1 else 0.0
        alpha = round(255 * min(1.0, 0.1 + 0.6 * sure))
        words = ", ".join(f"expert {i}: {gate:.2f}" for i, gate in enumerate(gates))
        tokens.append({"text": text, "background": f"{color(strongest)}{alpha:02x}", "gates": words})
    return {"document_id": document.document_id, "tokens": tokens}
