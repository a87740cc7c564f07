"""Which expert a document gets: the one of its source, task or cluster."""

from typing import Literal

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.corpus.experts import (
    GROUP_MODEL,
    clustered_documents,
    found_in_training,
    group_model,
    held_out_accuracy,
    with_experts,
)
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.metadata import markdown_table


class ExpertsConfig(dg.Config):
    """The groups that experts stand for."""

    grouping: Literal["auto", "sources", "tasks", "clusters"] = "auto"
    """`auto`: sources if they can be predicted from prompts, else tasks by the same rule, else clusters."""
    min_accuracy: float = Field(0.98, ge=0, le=1)
    """For `auto`: the share of held-out prompts whose group must be found."""
    max_experts: int = Field(16, ge=1)
    """For `auto`: with more sources or tasks than this, clusters are taken."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)


def _described(artifact: Artifact, config: ExpertsConfig, cluster_labels: Artifact) -> Description:
    answer = artifact.json("expert_assignment")
    n, found = answer["num_experts"], answer["held_out_accuracy"]
    experts = artifact.read("experts")
    used = experts.filter(pl.col("split") == "train")["expert"].n_unique()
    complete = experts["expert"].is_between(0, n - 1).all() and len(experts) == len(cluster_labels.read("labels"))
    return Description(
        table="experts",
        metadata={**answer, "confusion": markdown_table(artifact.read("confusion"), rows=100)},
        checks=[
            Check("every_document_has_an_expert", complete, f"{len(experts)} documents", {"documents": len(experts)}),
            Check(
                "every_expert_has_documents",
                used == n,
                f"{used} of {n} experts have training documents",
                {"experts": n, "with_documents": used},
            ),
            Check(
                "groups_are_found",
                found is None or found >= config.min_accuracy,
                f"{answer['group_kind']} found for {found or 0:.1%} of held-out documents",
                {"found": found},
            ),
        ],
    )


@artifact_asset(
    group="clusters",
    kinds={"scikitlearn"},
    describe=_described,
    blocking={
        "every_document_has_an_expert": "Every document of the corpus has an expert.",
        "every_expert_has_documents": "Every expert has documents to train on.",
    },
    warnings={
        "groups_are_found": "The group of held-out prompts is predicted at least as often as `min_accuracy` asks."
    },
)
def expert_assignment(
    draft: Draft,
    config: ExpertsConfig,
    corpus_documents: Artifact,
    document_features: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
) -> None:
    """The expert of every document.

    A training document gets the expert of its group. A held-out document gets the expert of the group predicted from
    its prompt, as in serving.

    Groups are sources, tasks or clusters. `num_clusters` is the number of clusters in the corpus. If groups are sources
    or tasks, there are as many experts as sources or tasks.
    """
    from analysis.experts.grouping import choose_grouping, clusters_problem
    from analysis.experts.prompt_classifier import PromptClassifier

    documents = clustered_documents(corpus_documents, cluster_labels, "prompt").collect()
    training = documents.filter(pl.col("split") == "train")
    choice = num_clusters.json("num_clusters")
    grouping = choose_grouping(
        training,
        choice["num_clusters"],
        grouping=config.grouping,
        fixed_number=choice["rule"] == "manual",
        min_accuracy=config.min_accuracy,
        max_experts=config.max_experts,
        random_state=config.random_state,
    )
    model = group_model(grouping, training, document_features, cluster_labels)
    if config.grouping == "auto" and grouping.kind == "cluster" and isinstance(model, PromptClassifier):
        _refuse_untold(clusters_problem(model.validation_))
    model.save(draft.folder / GROUP_MODEL)
    experts = with_experts(documents, grouping, model)
    draft.write_table("experts", experts)
    draft.write_table("confusion", experts.group_by("split", "group", "predicted").len("n_documents").sort(pl.all()))
    draft.write_json(
        "expert_assignment",
        {
            "num_experts": len(grouping.groups),
            "group_kind": grouping.kind,
            "groups": grouping.groups,
            "reason": grouping.reason,
            "held_out_accuracy": held_out_accuracy(experts),
            "found": found_in_training(model),
        },
    )


def _refuse_untold(problem: str) -> None:
    if problem:
        advice = (
            "Take `num_clusters: {config: {tail: true}}` or `document_features: {config: {kind: tfidf}}`; "
            "`expert_assignment: {config: {grouping: clusters}}` trains such experts all the same."
        )
        raise dg.Failure(f"{problem}. {advice}", allow_retries=False)
