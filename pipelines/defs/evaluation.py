"""How well each adapter predicts the answers of held-out documents, and how sure the differences are."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized, write_thumbnail
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.adapters import documents_table, held_out_losses, tokenised
from pipelines.training.recipe import BaseModel, Recipe

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments
    from hydralora.evaluation import DocumentLosses

VERSION = source_version("hydralora", "pipelines.training.adapters", "pipelines.defs.evaluation")
BASE = "base"


class EvaluationConfig(dg.Config):
    """How many held-out documents, and how sure."""

    max_documents_per_source: int | None = 200
    """Chosen by a hash; the same for every method."""
    resamples: int = 1_000
    """Of the bootstrap."""


@artifact_asset(
    group="evaluation",
    version=VERSION,
    kinds={"torch", "polars"},
    blocking=("every_method_has_every_source",),
    warnings=("better_than_base",),
    pool="gpu",
)
def evaluation(
    context: dg.AssetExecutionContext,
    config: EvaluationConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
    hydralora_adapter: Artifact,
    baseline_adapters: Artifact,
) -> dg.MaterializeResult:
    """Answer loss of held-out documents for the base model and every adapter, by source and cluster, with intervals."""
    method = hydralora_adapter.record["config"]["method"]
    baselines = baseline_adapters.record["config"]["methods"]
    folders: dict[str, Path | None] = {
        BASE: None,
        method: hydralora_adapter.folder,
        **{name: baseline_adapters.folder / name for name in baselines},
    }

    def build(draft: Draft) -> None:
        from analysis.figures import training as figures

        held_out = held_out_documents(
            documents_table(corpus_documents, cluster_labels, prompt_gates), config.max_documents_per_source
        )
        documents = tokenised(draft, "held_out", held_out, base_model.load()[1], recipe)
        losses = {name: held_out_losses(documents, folder, base_model) for name, folder in folders.items()}
        for name, of_method in losses.items():
            context.log.info(f"{name}: {of_method.mean:.4f} nats a token on {len(documents)} held-out documents")
        draft.write_table("document_losses", loss_table(losses, documents))
        table = evaluation_table(losses, recipe.seed, config.resamples)
        draft.write_table("evaluation", table)
        write_thumbnail(draft, figures.losses(table, "source"))
        draft.write_table("paired", paired_table(losses, method, config.resamples))

    artifact = store.build(
        "evaluation",
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
            "baseline_adapters": baseline_adapters,
        },
    )
    table = artifact.read("evaluation")
    overall = table.filter(pl.col("group_kind") == "all").sort("loss")
    by_source = table.filter(pl.col("group_kind") == "source").pivot("method", index="group", values="loss")
    base_loss = overall.filter(pl.col("method") == BASE)["loss"].item()
    return materialized(
        artifact,
        table="evaluation",
        metadata={"overall": markdown_table(overall), "by_source": markdown_table(by_source, rows=100)},
        checks=[
            Check("every_method_has_every_source", by_source.null_count().sum_horizontal().item() == 0, "no gap"),
            Check("better_than_base", overall["loss"][0] < base_loss, f"base {base_loss:.3f}", warning=True),
        ],
    )


def held_out_documents(documents: pl.LazyFrame, max_per_source: int | None) -> pl.LazyFrame:
    """Test documents, at most so many of each source; the order of the ids, hashes of the text, chooses."""
    held_out = documents.filter(pl.col("split") == "test").sort("source", "document_id")
    if max_per_source is None:
        return held_out
    return held_out.filter(pl.int_range(pl.len()).over("source") < max_per_source)


def evaluation_table(losses: dict[str, "DocumentLosses"], seed: int, resamples: int) -> pl.DataFrame:
    """`method, seed, group_kind, group, loss, loss_low, loss_high, n_documents, n_tokens`, 95% intervals."""
    from hydralora.evaluation import bootstrap_interval

    rows = []
    for method, of_method in losses.items():
        for (kind, group), part in of_method.groups().items():
            low, high = bootstrap_interval(part, num_resamples=resamples)
            sizes = (len(part.sources), int(part.token_counts.sum()))
            rows.append((method, seed, kind, group, part.mean, low, high, *sizes))
    columns = ("method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high", "n_documents", "n_tokens")
    return pl.DataFrame(rows, schema=columns, orient="row")


def paired_table(losses: dict[str, "DocumentLosses"], method: str, resamples: int) -> pl.DataFrame:
    """Losses of `method` minus those of every other on the same documents: negative is better for `method`."""
    from hydralora.evaluation import paired_bootstrap

    rows = []
    ours = losses[method].groups()
    for baseline in (name for name in losses if name != method):
        for (kind, group), theirs in losses[baseline].groups().items():
            paired = paired_bootstrap(ours[kind, group], theirs, num_resamples=resamples)
            rows.append((method, baseline, kind, group, paired.difference, paired.low, paired.high))
    columns = ("method", "baseline", "group_kind", "group", "difference", "low", "high")
    return pl.DataFrame(rows, schema=columns, orient="row")


def loss_table(losses: dict[str, "DocumentLosses"], documents: "TokenisedDocuments") -> pl.DataFrame:
    """One row for each method and document: `loss` is summed over the answer's `n_tokens` tokens."""
    return pl.concat(
        pl.DataFrame(
            {
                "method": [method] * len(documents),
                "document_id": documents.column("document_id"),
                "source": of_method.sources,
                "cluster": of_method.clusters,
                "loss": of_method.loss_sums,
                "n_tokens": of_method.token_counts,
            }
        )
        for method, of_method in losses.items()
    )
