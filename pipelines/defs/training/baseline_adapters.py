"""Trains the methods that HydraLoRA is compared with."""

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Description, artifact_asset
from pipelines.training.adapters import TrainingJob, experts_of
from pipelines.training.checks import BLOCKING, WARNINGS, adapter_table, curve_checks
from pipelines.training.documents import labelled_documents, read_tokens
from pipelines.training.launcher import Job, Launcher
from pipelines.training.recipe import BaseModel, Recipe


class BaselinesConfig(dg.Config):
    """Rows of `hydralora.methods`; `lora_matched` is as large as the HydraLoRA, router included."""

    methods: list[str] = ["lora_matched"]


def _described(artifact: Artifact, config: BaselinesConfig) -> Description:
    folders = {method: artifact.folder / method for method in config.methods}
    return Description(metadata=adapter_table(folders), checks=curve_checks(folders))


@artifact_asset(
    group="training", kinds={"pytorch"}, describe=_described, blocking=BLOCKING, warnings=WARNINGS, pool="gpu"
)
def baseline_adapters(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: BaselinesConfig,
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
    expert_assignment: Artifact,
    hydralora_adapter: Artifact,
) -> None:
    """Adapters of the baselines, trained on the same documents with the same batches and seed as HydraLoRA."""
    size = hydralora_adapter.json("run")["parameters"]["trainable"]
    documents = labelled_documents(corpus_documents, cluster_labels, expert_assignment)
    tokens = read_tokens(tokenised_documents, documents.filter(pl.col("split") == "train"))
    jobs = []
    for method in config.methods:
        n = experts_of(method, num_clusters, expert_assignment)
        jobs.append(Job(draft.folder / method, TrainingJob(method, n, recipe.seed, match_parameters=size), tokens))
    launcher.train(context, jobs, recipe, base_model)
