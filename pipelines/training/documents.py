"""How training and evaluation get documents: tokens from `tokenised_documents`, with labels joined by id."""

from typing import TYPE_CHECKING

import polars as pl

from pipelines.corpus.experts import clustered_documents
from pipelines.store.artifacts import Artifact

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments

TOKENS = "tokens"
"""Folder of the tokens in the artifact `tokenised_documents`."""


def labelled_documents(
    corpus_documents: Artifact, cluster_labels: Artifact, expert_assignment: Artifact | None = None
) -> pl.LazyFrame:
    """Labels of all documents: `document_id, source, task, split, cluster` and, on request, `expert_gates`.

    `expert_gates` is one-hot, for methods with given gates. Training documents have the expert of their group. Held-out
    documents have the expert of the group predicted from the prompt, as in serving.
    """
    documents = clustered_documents(corpus_documents, cluster_labels)
    if expert_assignment is None:
        return documents
    experts = expert_assignment.scan("experts").select("document_id", "expert")
    one_hot = [(pl.col("expert") == i).cast(pl.Float32) for i in range(expert_count(expert_assignment))]
    return (
        documents.join(experts, on="document_id", how="inner", maintain_order="left")
        .with_columns(expert_gates=pl.concat_list(one_hot))
        .drop("expert")
    )


def read_tokens(tokenised_documents: Artifact, documents: pl.LazyFrame | pl.DataFrame) -> "TokenisedDocuments":
    """Tokens of some documents, in the order of the table, with `cluster` and `expert_gates` if the table has them.

    Documents that have no answer after tokenisation are left out; `tokenised_documents` counts them.
    """
    from hydralora.data import TokenisedDocuments

    tokens = TokenisedDocuments.load(tokenised_documents.path(TOKENS))
    rows = pl.LazyFrame({"document_id": tokens.column("document_id")}).with_row_index("row")
    found = documents.lazy().join(rows, on="document_id", how="inner", maintain_order="left").collect()
    labels: dict[str, list[object]] = {
        name: found[name].to_list() for name in ("cluster", "expert_gates") if name in found.columns
    }
    return tokens.take(found["row"].to_numpy()).with_columns(labels)


def held_out_documents(documents: pl.LazyFrame, max_per_source: int | None) -> pl.LazyFrame:
    """Test documents, at most `max_per_source` of each source: those with the smallest ids (hashes of the text)."""
    held_out = documents.filter(pl.col("split") == "test").sort("source", "document_id")
    if max_per_source is None:
        return held_out
    return held_out.filter(pl.int_range(pl.len()).over("source") < max_per_source)


def expert_count(expert_assignment: Artifact) -> int:
    """Number of experts N: the number of groups."""
    return int(expert_assignment.json("expert_assignment")["num_experts"])


def cluster_count(num_clusters: Artifact) -> int:
    """K at the elbow."""
    return int(num_clusters.json("num_clusters")["num_clusters"])
