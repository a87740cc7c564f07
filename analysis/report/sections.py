"""All sections of a report, and those about the corpus."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from analysis.figures import Picture, clusters
from analysis.figures.overview import overview
from analysis.figures.palette import BASE
from analysis.report.inputs import ReportInputs
from analysis.report.section import Section, Table, table
from analysis.report.training_sections import (
    comparison,
    costs,
    gates,
    methods_in_words,
    numbers_of,
    parameter_breakdown,
    parameters,
    training_curves,
)
from analysis.report.words import RULES, TAIL, head


def sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """All sections, in order. A report of a corpus alone has no sections about training."""
    found = (
        corpus(inputs),
        number_of_experts(inputs),
        cluster_map(inputs),
        cluster_pages(inputs),
        training_curves(inputs),
        comparison(inputs),
        parameter_breakdown(inputs),
        gates(inputs),
        *(Section(t.name, t.title, t.lead, tables=(table(t.table, t.title, folded=False),)) for t in inputs.more),
        costs(inputs),
        parameters(inputs),
        provenance(inputs),
    )
    return tuple(section for section in found if not (inputs.corpus_only and section.missing))


def first_picture(inputs: ReportInputs) -> Picture | None:
    """The picture at the head of the page; None if the run has neither a map nor losses."""
    if inputs.cluster_map is None and inputs.evaluation is None:
        return None
    grouping = inputs.grouping or {}
    sources = grouping.get("groups", ()) if grouping.get("group_kind") == "source" else ()
    picture = overview(inputs.cluster_map, inputs.evaluation, numbers_of(inputs), sources)
    meanings = [f"{name}: {meaning}." for name, meaning in methods_in_words(inputs) if name != BASE]
    return replace(picture, caption=" ".join([picture.caption, *meanings]))


def corpus(inputs: ReportInputs) -> Section:
    """Section: what the corpus holds."""
    card = inputs.data_card
    if card is None:
        return Section("corpus", "Corpus", missing="This run has no data card.")
    lead = (
        f"{card['n_read']:,} records read, {card['n_kept']:,} documents kept, {card['n_dropped']:,} dropped, each with "
        "a reason."
    )
    shown = {
        "sources": "Sources",
        "dropped": "Dropped records",
        "duplicates": "Duplicates",
        "contamination": "Removed because an evaluation set has them",
        "languages": "Languages",
        "licences": "Licences",
        "tasks": "Tasks",
    }
    tables = tuple(
        table(pl.DataFrame(card[name], infer_schema_length=None), caption, folded=name != "sources")
        for name, caption in shown.items()
        if card.get(name)
    )
    return Section("corpus", "Corpus", lead, tables=tables)


def number_of_experts(inputs: ReportInputs) -> Section:
    """Section: the elbow and how reliable it is."""
    title = "How many clusters"
    if inputs.sweep is None or inputs.choice is None:
        return Section("experts", title, missing="This run has no cluster sweep.")
    choice = inputs.choice
    names = ("rule", "sharpness", "stability", "runner_up", "interval", "probability_of_one")
    values = {**choice, "rule": RULES.get(str(choice.get("rule")), choice.get("rule"))}
    rows = tuple((head(name), _plain(values[name])) for name in names if values.get(name) is not None)
    words = ""
    if inputs.grouping is not None:
        n, kind = inputs.grouping["num_experts"], inputs.grouping["group_kind"]
        done = "The corpus gets" if inputs.corpus_only else "The run trained"
        words = f"These are clusters. {done} {n} experts, one for each {kind}."
    return Section(
        "experts",
        title,
        f"{choice['reason']} {words}".strip(),
        (clusters.elbow(inputs.sweep, choice),),
        (Table("The choice", ("measure", "value"), rows, False), *_groups(inputs), table(inputs.sweep, "Every K")),
    )


def _groups(inputs: ReportInputs) -> tuple[Table, ...]:
    if inputs.grouping is None:
        return ()
    kind = inputs.grouping["group_kind"]
    return (Table(f"Experts: one for each {kind}", ("expert", kind), tuple(enumerate(inputs.grouping["groups"]))),)


def _plain(value: Any) -> Any:
    return " to ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def cluster_map(inputs: ReportInputs) -> Section:
    """Section: the interactive map, with a static picture for print."""
    points = inputs.cluster_map
    if points is None:
        return Section("map", "Map of documents", missing="This run has no coordinates of documents.")
    total = inputs.n_documents or len(points)
    sampled = f"a random sample of {len(points):,} of {total:,} documents" if total > len(points) else "all documents"
    lead = (
        f"{len(points):,} points: {sampled}, by {inputs.projection}. Point at one to read it; filter by cluster or "
        "source. After a click on the map the wheel or + and - zoom, and arrow keys step from document to document; "
        "dragging moves it. With Select, dragging draws a line around documents; Download saves what is shown, or "
        "selected, as JSONL."
    )
    return Section("map", "Map of documents", lead, (clusters.cluster_map(points, inputs.projection),))


def cluster_pages(inputs: ReportInputs) -> Section:
    """Section: what each cluster is about. The template draws the cards."""
    if inputs.clusters is None:
        return Section("clusters", "Clusters", missing="This run has no table of clusters.")
    pictures = (clusters.composition(inputs.composition),) if inputs.composition is not None else ()
    lead = "Each cluster by its most telling terms and most typical documents."
    if inputs.tail is None:
        return Section("clusters", "Clusters", lead, pictures)
    return Section("clusters", "Clusters", f"{lead} {TAIL}", pictures, (_parts_of_tail(inputs.tail),))


def _parts_of_tail(parts: pl.DataFrame) -> Table:
    terms, sources = pl.col("top_terms").list.join(", "), pl.col("sources").list.join(", ")
    shown = parts.with_columns(terms, sources, pl.col("share_of_answers").round(5))
    return table(shown, f"The {len(parts)} parts of the tail, training documents", folded=False)


def provenance(inputs: ReportInputs) -> Section:
    """Section: where everything comes from."""
    rows = {name: str(value) for name, value in inputs.provenance.items()}
    artifacts = {name: value for name, value in rows.items() if name.startswith(("artifact ", "code of ", "package "))}
    run = {name: value for name, value in rows.items() if name not in artifacts}
    shown = (("What ran", run, False), ("Artifacts, code and packages", artifacts, True))
    tables = tuple(
        Table(caption, ("what", "value"), tuple(entries.items()), folded)
        for caption, entries, folded in shown
        if entries
    )
    return Section("provenance", "Provenance, and how to reproduce", tables=tables)
