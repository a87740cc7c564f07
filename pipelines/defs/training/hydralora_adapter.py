"""Trains HydraLoRA with the number of experts chosen for the corpus."""

import shutil

import dagster as dg
import polars as pl

from pipelines.corpus.experts import GROUP_MODEL
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Description, artifact_asset
from pipelines.training.adapters import DEFAULT_METHOD, GIVEN_GATES, TrainingJob, experts_of
from pipelines.training.checks import BLOCKING, WARNINGS, curve_checks, shown
from pipelines.training.documents import labelled_documents, read_tokens
from pipelines.training.launcher import Job, Launcher
from pipelines.training.recipe import BaseModel, Recipe


class HydraloraConfig(dg.Config):
    """Which HydraLoRA: a row of `hydralora.methods`."""

    method: str = DEFAULT_METHOD
    """With gates given by `expert_assignment`: `hydralora_split`, `hydralora_sequence`. The paper's: `hydralora`."""


def trained_method(config: HydraloraConfig, num_clusters: Artifact, expert_assignment: Artifact) -> dict[str, str]:
    """The method to train. With one expert, it is a plain LoRA."""
    n = experts_of(config.method, num_clusters, expert_assignment)
    return {"method": config.method if n > 1 else "without_moe"}


def _described(artifact: Artifact) -> Description:
    record, method = artifact.json("run"), artifact.record["config"]["method"]
    return Description(metadata={"method": method, **shown(record)}, checks=curve_checks({method: artifact.folder}))


@artifact_asset(
    group="training",
    kinds={"pytorch"},
    describe=_described,
    identity=trained_method,
    blocking=BLOCKING,
    warnings=WARNINGS,
    pool="gpu",
)
def hydralora_adapter(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: HydraloraConfig,
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
    expert_assignment: Artifact,
) -> None:
    """HydraLoRA with one shared A and N experts. With N = 1 it is one plain LoRA.

    If gates are given, the model that predicts the group of a prompt is saved beside the adapter.
    """
    n = experts_of(config.method, num_clusters, expert_assignment)
    method = trained_method(config, num_clusters, expert_assignment)["method"]
    if method in GIVEN_GATES:
        shutil.copytree(expert_assignment.path(GROUP_MODEL), draft.folder / GROUP_MODEL, dirs_exist_ok=True)
    documents = labelled_documents(corpus_documents, cluster_labels, expert_assignment)
    tokens = read_tokens(tokenised_documents, documents.filter(pl.col("split") == "train"))
    launcher.train(context, [Job(draft.folder, TrainingJob(method, n, recipe.seed), tokens)], recipe, base_model)
