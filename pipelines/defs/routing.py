"""Which experts the routers use, where, and for what."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl

from pipelines.defs.breakdown import adapter_config, load_state
from pipelines.defs.evaluation import held_out_documents
from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, materialized, write_thumbnail
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.adapters import documents_table, for_adapter, load_adapter, tokenised
from pipelines.training.recipe import BaseModel, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from hydralora.data import TokenisedDocuments

VERSION = source_version("hydralora", "analysis", "pipelines.training.adapters", "pipelines.defs.routing")
TABLES = ("gates", "entropy", "usage", "experts", "similarity", "association")
NO_GATES: dict[str, Any] = {
    "given_by": None,
    "specialised": "cannot tell",
    "reason": "One expert has no gates.",
    "alarms": [],
}
GROUP_KINDS = ("source", "task", "cluster")


class RoutingConfig(dg.Config):
    """How many held-out documents, and how many of them are shown token by token."""

    max_documents_per_source: int = 50
    examples: int = 6
    batch_tokens: int = 2_048


@artifact_asset(
    group="analysis",
    version=VERSION,
    kinds={"torch", "polars"},
    blocking=("gates_sum_to_one",),
    warnings=("no_alarm",),
    pool="gpu",
)
def routing_analysis(
    config: RoutingConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
    hydralora_adapter: Artifact,
) -> dg.MaterializeResult:
    """Gates on held-out documents by layer, expert and source, task and cluster, with alarms in words.

    With one expert there are no gates, and the tables are absent.
    """
    settings = adapter_config(hydralora_adapter.folder)
    n = settings.get("num_experts", 1)
    given_by = prompt_gates.json("prompt_gates")["group_kind"] if settings.get("router_input") == "sequence" else None

    def build(draft: Draft) -> None:
        if n == 1:
            draft.write_json("routing", NO_GATES)
            return
        held_out = held_out_documents(
            documents_table(corpus_documents, cluster_labels, prompt_gates), config.max_documents_per_source
        )
        rows = held_out.collect()
        model, tokenizer = load_adapter(base_model, hydralora_adapter.folder)
        documents = for_adapter(tokenised(draft, "held_out", held_out, tokenizer, recipe), model.active_peft_config)
        recorded = record(model, tokenizer, documents, config)
        analyse(draft, recorded, rows, hydralora_adapter, terms_of(cluster_labels), given_by)

    artifact = store.build(
        "routing_analysis",
        build,
        code_version=VERSION,
        config={
            **config.model_dump(),
            **base_model.identity(),
            "template": recipe.template,
            "length": recipe.max_length,
        },
        inputs={
            "corpus_documents": corpus_documents,
            "cluster_labels": cluster_labels,
            "prompt_gates": prompt_gates,
            "hydralora_adapter": hydralora_adapter,
        },
    )
    verdict = artifact.json("routing")
    alarms = [alarm["text"] for alarm in verdict["alarms"]]
    return materialized(
        artifact,
        table="usage" if n > 1 else None,
        metadata={"specialised": verdict["specialised"], "reason": verdict["reason"], "alarms": alarms},
        checks=[
            Check("gates_sum_to_one", n == 1 or _sums_to_one(artifact), "mean gates of each layer sum to one"),
            Check("no_alarm", not alarms, "; ".join(alarms[:5]) or "no alarm", warning=True),
        ],
    )


@dataclass(frozen=True)
class RecordedGates:
    """Gates of documents in the order of the documents.

    Attributes:
        modules: layer number and module path of each adapted layer.
        gates: [n_documents, n_modules, N], means over a document's tokens.
        entropy: [n_modules], mean over tokens, divided by log N.
        num_tokens: [n_documents].
        examples: for the first documents of each source, tokens and their gates [n_tokens, N], mean over modules.
    """

    modules: list[tuple[int, str]]
    gates: np.ndarray
    entropy: np.ndarray
    num_tokens: np.ndarray
    examples: list[dict[str, Any]]


def record(model: Any, tokenizer: Any, documents: "TokenisedDocuments", config: RoutingConfig) -> RecordedGates:
    """Run the model over documents, longest first, and keep their gates."""
    from hydralora.data import collate, pad_token_id
    from hydralora.evaluation import length_batches
    from hydralora.gates.recording import document_statistics

    shown = set(example_rows(documents.column("source"), config.examples))
    gates: list[np.ndarray] = [np.empty(0)] * len(documents)
    num_tokens = np.zeros(len(documents))
    entropy_sums: np.ndarray = np.zeros(1)
    examples = {}
    for indices in length_batches(documents.lengths, config.batch_tokens):
        rows = documents.rows(indices)
        statistics, of_tokens = document_statistics(model, collate(rows, pad_token_id(tokenizer)))
        means = statistics.mean().float().cpu().numpy()  # [modules, documents, N]
        num_tokens[indices] = statistics.num_tokens.cpu().numpy()
        entropy_sums = entropy_sums + statistics.entropy_sums.sum(dim=1).cpu().numpy()
        for place, (index, row) in enumerate(zip(indices, rows, strict=True)):
            gates[index] = means[:, place]
            if index in shown:
                examples[index] = _token_gates(tokenizer, row, [layer[place] for layer in of_tokens.values()])
    n = gates[0].shape[-1]
    return RecordedGates(
        modules=[layer_and_module(name) for name in statistics.modules],
        gates=np.stack(gates).astype(np.float32),
        entropy=entropy_sums / num_tokens.sum() / np.log(n),
        num_tokens=num_tokens,
        examples=[examples[index] for index in sorted(examples)],
    )


def _token_gates(tokenizer: Any, row: dict[str, Any], layers: list["Tensor"]) -> dict[str, Any]:
    import torch

    mean = torch.stack([layer.float().cpu() for layer in layers]).mean(dim=0)[: len(row["input_ids"])]
    tokens = [tokenizer.decode([token]) for token in row["input_ids"]]
    return {"document_id": row["document_id"], "tokens": tokens, "gates": mean.tolist()}


def example_rows(sources: list[str], examples: int) -> list[int]:
    """Indices of the first document of each source, then of the second ones, until there are enough."""
    places = pl.DataFrame({"source": sources}).with_row_index("row")
    places = places.with_columns(turn=pl.int_range(pl.len()).over("source"))
    return places.sort("turn", "source")["row"].head(examples).to_list()


def layer_and_module(name: str) -> tuple[int, str]:
    """`model.layers.3.self_attn.q_proj` -> (3, "self_attn.q_proj"); `lm_head` -> (OUTSIDE, "lm_head")."""
    from analysis.adapters.parts import OUTSIDE

    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return OUTSIDE, parts[-1]
    return int(parts[number]), ".".join(parts[number + 1 :])


def gate_table(recorded: RecordedGates, documents: pl.DataFrame) -> pl.DataFrame:
    """Means over tokens: `layer, module, expert, group_kind, group, gate, n_tokens`."""
    groups = {("all", "all"): np.ones(len(documents), dtype=bool)}
    for kind in GROUP_KINDS:
        for group in documents[kind].drop_nulls().unique().sort():
            groups[kind, str(group)] = (documents[kind] == group).fill_null(False).to_numpy()
    rows = []
    for (kind, group), chosen in groups.items():
        tokens = recorded.num_tokens[chosen]
        means = np.einsum("d,dmn->mn", tokens, recorded.gates[chosen]) / tokens.sum()
        for (layer, module), of_module in zip(recorded.modules, means, strict=True):
            rows += [(layer, module, e, kind, group, float(g), int(tokens.sum())) for e, g in enumerate(of_module)]
    columns = ("layer", "module", "expert", "group_kind", "group", "gate", "n_tokens")
    return pl.DataFrame(rows, schema=columns, orient="row")


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
        shared_expert=adapter_config(hydralora_adapter.folder).get("shared_expert", False),
        shared_rank=adapter_config(hydralora_adapter.folder).get("shared_rank", 0),
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


def _sums_to_one(artifact: Artifact) -> bool:
    usage = artifact.scan("usage").group_by("layer", "module").agg(pl.col("usage").sum()).collect()
    return bool(((usage["usage"] - 1).abs() < 1e-3).all())
