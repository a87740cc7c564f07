"""The name of each cluster, and the map of documents with these names."""

from typing import Literal

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.corpus.naming import ask_base_model, ask_endpoint
from pipelines.corpus.tail import tail_parts
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table
from pipelines.training.recipe import BaseModel

N_TEXTS = 3


class NamesConfig(dg.Config):
    """Who names the clusters."""

    by: Literal["terms", "base_model", "endpoint"] = "terms"
    """`terms`: the three strongest. The other two ask a model, and take terms where its answer is no name."""
    names: dict[str, str] = Field(default_factory=dict)
    """Your own names: `{"2": "Contracts"}`. They go before all others, and nothing is trained again."""
    url: str = ""
    """Of `endpoint`: a server with OpenAI's API, such as `http://localhost:8000/v1`."""
    model: str = ""
    """Of `endpoint`: the model's name there."""


def _described(artifact: Artifact, config: NamesConfig) -> Description:
    names = artifact.read("names")
    left = [] if config.by == "terms" else names.filter(pl.col("named_by") == "terms")["cluster"].to_list()
    found = f"no name for the clusters {left}: terms were taken" if left else f"{len(names)} names"
    return Description(
        table="names",
        metadata={"names": markdown_table(names, rows=100)},
        checks=[Check("named_as_asked", not left, found, {"clusters_without_name": len(left)})],
    )


@artifact_asset(
    group="clusters",
    kinds={"polars"},
    describe=_described,
    warnings={"named_as_asked": "The model that was asked gave each cluster a name of its own."},
    unused=lambda config: () if config.by == "base_model" else ("base_model",),
)
def cluster_names(
    draft: Draft,
    config: NamesConfig,
    base_model: BaseModel,
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_labels: Artifact,
) -> None:
    """Names of clusters for the report and the exports, and `map.parquet`, which Embedding Atlas opens."""
    from analysis.clusters.naming import cluster_names as named
    from analysis.clusters.naming import name_request, named_map
    from analysis.report.document_map import document_map

    clusters = cluster_labels.read("clusters")
    typical = cluster_labels.read("examples").filter(pl.col("kind") == "representative").sort("rank")
    tail = int(clusters["cluster"].max()) if tail_parts(cluster_labels) is not None else None  # type: ignore[arg-type]
    requests = {
        cluster: name_request(terms, typical.filter(pl.col("cluster") == cluster)["excerpt"].to_list()[:N_TEXTS])
        for cluster, terms in clusters.select("cluster", "top_terms").iter_rows()
        if cluster != tail
    }
    answers: dict[int, str] = {}
    if config.by == "base_model":
        with base_model.lent() as (model, tokenizer):
            answers = ask_base_model(model, tokenizer, requests)
    elif config.by == "endpoint":
        answers = ask_endpoint(config.url, config.model, requests)
    try:
        names = named(clusters, config.names, answers, tail)
    except ValueError as error:
        raise dg.Failure(f"ops.cluster_names.config.names: {error}.", allow_retries=False) from error
    draft.write_table("names", names)
    documents = corpus_documents.scan("documents").join(
        cluster_labels.scan("labels"), on="document_id", maintain_order="left"
    )
    draft.write_table("map", named_map(document_map(documents, document_features.array("features")), names))
