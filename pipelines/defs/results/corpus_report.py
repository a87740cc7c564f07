"""The report of a corpus alone: N, why, and what the groups are."""

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset


class CorpusReportConfig(dg.Config):
    """Title and command in the report."""

    title: str = "Corpus"
    command: str = "hydralora run CONFIG --job corpus"
    """The command that reproduces this report."""


def described(artifact: Artifact) -> Description:
    """Metadata and checks for Dagster."""
    figures = artifact.json("figures")
    missing = [name for name in figures if not (artifact.folder / "figures" / f"{name}.png").exists()]
    return Description(
        metadata={
            "report": dg.MetadataValue.path(artifact.path("report.html")),
            "summary": dg.MetadataValue.md(artifact.path("summary.md").read_text()),
        },
        checks=[Check("every_figure_present", not missing, ", ".join(missing) or f"{len(figures)} figures")],
    )


@artifact_asset(
    group="corpus_report",
    kinds={"html"},
    describe=described,
    blocking={"every_figure_present": "Every figure of the page is also a PNG."},
)
def corpus_report(
    draft: Draft,
    config: CorpusReportConfig,
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_sweep: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
    expert_assignment: Artifact,
) -> None:
    """One HTML page about the corpus: how many experts and why, the map of documents, and what each cluster is."""
    from analysis.report import ReportInputs, write_report
    from analysis.report.document_map import document_map

    documents = corpus_documents.scan("documents").join(
        cluster_labels.scan("labels"), on="document_id", maintain_order="left"
    )
    inputs = ReportInputs(
        title=config.title,
        command=config.command,
        choice=num_clusters.json("num_clusters"),
        grouping=expert_assignment.json("expert_assignment"),
        data_card=corpus_documents.json("data_card"),
        sweep=cluster_sweep.read("sweep"),
        cluster_map=document_map(documents, document_features.array("features")),
        n_documents=documents.select(pl.len()).collect().item(),
        clusters=cluster_labels.read("clusters"),
        representatives=cluster_labels.read("examples").filter(pl.col("kind") == "representative"),
        composition=cluster_labels.read("composition"),
    )
    files = write_report(inputs, draft.folder)
    draft.write_json("figures", sorted(files.figures))
