"""The report: one HTML file that tells an engineer what this run found."""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl

from pipelines.artifact_assets import Check, artifact_asset, materialized
from pipelines.artifacts import Artifact, Draft, source_version
from pipelines.defs.breakdown import load_state
from pipelines.defs.training import read_curve
from pipelines.store import ArtifactStore

if TYPE_CHECKING:
    from analysis.breakdown import ParameterBreakdown
    from analysis.report import ReportInputs
    from analysis.routing import RoutingAnalysis

VERSION = source_version("analysis.figures", "analysis.report", "pipelines.defs.report")
EXCERPT = 280
MAP_POINTS = 15_000
ENERGY_PARTS = ("cpu_kwh", "gpu_kwh", "ram_kwh")


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
    hydralora_adapter: Artifact,
    baseline_adapters: Artifact,
    evaluation: Artifact,
    parameter_breakdown: Artifact,
    routing_analysis: Artifact,
) -> dg.MaterializeResult:
    """One self-contained HTML page, its figures as PNG, and summaries for CI and for machines."""
    inputs = {
        "corpus_documents": corpus_documents,
        "document_features": document_features,
        "cluster_sweep": cluster_sweep,
        "num_experts": num_experts,
        "cluster_labels": cluster_labels,
        "hydralora_adapter": hydralora_adapter,
        "baseline_adapters": baseline_adapters,
        "evaluation": evaluation,
        "parameter_breakdown": parameter_breakdown,
        "routing_analysis": routing_analysis,
    }

    def build(draft: Draft) -> None:
        from analysis.report import write_report

        files = write_report(report_inputs(config, inputs), draft.folder)
        draft.write_json("figures", sorted(files.figures))

    artifact = store.build(
        "report", build, code_version=VERSION, config=config.model_dump(exclude={"url"}), inputs=inputs
    )
    html = artifact.path("report.html")
    figures = artifact.json("figures")
    megabytes = html.stat().st_size / 1e6
    missing = [name for name in figures if not (artifact.folder / "figures" / f"{name}.png").exists()]
    link = f"{config.url.rstrip('/')}/report/{artifact.fingerprint}/report.html" if config.url else None
    return materialized(
        artifact,
        metadata={
            "report": dg.MetadataValue.url(link) if link else dg.MetadataValue.path(html),
            "summary": dg.MetadataValue.md(artifact.path("summary.md").read_text()),
            "size_mb": megabytes,
        },
        checks=[
            Check("every_figure_present", not missing, ", ".join(missing) or f"{len(figures)} figures"),
            Check("small_enough", megabytes < 8, f"{megabytes:.1f} MB, expected less than 8"),
        ],
    )


def report_inputs(config: ReportConfig, inputs: dict[str, Artifact]) -> "ReportInputs":
    """Collect the tables of a run; nothing is computed again but the two coordinates of the map."""
    from analysis.report import ReportInputs, TokenGates

    routing = load_routing(inputs["routing_analysis"])
    examples = inputs["routing_analysis"].json("token_gates") if routing else []
    adapter, baselines = inputs["hydralora_adapter"], inputs["baseline_adapters"]
    method = adapter.record["config"]["method"]
    folders = {method: adapter.folder}
    folders |= {name: baselines.folder / name for name in baselines.record["config"]["methods"]}
    records = {name: json.loads((folder / "run.json").read_text()) for name, folder in folders.items()}
    labels = inputs["cluster_labels"]
    documents = (
        inputs["corpus_documents"]
        .scan("documents")
        .join(labels.scan("labels"), on="document_id", maintain_order="left")
    )
    return ReportInputs(
        title=config.title,
        command=config.command,
        provenance=provenance(inputs, records[method]),
        method=method,
        matched_baseline="lora_matched",
        choice=inputs["num_experts"].json("num_experts"),
        data_card=inputs["corpus_documents"].json("data_card"),
        sweep=inputs["cluster_sweep"].read("sweep"),
        cluster_map=cluster_map(documents, inputs["document_features"].array("features")),
        projection="PCA",
        n_documents=documents.select(pl.len()).collect().item(),
        clusters=labels.read("clusters"),
        representatives=labels.read("examples").filter(pl.col("kind") == "representative"),
        composition=labels.read("composition"),
        curves=pl.concat([curve(folder, name, records[name]) for name, folder in folders.items()], how="diagonal"),
        evaluation=inputs["evaluation"].read("evaluation"),
        paired=inputs["evaluation"].read("paired"),
        breakdown=load_breakdown(inputs["parameter_breakdown"]),
        routing=routing,
        token_gates=[TokenGates(**example) for example in examples],
        parameters=parameters_table(folders),
        energy=energy_table(records),
    )


def cluster_map(documents: pl.LazyFrame, features: np.ndarray) -> pl.DataFrame:
    """The two leading principal components of the documents' features, for at most 15,000 documents."""
    table = (
        documents.select(
            "document_id",
            "cluster",
            "source",
            excerpt=pl.concat_str("prompt", "completion", separator="\n").str.slice(0, EXCERPT),
        )
        .with_row_index("row")
        .collect()
    )
    if len(table) > MAP_POINTS:
        table = table.sample(MAP_POINTS, seed=0).sort("row")
    centred = features[table["row"].to_numpy()]
    centred = centred - centred.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    return table.drop("row").with_columns(x=pl.Series(points[:, 0]), y=pl.Series(points[:, -1]))


def curve(folder: Path, method: str, record: dict[str, Any]) -> pl.DataFrame:
    """The training curve of a method."""
    return read_curve(folder).with_columns(method=pl.lit(method), seed=pl.lit(record["config"]["seed"]))


def parameters_table(folders: dict[str, Path]) -> pl.DataFrame:
    """`method, part, n_parameters` of A, B and router of each adapter."""
    from analysis.adapter_parts import parameter_counts

    counts = {name: parameter_counts(load_state(folder)) for name, folder in folders.items()}
    rows = [(name, part, n) for name, parts in counts.items() for part, n in parts.items() if n]
    return pl.DataFrame(rows, schema=("method", "part", "n_parameters"), orient="row")


def energy_table(records: dict[str, dict[str, Any]]) -> pl.DataFrame | None:
    """`method, seed, energy_kwh, seconds`, where energy was measured."""
    rows = [
        (name, record["config"]["seed"], sum(record["energy"][part] for part in ENERGY_PARTS), record["seconds"])
        for name, record in records.items()
        if record.get("energy")
    ]
    return pl.DataFrame(rows, schema=("method", "seed", "energy_kwh", "seconds"), orient="row") if rows else None


def provenance(inputs: dict[str, Artifact], record: dict[str, Any]) -> dict[str, str]:
    """Fingerprints of the artifacts, versions and hardware."""
    environment = record["environment"]
    return {
        **{f"artifact {name}": artifact.fingerprint for name, artifact in inputs.items()},
        **{f"package {name}": version for name, version in environment["packages"].items()},
        "python": environment["python"],
        "hardware": ", ".join([environment["cpu"], *environment["gpus"]]),
    }


def load_breakdown(artifact: Artifact) -> "ParameterBreakdown":
    """The breakdown as `analysis.breakdown` returned it."""
    from analysis.breakdown import ParameterBreakdown
    from analysis.observation import ObservationTwo

    names = [field.name for field in fields(ParameterBreakdown) if field.name != "observation"]
    tables = {name: artifact.read(name) for name in names}
    return ParameterBreakdown(**tables, observation=ObservationTwo(**artifact.json("observation")))


def load_routing(artifact: Artifact) -> "RoutingAnalysis | None":
    """The analysis as `analysis.routing` returned it; None where there was one expert."""
    from analysis.routing import RoutingAnalysis
    from analysis.routing_alarms import Alarm

    if not (artifact.folder / "usage.parquet").exists():
        return None
    verdict = artifact.json("routing")
    words = {"alarms", "specialised", "reason"}
    tables = {field.name: artifact.read(field.name) for field in fields(RoutingAnalysis) if field.name not in words}
    alarms = tuple(Alarm(**alarm) for alarm in verdict["alarms"])
    return RoutingAnalysis(**tables, alarms=alarms, specialised=verdict["specialised"], reason=verdict["reason"])
