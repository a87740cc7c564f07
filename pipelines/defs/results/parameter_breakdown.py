"""Effects of training on A and on B."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.metadata import markdown_table
from pipelines.store.thumbnails import write_thumbnail
from pipelines.training.adapters import UNTRAINED, always_on, load_state

TABLES = ("submodules", "pairs", "separability", "identification", "embedding", "parameters")


class BreakdownConfig(dg.Config):
    """How the points are projected to the plane."""

    umap: bool = True
    """UMAP beside t-SNE; it compiles for about 20 seconds at each start."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)


def _described(artifact: Artifact, hydralora_adapter: Artifact) -> Description:
    observation = artifact.json("observation")
    counts = artifact.scan("parameters").filter(pl.col("head") == "hydralora").select("n_parameters").sum().collect()
    recorded = hydralora_adapter.json("run")["parameters"]["trainable"]
    found = f"{counts.item()} in the file, {recorded} trained"
    return Description(
        table="pairs",
        metadata={
            "observation_two": observation,
            "separability": markdown_table(artifact.read("separability")),
        },
        checks=[
            Check(
                "parameters_equal_trained",
                counts.item() == recorded,
                found,
                {"in_the_file": counts.item(), "trained": recorded},
            ),
            Check(
                "supports_observation_two",
                observation["verdict"] == "supported",
                observation["reason"],
                observation["numbers"],
            ),
        ],
    )


@artifact_asset(
    group="analysis",
    kinds={"numpy", "polars"},
    describe=_described,
    blocking={"parameters_equal_trained": "The adapter's file has as many parameters as were trained."},
    warnings={"supports_observation_two": "A of separately trained heads converge, and B separate."},
)
def parameter_breakdown(
    draft: Draft, config: BreakdownConfig, component_adapters: Artifact, hydralora_adapter: Artifact
) -> None:
    """A and B of the component adapters side by side (t-SNE, UMAP, subspace angles), with seed and IID controls.

    It answers whether this run supports the paper's Observation II: A of separately trained heads converge, B separate.
    """
    from analysis.adapters.breakdown import break_down
    from analysis.figures.breakdown import submodule_map

    result = break_down(
        components(component_adapters.folder),
        load_state(hydralora_adapter.folder),
        **always_on(hydralora_adapter.folder),
        methods=("t-SNE", "UMAP") if config.umap else ("t-SNE",),
        random_state=config.random_state,
    )
    for name in TABLES:
        draft.write_table(name, getattr(result, name))
    draft.write_json("observation", asdict(result.observation))
    write_thumbnail(draft, submodule_map(result.embedding, "t-SNE"))


def components(folder: Path) -> list[Any]:
    """Load the component adapters of a folder, trained and untrained, for the breakdown."""
    from analysis.adapters.breakdown import ComponentAdapter

    found = []
    for path in sorted(folder.glob("*/adapter_model.safetensors")):
        part, _, seed = path.parent.name.rpartition("-seed-")
        found.append(ComponentAdapter(path.parent.name, part, int(seed), load_state(path.parent), part != UNTRAINED))
    return found
