"""The report: one HTML file that tells an engineer what this run found."""

import dagster as dg

from pipelines.report_inputs import report_inputs
from pipelines.store.artifacts import Artifact, ArtifactError, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, materialized
from pipelines.store.io_manager import ArtifactStore

VERSION = source_version("analysis.figures", "analysis.report", "pipelines.defs.report", "pipelines.report_inputs")
PAGE = "comparison.html"


class ReportConfig(dg.Config):
    """What stands at the head and at the foot of the report."""

    title: str = "HydraLoRA"
    command: str = "make run"
    """The command that gives this report again."""
    url: str | None = None
    """Where a web server serves the store, for a link in the UI: browsers do not follow links to files from there."""


@artifact_asset(
    group="report",
    version=VERSION,
    kinds={"html"},
    blocking=("every_figure_present", "small_enough"),
)
def report(
    config: ReportConfig,
    store: dg.ResourceParam[ArtifactStore],
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_sweep: Artifact,
    num_experts: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
    hydralora_adapter: Artifact,
    baseline_adapters: Artifact,
    evaluation: Artifact,
    parameter_breakdown: Artifact,
    routing_analysis: Artifact,
    domain_exports: Artifact,
) -> dg.MaterializeResult:
    """One self-contained HTML page, its figures as PNG, and summaries for CI and for machines."""
    inputs = {
        "corpus_documents": corpus_documents,
        "document_features": document_features,
        "cluster_sweep": cluster_sweep,
        "num_experts": num_experts,
        "cluster_labels": cluster_labels,
        "prompt_gates": prompt_gates,
        "hydralora_adapter": hydralora_adapter,
        "baseline_adapters": baseline_adapters,
        "evaluation": evaluation,
        "parameter_breakdown": parameter_breakdown,
        "routing_analysis": routing_analysis,
        "domain_exports": domain_exports,
    }

    def build(draft: Draft) -> None:
        from analysis.report import write_report

        files = write_report(report_inputs(config.title, config.command, inputs), draft.folder)
        draft.write_json("figures", sorted(files.figures))

    artifact = store.build(
        "report", build, code_version=VERSION, config=config.model_dump(exclude={"url"}), inputs=inputs
    )
    html = artifact.path("report.html")
    figures = artifact.json("figures")
    megabytes = html.stat().st_size / 1e6
    missing = [name for name in figures if not (artifact.folder / "figures" / f"{name}.png").exists()]
    compared = compare_with_previous(store, artifact)
    return materialized(
        artifact,
        metadata={
            "report": _link(config.url, artifact, "report.html"),
            **({"changes_since_previous": _link(config.url, compared, PAGE)} if compared else {}),
            "summary": dg.MetadataValue.md(artifact.path("summary.md").read_text()),
            "size_mb": megabytes,
        },
        checks=[
            Check("every_figure_present", not missing, ", ".join(missing) or f"{len(figures)} figures"),
            Check("small_enough", megabytes < 8, f"{megabytes:.1f} MB, expected less than 8"),
        ],
    )


def compare_with_previous(store: ArtifactStore, artifact: Artifact) -> Artifact | None:
    """A page of what differs from the report of the last run; None where there was none, or it was this one.

    Which run was the last one is history, not an input: the page is an artifact of its own beside the report.
    """
    from analysis.report import write_comparison

    try:
        previous = store.latest("report")
    except ArtifactError:
        return None
    if previous.fingerprint == artifact.fingerprint:
        return None

    def build(draft: Draft) -> None:
        write_comparison(previous.folder, artifact.folder, draft.folder / PAGE)

    return store.build(
        "report_comparison",
        build,
        code_version=VERSION,
        config={},
        inputs={"first": previous, "second": artifact},
    )


def _link(url: str | None, artifact: Artifact, page: str) -> dg.MetadataValue:
    if url is None:
        return dg.MetadataValue.path(artifact.path(page))
    return dg.MetadataValue.url(f"{url.rstrip('/')}/{artifact.asset}/{artifact.fingerprint}/{page}")
