"""What training did to A and to B."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized, write_thumbnail
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.adapters import UNTRAINED

VERSION = source_version("analysis", "pipelines.defs.breakdown")
TABLES = ("submodules", "pairs", "separability", "identification", "embedding", "parameters")


class BreakdownConfig(dg.Config):
    """How the points are drawn."""

    umap: bool = True
    """UMAP beside t-SNE; it compiles for about 20 seconds at each start."""
    random_state: int = 0


@artifact_asset(
    group="analysis",
    version=VERSION,
    kinds={"numpy", "polars"},
    blocking=("parameters_equal_closed_form",),
    warnings=("supports_observation_two",),
)
def parameter_breakdown(
    config: BreakdownConfig,
    store: dg.ResourceParam[ArtifactStore],
    component_adapters: Artifact,
    hydralora_adapter: Artifact,
) -> dg.MaterializeResult:
    """A and B of the component adapters side by side (t-SNE, UMAP, subspace angles), with seed and IID controls.

    Answers whether this run supports the paper's Observation II: A of separately trained heads converge, B separate.
    """

    def build(draft: Draft) -> None:
        from analysis.adapters.breakdown import break_down
        from analysis.figures.breakdown import submodule_map

        result = break_down(
            components(component_adapters.folder),
            load_state(hydralora_adapter.folder),
            shared_expert=adapter_config(hydralora_adapter.folder).get("shared_expert", False),
            shared_rank=adapter_config(hydralora_adapter.folder).get("shared_rank", 0),
            methods=("t-SNE", "UMAP") if config.umap else ("t-SNE",),
            random_state=config.random_state,
        )
        for name in TABLES:
            draft.write_table(name, getattr(result, name))
        draft.write_json("observation", asdict(result.observation))
        write_thumbnail(draft, submodule_map(result.embedding, "t-SNE"))

    artifact = store.build(
        "parameter_breakdown",
        build,
        code_version=VERSION,
        config=config.model_dump(),
        inputs={"component_adapters": component_adapters, "hydralora_adapter": hydralora_adapter},
    )
    observation = artifact.json("observation")
    counts = artifact.scan("parameters").filter(pl.col("head") == "hydralora").select("n_parameters").sum().collect()
    recorded = hydralora_adapter.json("run")["parameters"]["trainable"]
    return materialized(
        artifact,
        table="pairs",
        metadata={
            "observation_two": observation,
            "separability": markdown_table(artifact.read("separability")),
        },
        checks=[
            Check(
                "parameters_equal_closed_form",
                counts.item() == recorded,
                f"{counts.item()} in the file, {recorded} trained",
            ),
            Check(
                "supports_observation_two", observation["verdict"] == "supported", observation["reason"], warning=True
            ),
        ],
    )


def components(folder: Path) -> list[Any]:
    """The component adapters of a folder and the untrained ones beside them, as the breakdown takes them."""
    from analysis.adapters.breakdown import ComponentAdapter

    found = []
    for path in sorted(folder.glob("*/adapter_model.safetensors")):
        part, _, seed = path.parent.name.rpartition("-seed-")
        found.append(ComponentAdapter(path.parent.name, part, int(seed), load_state(path.parent), part != UNTRAINED))
    return found


def load_state(folder: Path) -> dict[str, np.ndarray]:
    """Parameters of an adapter by name."""
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")


def adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration that PEFT wrote beside an adapter."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config
