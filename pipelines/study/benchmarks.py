"""The paper's benchmarks with lm-evaluation-harness. Each pair of trained model and benchmark is one artifact."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.corpus.experts import GROUP_MODEL
from pipelines.corpus.sources import expanded
from pipelines.store.artifacts import Artifact, Draft, artifact_of, build_artifact
from pipelines.store.assets import Check, Description
from pipelines.store.code.versions import code_version
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.metadata import markdown_table
from pipelines.study.running.run import ASSET as RUNS
from pipelines.study.running.worker_pool import build_all
from pipelines.training.adapters import GIVEN_GATES, Log, load_adapter
from pipelines.training.launcher import Launcher
from pipelines.training.losses import BASE
from pipelines.training.recipe import BaseModel

if TYPE_CHECKING:
    from torch import Tensor

ASSET = "run_benchmarks"
# Score of random guessing. MMLU has four options; BBH's value is the mean over its tasks from its paper (arXiv
# 2210.09261).
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
BLOCKING = {"every_benchmark_scored": "Every model has a score in every benchmark asked for."}


class HarnessConfig(dg.Config):
    """How benchmarks are evaluated; see `hydralora.harness.evaluate_benchmarks`."""

    corpora: str | None = None
    """Folder of local files, `$NAME` is read from the environment; null downloads from the hub."""
    limit: int | None = Field(None, ge=1)
    """Documents of each task of the harness; scores of few documents say little."""
    batch_size: int = Field(8, ge=1)
    max_gen_toks: int | None = Field(None, ge=1)
    allow_code_execution: bool = False
    """For humaneval: run the programs that the models write, isolated by bubblewrap."""
    unsafe_no_isolation: bool = False
    """Run them without bubblewrap, with all rights of this process."""


@dataclass(frozen=True)
class Trained:
    """A measured adapter: an artifact of `pipelines.study.running.runs`. The base model also has one."""

    domain: str
    method: str
    num_experts: int
    run: Artifact
    task: str


def first_seed(runs: Artifact) -> pl.DataFrame:
    """The rows of the table `runs` that have the first seed: benchmarks take longer than trainings."""
    return runs.read("runs").filter(pl.col("seed") == pl.col("seed").first())


def run_artifact(store: ArtifactStore, fingerprint: str) -> Artifact:
    """A finished run by its fingerprint."""
    return artifact_of(store.path, RUNS, fingerprint)


def write_scores(
    draft: Draft,
    trained: Sequence[Trained],
    config: HarnessConfig,
    store: ArtifactStore,
    base_model: BaseModel,
    launcher: Launcher,
    log: Log,
    expert_assignment: Artifact | None = None,
) -> None:
    """Evaluate the models that have no score yet, and collect all scores in the table `scores`."""
    options = config.model_dump(include=set(HarnessConfig.model_fields))
    work = {
        f"{item.method}, {item.domain}, N={item.num_experts}: {item.task}": partial(
            evaluate, store.directory, item, options, base_model.model_dump(), expert_assignment
        )
        for item in trained
    }
    build_all(work, launcher, log, lambda artifact: f"{artifact.json('scores')[0]['value']:.4f}")
    rows = [row for one in work.values() for row in one(log).json("scores")]
    draft.write_table("scores", pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    draft.write_json("asked", len(trained))


def described(artifact: Artifact) -> Description:
    """Metadata of the scores for Dagster."""
    scores, asked = artifact.read("scores"), artifact.json("asked")
    found = scores.select("domain", "method", "num_experts", "benchmark").n_unique() if len(scores) else 0
    return Description(
        table="scores",
        metadata={"scores": markdown_table(scores, rows=200)},
        checks=[Check("every_benchmark_scored", found == asked, f"{found} of {asked}", {"benchmarks": found})],
    )


def evaluate(
    directory: str,
    item: Trained,
    options: dict[str, Any],
    base_model: dict[str, Any],
    expert_assignment: Artifact | None,
    log: Log,
) -> Artifact:
    """Scores of one model on one benchmark. If it has several tasks, their mean comes first."""

    def build(draft: Draft) -> None:
        from hydralora.harness import evaluate_benchmarks

        folder = None if item.method == BASE else item.run.folder
        model, tokenizer = load_adapter(BaseModel(**base_model), folder)
        corpora = None if options["corpora"] is None else Path(expanded(options["corpora"]))
        gates = gates_of(expert_assignment) if item.method in GIVEN_GATES else None
        scores = evaluate_benchmarks(model, tokenizer, [item.task], **{**options, "corpora": corpora}, gates=gates)
        where = {"domain": item.domain, "method": item.method, "num_experts": item.num_experts}
        rows = [{**where, **dataclasses.asdict(score), "chance": CHANCE.get(score.benchmark)} for score in scores]
        draft.write_json("scores", rows)

    inputs = {"run": item.run} | ({} if expert_assignment is None else {"expert_assignment": expert_assignment})
    config = {"task": item.task, "domain": item.domain, **options, **BaseModel(**base_model).identity()}
    return build_artifact(
        Path(directory), ASSET, build=build, code_version=code_version(__name__), config=config, inputs=inputs
    )


def gates_of(expert_assignment: Artifact | None) -> "Callable[[Sequence[str]], Tensor]":
    """A function from questions to gates, with the model that predicts the group of a prompt."""
    import torch

    from analysis.experts.prompt_gates import load_group_model
    from analysis.experts.prompt_gates import prompt_gates as gates

    assert expert_assignment is not None
    model = load_group_model(expert_assignment.path(GROUP_MODEL))
    return lambda questions: torch.from_numpy(gates(model, list(questions)))
