"""Entry point of the code location: `dagster dev`, `dg launch` and `dagster job execute -m pipelines.definitions`."""

import dagster as dg

from pipelines.defs import clusters, corpus, features, sources
from pipelines.jobs import corpus_job
from pipelines.resources import ArtifactStore, BaseModel

MODULES = (sources, corpus, features, clusters)


def build_defs(resources: dict[str, object] | None = None) -> dg.Definitions:
    """The code location; `resources` replaces some of its resources, for tests."""
    return dg.Definitions(
        assets=dg.load_assets_from_modules(MODULES),
        jobs=[corpus_job],
        resources={"store": ArtifactStore(), "base_model": BaseModel(), **(resources or {})},
    )


defs = build_defs()
