"""`python -m pipelines.study.dry_run CONFIG.yaml`: do the methods of a study fit a base model, and a GPU?

Nothing is trained or loaded, and only the model's config.json is downloaded. Every method is applied to the base
model's layers on the meta device, and its parameters are counted there.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from pipelines.study.experiments import EXPERIMENTS, planned_cells
from pipelines.study.sizes import GIB, method_sizes
from pipelines.training.losses import BASE
from pipelines.training.recipe import BaseModel, Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Activation bytes of a layer per token and unit of width, in 16 bits, if attention stores no scores: Korthikanti et al.
# (2022), arXiv 2205.05198, eq. 2. It is an upper bound, because frozen weights need less.
BYTES_PER_LAYER = 34
BYTES_PER_CHECKPOINT = 2
DRY_STEPS = 100
"""AdaLoRA's schedule needs a number of steps. Its size does not depend on this number."""


def main() -> None:
    """Print the sizes, or the reason why a method does not fit."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.study.dry_run", description=__doc__)
    parser.add_argument("config", type=Path, help="run configuration of the job study")
    parser.add_argument("--model-config", type=Path, help="folder with the base model's config.json; default: its own")
    arguments = parser.parse_args()
    try:
        table, activations = dry_run(yaml.safe_load(arguments.config.read_text()), arguments.model_config)
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(str(error)) from error
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, tbl_hide_dataframe_shape=True, float_precision=3):
        print(table)
    print(f"Activations of a micro-batch take at most {activations:.1f} GiB beside state_gib.")


def dry_run(config: dict[str, Any], model_config: Path | None = None) -> tuple[pl.DataFrame, float]:
    """Sizes of all methods in a run configuration (`method_sizes` plus `num_experts`), and GiB of activations.

    Args:
        config: run configuration of the job `study`.
        model_config: folder with the `config.json` of the base model, for machines without access to the hub.

    Raises:
        ValueError: the configuration is for another job, or a method does not fit.
    """
    values = {name: entry["config"] for name, entry in config["resources"].items()}
    base_model = BaseModel(**values["base_model"])
    if model_config is not None:
        base_model = base_model.model_copy(update={"name": str(model_config), "revision": None})
    recipe = Recipe(**values["recipe"])
    tables = [
        method_sizes(base_model, methods, replace(recipe.method_config(n), total_steps=DRY_STEPS)).with_columns(
            num_experts=n
        )
        for n, methods in methods_by_n(config["ops"]).items()
    ]
    return pl.concat(tables), activation_gib(base_model.skeleton().config, recipe)


def methods_by_n(ops: dict[str, Any]) -> dict[int, list[str]]:
    """N -> the methods that a configuration of the study trains with N experts.

    Raises:
        ValueError: the configuration is for another job.
    """
    if "study_runs" not in ops:
        raise ValueError(f"Expected a configuration of the job study, got one of {', '.join(sorted(ops))}")
    study = ops["study_runs"]["config"]
    cells = planned_cells(study.get("experiments", list(EXPERIMENTS)), study["domains"])
    found: dict[int, list[str]] = {}
    for n, method in sorted({(cell.num_experts, cell.method) for cell in cells if cell.method != BASE}):
        found.setdefault(n, []).append(method)
    return found


def activation_gib(model_config: "PretrainedConfig", recipe: Recipe) -> float:
    """Upper bound in GiB for the activations of one micro-batch, including the logits of all its tokens."""
    tokens = recipe.tokens_per_step / recipe.gradient_accumulation_steps
    width, layers = model_config.hidden_size, model_config.num_hidden_layers
    if recipe.gradient_checkpointing:
        of_layers = tokens * width * (layers * BYTES_PER_CHECKPOINT + BYTES_PER_LAYER)
    else:
        of_layers = tokens * width * layers * BYTES_PER_LAYER
    logits = tokens * model_config.vocab_size * 6  # 2 bytes in 16 bits, and 4 for a float32 copy
    return float((of_layers + logits) / GIB)


if __name__ == "__main__":
    main()
