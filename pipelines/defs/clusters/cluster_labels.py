"""The clusters at N, and a description of each."""

from dataclasses import asdict

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from pipelines.corpus.features import training_rows
from pipelines.corpus.tail import documents_in_tail, load_tail
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.metadata import markdown_table
from pipelines.store.thumbnails import write_thumbnail


class LabelsConfig(dg.Config):
    """How each cluster is described."""

    top_terms: int = Field(12, ge=1)
    examples: int = Field(5, ge=1)
    """Representative, borderline and outlying documents of each cluster."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)


def _described(artifact: Artifact, num_clusters: Artifact) -> Description:
    n_clusters = num_clusters.json("num_clusters")["num_clusters"]
    sizes = artifact.scan("labels").group_by("cluster").len("documents").sort("cluster").collect()
    counts = sizes["documents"].to_list()
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
                {"smallest_cluster": min(counts, default=0), "largest_cluster": max(counts, default=0)},
            )
        ],
    )


@artifact_asset(
    group="clusters",
    kinds={"polars"},
    describe=_described,
    blocking={"every_cluster_populated": "Every cluster has documents."},
)
def cluster_labels(
    draft: Draft,
    config: LabelsConfig,
    corpus_documents: Artifact,
    document_features: Artifact,
    num_clusters: Artifact,
) -> None:
    """The cluster of every document at N, a description of each cluster, and the model that assigns new documents."""
    from analysis.clusters.corpus_model import CorpusModel
    from analysis.clusters.description import describe_clusters, describe_tail, save_corpus_model
    from analysis.clusters.heterogeneity import measure_heterogeneity
    from analysis.clusters.interpretation import document_positions
    from analysis.features.loading import load_features
    from analysis.features.vectoriser import TextStatistics
    from analysis.figures.clusters import composition

    centers = num_clusters.array("centers")
    features = document_features.array("features")
    text, kind = (document_features.record["config"][name] for name in ("text", "kind"))
    fitted = load_features(document_features.path("vectoriser"))
    documents = corpus_documents.read("documents")
    communities, positions, tail = None, None, load_tail(num_clusters)
    if tail is not None:
        communities, of_training = tail
        is_train = (documents["split"] == "train").to_numpy()
        in_tail = documents_in_tail(communities, of_training, features, is_train)
        distances = np.sqrt(communities.squared_distances(features[in_tail]))
        positions = document_positions(features, centers, in_tail, distances)
        draft.write_table("tail", describe_tail(documents.filter(pl.Series(is_train)), text, communities, of_training))
    if positions is None:
        positions = document_positions(features, centers)
    model = CorpusModel(fitted, centers, "pair" if kind in ("joint", "joint_words") else text, communities)
    save_corpus_model(
        draft.folder / "corpus_model",
        model,
        documents,
        positions,
        document_features.array("explained"),
        TextStatistics(**document_features.json("statistics")),
        config.random_state,
    )
    draft.write_table("labels", positions.drop("row").insert_column(0, documents["document_id"]))
    for name, table in describe_clusters(documents, text, positions, config.top_terms, config.examples).items():
        draft.write_table(name, table)
    write_thumbnail(draft, composition(pl.read_parquet(draft.folder / "composition.parquet")))
    heterogeneity = measure_heterogeneity(
        training_rows(corpus_documents, document_features), random_state=config.random_state
    )
    draft.write_json("heterogeneity", asdict(heterogeneity))
    draft.write_json("agreement", agreement_with_labels(documents, positions))


def agreement_with_labels(documents: pl.DataFrame, positions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """NMI and ARI of the clusters with the sources and, if documents have tasks, with the tasks."""
    from analysis.clusters.interpretation import agreement

    columns = [column for column in ("source", "task") if documents[column].null_count() < len(documents)]
    return {column: asdict(agreement(positions["cluster"].to_numpy(), documents[column])) for column in columns}
