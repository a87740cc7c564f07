"""The clusters at N, and a description of each."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from pipelines.corpus.features import training_rows
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.metadata import markdown_table
from pipelines.store.thumbnails import write_thumbnail

if TYPE_CHECKING:
    from analysis.clusters.corpus_model import AssignedBlock

EXCERPT = 400


class LabelsConfig(dg.Config):
    """What is said about each cluster."""

    top_terms: int = Field(12, ge=1)
    examples: int = Field(5, ge=1)
    """Representative, borderline and outlying documents of each cluster."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)


def described(artifact: Artifact, num_clusters: Artifact) -> Description:
    """What Dagster shows of this artifact, and its checks."""
    n_clusters = num_clusters.json("num_clusters")["num_clusters"]
    sizes = artifact.scan("labels").group_by("cluster").len("documents").sort("cluster").collect()
    return Description(
        table="labels",
        metadata={
            "sizes": markdown_table(sizes),
            "top_terms": markdown_table(artifact.read("clusters"), rows=50),
            "agreement": artifact.json("agreement"),
            "heterogeneity": artifact.json("heterogeneity"),
        },
        checks=[
            Check(
                "every_cluster_populated",
                sizes["cluster"].to_list() == list(range(n_clusters)),
                f"{len(sizes)} of {n_clusters} clusters have documents",
            )
        ],
    )


@artifact_asset(
    group="clusters",
    kinds={"polars"},
    describe=described,
    blocking={"every_cluster_populated": "Every cluster has documents."},
)
def cluster_labels(
    draft: Draft,
    config: LabelsConfig,
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_sweep: Artifact,
    num_clusters: Artifact,
) -> None:
    """The cluster of every document at N, a description of each cluster, and the model that assigns new documents."""
    from analysis.clusters.corpus_model import CorpusModel
    from analysis.clusters.drift import REFERENCE, summarise_corpus
    from analysis.clusters.heterogeneity import measure_heterogeneity
    from analysis.clusters.interpretation import document_positions, merge_order
    from analysis.clusters.known_groups import GROUPS, describe_groups
    from analysis.corpus.document_text import document_text
    from analysis.features.loading import load_features
    from analysis.figures.clusters import composition

    n_clusters = num_clusters.json("num_clusters")["num_clusters"]
    centers = cluster_sweep.array(f"centers/{n_clusters}")
    features = document_features.array("features")
    text = document_features.record["config"]["text"]
    model = CorpusModel(load_features(document_features.path("vectoriser")), centers, text)
    model.save(draft.folder / "corpus_model")
    positions = document_positions(features, centers)
    documents = corpus_documents.read("documents")
    is_held_out = (documents["split"] == "test").to_numpy()
    reference = summarise_corpus(assigned_block(positions, document_features), is_held_out, n_clusters)
    reference.save(draft.folder / "corpus_model" / REFERENCE)
    known = describe_groups(
        model,
        documents.select(text=document_text(text))["text"],
        documents["source"],
        positions["cluster"].to_numpy().astype(np.int32),
        document_features.array("explained"),
        is_held_out,
        config.random_state,
    )
    if known is not None:
        known.save(draft.folder / "corpus_model" / GROUPS)
    draft.write_table("labels", positions.drop("row").insert_column(0, documents["document_id"]))
    for name, table in described_clusters(documents, text, positions, config).items():
        draft.write_table(name, table)
    write_thumbnail(draft, composition(pl.read_parquet(draft.folder / "composition.parquet")))
    draft.write_table("mergers", merge_order(centers, np.bincount(positions["cluster"], minlength=n_clusters)))
    heterogeneity = measure_heterogeneity(
        training_rows(corpus_documents, document_features), random_state=config.random_state
    )
    draft.write_json("heterogeneity", asdict(heterogeneity))
    draft.write_json("agreement", agreement_with_labels(documents, positions))


def assigned_block(positions: pl.DataFrame, document_features: Artifact) -> "AssignedBlock":
    """The block that the corpus model would return for the corpus, made without reading the texts again."""
    from analysis.clusters.corpus_model import AssignedBlock
    from analysis.features.vectoriser import TextStatistics

    return AssignedBlock(
        labels=positions["cluster"].to_numpy(),
        squared_distances=np.square(positions["distance"].to_numpy()),
        explained=document_features.array("explained"),
        statistics=TextStatistics(**document_features.json("statistics")),
    )


def described_clusters(
    documents: pl.DataFrame, text: str, positions: pl.DataFrame, config: LabelsConfig
) -> dict[str, pl.DataFrame]:
    """Describe the content of each cluster.

    `clusters`: cluster, n_documents, top_terms; `examples`: cluster, kind (representative, borderline, outlier), rank,
    document_id, source, excerpt; `composition` and `tasks`: cluster, source or task, n_documents and shares.
    """
    from analysis.clusters.interpretation import cross_table, examples, top_terms
    from analysis.corpus.document_text import document_text

    labels = positions["cluster"].to_numpy()
    terms = top_terms(documents.select(text=document_text(text))["text"], labels, config.top_terms)
    terms = terms.group_by("cluster").agg(top_terms=pl.col("term").sort_by("rank"))
    sizes = positions.group_by("cluster").agg(n_documents=pl.len())
    clusters = sizes.join(terms, on="cluster", how="left").with_columns(pl.col("top_terms").fill_null([]))
    excerpts = documents.select(
        "document_id", "source", excerpt=pl.concat_str("prompt", "completion", separator="\n").str.slice(0, EXCERPT)
    ).with_row_index("row")
    shown = examples(positions, config.examples).with_columns(pl.col("row").cast(pl.UInt32))
    return {
        "clusters": clusters.sort("cluster"),
        "examples": shown.join(excerpts, on="row", how="left", maintain_order="left").drop("row"),
        **{
            name: cross_table(labels, documents[column]).rename({"group": column, "documents": "n_documents"})
            for name, column in (("composition", "source"), ("tasks", "task"))
        },
    }


def agreement_with_labels(documents: pl.DataFrame, positions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """NMI and ARI of the clusters with the sources and, if documents have tasks, with the tasks."""
    from analysis.clusters.interpretation import agreement

    columns = [column for column in ("source", "task") if documents[column].null_count() < len(documents)]
    return {column: asdict(agreement(positions["cluster"].to_numpy(), documents[column])) for column in columns}
