"""Scores of the study's methods on the paper's benchmarks. Off unless the configuration names benchmarks."""

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


class StudyBenchmarksConfig(HarnessConfig):
    """Which benchmark for which domain; the first seed of each method is measured."""

    tasks: dict[str, str] = {}


@artifact_asset(group="study", kinds={"pytorch"}, describe=described, blocking=BLOCKING, pool="gpu")
def study_benchmarks(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: StudyBenchmarksConfig,
    store: ArtifactStore,
    base_model: BaseModel,
    launcher: Launcher,
    study_runs: Artifact,
) -> None:
    """Scores of the study's methods, each on the benchmark of the domain that it was trained on."""
    runs = first_seed(study_runs)
    trained = [
        Trained(row["domain"], row["method"], row["num_experts"], run_artifact(store, row["fingerprint"]), task)
        for domain, task in config.tasks.items()
        for row in runs.filter(pl.col("domain") == domain).iter_rows(named=True)
    ]
    write_scores(draft, trained, config, store, base_model, launcher, context.log.info)
