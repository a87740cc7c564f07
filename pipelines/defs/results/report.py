"""The report: one HTML file with the results of this run."""

import dagster as dg

from pipelines.report.commands import COMPARISON, CONFIGURATION, identity_of, request_of
from pipelines.report.inputs import every_figure_present, report_inputs
from pipelines.store.artifacts import Artifact, ArtifactError, Draft, build_artifact
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.code.versions import code_version
from pipelines.store.io_manager import ArtifactStore

PAGE = "comparison.html"


class ReportConfig(dg.Config):
    """Title, command and address in the report."""

    title: str = "HydraLoRA"
    command: str | None = None
    """The command that reproduces this report; by default the one for this run's configuration."""
    url: str | None = None
    """Where a web server serves the store, for a link in the UI: browsers do not follow links to files from there."""


def _described(artifact: Artifact, config: ReportConfig, store: ArtifactStore) -> Description:
    html = artifact.path("report.html")
    megabytes = html.stat().st_size / 1e6
    compared = compare_with_previous(store, artifact)
    return Description(
        metadata={
            "report": _link(config.url, artifact, "report.html"),
            **({"changes_since_previous": _link(config.url, compared, PAGE)} if compared else {}),
            "summary": dg.MetadataValue.md(artifact.path("summary.md").read_text()),
            "size_mb": megabytes,
        },
        checks=[
            every_figure_present(artifact),
            Check("small_enough", megabytes < 8, f"{megabytes:.1f} MB, expected less than 8", {"size_mb": megabytes}),
        ],
    )


@artifact_asset(
    group="report",
    kinds={"html"},
    describe=_described,
    identity=identity_of,
    blocking={
        "every_figure_present": "Every figure of the page is also a PNG.",
        "small_enough": "The page has less than 8 MB.",
    },
)
def report(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: ReportConfig,
    store: ArtifactStore,
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_sweep: Artifact,
    num_clusters: Artifact,
    cluster_labels: Artifact,
    cluster_names: Artifact,
    expert_assignment: Artifact,
    hydralora_adapter: Artifact,
    baseline_adapters: Artifact,
    evaluation: Artifact,
    parameter_breakdown: Artifact,
    routing_analysis: Artifact,
    domain_exports: Artifact,
) -> None:
    """One self-contained HTML page, its figures as PNG, and summaries for CI and for machines."""
    from analysis.report import write_report

    inputs = (
        *(corpus_documents, document_features, cluster_sweep, num_clusters, cluster_labels, cluster_names),
        *(
            expert_assignment,
            hydralora_adapter,
            baseline_adapters,
            evaluation,
            parameter_breakdown,
            routing_analysis,
            domain_exports,
        ),
    )
    request = request_of(context, store, draft)
    tables, comparison = report_inputs(config.title, request, inputs, config.command)
    files = write_report(tables, draft.folder)
    draft.write_bytes(CONFIGURATION, request.text.encode())
    if comparison is not None:
        draft.write_bytes(COMPARISON, comparison.encode())
    draft.write_json("figures", sorted(files.figures))


def compare_with_previous(store: ArtifactStore, artifact: Artifact) -> Artifact | None:
    """A page of the differences from the previous run's report; None without a previous report or if it is the same.

    Which run came before is history, not an input. So this page is a separate artifact beside the report.
    """
    from pipelines.report.two_runs import compare_runs

    try:
        previous = store.last("report")
    except ArtifactError:
        return None
    if previous.fingerprint == artifact.fingerprint:
        return None

    def build(draft: Draft) -> None:
        compare_runs(previous, artifact, draft.folder / PAGE)

    return build_artifact(
        store.path,
        "report_comparison",
        build=build,
        code_version=code_version(__name__),
        config={},
        inputs={"first": previous, "second": artifact},
        mixes_runs=True,
    )


def _link(url: str | None, artifact: Artifact, page: str) -> dg.MetadataValue:
    if url is None:
        return dg.MetadataValue.path(artifact.path(page).resolve())
    return dg.MetadataValue.url(f"{url.rstrip('/')}/{artifact.asset}/{artifact.fingerprint}/{page}")
