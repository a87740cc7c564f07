"""How well each adapter predicts the answers of held-out documents, and how certain the differences are."""

from pathlib import Path

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table
from pipelines.store.thumbnails import write_thumbnail
from pipelines.training.adapters import held_out_losses
from pipelines.training.documents import held_out_documents, labelled_documents, read_tokens
from pipelines.training.losses import BASE, evaluation_table, loss_table, paired_table
from pipelines.training.recipe import BaseModel, Recipe


class EvaluationConfig(dg.Config):
    """Number of held-out documents and of bootstrap resamples."""

    max_documents_per_source: int | None = Field(200, ge=1)
    """Chosen by a hash; the same for every method."""
    resamples: int = Field(1_000, ge=1, le=1_000_000)
    """Number of bootstrap resamples."""


def _described(artifact: Artifact) -> Description:
    table = artifact.read("evaluation")
    overall = table.filter(pl.col("group_kind") == "all").sort("loss")
    by_source = table.filter(pl.col("group_kind") == "source").pivot("method", index="group", values="loss")
    gaps = by_source.null_count().sum_horizontal().item()
    base_loss = overall.filter(pl.col("method") == BASE)["loss"].item()
    best = f"base {base_loss:.3f}, best {overall['loss'][0]:.3f}"
    return Description(
        table="evaluation",
        metadata={
            "base_loss": base_loss,
            "best_loss": float(overall["loss"][0]),
            "overall": markdown_table(overall),
            "by_source": markdown_table(by_source, rows=100),
        },
        checks=[
            Check("every_method_has_every_source", gaps == 0, f"{gaps} sources without a loss", {"without_loss": gaps}),
            Check(
                "better_than_base",
                overall["loss"][0] < base_loss,
                best,
                {"base_loss": base_loss, "best_loss": float(overall["loss"][0])},
            ),
        ],
    )


@artifact_asset(
    group="evaluation",
    kinds={"pytorch", "polars"},
    describe=_described,
    blocking={"every_method_has_every_source": "Every method was measured on every source."},
    warnings={"better_than_base": "Some method predicts held-out answers better than the base model."},
    pool="gpu",
)
def evaluation(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: EvaluationConfig,
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    cluster_labels: Artifact,
    expert_assignment: Artifact,
    hydralora_adapter: Artifact,
    baseline_adapters: Artifact,
) -> None:
    """Answer loss of held-out documents for the base model and every adapter, by source and cluster, with intervals."""
    from analysis.figures import training as figures

    method = hydralora_adapter.record["config"]["method"]
    baselines = baseline_adapters.record["config"]["methods"]
    folders: dict[str, Path | None] = {
        BASE: None,
        method: hydralora_adapter.folder,
        **{name: baseline_adapters.folder / name for name in baselines},
    }
    labelled = labelled_documents(corpus_documents, cluster_labels, expert_assignment)
    documents = read_tokens(tokenised_documents, held_out_documents(labelled, config.max_documents_per_source))
    losses = {name: held_out_losses(documents, folder, base_model) for name, folder in folders.items()}
    for name, of_method in losses.items():
        context.log.info(f"{name}: {of_method.mean:.4f} nats a token on {len(documents)} held-out documents")
    draft.write_table("document_losses", loss_table(losses, documents))
    table = evaluation_table(losses, recipe.seed, config.resamples)
    draft.write_table("evaluation", table)
    write_thumbnail(draft, figures.losses(table, "source"))
    draft.write_table("paired", paired_table(losses, method, config.resamples))
