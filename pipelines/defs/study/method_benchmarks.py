"""Scores of the compared methods on the paper's benchmarks. Off unless the configuration names benchmarks."""

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import artifact_asset
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.benchmarks import (
    BLOCKING,
    HarnessConfig,
    Trained,
    described,
    first_seed,
    run_artifact,
    write_scores,
)
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel


class MethodBenchmarksConfig(HarnessConfig):
    """Which benchmarks, for which methods of the comparison."""

    tasks: list[str] = []
    methods: list[str] = []
    """Empty: all, and the base model."""


@artifact_asset(group="comparison", kinds={"pytorch"}, describe=described, blocking=BLOCKING, pool="gpu")
def method_benchmarks(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: MethodBenchmarksConfig,
    store: ArtifactStore,
    base_model: BaseModel,
    launcher: Launcher,
    method_comparison: Artifact,
    expert_assignment: Artifact,
) -> None:
    """Scores of the compared methods on the paper's benchmarks, with standard errors and the score of chance."""
    runs = first_seed(method_comparison)
    if config.methods:
        runs = runs.filter(pl.col("method").is_in(config.methods))
    trained = [
        Trained("all", row["method"], row["num_experts"], run_artifact(store, row["fingerprint"]), task)
        for row in runs.iter_rows(named=True)
        for task in config.tasks
    ]
    write_scores(draft, trained, config, store, base_model, launcher, context.log.info, expert_assignment)
