"""The report of a corpus alone: N, why, and what the groups are."""

import dagster as dg

from pipelines.report.commands import CONFIGURATION, identity_of, request_of
from pipelines.report.inputs import corpus_tables, every_figure_present
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Description, artifact_asset
from pipelines.store.io_manager import ArtifactStore


class CorpusReportConfig(dg.Config):
    """Title and command in the report."""

    title: str = "Corpus"
    command: str | None = None
    """The command that reproduces this report; by default the one for this run's configuration."""


def _described(artifact: Artifact) -> Description:
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
    describe=_described,
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
    corpus = (corpus_documents, cluster_sweep, num_clusters, cluster_labels, cluster_names)
    inputs = ReportInputs(
        **corpus_tables({artifact.asset: artifact for artifact in corpus}),
        title=config.title,
        command=config.command or request.command,
        configuration=request.text,
        grouping=expert_assignment.json("expert_assignment"),
    )
    files = write_report(inputs, draft.folder)
    draft.write_bytes(CONFIGURATION, request.text.encode())
    draft.write_json("figures", sorted(files.figures))
