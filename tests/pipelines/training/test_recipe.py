"""What a recipe hands to a training."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from hydralora.methods import MethodConfig
from hydralora.training import TrainingConfig
from pipelines.study.experiments import EXPERIMENTS, planned_cells
from pipelines.training.adapters import TrainingJob
from pipelines.training.losses import BASE
from pipelines.training.recipe import Recipe


def test_a_training_gets_the_rates_of_its_method() -> None:
    recipe = Recipe(
        max_steps=1, learning_rate=0.1, learning_rates={"lora_r8": 0.2}, learning_rate_ratios={"lora_B": 4.0}
    )
    assert recipe.training_config("lora_r8").learning_rate == 0.2
    config = recipe.training_config("hydralora")
    assert config.learning_rate == 0.1
    assert config.learning_rate_ratios == {"lora_B": 4.0}
    assert "learning_rate_ratios" in recipe.identity()["recipe"]


def test_another_budget_and_seed_replace_those_of_the_recipe() -> None:
    config = Recipe(num_train_epochs=1, seed=3).training_config("full", max_tokens=10, seed=5)
    assert (config.num_train_epochs, config.max_tokens, config.seed) == (None, 10, 5)


def test_a_job_of_another_seed_may_read_the_same_documents() -> None:
    config = TrainingJob("lora_r8", num_experts=2, seed=5, data_seed=3).config(Recipe(max_steps=1, seed=3))
    assert (config.seed, config.order_seed) == (5, 3)
    assert TrainingJob("lora_r8", num_experts=2, seed=5).config(Recipe(max_steps=1, seed=3)).order_seed == 5


def test_a_default_is_the_library_s() -> None:
    recipe = Recipe(max_steps=2)
    assert recipe.method_config(4) == MethodConfig(num_experts=4)
    assert dataclasses.asdict(recipe.training_config("full")) == {
        **dataclasses.asdict(TrainingConfig(max_steps=2)),
        "report_to": [],
    }


@pytest.mark.parametrize("targets", [["all-linear"], ["gate_proj"], ["q_proj", "o_proj"]])
def test_target_modules_mean_the_same_in_yaml_and_in_json(targets: list[str]) -> None:
    of_yaml = Recipe(max_steps=1, target_modules=targets).method_config(3)
    assert MethodConfig(**json.loads(json.dumps({"target_modules": targets}))) == of_yaml
    assert MethodConfig(**json.loads(json.dumps(dataclasses.asdict(of_yaml)))) == of_yaml


@pytest.mark.parametrize("path", sorted(Path("pipelines/configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_states_the_rate_of_its_recipe_exactly_if_a_training_reads_it(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    recipe, ops = config.get("resources", {}).get("recipe"), config.get("ops", {})
    if recipe is None:
        return
    from_partition = "study_run" in ops
    study = ops.get("study_runs", {}).get("config")
    from_tuning = study is not None and {
        cell.method for cell in planned_cells(study.get("experiments", EXPERIMENTS), study["domains"])
    } <= {BASE, *study.get("rates", {})}
    assert ("learning_rate" in recipe["config"]) is not (from_partition or from_tuning)
