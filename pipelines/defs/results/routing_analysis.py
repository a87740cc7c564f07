"""Which experts the gates choose, in which layers, and for which documents."""

from dataclasses import asdict
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.thumbnails import write_thumbnail
from pipelines.training.adapters import adapter_config, always_on, load_adapter, load_state
from pipelines.training.documents import held_out_documents, labelled_documents, read_tokens
from pipelines.training.recipe import BaseModel
from pipelines.training.recorded_gates import GROUP_KINDS, RecordedGates, collect_gates, gate_table

TABLES = ("gates", "entropy", "usage", "experts", "similarity", "association")
NO_GATES: dict[str, Any] = {
    "given_by": None,
    "specialised": "cannot tell",
    "reason": "One expert has no gates.",
    "alarms": [],
}


class RoutingConfig(dg.Config):
    """How many held-out documents, and how many of them are shown token by token."""

    max_documents_per_source: int = Field(50, ge=1)
    examples: int = Field(6, ge=0)
    batch_tokens: int = Field(2_048, ge=1)


def _described(artifact: Artifact) -> Description:
    verdict = artifact.json("routing")
    alarms = [alarm["text"] for alarm in verdict["alarms"]]
    has_gates = (artifact.folder / "usage.parquet").exists()
    error = _error_of_sums(artifact) if has_gates else 0.0
    return Description(
        table="usage" if has_gates else None,
        metadata={"specialised": verdict["specialised"], "reason": verdict["reason"], "alarms": alarms},
        checks=[
            Check(
                "gates_sum_to_one",
                error < 1e-3,
                f"sums of gates differ from 1 by at most {error:.2g}",
                {"error": error},
            ),
            Check("no_alarm", not alarms, "; ".join(alarms[:5]) or "no alarm", {"alarms": len(alarms)}),
        ],
    )


@artifact_asset(
    group="analysis",
    kinds={"pytorch", "polars"},
    describe=_described,
    blocking={"gates_sum_to_one": "The mean gates of each layer sum to one."},
    warnings={"no_alarm": "No expert is unused, collapsed or a copy of another."},
    pool="gpu",
)
def routing_analysis(
    draft: Draft,
    config: RoutingConfig,
    base_model: BaseModel,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    cluster_labels: Artifact,
    expert_assignment: Artifact,
    hydralora_adapter: Artifact,
) -> None:
    """Gates on held-out documents by layer, expert and source, task and cluster, with alarms in words.

    With one expert there are no gates, so there are no tables.
    """
    settings = adapter_config(hydralora_adapter.folder)
    if settings.get("num_experts", 1) == 1:
        draft.write_json("routing", NO_GATES)
        return
    is_given = settings.get("router_input") == "given"
    given_by = expert_assignment.json("expert_assignment")["group_kind"] if is_given else None
    labelled = labelled_documents(corpus_documents, cluster_labels, expert_assignment)
    rows = held_out_documents(labelled, config.max_documents_per_source).collect()
    model, tokenizer = load_adapter(base_model, hydralora_adapter.folder)
    documents = read_tokens(tokenised_documents, rows).for_adapter(model.active_peft_config)
    recorded = collect_gates(model, tokenizer, documents, config.examples, config.batch_tokens)
    analyse(draft, recorded, rows, hydralora_adapter, terms_of(cluster_labels), given_by)


def analyse(
    draft: Draft,
    recorded: RecordedGates,
    documents: pl.DataFrame,
    hydralora_adapter: Artifact,
    top_terms: dict[int, list[str]],
    given_by: str | None,
) -> None:
    """Write the tables of the analysis, the gates of every document, and the examples."""
    from analysis.adapters.routing import DocumentGates, analyse_routing
    from analysis.figures.routing import gates_by_layer

    layers, modules = zip(*recorded.modules, strict=True)
    result = analyse_routing(
        gate_table(recorded, documents),
        pl.DataFrame({"layer": layers, "module": modules, "entropy": recorded.entropy}),
        document_gates=DocumentGates(recorded.gates, recorded.modules, documents["document_id"].to_list()),
        documents=documents.select("document_id", *GROUP_KINDS),
        adapter=load_state(hydralora_adapter.folder),
        **always_on(hydralora_adapter.folder),
        top_terms=top_terms,
        given_by=given_by,
    )
    for name in TABLES:
        draft.write_table(name, getattr(result, name))
    write_thumbnail(draft, gates_by_layer(result.gates, given_by or "cluster"))
    draft.write_array("document_gates", recorded.gates)
    draft.write_json("token_gates", recorded.examples)
    alarms = [asdict(alarm) for alarm in result.alarms]
    verdict = {"given_by": given_by, "specialised": result.specialised, "reason": result.reason, "alarms": alarms}
    draft.write_json("routing", verdict)


def terms_of(cluster_labels: Artifact) -> dict[int, list[str]]:
    """Top terms of each cluster."""
    return dict(cluster_labels.read("clusters").select("cluster", "top_terms").iter_rows())


def _error_of_sums(artifact: Artifact) -> float:
    sums = artifact.scan("usage").group_by("layer", "module").agg(pl.col("usage").sum())
    return float(sums.select((pl.col("usage") - 1).abs().max()).collect().item())
