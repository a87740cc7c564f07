"""The report of a corpus alone: N, why, and what the groups are."""

import dagster as dg
import polars as pl

from pipelines.report.commands import CONFIGURATION, identity_of, request_of
from pipelines.report.inputs import every_figure_present, named_clusters
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Description, artifact_asset
from pipelines.store.io_manager import ArtifactStore


class CorpusReportConfig(dg.Config):
    """Title and command in the report."""

    title: str = "Corpus"
    command: str | None = None
    """The command that reproduces this report; by default the one for this run's configuration."""


def described(artifact: Artifact) -> Description:
    """Metadata and checks for Dagster."""
    return Description(
        metadata={
            "report": dg.MetadataValue.path(artifact.path("report.html").resolve()),
            "summary": dg.MetadataValue.md(artifact.path("summary.md").read_text()),
        },
        checks=[every_figure_present(artifact)],
    )


@artifact_asset(
    group="corpus_report",
    kinds={"html"},
    describe=described,
    identity=identity_of,
    blocking={"every_figure_present": "Every figure of the page is also a PNG."},
)
def corpus_report(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: CorpusReportConfig,
    store: ArtifactStore,
    corpus_documents: Artifact,
    cluster_sweep: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
    cluster_names: Artifact,
    expert_assignment: Artifact,
) -> None:
    """One HTML page about the corpus: how many experts and why, the map of documents, and what each cluster is."""
    from analysis.report import ReportInputs, write_report

    request = request_of(context, store, draft)
    inputs = ReportInputs(
        title=config.title,
        command=config.command or request.command,
        configuration=request.text,
        choice=num_clusters.json("num_clusters"),
        grouping=expert_assignment.json("expert_assignment"),
        data_card=corpus_documents.json("data_card"),
        sweep=cluster_sweep.read("sweep"),
        cluster_map=cluster_names.read("map").rename({"text": "excerpt"}),
        n_documents=cluster_labels.scan("labels").select(pl.len()).collect().item(),
        clusters=named_clusters(cluster_labels, cluster_names),
        representatives=cluster_labels.read("examples").filter(pl.col("kind") == "representative"),
        composition=cluster_labels.read("composition"),
    )
    files = write_report(inputs, draft.folder)
    draft.write_bytes(CONFIGURATION, request.text.encode())
    draft.write_json("figures", sorted(files.figures))
