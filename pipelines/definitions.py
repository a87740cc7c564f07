"""Entry point of the code location: `dagster dev`, `dg launch` and `dagster job execute -m pipelines.definitions`."""

import dagster as dg

from pipelines.defs import (
    breakdown,
    clusters,
    corpus,
    evaluation,
    exports,
    features,
    gates,
    new_data,
    report,
    routing,
    sources,
    training,
)
from pipelines.defs.study import benchmarks, compare, learning_rates, paper, study_runs
from pipelines.jobs import JOBS
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel, Recipe

MODULES = (
    sources,
    corpus,
    features,
    clusters,
    gates,
    new_data,
    training,
    evaluation,
    breakdown,
    routing,
    exports,
    report,
    learning_rates,
    compare,
    study_runs,
    benchmarks,
    paper,
)


def build_defs(resources: dict[str, object] | None = None) -> dg.Definitions:
    """The code location; `resources` replaces some of its resources, for tests."""
    return dg.Definitions(
        assets=dg.load_assets_from_modules(MODULES),
        jobs=JOBS,
        resources={
            "store": ArtifactStore(),
            "base_model": BaseModel(),
            "recipe": Recipe(max_tokens=1_000_000),
            "launcher": Launcher(),
            **(resources or {}),
        },
    )


defs = build_defs()
