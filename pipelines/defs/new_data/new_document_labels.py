"""Documents that arrive after N was chosen: their clusters, and whether N still holds."""

from contextlib import nullcontext
from dataclasses import asdict

import dagster as dg
from pydantic import field_validator

from pipelines.corpus.sources import SourceConfig, content_of_sources, named_once, to_source
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table
from pipelines.training.prompt_states import prompt_encoder
from pipelines.training.recipe import BaseModel

PLOTTED = ("novelty", "outside", "mix_shift")


class NewDocumentsConfig(dg.Config):
    """Where the new documents come from."""

    sources: list[SourceConfig]

    _named_once = field_validator("sources")(named_once)


def _described(artifact: Artifact) -> Description:
    drift = artifact.json("drift")
    return Description(
        table="labels",
        metadata={"mix": markdown_table(artifact.read("mix"), rows=50), "drift": drift, **artifact.json("statistics")},
        checks=[
            Check(
                "num_clusters_stands", not drift["reconsider"], drift["reason"], {name: drift[name] for name in PLOTTED}
            )
        ],
    )


def unused(cluster_labels: Artifact) -> tuple[str, ...]:
    """The base model, unless the clusters are those of its hidden states."""
    from analysis.features.loading import encoded_by

    return () if encoded_by(cluster_labels.path("corpus_model")) else ("base_model",)


@artifact_asset(
    group="new_data",
    kinds={"polars", "numpy"},
    describe=_described,
    identity=content_of_sources,
    unused=unused,
    warnings={"num_clusters_stands": "The new documents fit the clusters of the corpus."},
)
def new_document_labels(
    draft: Draft, config: NewDocumentsConfig, base_model: BaseModel, cluster_labels: Artifact
) -> None:
    """The cluster of every new document, the drift from the corpus, and whether N should be chosen again."""
    from analysis.clusters.assignment import assign_records, cluster_shares
    from analysis.features.loading import encoded_by
    from analysis.sources import read_sources

    read = read_sources({source.name: to_source(source.read) for source in config.sources})
    folder = cluster_labels.path("corpus_model")
    made_by = encoded_by(folder)
    reading = nullcontext() if made_by is None else prompt_encoder(base_model, made_by)
    with reading as encoder, draft.writing("labels.parquet") as path:
        assignment = assign_records(read.records, folder, path, encoder)
    draft.write_table("mix", cluster_shares(assignment))
    draft.write_json("drift", asdict(assignment.drift))
    draft.write_json("statistics", asdict(assignment.summary.statistics))
