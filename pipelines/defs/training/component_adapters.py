"""Trains one LoRA for each cluster, for the parameter breakdown."""

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Description, artifact_asset
from pipelines.training.adapters import UNTRAINED, TrainingJob, save_untrained
from pipelines.training.checks import BLOCKING, WARNINGS, adapter_table, curve_checks
from pipelines.training.documents import cluster_count, labelled_documents, read_tokens
from pipelines.training.launcher import Job, Launcher
from pipelines.training.recipe import BaseModel, Recipe


class ComponentsConfig(dg.Config):
    """Plain LoRAs of parts of the corpus, for the breakdown of what A and B learn."""

    max_tokens: int = Field(200_000, ge=1)
    """Budget of each; small is enough to tell A from B."""
    parts: int = Field(3, ge=1, le=1_000)
    """The largest clusters, and as many random parts of the largest cluster as a control."""
    other_seeds: list[int] = [1]
    """Every cluster is trained again with these, on the same documents: separates what was learnt from the start."""


def _described(artifact: Artifact) -> Description:
    folders = {folder.parent.name: folder.parent for folder in sorted(artifact.folder.glob("*/run.json"))}
    return Description(metadata=adapter_table(folders), checks=curve_checks(folders))


@artifact_asset(
    group="training", kinds={"pytorch"}, describe=_described, blocking=BLOCKING, warnings=WARNINGS, pool="gpu"
)
def component_adapters(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: ComponentsConfig,
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
) -> None:
    """A plain LoRA for each of the largest clusters, and for random parts of the largest one, each with several seeds.

    Clusters are the paper's intrinsic components. Random (IID) parts and other seeds are controls: they separate the
    effect of training from the effect of the initial weights.
    """
    n = cluster_count(num_clusters)
    documents = labelled_documents(corpus_documents, cluster_labels).filter(pl.col("split") == "train").collect()
    jobs = []
    for part, rows in component_parts(documents, config.parts).items():
        tokens = read_tokens(tokenised_documents, rows)
        for seed in (recipe.seed, *(config.other_seeds if part.startswith("cluster") else ())):
            training = TrainingJob("lora_r8", n, seed, config.max_tokens, measure_energy=False, data_seed=recipe.seed)
            jobs.append(Job(draft.folder / f"{part}-seed-{seed}", training, tokens))
    launcher.train(context, jobs, recipe, base_model)
    for seed in (recipe.seed, *config.other_seeds):
        start = TrainingJob("lora_r8", n, seed)
        save_untrained(draft.folder / f"{UNTRAINED}-seed-{seed}", start, recipe, base_model)


def component_parts(documents: pl.DataFrame, parts: int) -> dict[str, pl.DataFrame]:
    """The largest clusters as `cluster-<k>`, and as many random parts of the largest as `iid-<i>`."""
    sizes = documents["cluster"].value_counts(sort=True).sort(["count", "cluster"], descending=[True, False])
    largest = sizes["cluster"].to_list()[:parts]
    named = {f"cluster-{k}": documents.filter(pl.col("cluster") == k) for k in sorted(largest)}
    # The id is a hash of the text, so sorting by id gives a random order that is independent of the source.
    whole = documents.filter(pl.col("cluster") == largest[0]).sort("document_id")
    return named | {f"iid-{i}": whole.gather_every(parts, i) for i in range(parts)}
