"""Runs: a method trained and measured once, for one seed and one learning rate. Each is an artifact of its own.

So a killed job goes on with the runs that are missing, a job with one more method trains that one alone, and the same
run is trained once, whoever asks for it: a comparison, a table of the paper, or a partition started by hand.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.defs.evaluation import BASE, loss_table
from pipelines.store.artifacts import Artifact, Draft, build_artifact, find_artifact, source_version
from pipelines.study.run_documents import HELD_OUT, TRAINING, read_run_documents
from pipelines.study.worker_pool import build_all
from pipelines.training.adapters import Log, Training, held_out_losses, train_adapter
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel, Recipe

CODE = (
    "hydralora",
    "pipelines.training.adapters",
    "pipelines.defs.evaluation",
    "pipelines.training.recipe",
    "pipelines.study.runs",
)
"""What a run is computed by, also where its results are collected."""
VERSION = source_version(*CODE)
ASSET = "method_runs"


@dataclass(frozen=True)
class Run:
    """What is trained, and where it is measured.

    Attributes:
        method: row of `hydralora.methods`, or "base" for the base model as it is.
        num_experts: N.
        measured_on: part of the documents.
        max_tokens: a budget other than the recipe's.
        match_parameters: of "lora_matched".
    """

    method: str
    seed: int
    learning_rate: float
    num_experts: int
    measured_on: str = HELD_OUT
    max_tokens: int | None = None
    match_parameters: int | None = None

    @property
    def label(self) -> str:
        """As logs name it."""
        return f"{self.method}, seed {self.seed}, rate {self.learning_rate:g}, N={self.num_experts}"


@dataclass(frozen=True)
class Setup:
    """What a set of runs shares.

    Attributes:
        directory: of the store.
        documents: see `pipelines.study.run_documents`.
        recipe, base_model: fields of these resources, so that they pass to another process.
    """

    directory: Path
    documents: Artifact
    recipe: dict[str, Any]
    base_model: dict[str, Any]

    @classmethod
    def of(cls, directory: str, documents: Artifact, recipe: Recipe, base_model: BaseModel) -> "Setup":
        """From the resources of an asset."""
        return cls(Path(directory), documents, recipe.model_dump(), base_model.model_dump())

    def load(self, run: Run) -> tuple[Recipe, BaseModel]:
        """The resources as a run needs them."""
        own = {"learning_rate": run.learning_rate, "learning_rates": {}, "seed": run.seed}
        return Recipe(**self.recipe | own), BaseModel(**self.base_model)

    def identity(self, run: Run) -> dict[str, Any]:
        """Arguments of `build_artifact` that name a run; rates and seeds of other runs do not matter."""
        recipe, base_model = self.load(run)
        return {
            "code_version": VERSION,
            "config": {**asdict(run), **recipe.identity(), **base_model.identity()},
            "inputs": {"documents": self.documents},
        }


def build_run(setup: Setup, run: Run, log: Log) -> Artifact:
    """Train a run and measure it, or find it done: adapter, `run.json`, `curve.jsonl`, and the table `losses`."""
    recipe, base_model = setup.load(run)

    def build(draft: Draft) -> None:
        folder = None
        if run.method != BASE:
            folder, documents = draft.folder, read_run_documents(setup.documents, TRAINING)
            training = Training(
                run.method,
                run.num_experts,
                run.seed,
                run.max_tokens,
                match_parameters=run.match_parameters,
                # Beside other runs a meter would count theirs as well; see `pipelines.study.costs`.
                measure_energy=False,
            )
            train_adapter(log, folder, training, documents, recipe, base_model)
        measured = read_run_documents(setup.documents, run.measured_on)
        losses = held_out_losses(measured, folder, base_model)
        draft.write_table("losses", loss_table({run.method: losses}, measured).with_columns(seed=run.seed))

    return build_artifact(setup.directory, ASSET, build=build, **setup.identity(run))


def build_runs(runs: Sequence[tuple[Setup, Run]], launcher: Launcher, log: Log) -> list[Artifact]:
    """Artifacts of runs, in order; what is missing is trained, `launcher.parallel` runs at a time.

    Raises:
        dagster.Failure: some runs failed. The others were finished, and are not trained again.
    """
    missing = [
        (setup, run) for setup, run in runs if find_artifact(setup.directory, ASSET, **setup.identity(run)) is None
    ]
    log(f"{len(runs)} runs, {len(runs) - len(missing)} of them are there")
    work = {f"{i} {run.label}": partial(build_run, setup, run) for i, (setup, run) in enumerate(missing, start=1)}
    build_all(work, launcher, log, lambda artifact: f"loss {mean_loss(artifact):.4f}")
    return [build_run(setup, run, log) for setup, run in runs]


def mean_loss(artifact: Artifact) -> float:
    """Mean over sources of the mean loss of an answer token, as `analysis.methods.comparison` counts it."""
    from analysis.methods.comparison import losses_by_source

    mean: float = losses_by_source(artifact.read("losses")).select(pl.col("loss").mean()).item()
    return mean


def run_losses(artifacts: Sequence[Artifact]) -> pl.DataFrame:
    """Losses of every document in every run, as `analysis.methods.comparison` reads them."""
    return pl.concat(artifact.read("losses") for artifact in artifacts)


def run_table(runs: Sequence[Run], artifacts: Sequence[Artifact]) -> pl.DataFrame:
    """`method, num_experts, seed, learning_rate, loss, fingerprint, steps, tokens, seconds`; the base has no steps."""
    rows = []
    for run, artifact in zip(runs, artifacts, strict=True):
        record = {} if run.method == BASE else artifact.json("run")
        budget = (record.get(name) for name in ("steps", "tokens", "seconds"))
        own = (run.method, run.num_experts, run.seed, run.learning_rate)
        rows.append((*own, mean_loss(artifact), artifact.fingerprint, *budget))
    return pl.DataFrame(rows, schema=_RUN_SCHEMA, orient="row")


_RUN_SCHEMA = {
    "method": pl.String,
    "num_experts": pl.Int64,
    "seed": pl.Int64,
    "learning_rate": pl.Float64,
    "loss": pl.Float64,
    "fingerprint": pl.String,
    "steps": pl.Int64,
    "tokens": pl.Int64,
    "seconds": pl.Float64,
}
