"""Which expert a document gets: that of its source, task or cluster, as its prompt tells."""

from typing import TYPE_CHECKING, Literal

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore

if TYPE_CHECKING:
    from analysis.experts.grouping import Grouping
    from analysis.experts.prompt_gates import GroupModel

VERSION = source_version(
    "analysis.clusters.corpus_model",
    "analysis.experts.grouping",
    "analysis.experts.prompt_classifier",
    "analysis.experts.prompt_gates",
)
GROUP_MODEL = "group_model"
"""Folder, also beside an adapter, of the model that finds the group of a prompt."""


class GatesConfig(dg.Config):
    """What experts stand for."""

    grouping: Literal["auto", "sources", "tasks", "clusters"] = "auto"
    """`auto`: sources, else tasks, where prompts tell them; else clusters."""
    min_accuracy: float = 0.98
    """Of `auto`: the share of held-out prompts whose group must be found."""
    max_experts: int = 16
    """Of `auto`: with more sources or tasks than this, clusters are taken."""
    random_state: int = 0


@artifact_asset(
    group="clusters",
    version=VERSION,
    kinds={"scikitlearn"},
    blocking=("every_document_has_an_expert", "every_expert_has_documents"),
    warnings=("groups_are_found",),
)
def prompt_gates(
    config: GatesConfig,
    store: dg.ResourceParam[ArtifactStore],
    corpus_documents: Artifact,
    document_features: Artifact,
    num_experts: Artifact,
    cluster_labels: Artifact,
) -> dg.MaterializeResult:
    """The expert of every document: in training that of its group, held out the one that its prompt asks for.

    Groups are sources, tasks or clusters. N of the elbow says how many parts the words of the corpus have; where
    experts are sources or tasks, there are as many as those.
    """

    def build(draft: Draft) -> None:
        from analysis.experts.grouping import choose_grouping

        documents = labelled_documents(corpus_documents, cluster_labels)
        training = documents.filter(pl.col("split") == "train")
        choice = num_experts.json("num_experts")
        try:
            grouping = choose_grouping(
                training,
                choice["num_experts"],
                grouping=config.grouping,
                fixed_number=choice["rule"] == "manual",
                min_accuracy=config.min_accuracy,
                max_experts=config.max_experts,
                random_state=config.random_state,
            )
        except ValueError as error:
            raise dg.Failure(f"prompt_gates: {error}", allow_retries=False) from error
        model = group_model(grouping, training, document_features, cluster_labels)
        model.save(draft.folder / GROUP_MODEL)
        experts = with_experts(documents, grouping, model)
        draft.write_table("experts", experts)
        draft.write_table(
            "confusion", experts.group_by("split", "group", "predicted").len("n_documents").sort(pl.all())
        )
        draft.write_json(
            "prompt_gates",
            {
                "num_experts": len(grouping.groups),
                "group_kind": grouping.kind,
                "groups": grouping.groups,
                "reason": grouping.reason,
                "held_out_accuracy": held_out_accuracy(experts),
            },
        )

    artifact = store.build(
        "prompt_gates",
        build,
        code_version=VERSION,
        config=config.model_dump(),
        inputs={
            "corpus_documents": corpus_documents,
            "document_features": document_features,
            "num_experts": num_experts,
            "cluster_labels": cluster_labels,
        },
    )
    answer = artifact.json("prompt_gates")
    n, found = answer["num_experts"], answer["held_out_accuracy"]
    experts = artifact.read("experts")
    used = experts.filter(pl.col("split") == "train")["expert"].n_unique()
    complete = experts["expert"].is_between(0, n - 1).all() and len(experts) == len(cluster_labels.read("labels"))
    return materialized(
        artifact,
        table="experts",
        metadata={**answer, "confusion": markdown_table(artifact.read("confusion"), rows=100)},
        checks=[
            Check("every_document_has_an_expert", complete, f"{len(experts)} documents"),
            Check("every_expert_has_documents", used == n, f"{used} of {n} experts have training documents"),
            Check(
                "groups_are_found",
                found is None or found >= config.min_accuracy,
                f"{answer['group_kind']} found for {found or 0:.1%} of held-out documents",
                warning=True,
            ),
        ],
    )


def labelled_documents(corpus_documents: Artifact, cluster_labels: Artifact) -> pl.DataFrame:
    """`document_id, split, prompt, source, task, cluster` of all documents."""
    columns = ("document_id", "split", "prompt", "source", "task")
    labels = cluster_labels.scan("labels").select("document_id", "cluster")
    documents = corpus_documents.scan("documents").select(columns)
    return documents.join(labels, on="document_id", how="inner", maintain_order="left").collect()


def group_model(
    grouping: "Grouping", training: pl.DataFrame, document_features: Artifact, cluster_labels: Artifact
) -> "GroupModel":
    """What finds the group of a new prompt. Clusters of other texts than the prompt must be read off it, too."""
    if grouping.classifier is not None:
        return grouping.classifier
    if document_features.record["config"]["text"] == "prompt":
        from analysis.clusters.corpus_model import CorpusModel

        return CorpusModel.load(cluster_labels.path("corpus_model"))
    from analysis.experts.prompt_classifier import PromptClassifier

    return PromptClassifier().fit(training["prompt"], training["cluster"])


def with_experts(documents: pl.DataFrame, grouping: "Grouping", model: "GroupModel") -> pl.DataFrame:
    """`document_id, split, group, predicted, expert`: that of its group in training, else of what its prompt tells."""
    predicted = pl.Series("predicted", model.assign(documents["prompt"])[0], pl.Int32)
    names = pl.Series(grouping.groups)
    group = pl.col(grouping.kind).cast(pl.String)
    own = group.replace_strict(names, range(len(names)), default=None, return_dtype=pl.Int32)
    return documents.select(
        "document_id",
        "split",
        group=group,
        predicted=names.gather(predicted),
        expert=pl.when(pl.col("split") == "train").then(own).otherwise(predicted),
    )


def held_out_accuracy(experts: pl.DataFrame) -> float | None:
    """Share of held-out documents whose group is found; None without any."""
    held_out = experts.filter(pl.col("split") == "test")
    return None if held_out.is_empty() else held_out.select((pl.col("group") == pl.col("predicted")).mean()).item()
