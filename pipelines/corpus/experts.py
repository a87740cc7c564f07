"""Which expert a document gets, and the model that predicts the group from the prompt."""

from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines.store.artifacts import Artifact

if TYPE_CHECKING:
    from analysis.experts.grouping import Grouping
    from analysis.experts.prompt_gates import GroupModel

GROUP_MODEL = "group_model"
"""Folder of the model that predicts the group of a prompt. A copy lies beside each adapter that needs it."""


def clustered_documents(corpus_documents: Artifact, cluster_labels: Artifact, *more: str) -> pl.LazyFrame:
    """`document_id, source, task, split`, the columns of `more`, and `cluster` of all documents."""
    labels = cluster_labels.scan("labels").select("document_id", "cluster")
    documents = corpus_documents.scan("documents").select("document_id", "source", "task", "split", *more)
    return documents.join(labels, on="document_id", how="inner", maintain_order="left")


def group_model(
    grouping: "Grouping", training: pl.DataFrame, document_features: Artifact, cluster_labels: Artifact
) -> "GroupModel":
    """The model that predicts the group of a new prompt from its text alone.

    If clustering used more than words of the prompt, or a cluster is the tail, which has no centre, a classifier is
    trained that predicts the cluster from the prompt. So a server needs neither the answer nor a forward pass of the
    base model to choose an expert.
    """
    if grouping.classifier is not None:
        return grouping.classifier
    config = document_features.record["config"]
    if config["text"] == "prompt" and config["kind"] in ("tfidf", "embeddings"):
        from analysis.clusters.corpus_model import CorpusModel

        model = CorpusModel.load(cluster_labels.path("corpus_model"))
        if model.communities is None:
            return model
    from analysis.experts.prompt_classifier import PromptClassifier

    return PromptClassifier().fit(training["prompt"], training["cluster"])


def with_experts(documents: pl.DataFrame, grouping: "Grouping", model: "GroupModel") -> pl.DataFrame:
    """Add the expert of each document: `document_id, split, group, predicted, expert`.

    Training documents get the expert of their group. Held-out documents get the expert of the group predicted from
    the prompt, as in serving.
    """
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
    """Share of held-out documents whose group is predicted correctly; None without held-out documents."""
    held_out = experts.filter(pl.col("split") == "test")
    return None if held_out.is_empty() else held_out.select((pl.col("group") == pl.col("predicted")).mean()).item()


def found_in_training(model: "GroupModel") -> dict[str, Any] | None:
    """Cross-validated accuracy of the prompt classifier on the training prompts: `accuracy`, `interval`.

    None for a corpus model, which is exact.
    """
    found = getattr(model, "validation_", None)
    if found is None or not found.n_prompts:
        return None
    return {"accuracy": found.accuracy, "interval": found.interval, "n_prompts": found.n_prompts}
