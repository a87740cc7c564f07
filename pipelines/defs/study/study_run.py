"""One run of the study, as a partition."""

import math

import dagster as dg
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.experiments import EXPERIMENTS, Cell, planned_cells
from pipelines.study.planning import DomainsConfig, Planner
from pipelines.study.running.run import build_run, mean_loss
from pipelines.study.study_documents import Corpus
from pipelines.training.recipe import BaseModel, Recipe

PARTITIONS = dg.StaticPartitionsDefinition(
    [
        f"{method}:seed-{seed}:{rate}"
        for method in sorted({cell.method for cell in planned_cells(EXPERIMENTS, ["general", "mixed"])})
        for seed in range(3)
        for rate in ("0.0002", "0.0005", "0.001", "0.002", "0.004", "0.008", "0.016", "0.032")
    ]
)
"""Method, seed and learning rate; see docs/decisions/0004."""


class OneRunConfig(DomainsConfig):
    """Where the run of a partition is trained."""

    domain: str = "general"
    num_experts: int = Field(3, ge=1)


def _described(artifact: Artifact, config: OneRunConfig) -> Description:
    loss = artifact.json("run_made")["held_out_loss"]
    return Description(
        table="losses",
        metadata={"held_out_loss": loss, "domain": config.domain},
        checks=[Check("loss_finite", math.isfinite(loss), f"held-out loss {loss:.4f}", {"held_out_loss": loss})],
    )


def partition(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Method, seed and rate."""
    return {"partition": context.partition_key}


@artifact_asset(
    group="study_partitions",
    kinds={"pytorch"},
    describe=_described,
    identity=partition,
    blocking={"loss_finite": "The held-out loss is a number."},
    pool="gpu",
    partitions_def=PARTITIONS,
)
def study_run(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: OneRunConfig,
    store: ArtifactStore,
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    document_features: Artifact,
    tokenised_documents: Artifact,
) -> None:
    """One run of the study. The partition gives method, seed and learning rate. `study_runs` reuses the result."""
    corpus = Corpus(corpus_documents, document_features, tokenised_documents)
    planner = Planner(store, recipe, base_model, corpus, config)
    method, seed, rate = context.partition_key.split(":")
    cell = Cell(method, config.domain, config.num_experts)
    run = planner.run(cell, int(seed.removeprefix("seed-")), float(rate))
    made = build_run(planner.setup(cell.domain), run, context.log.info)
    draft.write_table("losses", made.read("losses"))
    draft.write_json("run_made", {"fingerprint": made.fingerprint, "held_out_loss": mean_loss(made)})
