"""The paper's benchmarks by lm-evaluation-harness, for what was trained. Off unless a configuration names some."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pipelines.defs.evaluation import BASE
from pipelines.defs.gates import GROUP_MODEL
from pipelines.defs.sources import expanded
from pipelines.store.artifacts import Artifact, Draft, build_artifact, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.runs import ASSET as RUNS
from pipelines.study.worker_pool import build_all
from pipelines.training.adapters import GIVEN_GATES, Log, load_adapter
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

VERSION = source_version("hydralora.harness", "pipelines.training.adapters", "pipelines.defs.study.benchmarks")
ASSET = "run_benchmarks"
# What guessing gives. MMLU has four options; BBH's is the mean over its tasks in its paper (arXiv 2210.09261).
CHANCE = {"mmlu": 0.25, "mmlu_medical": 0.25, "mmlu_law": 0.25, "bbh": 0.257, "bbh_direct": 0.257}
CHANCE |= {"gsm8k": 0.0, "humaneval": 0.0}
SCHEMA = {
    "domain": pl.String,
    "method": pl.String,
    "num_experts": pl.Int64,
    "benchmark": pl.String,
    "task": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "stderr": pl.Float64,
    "n": pl.Int64,
    "chance": pl.Float64,
}


class HarnessConfig(dg.Config):
    """How benchmarks are evaluated; see `hydralora.harness.evaluate_benchmarks`."""

    corpora: str | None = None
    """Folder of local files, `$NAME` is read from the environment; null downloads from the hub."""
    limit: int | None = None
    """Documents of each task of the harness; scores of few documents say little."""
    batch_size: int = 8
    max_gen_toks: int | None = None
    allow_code_execution: bool = False
    """Of humaneval: run the programs that the models write, in a sandbox."""


class MethodBenchmarksConfig(HarnessConfig):
    """Which benchmarks, for which methods of the comparison."""

    tasks: list[str] = []
    methods: list[str] = []
    """Empty: all, and the base model."""


class StudyBenchmarksConfig(HarnessConfig):
    """Which benchmark for which domain; the first seed of each method is measured."""

    tasks: dict[str, str] = {}


@dataclass(frozen=True)
class Trained:
    """What is measured: an artifact of `pipelines.study.runs`, for the base model as well."""

    domain: str
    method: str
    num_experts: int
    run: Artifact
    task: str


@artifact_asset(group="comparison", version=VERSION, kinds={"torch"}, blocking=("every_benchmark_scored",), pool="gpu")
def method_benchmarks(
    context: dg.AssetExecutionContext,
    config: MethodBenchmarksConfig,
    store: dg.ResourceParam[ArtifactStore],
    base_model: BaseModel,
    launcher: Launcher,
    method_comparison: Artifact,
    prompt_gates: Artifact,
) -> dg.MaterializeResult:
    """Scores of the compared methods in the paper's benchmarks, with standard errors and what chance gives."""
    runs = first_seed(method_comparison)
    if config.methods:
        runs = runs.filter(pl.col("method").is_in(config.methods))
    trained = [
        Trained("all", row["method"], row["num_experts"], run_artifact(store, row["fingerprint"]), task)
        for row in runs.iter_rows(named=True)
        for task in config.tasks
    ]
    inputs = {"method_comparison": method_comparison, "prompt_gates": prompt_gates}
    return scored("method_benchmarks", trained, config, store, base_model, launcher, context, inputs)


@artifact_asset(group="study", version=VERSION, kinds={"torch"}, blocking=("every_benchmark_scored",), pool="gpu")
def study_benchmarks(
    context: dg.AssetExecutionContext,
    config: StudyBenchmarksConfig,
    store: dg.ResourceParam[ArtifactStore],
    base_model: BaseModel,
    launcher: Launcher,
    study_runs: Artifact,
) -> dg.MaterializeResult:
    """Scores of the study's methods in the benchmark of the domain that each was trained on."""
    runs = first_seed(study_runs)
    trained = [
        Trained(row["domain"], row["method"], row["num_experts"], run_artifact(store, row["fingerprint"]), task)
        for domain, task in config.tasks.items()
        for row in runs.filter(pl.col("domain") == domain).iter_rows(named=True)
    ]
    inputs = {"study_runs": study_runs}
    return scored("study_benchmarks", trained, config, store, base_model, launcher, context, inputs)


def first_seed(runs: Artifact) -> pl.DataFrame:
    """The table `runs` of an artifact, one seed of it: benchmarks take longer than trainings."""
    return runs.read("runs").filter(pl.col("seed") == pl.col("seed").first())


def run_artifact(store: ArtifactStore, fingerprint: str) -> Artifact:
    """A finished run by its fingerprint."""
    return Artifact(RUNS, fingerprint, Path(store.directory) / RUNS / fingerprint, reused=True)


def scored(
    asset: str,
    trained: "Sequence[Trained]",
    config: HarnessConfig,
    store: ArtifactStore,
    base_model: BaseModel,
    launcher: Launcher,
    context: dg.AssetExecutionContext,
    inputs: dict[str, Artifact],
) -> dg.MaterializeResult:
    """Evaluate what is not evaluated yet, each model and benchmark an artifact, and collect the scores."""
    gates = inputs.get("prompt_gates")
    options = config.model_dump(include=set(HarnessConfig.model_fields))

    def build(draft: Draft) -> None:
        work = {
            f"{item.method}, {item.domain}, N={item.num_experts}: {item.task}": partial(
                evaluate, store.directory, item, options, base_model.model_dump(), gates
            )
            for item in trained
        }
        build_all(work, launcher, context.log.info, lambda artifact: f"{artifact.json('scores')[0]['value']:.4f}")
        rows = [row for one in work.values() for row in one(context.log.info).json("scores")]
        draft.write_table("scores", pl.DataFrame(rows, schema=SCHEMA, orient="row"))

    artifact = store.build(
        asset, build, code_version=VERSION, config={**config.model_dump(), **base_model.identity()}, inputs=inputs
    )
    scores = artifact.read("scores")
    found = scores.select("domain", "method", "num_experts", "benchmark").n_unique() if len(scores) else 0
    return materialized(
        artifact,
        table="scores",
        metadata={"scores": markdown_table(scores, rows=200)},
        checks=[Check("every_benchmark_scored", found == len(trained), f"{found} of {len(trained)}")],
    )


def evaluate(
    directory: str,
    item: Trained,
    options: dict[str, Any],
    base_model: dict[str, Any],
    prompt_gates: Artifact | None,
    log: Log,
) -> Artifact:
    """Scores of one model in one benchmark: the mean over its tasks first, where it has several."""

    def build(draft: Draft) -> None:
        from hydralora.harness import evaluate_benchmarks

        folder = None if item.method == BASE else item.run.folder
        model, tokenizer = load_adapter(BaseModel(**base_model), folder)
        corpora = None if options["corpora"] is None else Path(expanded(options["corpora"]))
        gates = gates_of(prompt_gates) if item.method in GIVEN_GATES else None
        scores = evaluate_benchmarks(model, tokenizer, [item.task], **{**options, "corpora": corpora}, gates=gates)
        where = {"domain": item.domain, "method": item.method, "num_experts": item.num_experts}
        rows = [{**where, **dataclasses.asdict(score), "chance": CHANCE.get(score.benchmark)} for score in scores]
        draft.write_json("scores", rows)

    inputs = {"run": item.run} | ({} if prompt_gates is None else {"prompt_gates": prompt_gates})
    config = {"task": item.task, "domain": item.domain, **options, **BaseModel(**base_model).identity()}
    return build_artifact(Path(directory), ASSET, build=build, code_version=VERSION, config=config, inputs=inputs)


def gates_of(prompt_gates: Artifact | None) -> "Callable[[Sequence[str]], Tensor]":
    """Questions -> gates, by the model that finds the group of a prompt."""
    import torch

    from analysis.experts.prompt_gates import load_group_model
    from analysis.experts.prompt_gates import prompt_gates as gates

    assert prompt_gates is not None
    model = load_group_model(prompt_gates.path(GROUP_MODEL))
    return lambda questions: torch.from_numpy(gates(model, list(questions)))
