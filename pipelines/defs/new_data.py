"""Documents that arrive after N was chosen: their clusters, and whether N still stands."""

from dataclasses import asdict

import dagster as dg

from pipelines.defs.sources import SourceConfig, content_of, to_source
from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore

VERSION = source_version(
    "analysis.clusters.assignment",
    "analysis.clusters.corpus_model",
    "analysis.clusters.drift",
    "analysis.features.vectoriser",
    "analysis.text.normalisation",
    "analysis.sources",
)


class NewDocumentsConfig(dg.Config):
    """Where the new documents come from."""

    sources: list[SourceConfig]


@artifact_asset(
    group="new_data",
    version=VERSION,
    kinds={"polars", "numpy"},
    warnings=("num_experts_stands",),
)
def new_document_labels(
    config: NewDocumentsConfig, store: dg.ResourceParam[ArtifactStore], cluster_labels: Artifact
) -> dg.MaterializeResult:
    """The cluster of every new document, how far they differ from the corpus, and whether N should be reconsidered."""

    def build(draft: Draft) -> None:
        from analysis.clusters.assignment import assign_records, cluster_shares
        from analysis.sources import read_sources

        try:
            read = read_sources({source.name: to_source(source.read) for source in config.sources})
            with draft.writing("labels.parquet") as path:
                assignment = assign_records(read.records, cluster_labels.path("corpus_model"), path)
        except ValueError as error:
            raise dg.Failure(f"new_document_labels: {error}", allow_retries=False) from error
        draft.write_table("mix", cluster_shares(assignment))
        draft.write_json("drift", asdict(assignment.drift))
        draft.write_json("statistics", asdict(assignment.summary.statistics))

    artifact = store.build(
        "new_document_labels",
        build,
        code_version=VERSION,
        config={**config.model_dump(), "content": [content_of(source.read) for source in config.sources]},
        inputs={"cluster_labels": cluster_labels},
    )
    drift = artifact.json("drift")
    return materialized(
        artifact,
        table="labels",
        metadata={"mix": markdown_table(artifact.read("mix"), rows=50), "drift": drift, **artifact.json("statistics")},
        checks=[Check("num_experts_stands", not drift["reconsider"], drift["reason"], warning=True)],
    )
