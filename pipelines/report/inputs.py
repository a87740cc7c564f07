"""Collects the inputs of a run's report from the tables of its artifacts."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines.corpus.tail import tail_parts
from pipelines.report.commands import Request, comparison_of, next_steps, tokens_for
from pipelines.store.artifacts import Artifact
from pipelines.store.assets import Check
from pipelines.training.adapters import GIVEN_GATES, load_state, read_curve

if TYPE_CHECKING:
    from analysis.adapters.breakdown import ParameterBreakdown
    from analysis.adapters.routing import RoutingAnalysis
    from analysis.report import MoreTable, ReportInputs

EMBEDDED_NAMES = {"embedded": "SmolLM2-135M-Instruct (embedded)"}
"""Copies names of `hydralora.base_model`, whose import takes seconds."""
ENERGY_PARTS = ("cpu_kwh", "gpu_kwh", "ram_kwh")

Inputs = Mapping[str, Artifact]


def report_inputs(
    title: str, request: Request, artifacts: Iterable[Artifact], command: str | None = None
) -> "tuple[ReportInputs, str | None]":
    """Collect the tables of a run. Only the two coordinates of the map are computed here.

    Args:
        request: what was asked of the run.
        command: command that reproduces the run, if it is another than the request's.

    Returns:
        The inputs, and a configuration of the job `compare` that would spend enough for a verdict, if there is one.
    """
    from analysis.report.budget import LEAST_SEEDS, spent

    artifacts = tuple(artifacts)
    inputs = _tables(title, command or request.command, artifacts)
    of = spent(inputs)
    methods = [inputs.method, inputs.matched_baseline]
    comparison = comparison_of(request, methods, LEAST_SEEDS, tokens_for(of))
    (exports,) = (artifact for artifact in artifacts if artifact.asset == "domain_exports")
    steps = next_steps(request, of, comparison, exports)
    return replace(inputs, configuration=request.text, next_steps=steps), comparison


def _tables(title: str, command: str, artifacts: Iterable[Artifact]) -> "ReportInputs":
    from analysis.report import ReportInputs, TokenGates

    inputs: Inputs = {artifact.asset: artifact for artifact in artifacts}
    routing = load_routing(inputs["routing_analysis"])
    examples = inputs["routing_analysis"].json("token_gates") if routing else []
    adapter, baselines = inputs["hydralora_adapter"], inputs["baseline_adapters"]
    method = adapter.record["config"]["method"]
    folders = {method: adapter.folder}
    folders |= {name: baselines.folder / name for name in baselines.record["config"]["methods"]}
    records = {name: json.loads((folder / "run.json").read_text()) for name, folder in folders.items()}
    return ReportInputs(
        **corpus_tables(inputs),
        title=title,
        command=command,
        base_model=base_model_name(records[method]),
        n_training_documents=records[method]["data"]["documents"],
        provenance=provenance(inputs, records),
        method=method,
        matched_baseline="lora_matched",
        grouping=inputs["expert_assignment"].json("expert_assignment") if method in GIVEN_GATES else None,
        curves=pl.concat([curve(folder, name, records[name]) for name, folder in folders.items()], how="diagonal"),
        evaluation=inputs["evaluation"].read("evaluation"),
        paired=inputs["evaluation"].read("paired"),
        breakdown=load_breakdown(inputs["parameter_breakdown"]),
        routing=routing,
        token_gates=[TokenGates(**example) for example in examples],
        cross_losses=cross_losses(inputs["domain_exports"]),
        parameters=parameters_table(folders),
        energy=energy_table(records),
        more=(
            served_table(inputs["domain_exports"], inputs["expert_assignment"], inputs["cluster_names"]),
            stages_table(inputs),
        ),
        serving=serving_words(inputs["domain_exports"]),
    )


def corpus_tables(inputs: Inputs) -> dict[str, Any]:
    """The fields of `ReportInputs` about the corpus and its clusters."""
    labels, names = inputs["cluster_labels"], inputs["cluster_names"]
    # The report shows the terms of a cluster anyway.
    named = names.read("names").filter(pl.col("named_by") != "terms").drop("named_by")
    return {
        "tail": tail_parts(labels),
        "choice": inputs["num_clusters"].json("num_clusters"),
        "data_card": inputs["corpus_documents"].json("data_card"),
        "sweep": inputs["cluster_sweep"].read("sweep"),
        "cluster_map": names.read("map").rename({"text": "excerpt"}),
        "n_documents": labels.scan("labels").select(pl.len()).collect().item(),
        "clusters": labels.read("clusters").join(named, on="cluster", how="left", maintain_order="left"),
        "representatives": labels.read("examples").filter(pl.col("kind") == "representative"),
        "composition": labels.read("composition"),
    }


def base_model_name(record: Mapping[str, Any]) -> str:
    """Name of the base model; the embedded one has a name of its own."""
    name: str = record["base_model"]["name"]
    return EMBEDDED_NAMES.get(name, name)


def cross_losses(exports: Artifact) -> pl.DataFrame | None:
    """Losses of every domain's LoRA on every domain's documents; None if they were not measured."""
    return exports.read("cross_losses") if (exports.folder / "cross_losses.parquet").exists() else None


def curve(folder: Path, method: str, record: dict[str, Any]) -> pl.DataFrame:
    """The training curve of a method."""
    return read_curve(folder).with_columns(method=pl.lit(method), seed=pl.lit(record["config"]["seed"]))


def parameters_table(folders: dict[str, Path]) -> pl.DataFrame:
    """Parameters of A, B and router of each adapter: `method, part, n_parameters`."""
    from analysis.adapters.parts import parameter_counts

    counts = {name: parameter_counts(load_state(folder)) for name, folder in folders.items()}
    rows = [(name, part, n) for name, parts in counts.items() for part, n in parts.items() if n]
    return pl.DataFrame(rows, schema=("method", "part", "n_parameters"), orient="row")


def energy_table(records: Mapping[str, dict[str, Any]]) -> pl.DataFrame:
    """Energy and time of each training: `method, seed, energy_kwh, seconds, remembered_batches`.

    Energy is null if it was not measured.
    """
    rows = []
    for name, record in records.items():
        use = record.get("energy")
        energy = sum(use[part] for part in ENERGY_PARTS) if use else None
        rows.append((name, record["config"]["seed"], energy, record["seconds"], record["remembered_batches"]))
    schema = {
        "method": pl.String,
        "seed": pl.Int64,
        "energy_kwh": pl.Float64,
        "seconds": pl.Float64,
        "remembered_batches": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def served_table(exports: Artifact, expert_assignment: Artifact, cluster_names: Artifact) -> "MoreTable":
    """The plain LoRA of each domain, and its loss compared with live gates. Clusters have their names."""
    from analysis.report import MoreTable

    lead = (
        "One plain PEFT LoRA for each domain, with gates that no longer depend on the prompt. Losses are nats a token "
        "on held-out documents; the difference is what a server without this package loses."
    )
    table = exports.read("exports")
    if expert_assignment.json("expert_assignment")["group_kind"] == "cluster":
        names = cluster_names.read("names").select(domain=pl.col("cluster").cast(pl.String), name="name")
        table = table.join(names, on="domain", how="left", maintain_order="left")
    return MoreTable("serving", "One LoRA for each domain", lead, table)


def serving_words(exports: Artifact) -> str:
    """How to serve the adapter, and how much loss fixed gates cost in this run."""
    table = exports.read("exports")
    worst = table.sort("difference").row(-1, named=True)
    return (
        f"Live gates need this package in the process that serves. {len(table)} plain LoRAs for servers without it "
        f"are in the artifact domain_exports; the one that costs most is {worst['domain']}, "
        f"{worst['difference']:+.4f} nats a token against live gates."
    )


def stages_table(inputs: Inputs) -> "MoreTable":
    """Build time of each artifact, in seconds."""
    from analysis.report import MoreTable

    rows = [(name, a.record["wall_seconds"], a.record["cpu_seconds"]) for name, a in inputs.items()]
    seconds = pl.DataFrame(rows, schema=("stage", "wall_seconds", "cpu_seconds"), orient="row")
    lead = "Of the build of each artifact; one that was found finished keeps the time it took then."
    return MoreTable("stages", "Time of each stage", lead, seconds.with_columns(pl.selectors.float().round(1)))


def provenance(inputs: Inputs, records: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Base model, data, settings and seed of every training; fingerprints and code of the artifacts; versions."""
    record = next(iter(records.values()))
    environment, peft = record["environment"], record["peft_config"]
    settings = ("r", "lora_alpha", "num_experts", "router_input", "shared_expert", "shared_rank", "target_modules")
    return {
        "base model": f"{record['base_model']['name']}, weights {record['base_model']['weights']}",
        "adapter": ", ".join(f"{name} {_words(peft[name])}" for name in settings if peft.get(name) is not None),
        **{f"training of {name}": _training(record) for name, record in records.items()},
        **{f"artifact {name}": artifact.fingerprint for name, artifact in inputs.items()},
        **{f"code of {name}": artifact.record["code_version"] for name, artifact in inputs.items()},
        **{f"package {name}": version for name, version in environment["packages"].items()},
        "python": environment["python"],
        "platform": environment["platform"],
        "hardware": ", ".join([environment["cpu"], *environment["gpus"]]),
    }


def _training(record: Mapping[str, Any]) -> str:
    config, data = record["config"], record["data"]
    return (
        f"seed {config['seed']}, {record['tokens']:,} tokens in {record['steps']:,} steps, rate "
        f"{config['learning_rate']:g}, {data['documents']:,} documents {data['fingerprint']}, template "
        f"{data['template']}, at most {data['max_length']} tokens"
    )


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def load_breakdown(artifact: Artifact) -> "ParameterBreakdown":
    """Load the breakdown that `analysis.adapters.breakdown` computed."""
    from analysis.adapters.breakdown import ParameterBreakdown
    from analysis.adapters.observation_two import ObservationTwo

    names = [field.name for field in fields(ParameterBreakdown) if field.name != "observation"]
    tables = {name: artifact.read(name) for name in names}
    return ParameterBreakdown(**tables, observation=ObservationTwo(**artifact.json("observation")))


def load_routing(artifact: Artifact) -> "RoutingAnalysis | None":
    """Load the analysis that `analysis.adapters.routing` computed; None if there was only one expert."""
    from analysis.adapters.alarms import Alarm
    from analysis.adapters.routing import RoutingAnalysis

    if not (artifact.folder / "usage.parquet").exists():
        return None
    verdict = artifact.json("routing")
    words = {"alarms", "specialised", "reason"}
    tables = {field.name: artifact.read(field.name) for field in fields(RoutingAnalysis) if field.name not in words}
    alarms = tuple(Alarm(**alarm) for alarm in verdict["alarms"])
    return RoutingAnalysis(**tables, alarms=alarms, specialised=verdict["specialised"], reason=verdict["reason"])


def every_figure_present(report: Artifact) -> Check:
    """Whether each figure of a report's page is also a PNG."""
    figures = report.json("figures")
    missing = [name for name in figures if not (report.folder / "figures" / f"{name}.png").exists()]
    return Check(
        "every_figure_present",
        not missing,
        ", ".join(missing) or f"{len(figures)} figures",
        {"figures": len(figures), "missing": len(missing)},
    )
