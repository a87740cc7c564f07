"""The Dagster code location, for `dagster dev`, `dg launch` and `dagster job execute -m pipelines.definitions`."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from pipelines import corpora
from pipelines.console import console_logger
from pipelines.defs import clusters, corpus, new_data, results, shards, study, training
from pipelines.engine.resource import ShardEngine
from pipelines.jobs import JOBS
from pipelines.run_checks import RunChecks, explain_invalid_configurations
from pipelines.sensors.dead_runs import dead_runs_sensor
from pipelines.sensors.new_files import new_files_sensor
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel, Recipe

FOLDERS = (corpus, clusters, training, results, new_data, shards, study)


def build_defs(resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """Build the definitions of the code location. Tests pass `resources` to replace some of its resources."""
    return dg.Definitions(
        assets=[asset for folder in FOLDERS for asset in dg.load_assets_from_package_module(folder)],
        jobs=JOBS,
        sensors=[dead_runs_sensor, new_files_sensor],
        resources={
            "store": ArtifactStore(),
            "base_model": BaseModel(),
            "recipe": Recipe(max_tokens=1_000_000),
            "launcher": Launcher(),
            "engine": ShardEngine(),
            "run_checks": RunChecks(),
            **(resources or {}),
        },
        loggers={"console": console_logger},
    )


def _configured_jobs() -> dg.Definitions:
    """The jobs of `pipelines/corpora`."""
    with warnings.catch_warnings():  # Dagster loads components with functions that it calls previews
        warnings.simplefilter("ignore")
        return dg.ComponentTree.from_module(corpora, project_root=Path(__file__).parents[1]).build_defs()


explain_invalid_configurations()
defs = dg.Definitions.merge(build_defs(), _configured_jobs())
