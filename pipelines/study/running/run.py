"""A run: one method, trained and measured once, with one seed and one learning rate. Each run is an artifact.

So a killed job continues with the missing runs, and a job with one more method trains only that method. The same run is
trained once, even if a comparison, a table of the paper and a manually started partition all need it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.store.artifacts import Artifact, Draft, build_artifact
from pipelines.store.code.versions import code_version
from pipelines.study.running.run_documents import HELD_OUT, TRAINING, VALIDATION, part_size, read_run_documents
from pipelines.training.adapters import Log, TrainingJob, held_out_losses, train_adapter
from pipelines.training.losses import BASE, loss_table
from pipelines.training.recipe import BaseModel, Recipe

ASSET = "method_runs"
LOSSES = {VALIDATION: "validation_losses", HELD_OUT: "losses"}
"""Part -> table of the losses of its documents."""


@dataclass(frozen=True)
class Run:
    """The training of a run. It is measured on the validation and on the held-out documents.

    Attributes:
        method: row of `hydralora.methods`, or "base" for the untrained base model.
        max_tokens: training budget that replaces the recipe's budget.
        match_parameters: number of trainable parameters for the method "lora_matched".
    """

    method: str
    seed: int
    learning_rate: float
    num_experts: int
    max_tokens: int | None = None
    match_parameters: int | None = None

    @property
    def label(self) -> str:
        """As logs name it."""
        return f"{self.method}, seed {self.seed}, rate {self.learning_rate:g}, N={self.num_experts}"


@dataclass(frozen=True)
class Setup:
    """The settings that a set of runs shares.

    Attributes:
        directory: root folder of the store.
        documents: artifact written by `pipelines.study.running.run_documents`.
        recipe, base_model: fields of these resources as values, so that they can be sent to another process.
    """

    directory: Path
    documents: Artifact
    recipe: dict[str, Any]
    base_model: dict[str, Any]

    @classmethod
    def of(cls, directory: str, documents: Artifact, recipe: Recipe, base_model: BaseModel) -> "Setup":
        """Make the setup from the resources of an asset."""
        return cls(Path(directory), documents, recipe.model_dump(), base_model.model_dump())

    def load(self, run: Run) -> tuple[Recipe, BaseModel]:
        """The resources with the settings of a run."""
        own = {"learning_rate": run.learning_rate, "learning_rates": {}, "seed": run.seed}
        return Recipe(**self.recipe | own), BaseModel(**self.base_model)

    def identity(self, run: Run) -> dict[str, Any]:
        """The arguments of `build_artifact` that identify a run. Rates and seeds of other runs are not part of them."""
        recipe, base_model = self.load(run)
        return {
            "code_version": code_version(__name__),
            "config": {**asdict(run), **recipe.identity(), **base_model.identity()},
            "inputs": {"documents": self.documents},
        }


def build_run(setup: Setup, run: Run, log: Log) -> Artifact:
    """Train and measure a run, or reuse it. Files: adapter, `run.json`, `curve.jsonl` and the tables of `LOSSES`."""
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
                # The meter would also count the energy of parallel runs; `study.running.costs` measures runs alone.
                measure_energy=False,
            )
            train_adapter(log, folder, training, documents, recipe, base_model)
        for part, table in LOSSES.items():
            if not part_size(setup.documents, part):
                continue
            measured = read_run_documents(setup.documents, part)
            losses = held_out_losses(measured, folder, base_model)
            draft.write_table(table, loss_table({run.method: losses}, measured).with_columns(seed=run.seed))

    return build_artifact(setup.directory, ASSET, build=build, **setup.identity(run))


def mean_loss(artifact: Artifact, part: str = HELD_OUT) -> float:
    """Mean over sources of the mean answer-token loss, as in `analysis.methods.comparison`."""
    from analysis.methods.comparison import losses_by_source

    return losses_by_source(artifact.read(LOSSES[part])).select(pl.col("loss").mean()).item()
