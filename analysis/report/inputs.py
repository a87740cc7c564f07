"""What a report is made from: tables of one run, every section optional."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.adapters.breakdown import ParameterBreakdown
from analysis.adapters.routing import RoutingAnalysis


@dataclass(frozen=True)
class TokenGates:
    """Gates of the tokens of one example document.

    Attributes:
        document_id: of the documents table.
        tokens: as the tokenizer shows them, spaces included.
        gates: for each token the N gates, averaged over modules.
    """

    document_id: str
    tokens: Sequence[str]
    gates: Sequence[Sequence[float]]


@dataclass(frozen=True)
class MoreTable:
    """A table that a run may have beyond the usual ones, as a section of its own.

    Attributes:
        name: of the section in links; letters and hyphens.
        title, lead: what stands above the table.
        table: shown whole, up to 400 rows.
    """

    name: str
    title: str
    lead: str
    table: pl.DataFrame


@dataclass(frozen=True)
class ReportInputs:
    """The tables of one run; a section whose tables are absent says so and is left out.

    Attributes:
        title: of the run.
        command: the exact command that reproduces it.
        provenance: names to values: versions, hardware, seeds, fingerprints, licences.
        method: name of the adapter under report in `evaluation`, `curves`, `parameters` and `energy`.
        matched_baseline: name there of the LoRA with as many trainable parameters.
        choice: `num_clusters`, `reason`, and where known `interval`, `rule`, `sharpness`, `stability`, `runner_up`,
            `structure`.
        grouping: where experts are given by the prompt: `num_experts`, `group_kind`, `groups` (one an expert),
            `reason`, `held_out_accuracy` (share of held-out prompts that tell their group, or None).
        data_card: of `analysis.corpus.data_card`.
        sweep: n_clusters, inertia.
        cluster_map: document_id, x, y, cluster, source, excerpt; all documents or a sample of them.
        projection: what made x and y: "PCA", "UMAP", "t-SNE".
        n_documents: documents that `cluster_map` was sampled from; None for all of it.
        clusters: cluster, n_documents, top_terms (list of str).
        representatives: cluster, document_id, source, excerpt; the most typical document first.
        composition: cluster, source, n_documents.
        curves: method, seed, step, tokens, loss, learning_rate, seconds, eval_loss.
        evaluation: method, seed, group_kind, group, loss, loss_low, loss_high, n_documents, n_tokens.
        paired: method, baseline, group_kind, group, difference, low, high: paired differences of losses (method minus
            baseline: negative is better) with 95% intervals. Absent: read off `evaluation`, less surely.
        parameters: method, part, n_parameters.
        energy: method, seed, energy_kwh (null where not measured), seconds.
        more: further tables, each a section before the costs.
        serving: how to serve the adapter, a sentence or two; empty for the general advice.
    """

    title: str
    command: str
    provenance: Mapping[str, str] = field(default_factory=dict)
    method: str = "hydralora"
    matched_baseline: str = "lora"
    choice: Mapping[str, Any] | None = None
    grouping: Mapping[str, Any] | None = None
    data_card: Mapping[str, Any] | None = None
    sweep: pl.DataFrame | None = None
    cluster_map: pl.DataFrame | None = None
    projection: str = "PCA"
    n_documents: int | None = None
    clusters: pl.DataFrame | None = None
    representatives: pl.DataFrame | None = None
    composition: pl.DataFrame | None = None
    curves: pl.DataFrame | None = None
    evaluation: pl.DataFrame | None = None
    paired: pl.DataFrame | None = None
    breakdown: ParameterBreakdown | None = None
    routing: RoutingAnalysis | None = None
    token_gates: Sequence[TokenGates] = ()
    parameters: pl.DataFrame | None = None
    energy: pl.DataFrame | None = None
    more: Sequence[MoreTable] = ()
    serving: str = ""

    def __post_init__(self) -> None:
        for name, columns in REQUIRED_COLUMNS.items():
            table = getattr(self, name)
            if table is not None and (missing := [c for c in columns if c not in table.columns]):
                raise ValueError(f"{name}: expected columns {', '.join(columns)}; got no {', '.join(missing)}")


REQUIRED_COLUMNS = {
    "sweep": ("n_clusters", "inertia"),
    "cluster_map": ("document_id", "x", "y", "cluster", "source", "excerpt"),
    "clusters": ("cluster", "n_documents", "top_terms"),
    "representatives": ("cluster", "document_id", "source", "excerpt"),
    "composition": ("cluster", "source", "n_documents"),
    "curves": ("method", "seed", "step", "tokens", "loss"),
    "evaluation": ("method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high"),
    "paired": ("method", "baseline", "group_kind", "group", "difference", "low", "high"),
    "parameters": ("method", "part", "n_parameters"),
    "energy": ("method", "seed", "energy_kwh", "seconds"),
}
