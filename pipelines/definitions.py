"""Entry point of the code location: `dagster dev`, `dg launch` and `dagster job execute -m pipelines.definitions`."""

import dagster as dg

from pipelines.defs import (
    benchmarks,
    breakdown,
    clusters,
    compare,
    corpus,
    evaluation,
    exports,
    features,
    gates,
    learning_rates,
    new_data,
    paper,
    report,
    routing,
    sources,
    study,
    training,
)
from pipelines.external.launcher import Launcher
from pipelines.jobs import JOBS
from pipelines.recipe import BaseModel, Recipe
from pipelines.store import ArtifactStore

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
    study,
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
