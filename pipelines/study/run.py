"""A run: a method trained and measured once, for one seed and one learning rate. It is an artifact of its own.

So a killed job goes on with the runs that are missing, a job with one more method trains that one alone, and the same
run is trained once, whoever asks for it: a comparison, a table of the paper, or a partition started by hand.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.store.artifacts import Artifact, Draft, build_artifact
from pipelines.store.versions import code_version
from pipelines.study.run_documents import HELD_OUT, TRAINING, read_run_documents
from pipelines.training.adapters import Log, TrainingJob, held_out_losses, train_adapter
from pipelines.training.losses import BASE, loss_table
from pipelines.training.recipe import BaseModel, Recipe

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
            "code_version": code_version(__name__),
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
            training = TrainingJob(
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


def mean_loss(artifact: Artifact) -> float:
    """Mean over sources of the mean loss of an answer token, as `analysis.methods.comparison` counts it."""
    from analysis.methods.comparison import losses_by_source

    mean: float = losses_by_source(artifact.read("losses")).select(pl.col("loss").mean()).item()
    return mean
