"""The inputs of a report: tables of one run. Every section is optional."""

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
        tokens: token texts from the tokenizer, including spaces.
        gates: N gates for each token, averaged over modules.
    """

    document_id: str
    tokens: Sequence[str]
    gates: Sequence[Sequence[float]]


@dataclass(frozen=True)
class MoreTable:
    """An additional table, which gets its own section.

    Attributes:
        name: name of the section in links: letters and hyphens.
        title, lead: heading and introduction above the table.
        table: table to show, up to 400 rows.
    """

    name: str
    title: str
    lead: str
    table: pl.DataFrame


@dataclass(frozen=True)
class NextStep:
    """Something to do after reading the report.

    Attributes:
        title: what it does, in a few words.
    """

    title: str
    command: str
    reason: str = ""


@dataclass(frozen=True)
class ReportInputs:
    """The tables of one run. A section without its tables only states that they are missing.

    Attributes:
        command: exact command that reproduces the run.
        configuration: the run configuration that really ran, as text; empty if it is not known.
        base_model: name of the base model; empty if it is not known.
        next_steps: what to do after reading, with commands.
        provenance: name -> value of versions, hardware, seeds, fingerprints, licences.
        method: name of the reported adapter in `evaluation`, `curves`, `parameters` and `energy`.
        matched_baseline: name in the same tables of the LoRA with as many trainable parameters.
        choice: `num_clusters`, `reason`, and if known `interval`, `rule`, `sharpness`, `stability`, `runner_up`,
            `structure`, `value` (the number at the elbow, without edits and tail), `tail` (None without one).
        grouping: for experts chosen by the prompt: `num_experts`, `group_kind`, `groups` (one per expert), `reason`,
            `held_out_accuracy` (share of held-out prompts whose group is predicted correctly, or None).
        sweep: n_clusters, inertia.
        cluster_map: document_id, x, y, cluster, source, excerpt, for all documents or a sample of them.
        projection: method that computed x and y: "PCA", "UMAP" or "t-SNE".
        n_documents: number of documents that `cluster_map` was sampled from; None if it has all documents.
        clusters: cluster, n_documents, top_terms (list of str), and if clusters have names, name.
        representatives: cluster, document_id, source, excerpt, with the most typical document first.
        composition: cluster, source, n_documents.
        tail: part, n_documents, share_of_answers, top_terms, sources: parts of the last cluster, if it is the tail of
            small tasks (`analysis.clusters.tail`).
        curves: method, seed, step, tokens, loss, learning_rate, seconds, eval_loss.
        evaluation: method, seed, group_kind, group, loss, loss_low, loss_high, n_documents, n_tokens.
        paired: method, baseline, group_kind, group, difference, low, high: paired loss differences (method minus
            baseline, negative is better) with 95% intervals. If absent, they are estimated less precisely from
            `evaluation`.
        cross_losses: document_id, group, expert, loss, n_tokens: every expert on every group's held-out documents; see
            `analysis.adapters.cross_experts`.
        parameters: method, part, n_parameters.
        energy: method, seed, energy_kwh (null if not measured), seconds, remembered_batches (micro-batches that skipped
            the frozen lower layers).
        more: additional tables; each is a section before the costs.
        serving: one or two sentences on how to serve the adapter; empty for the general advice.
    """

    title: str
    command: str
    configuration: str = ""
    base_model: str = ""
    n_training_documents: int | None = None
    next_steps: Sequence[NextStep] = ()
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
    tail: pl.DataFrame | None = None
    curves: pl.DataFrame | None = None
    evaluation: pl.DataFrame | None = None
    paired: pl.DataFrame | None = None
    breakdown: ParameterBreakdown | None = None
    routing: RoutingAnalysis | None = None
    token_gates: Sequence[TokenGates] = ()
    cross_losses: pl.DataFrame | None = None
    parameters: pl.DataFrame | None = None
    energy: pl.DataFrame | None = None
    more: Sequence[MoreTable] = ()
    serving: str = ""

    def __post_init__(self) -> None:
        for name, columns in REQUIRED_COLUMNS.items():
            table = getattr(self, name)
            if table is not None and (missing := [c for c in columns if c not in table.columns]):
                raise ValueError(f"{name}: expected columns {', '.join(columns)}; got no {', '.join(missing)}")

    @property
    def corpus_only(self) -> bool:
        """Whether the run read a corpus, chose N, and trained nothing."""
        trained = (self.curves, self.evaluation, self.breakdown, self.routing, self.parameters, self.energy)
        read = (self.data_card, self.choice, self.grouping)
        return all(table is not None for table in read) and all(table is None for table in trained)


REQUIRED_COLUMNS = {
    "sweep": ("n_clusters", "inertia"),
    "cluster_map": ("document_id", "x", "y", "cluster", "source", "excerpt"),
    "clusters": ("cluster", "n_documents", "top_terms"),
    "representatives": ("cluster", "document_id", "source", "excerpt"),
    "composition": ("cluster", "source", "n_documents"),
    "tail": ("part", "n_documents", "share_of_answers", "top_terms", "sources"),
    "curves": ("method", "seed", "step", "tokens", "loss"),
    "evaluation": ("method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high"),
    "paired": ("method", "baseline", "group_kind", "group", "difference", "low", "high"),
    "cross_losses": ("document_id", "group", "expert", "loss", "n_tokens"),
    "parameters": ("method", "part", "n_parameters"),
    "energy": ("method", "seed", "energy_kwh", "seconds", "remembered_batches"),
}
